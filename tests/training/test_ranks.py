"""What several ranks need of one step, without any other rank; see test_two_ranks.py."""

from __future__ import annotations

import pytest
import torch
from torch import distributed, nn

from qeqtrain.training import ranks
from qeqtrain.training.ranks import Assembly, add_gradients


@pytest.fixture
def beside(monkeypatch: pytest.MonkeyPatch) -> list[torch.Tensor]:
    """Play a second rank: its part of every sum, in order."""
    parts: list[torch.Tensor] = []
    monkeypatch.setattr(ranks, "several", lambda: True)
    monkeypatch.setattr(distributed, "all_reduce", lambda own: own.add_(parts.pop(0)))
    return parts


def weight(gradient: float | None) -> nn.Parameter:
    """Make a weight with a gradient, or without."""
    made = nn.Parameter(torch.zeros(2))
    made.grad = None if gradient is None else torch.full((2,), gradient)
    return made


def test_gradients_add_up_and_what_no_rank_reads_has_none(beside: list[torch.Tensor]) -> None:
    weights = [weight(1.0), weight(2.0), weight(None), weight(None)]
    # Of the other rank: it reads the first and third weight.
    beside.append(torch.tensor([1.0, 0.0, 1.0, 0.0, 10.0, 10.0, 0.0, 0.0, 5.0, 5.0, 0.0, 0.0]))
    add_gradients(weights)
    assert [None if w.grad is None else w.grad.tolist() for w in weights] == [
        [11.0, 11.0],
        [2.0, 2.0],
        [5.0, 5.0],
        None,
    ]


def test_gradients_of_two_precisions_travel_apart(beside: list[torch.Tensor]) -> None:
    single, double = weight(1.0), nn.Parameter(torch.zeros(1, dtype=torch.float64))
    double.grad = torch.ones(1, dtype=torch.float64)
    beside += [torch.zeros(3), torch.tensor([1.0, 1e-12], dtype=torch.float64)]
    add_gradients([single, double])
    assert double.grad.dtype == torch.float64
    assert double.grad.item() == 1.0 + 1e-12


class Clock:
    """Tells the first rank's time."""

    def __init__(self, now: float) -> None:
        self.now, self.heard = now, 0.0

    def tell(self, first: bool) -> list[float]:
        return [self.now if first else 0.0]

    def hear(self, values: list[float]) -> None:
        (self.heard,) = values


def test_all_ranks_hear_the_clock_of_the_first(beside: list[torch.Tensor]) -> None:
    mine = Clock(17.0)
    beside.append(torch.tensor([23.0, 1.0, 2.0], dtype=torch.float64))  # told by the first rank
    sums = Assembly([mine]).meet(torch.ones(2, dtype=torch.float64), first=False)
    assert mine.heard == 23.0
    assert sums == [2.0, 3.0]
