"""Charge states that a model reads and never met."""

from __future__ import annotations

import pytest

from qeqtrain.errors import UserMistake
from qeqtrain.models.archive import restore
from qeqtrain.models.charge_states import StatesRead, StatesSeen, checked_policy
from qeqtrain.structures import Structure
from tests.systems import small_qet, water


def structure(charge: float, spin: float | None = None) -> Structure:
    return Structure.from_atoms(water(), total_charge=charge, spin=spin)


def test_a_model_reads_what_any_of_its_parts_is_conditioned_on() -> None:
    plain = {"backbone": {"conditioning": "none"}, "coupling": {}}
    assert StatesRead.of(plain) == StatesRead(charge=False, spin=False)
    assert StatesRead.of(plain, "per_charge") == StatesRead(charge=True, spin=False)
    nested = {"backbone": {}, "coupling": {"backbone": {"conditioning": "charge_and_spin"}}}
    assert StatesRead.of(nested) == StatesRead(charge=True, spin=True)


def test_what_was_met_is_not_strange() -> None:
    seen = StatesSeen(charges=(-1.0, 0.333), spins=(1.0,))
    assert seen.strange(structure(1.0 / 3.0, 1.0)) == []


def test_what_was_not_met_is_named_beside_what_was() -> None:
    seen = StatesSeen(charges=(-1.0, 0.0), spins=(1.0, 2.0))
    charge, spin = seen.strange(structure(2.0, 3.0))
    assert charge.startswith("total charge +2: the model reads")
    assert charge.endswith("trained on -1, 0 only")
    assert spin.endswith("multiplicity and was trained on 1, 2 only")


def test_what_is_not_read_is_never_strange() -> None:
    assert StatesSeen(charges=None, spins=None).strange(structure(7.0, 5.0)) == []


def test_a_potential_refuses_only_what_its_network_reads() -> None:
    small_qet().structures_of(water(2.0))
    with pytest.raises(UserMistake, match=r"H2O: total charge \+2: .* on 0 only; train on"):
        small_qet(conditioning="charge").structures_of(water(2.0))


def test_a_multiplicity_is_refused_where_it_is_read() -> None:
    potential = small_qet(conditioning="charge_and_spin")
    potential.conventions["spins"] = [1.0]
    atoms = water()
    atoms.info["spin"] = 3
    with pytest.raises(UserMistake, match=r"multiplicity 3: .* trained on 1 only"):
        potential.structures_of(atoms)


def test_what_is_allowed_is_warned_about() -> None:
    potential = small_qet(conditioning="charge")
    potential.unseen_charge_states = "allow"
    with pytest.warns(UserWarning, match=r"total charge \+2: .* this is an extrapolation"):
        potential.structures_of([water(2.0), water(2.0)])


def test_the_recipes_choice_comes_with_the_model() -> None:
    potential = small_qet(conditioning="charge")
    assert potential.unseen_charge_states == "error"
    potential.conventions["unseen_charge_states"] = "allow"
    again = restore(potential.header(), potential.state_dict())
    assert again.unseen_charge_states == "allow"


def test_a_policy_that_is_none_is_refused() -> None:
    with pytest.raises(UserMistake, match="'alow'; expected error or allow"):
        checked_policy("alow")
