"""Reference energies that know the total charge, as modules."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from qeqtrain.errors import UserMistake
from qeqtrain.models.references import (
    LearnedReference,
    PerCharge,
    PerComposition,
    build_charge_references,
)
from tests.systems import batch_of, small_qet, triclinic, water

WATER = {1: 2, 8: 1}


@pytest.fixture
def batch():
    return batch_of([water(-1.0), water(), water(1.0), triclinic()], small_qet())


def test_every_total_charge_has_its_energy(batch) -> None:
    found = PerCharge([[1.0, 5.0], [-1.0, 2.0], [0.0, -3.0]])(batch)
    assert found.tolist() == [2.0, -3.0, 5.0, -3.0]


def test_unseen_charges_lie_on_lines_between_and_beyond(batch) -> None:
    found = PerCharge([[0.0, 1.0], [2.0, 5.0]])(batch)
    assert found.tolist() == pytest.approx([-1.0, 1.0, 3.0, 1.0])


def test_one_charge_has_one_energy(batch) -> None:
    assert PerCharge([[0.0, 1.5]])(batch).tolist() == [1.5] * 4
    assert PerCharge([])(batch).tolist() == [0.0] * 4


def test_every_composition_has_its_energy_at_every_charge(batch) -> None:
    table = [(WATER, 0.0, 1.0), (WATER, 1.0, 2.0), ({11: 4, 17: 4}, 0.0, 3.0)]
    found = PerComposition(table, [[-1.0, 10.0], [0.0, 20.0]])(batch)
    assert found.tolist() == [10.0, 1.0, 2.0, 3.0]


def test_a_composition_that_was_not_met_is_named_with_the_charges_it_was_met_with() -> None:
    references = PerComposition([(WATER, 0.0, 1.0), (WATER, 1.0, 2.0)], [])
    numbers = np.array([8, 1, 1])
    assert references.unseen(numbers, 1.0) == ""
    assert "H2O only with 0, +1" in references.unseen(numbers, -1.0)
    assert "training met H2O2 not at all" in references.unseen(np.array([8, 8, 1, 1]), 0.0)


def test_a_learned_reference_begins_at_zero_and_learns(batch) -> None:
    references = LearnedReference(scale=4.0)
    found = references(batch)
    assert found.dtype == torch.float64
    assert found.tolist() == [0.0] * 4
    found.sum().backward()
    assert references.network.layers[-1].bias.grad.item() == 16.0


def test_a_learned_reference_may_read_the_spin(batch) -> None:
    references = LearnedReference(spin=True)
    assert references.network.layers[0].in_features == 2
    assert references(batch).shape == (4,)


@pytest.mark.parametrize(
    "references",
    [
        PerCharge([[1.0, 5.0], [-1.0, 2.0], [0.0, -3.0]]),
        PerComposition([(WATER, 0.001, 1.0), ({11: 4, 17: 4}, 0.0, 3.0)], [[0.0, 2.0]]),
        LearnedReference(scale=2.5, spin=True, width=4),
    ],
)
def test_plain_values_rebuild_a_variant(references, batch) -> None:
    plain = references.plain()
    again = build_charge_references(plain)
    assert again.plain() == plain
    again.load_state_dict(references.state_dict())
    assert torch.equal(again(batch), references(batch))


def test_there_may_be_none_and_unknown_ones_are_refused() -> None:
    assert build_charge_references(None) is None
    with pytest.raises(UserMistake, match="'by_colour'; expected per_charge"):
        build_charge_references({"kind": "by_colour"})
