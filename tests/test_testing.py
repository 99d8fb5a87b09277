"""The public contract holds for our models and catches broken ones."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from qeqtrain.testing import check_potential
from tests.systems import small_qet


@pytest.mark.parametrize("dtype", ["float64", "float32"])
def test_a_fresh_qet_keeps_the_contract(dtype: str) -> None:
    check_potential(small_qet(dtype=dtype))


@pytest.mark.parametrize(
    ("law", "harm"),
    [
        ("rotation", lambda s, p: replace(p, energy=p.energy + s.positions[0, 0])),
        ("order", lambda s, p: replace(p, energy=p.energy + s.numbers[0])),
        ("batch", lambda s, p: replace(p, energy=p.energy + len(s))),
        ("add up", lambda s, p: replace(p, charges=p.charges + 0.1)),
        (
            "turn with molecule and field",
            lambda s, p: replace(p, energy=p.energy + s.electric_field[:, 0]),
        ),
        (
            "pull at the total charge",
            lambda s, p: replace(
                p, energy=p.energy + s.sum_over_atoms(s.positions @ s.electric_field[0])
            ),
        ),
        (
            "dE/dr",
            lambda s, p: replace(p, energy=p.energy + s.positions.detach().square().sum()),
        ),
    ],
)
def test_a_broken_potential_is_found_out(law: str, harm) -> None:
    potential = small_qet()
    evaluate = potential.evaluate
    potential.evaluate = lambda s: harm(s, evaluate(s))
    with pytest.raises(AssertionError, match=law if law != "dE/dr" else "rotation|dE/dr"):
        check_potential(potential)


def test_the_check_leaves_the_weights_alone() -> None:
    potential = small_qet()
    before = [p.detach().clone() for p in potential.parameters()]
    check_potential(potential)
    assert all(torch.equal(a, b) for a, b in zip(before, potential.parameters(), strict=True))
