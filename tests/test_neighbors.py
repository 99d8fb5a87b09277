"""Neighbour lists with a skin against lists made anew."""

from __future__ import annotations

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk

from qeqtrain.errors import UserMistake
from qeqtrain.neighbors import SkinnedLists, find_pairs
from qeqtrain.physics.ewald import CoulombReach
from qeqtrain.structures import Pairs, Structure
from tests.systems import rattled, slab, triclinic, water, wire


def structure(atoms: Atoms) -> Structure:
    return Structure.from_atoms(atoms, total_charge=0.0)


def sorted_rows(pairs: Pairs) -> np.ndarray:
    """One row for every pair, each seen from its lower end, in one order."""
    rows = np.column_stack([pairs.sender, pairs.receiver, pairs.shift])
    turned = np.column_stack([pairs.receiver, pairs.sender, -pairs.shift])
    later = [tuple(a) > tuple(b) for a, b in zip(rows.tolist(), turned.tolist(), strict=True)]
    rows = np.where(np.array(later, dtype=bool)[:, None], turned, rows)
    return rows[np.lexsort(rows.T)]


def assert_same(lists: SkinnedLists, atoms: Atoms, cutoff: float) -> None:
    one = structure(atoms)
    found, expected = (
        lists(one, {"backbone": cutoff}).pairs["backbone"],
        find_pairs(one, cutoff),
    )
    assert found.cutoff == cutoff
    np.testing.assert_array_equal(sorted_rows(found), sorted_rows(expected))


@pytest.mark.parametrize("system", [triclinic, water, slab, wire])
def test_while_atoms_and_cell_move_the_pairs_are_those_of_a_new_list(system) -> None:
    atoms, lists = system(), SkinnedLists(0.6)
    rng = np.random.default_rng(0)
    for _ in range(30):
        atoms.positions += 0.04 * rng.normal(size=atoms.positions.shape)
        strain = np.eye(3) + 0.002 * rng.normal(size=(3, 3))
        atoms.positions = atoms.positions @ strain
        atoms.cell = atoms.cell.array @ strain
        assert_same(lists, atoms, 4.0)
    assert 1 < lists.built <= 15


def test_a_list_is_made_anew_before_a_pair_is_missed() -> None:
    # Two atoms that fly towards each other, in steps of a twentieth of an Angstrom.
    lists = SkinnedLists(0.5)
    met = []
    for step in range(60):
        gap = 6.52 - 0.05 * step
        atoms = Atoms("Na2", [[0, 0, 0], [gap, 0, 0]], info={"charge": 0.0})
        assert_same(lists, atoms, 4.0)
        met.append(lists.built)
    assert 3 < met[-1] < 12


@pytest.mark.parametrize("factor", [0.9, 0.97, 1.1])
def test_a_squeezed_or_stretched_cell_makes_a_new_list_where_it_has_to(factor: float) -> None:
    atoms, lists = bulk("NaCl", "rocksalt", a=5.5, cubic=True), SkinnedLists(0.3)
    assert_same(lists, atoms, 5.4)
    atoms.set_cell(factor * atoms.cell.array, scale_atoms=True)
    assert_same(lists, atoms, 5.4)
    assert lists.built == (2 if factor < 0.95 else 1)


def test_common_motion_of_all_atoms_needs_no_new_list() -> None:
    atoms, lists = triclinic(), SkinnedLists(0.3)
    for _ in range(5):
        atoms.positions += [1.0, -2.0, 0.5]
        assert_same(lists, atoms, 4.0)
    assert lists.built == 1


def test_atoms_that_come_and_boundaries_that_open_make_a_new_list() -> None:
    atoms, lists = triclinic(), SkinnedLists(0.5)
    assert_same(lists, atoms, 4.0)
    atoms += Atoms("Na", [[1.2, 1.1, 0.9]])
    assert_same(lists, atoms, 4.0)
    atoms.pbc = (True, True, False)
    assert_same(lists, atoms, 4.0)
    atoms.positions[0] += atoms.cell.array[0]  # wrapped by hand
    assert_same(lists, atoms, 4.0)
    del atoms[2]
    assert_same(lists, atoms, 4.0)
    assert lists.built == 5


def test_a_cutoff_that_grows_with_the_cell_is_followed() -> None:
    atoms, lists = rattled(bulk("NaCl", "rocksalt", a=5.6, cubic=True)), SkinnedLists(0.5)
    reach = CoulombReach({11: 1.0, 17: 0.3}, 1e-6)
    for _ in range(6):
        atoms.set_cell(1.02 * atoms.cell.array, scale_atoms=True)
        one = structure(atoms)
        found = lists(one, {"charge": reach}).pairs["charge"]
        assert found.cutoff == reach(one)
        np.testing.assert_array_equal(
            sorted_rows(found), sorted_rows(find_pairs(one, reach(one)))
        )


def test_positions_that_are_not_numbers_are_not_taken_for_near() -> None:
    atoms, lists = triclinic(), SkinnedLists(0.5)
    assert_same(lists, atoms, 4.0)
    built = lists.built
    atoms.positions[0] = 1e6  # far away: a new list
    assert_same(lists, atoms, 4.0)
    assert lists.built == built + 1


def test_a_negative_skin_is_a_mistake() -> None:
    with pytest.raises(UserMistake, match=r"skin=-0\.1: expected 0 or more"):
        SkinnedLists(-0.1)
