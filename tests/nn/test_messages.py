"""Sums over pairs against the plain expressions, and their derivatives."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from qeqtrain.nn import messages
from qeqtrain.nn.messages import PARTS, gather, spread

N, P, C = 5, 11, 3
PART = torch.tensor([0] + 3 * [1] + 5 * [2])


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Cut eleven pairs into several blocks."""
    monkeypatch.setattr(messages, "BLOCK", 4 * C)


def pairs() -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    return tuple(torch.randint(0, N, (2, P), generator=generator))


def leaf(*shape: int) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64, requires_grad=True)


def test_gather_is_the_sum_over_neighbours_in_both_directions() -> None:
    x, f, (s, r) = leaf(N, 9, C), leaf(P, 3, C), pairs()
    wide = f[:, PART]
    expected = torch.zeros_like(x).index_add(0, r, wide * x[s]).index_add(0, s, wide * x[r])
    torch.testing.assert_close(gather(x, f, s, r), expected)


def test_spread_is_the_sum_of_outer_products() -> None:
    w, d, (t, _) = leaf(P, 3, C), leaf(P, 9), pairs()
    expected = torch.zeros(N, 9, C).double().index_add(0, t, w[:, PART] * d[:, :, None])
    torch.testing.assert_close(spread(w, d, t, N), expected)


def test_gather_has_exact_first_and_second_derivatives() -> None:
    s, r = pairs()
    inputs = (leaf(N, 9, C), leaf(P, 3, C))
    assert torch.autograd.gradcheck(lambda x, f: gather(x, f, s, r), inputs)
    assert torch.autograd.gradgradcheck(lambda x, f: gather(x, f, s, r), inputs)


def test_spread_has_exact_first_and_second_derivatives() -> None:
    t, _ = pairs()
    inputs = (leaf(P, 3, C), leaf(P, 9))
    assert torch.autograd.gradcheck(lambda w, d: spread(w, d, t, N), inputs)
    assert torch.autograd.gradgradcheck(lambda w, d: spread(w, d, t, N), inputs)


def test_no_pairs_give_zeros() -> None:
    none = torch.zeros(0, dtype=torch.int64)
    assert gather(leaf(N, 9, C), leaf(0, 3, C), none, none).abs().max() == 0
    assert spread(leaf(0, 3, C), leaf(0, 9), none, N).abs().max() == 0


def test_parts_cover_nine_components() -> None:
    assert sum(PARTS) == 9
