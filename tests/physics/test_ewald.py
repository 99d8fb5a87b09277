"""Where Ewald's sum is split, and how far the list of pairs reaches."""

from __future__ import annotations

import math
import pickle

import numpy as np
import pytest
import torch

from qeqtrain.errors import UserMistake
from qeqtrain.physics.ewald import LEAST, CoulombReach, split
from qeqtrain.physics.slab import shortest_in_plane, vacuum
from qeqtrain.structures import Structure
from tests.physics.systems import WIDTHS, salt, small_slab, water


def structure(atoms) -> Structure:
    return Structure.from_atoms(atoms, total_charge=0.0)


def test_a_molecule_lists_all_pairs() -> None:
    assert math.isinf(CoulombReach(WIDTHS)(structure(water())))


def test_the_rule_travels_to_other_processes() -> None:
    reach = CoulombReach(WIDTHS, 1e-7)
    assert pickle.loads(pickle.dumps(reach))(structure(salt())) == reach(structure(salt()))


def test_a_looser_accuracy_reaches_less_far() -> None:
    for atoms in (salt(), small_slab()):
        positions, cell = (torch.from_numpy(x) for x in (atoms.positions, atoms.cell.array))
        tight, loose = (
            split(positions, cell, atoms.pbc.tolist(), {0.5: 8}, a) for a in (1e-10, 1e-5)
        )
        assert loose.longest < tight.longest
        assert 0.0 < loose.cutoff < tight.cutoff


def test_densities_are_widened_more_in_larger_cells() -> None:
    widths = []
    for repeat in (1, 2, 4):
        atoms = salt() * ((repeat,) * 3)
        positions, cell = (torch.from_numpy(x) for x in (atoms.positions, atoms.cell.array))
        widths.append(split(positions, cell, [True] * 3, {0.3: len(atoms)}, 1e-9).width)
    assert widths == sorted(set(widths))


def test_wide_densities_need_no_pairs() -> None:
    wide, narrow = dict.fromkeys((11, 17), 1.0), {11: 1.0, 17: 0.3}
    assert CoulombReach(wide)(structure(salt())) == LEAST
    assert CoulombReach(narrow)(structure(salt())) > 4.0


def test_a_list_that_is_too_short_is_made_up_for_by_waves() -> None:
    atoms = salt()
    positions, cell = (torch.from_numpy(x) for x in (atoms.positions, atoms.cell.array))
    given = (positions, cell, [True] * 3, {0.3: 4, 1.5: 4}, 1e-9)
    free, short = split(*given), split(*given, listed=8.0)
    assert short.cutoff <= 8.0 < free.cutoff
    assert short.longest > free.longest


def test_an_element_without_a_width_is_refused() -> None:
    with pytest.raises(UserMistake, match=r"\[17\]"):
        CoulombReach({11: 1.66})(structure(salt()))


def test_the_shortest_in_plane_wave_does_not_depend_on_how_the_lattice_is_written() -> None:
    rows = torch.tensor([[3.0, 0.0, 0.0], [0.0, 4.0, 0.0]], dtype=torch.float64)
    skewed = rows.clone()
    skewed[1] += 5 * rows[0]
    for given in (rows, skewed):
        assert shortest_in_plane(given) == pytest.approx(2.0 * math.pi / 4.0)


def test_the_vacuum_is_about_three_periods_of_the_surface() -> None:
    rows = 4.0 * torch.eye(3, dtype=torch.float64)[:2]
    assert 2.5 < vacuum(rows, 0.1, 1e-9) / 4.0 < 4.0
    assert np.isclose(vacuum(rows, 50.0, 1e-9), math.sqrt(-4.0 * math.log(1e-9)) * 50.0)


def test_on_a_mesh_the_reach_of_the_pairs_is_that_of_any_size() -> None:
    # Waves cost as the volume there; by structure factors they cost as its square.
    cutoffs = {}
    for accuracy in (1e-6, 1e-9):
        for n in (10_000, 200_000):
            cell = (n / 0.05) ** (1 / 3) * torch.eye(3, dtype=torch.float64)
            chosen = split(torch.zeros(1, 3), cell, [True] * 3, {0.7: n}, accuracy)
            cutoffs[accuracy, n] = chosen.cutoff
    assert cutoffs[1e-6, 10_000] == cutoffs[1e-6, 200_000] < 15.0
    assert cutoffs[1e-9, 10_000] < cutoffs[1e-9, 200_000]
