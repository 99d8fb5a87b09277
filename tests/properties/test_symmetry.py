"""What every potential owes to physics, in float64."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from ase import Atoms
from scipy.spatial.transform import Rotation

from tests.systems import all_systems, batch_of, small_qet, triclinic, water

EXACT = 1e-12
"""Allowed, absolute and relative, where numbers differ by rounding alone."""

MODELS = {
    "corrected": {},
    "legacy": {"convention": "legacy"},
    "species hardness": {"hardness": "species"},
    "conditioned": {"conditioning": "charge_and_spin"},
    "no charges": {"charge": {"_target_": "qeqtrain.nn.charges.NoCharges"}},
    "gaussian basis": {"radial_basis": "gaussian", "radial_functions": 16},
}


@pytest.fixture(params=MODELS, name="potential")
def _potential(request: pytest.FixtureRequest):
    return small_qet(**MODELS[request.param])


@pytest.mark.parametrize("system", range(len(all_systems())))
def test_rotation_and_reflection_turn_vectors_and_leave_scalars(potential, system: int) -> None:
    atoms = all_systems()[system]
    turn = -Rotation.from_rotvec([0.3, -1.1, 0.7]).as_matrix()  # with inversion
    turned = atoms.copy()
    turned.set_cell(atoms.cell.array @ turn.T)
    turned.positions = atoms.positions @ turn.T
    a, b = (potential(batch_of([x], potential)) for x in (atoms, turned))
    torch.testing.assert_close(b.energy, a.energy, rtol=EXACT, atol=EXACT)
    torch.testing.assert_close(
        b.forces, a.forces @ torch.from_numpy(turn.T), rtol=EXACT, atol=EXACT
    )
    if a.stress is not None:
        expected = torch.from_numpy(turn) @ a.stress @ torch.from_numpy(turn.T)
        torch.testing.assert_close(b.stress, expected, rtol=0, atol=EXACT)
    if a.charges is not None:
        torch.testing.assert_close(b.charges, a.charges, rtol=0, atol=EXACT)


def test_translation_and_wrapping_change_nothing(potential) -> None:
    atoms = triclinic()
    moved = atoms.copy()
    moved.positions += [3.1, -7.7, 12.2]
    moved.wrap()
    a, b = (potential(batch_of([x], potential)) for x in (atoms, moved))
    torch.testing.assert_close(b.energy, a.energy, rtol=EXACT, atol=EXACT)
    torch.testing.assert_close(b.forces, a.forces, rtol=EXACT, atol=EXACT)


def test_the_order_of_atoms_does_not_matter(potential) -> None:
    atoms = triclinic()
    order = np.random.default_rng(3).permutation(len(atoms))
    a, b = (potential(batch_of([x], potential)) for x in (atoms, atoms[order]))
    torch.testing.assert_close(b.energy, a.energy, rtol=EXACT, atol=EXACT)
    torch.testing.assert_close(b.forces, a.forces[order], rtol=EXACT, atol=EXACT)


def test_a_batch_gives_what_its_structures_give_alone(potential) -> None:
    systems = all_systems()
    together = potential(batch_of(systems, potential))
    alone = [potential(batch_of([a], potential)) for a in systems]
    torch.testing.assert_close(
        together.energy, torch.cat([p.energy for p in alone]), rtol=EXACT, atol=EXACT
    )
    torch.testing.assert_close(
        together.forces, torch.cat([p.forces for p in alone]), rtol=0, atol=EXACT
    )
    for i, p in enumerate(alone):
        if p.stress is not None:
            torch.testing.assert_close(together.stress[i : i + 1], p.stress, rtol=0, atol=EXACT)
        else:
            assert together.stress[i].isnan().all()


def test_a_supercell_is_its_cells(potential) -> None:
    atoms = triclinic()
    a, b = (potential(batch_of([x], potential)) for x in (atoms, atoms.repeat((2, 1, 3))))
    torch.testing.assert_close(b.energy, 6 * a.energy, rtol=EXACT, atol=EXACT)
    torch.testing.assert_close(b.forces[:8], a.forces, rtol=EXACT, atol=EXACT)
    torch.testing.assert_close(b.stress, a.stress, rtol=0, atol=EXACT)


def test_charges_add_up_to_the_total_charge() -> None:
    potential = small_qet()
    systems = all_systems()
    found = potential(batch_of(systems, potential))
    sums = batch_of(systems, potential).sum_over_atoms(found.charges)
    wanted = torch.tensor([a.info.get("charge", 0.0) for a in systems]).double()
    torch.testing.assert_close(sums, wanted, rtol=0, atol=EXACT)


def test_energy_is_smooth_where_a_neighbour_crosses_the_cutoff() -> None:
    potential = small_qet()
    cutoff = potential.cutoffs["backbone"]

    def force(distance: float) -> float:
        atoms = Atoms("HO", [[0, 0, 0], [distance, 0, 0]])
        return float(potential(batch_of([atoms], potential)).forces[0, 0])

    assert abs(force(cutoff - 1e-5) - force(cutoff + 1e-5)) < 1e-6


def test_the_embedding_of_charge_reaches_the_energy() -> None:
    potential = small_qet(conditioning="charge", charge=MODELS["no charges"]["charge"])
    neutral, cation = (potential(batch_of([water(q)], potential)) for q in (0.0, 1.0))
    assert (neutral.energy - cation.energy).abs() > 1e-6
