"""A batch that does not fit in memory is worked on in parts, and the gradient is the same."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch

from qeqtrain.errors import UserMistake
from qeqtrain.structures import ChargeGroups
from qeqtrain.training.halves import Backoff, halves, part, size
from qeqtrain.training.loss import Loss
from qeqtrain.training.share import Share
from qeqtrain.training.solves import WorstSolve
from tests.crosses import small_cross

LOSS = Loss(energy=1.0, forces=2.0, charges=3.0)


class Small:
    """A potential on a device that holds so many atoms, in forward or in backward."""

    def __init__(self, potential: Any, atoms: int, *, backward: bool) -> None:
        self.potential, self.atoms, self.backward = potential, atoms, backward
        self.charge, self.field = potential.charge, potential.field
        self.compiled = None
        self.tried: list[int] = []

    def __call__(self, structures: Any, **asked: Any) -> Any:
        self.tried.append(structures.n_atoms)
        prediction = self.potential(structures, **asked)
        if structures.n_atoms <= self.atoms:
            return prediction
        if not self.backward:
            raise torch.OutOfMemoryError("a stand-in for a small GPU")
        return replace(prediction, energy=OutOfMemory.apply(prediction.energy))


class OutOfMemory(torch.autograd.Function):
    """Runs out of memory in backward."""

    @staticmethod
    def forward(ctx: Any, energy: torch.Tensor) -> torch.Tensor:
        return energy.clone()

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> torch.Tensor:
        raise torch.OutOfMemoryError("a stand-in for a small GPU")


def gradients(potential: Any, batch: Any, share: Share) -> dict[str, torch.Tensor]:
    """Let a share work on a batch; give the gradients."""
    potential.zero_grad(set_to_none=True)
    weights = [p for p in potential.parameters() if p.requires_grad]
    share.differentiate(share.begin(batch), weights)
    return {n: p.grad for n, p in potential.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("backward", [False, True])
def test_parts_have_the_gradient_and_the_loss_of_the_whole(
    toy_batch: Callable[..., Any], backward: bool
) -> None:
    potential = small_cross("tensornet", "diagonal", "feature").train()
    batch = toy_batch(4)  # 4 to 7 atoms
    batch.present["charges"][1] = False
    whole = Share(potential, LOSS, WorstSolve())
    expected = gradients(potential, batch, whole)
    small = Small(potential, 9, backward=backward)
    share = Share(small, LOSS, WorstSolve())  # type: ignore[arg-type]
    found = gradients(potential, batch, share)
    assert found.keys() == expected.keys()
    for name, gradient in expected.items():
        torch.testing.assert_close(found[name], gradient, rtol=1e-11, atol=1e-13)
    torch.testing.assert_close(share.loss, whole.loss)
    assert small.tried == [22, 9, 13, 6, 7]
    # The next batch of that size is divided without being tried.
    small.tried.clear()
    gradients(potential, batch, share)
    assert small.tried == [9, 6, 7]


def test_a_structure_that_does_not_fit_alone_is_named(toy_batch: Callable[..., Any]) -> None:
    potential = small_cross("tensornet", "diagonal", "feature").train()
    share = Share(Small(potential, 6, backward=False), LOSS, WorstSolve())  # type: ignore[arg-type]
    gradients(potential, toy_batch(4), share)
    assert share.refused.startswith("frame-3: one structure of 7 atoms does not fit")


def test_what_is_not_divided_is_tried_and_given_up(toy_batch: Callable[..., Any]) -> None:
    backoff = Backoff()
    backoff.did_not_fit(toy_batch(2))
    assert backoff.too_large(toy_batch(2))
    assert not backoff.too_large(toy_batch(1))
    with pytest.raises(UserMistake, match="frame-0"):
        backoff.did_not_fit(toy_batch(1))


def test_halves_are_the_batch(toy_batch: Callable[..., Any]) -> None:
    batch = toy_batch(4)
    member = batch.structures.batch * 2
    member[batch.structures.batch == 2] += torch.arange(6) % 2
    groups = ChargeGroups(
        member,
        torch.arange(8, dtype=torch.float64),
        torch.zeros(8, dtype=torch.float64),
        torch.arange(8) // 2,
    )
    batch.structures = replace(batch.structures, groups=groups)
    one, two = halves(batch)
    assert one.ids + two.ids == batch.ids
    assert abs(one.structures.n_atoms - two.structures.n_atoms) <= 4
    assert size(one) + size(two) == size(batch)
    second = part(two, len(two.ids) - 2, len(two.ids) - 1)  # structure 2 of the batch
    assert second.ids == ("frame-2",)
    assert second.structures.groups.charge.tolist() == [4.0, 5.0]
    assert second.structures.groups.member.tolist() == [0, 1, 0, 1, 0, 1]
    vectors = second.structures.edge_vectors("backbone")
    inside = batch.structures.batch[batch.structures.edges["backbone"].sender] == 2
    assert torch.equal(vectors, batch.structures.edge_vectors("backbone")[inside])
