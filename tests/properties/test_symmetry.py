"""What every potential owes to physics, in float64."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import numpy as np
import pytest
import torch
from ase import Atoms
from scipy.spatial.transform import Rotation

from qeqtrain.models.potential import Potential
from qeqtrain.physics.repulsion import zbl_energy
from tests.crosses import CROSSES, small_cross
from tests.systems import all_systems, batch_of, slab, small_qet, triclinic, water, wire

EXACT = 1e-12
"""Allowed, absolute and relative, where numbers differ by rounding alone."""

EWALD = 1e-8
"""Allowed where another cell or origin means another sum: the model asks for 1e-9 of it."""

MODELS: dict[str, Callable[[], Potential]] = {
    "corrected": small_qet,
    "legacy": partial(small_qet, convention="legacy"),
    "species hardness": partial(small_qet, hardness="species"),
    "conditioned": partial(small_qet, conditioning="charge_and_spin"),
    "gaussian basis": partial(small_qet, radial_basis="gaussian", radial_functions=16),
    "conditioned nequip": partial(
        small_cross, "nequip", "gaussian", "feature", conditioning="charge"
    ),
    "charge alone": partial(
        small_cross, "tensornet", "gaussian", "full", charge_options={"head": "charge"}
    ),
    "self-consistent shells": partial(
        small_cross,
        "tensornet",
        "polarizable",
        "variational",
        charge_options={"mode": "self_consistent"},
    ),
    "repulsion": partial(
        small_cross,
        "tensornet",
        "none",
        "feature",
        baselines={"zbl": {"_target_": "qeqtrain.nn.baselines.ScreenedNuclei"}},
    ),
    **{" + ".join(names): partial(small_cross, *names) for names in CROSSES},
}


@pytest.fixture(params=MODELS, name="potential")
def _potential(request: pytest.FixtureRequest):
    return MODELS[request.param]()


def sums_images(potential: Potential) -> bool:
    """Whether the model has Ewald sums, which wires do not have."""
    return callable(potential.cutoffs.get("charge"))


def systems_for(potential: Potential) -> list[Atoms]:
    """List one of every kind of periodicity that the model takes."""
    systems = all_systems()
    return [a for a in systems if a.pbc.sum() != 1] if sums_images(potential) else systems


@pytest.mark.parametrize("make", [triclinic, water, partial(water, 1.0), slab, wire])
def test_rotation_and_reflection_turn_vectors_and_leave_scalars(potential, make) -> None:
    if make is wire and sums_images(potential):
        pytest.skip("a wire has no Ewald sum; the refusal is tested in tests/physics")
    atoms = make()
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
    allowed = EWALD if sums_images(potential) else EXACT
    torch.testing.assert_close(b.energy, a.energy, rtol=allowed, atol=allowed)
    torch.testing.assert_close(b.forces, a.forces, rtol=allowed, atol=allowed)


def test_the_order_of_atoms_does_not_matter(potential) -> None:
    atoms = triclinic()
    order = np.random.default_rng(3).permutation(len(atoms))
    a, b = (potential(batch_of([x], potential)) for x in (atoms, atoms[order]))
    torch.testing.assert_close(b.energy, a.energy, rtol=EXACT, atol=EXACT)
    torch.testing.assert_close(b.forces, a.forces[order], rtol=EXACT, atol=EXACT)


def test_a_batch_gives_what_its_structures_give_alone(potential) -> None:
    systems = systems_for(potential)
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
    allowed = EWALD if sums_images(potential) else EXACT
    torch.testing.assert_close(b.energy, 6 * a.energy, rtol=allowed, atol=allowed)
    torch.testing.assert_close(b.forces[:8], a.forces, rtol=allowed, atol=allowed)
    torch.testing.assert_close(b.stress, a.stress, rtol=0, atol=allowed)
    if a.charges is not None:
        torch.testing.assert_close(b.charges[:8], a.charges, rtol=0, atol=allowed)


def test_charges_add_up_to_the_total_charge(potential) -> None:
    if not potential.has_charges:
        pytest.skip("no charges")
    systems = systems_for(potential)
    found = potential(batch_of(systems, potential))
    sums = batch_of(systems, potential).sum_over_atoms(found.charges)
    wanted = torch.tensor([a.info.get("charge", 0.0) for a in systems]).double()
    torch.testing.assert_close(sums, wanted, rtol=0, atol=EXACT)


def test_energy_is_smooth_where_a_neighbour_crosses_the_cutoff(potential) -> None:
    cutoff = potential.cutoffs["backbone"]

    def force(distance: float) -> float:
        atoms = Atoms("HO", [[0, 0, 0], [distance, 0, 0]])
        return float(potential(batch_of([atoms], potential)).forces[0, 0])

    assert abs(force(cutoff - 1e-5) - force(cutoff + 1e-5)) < 1e-6


@pytest.mark.parametrize("backbone", ["tensornet", "nequip"])
def test_the_embedding_of_charge_reaches_the_energy(backbone: str) -> None:
    potential = small_cross(backbone, "none", "feature", conditioning="charge")
    neutral, cation = (potential(batch_of([water(q)], potential)) for q in (0.0, 1.0))
    assert (neutral.energy - cation.energy).abs() > 1e-6


def test_a_baseline_is_added_to_the_energy() -> None:
    with_it, without = MODELS["repulsion"](), small_cross("tensornet", "none", "feature")
    batch = batch_of([water(), triclinic()], without)
    more = with_it(batch).energy - without(batch).energy
    torch.testing.assert_close(more, zbl_energy(batch, "backbone"), rtol=1e-12, atol=1e-9)
    assert more[0] > 1.0
