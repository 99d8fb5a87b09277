"""Answers to an electric field: every coupling, finite differences, sum rules, symmetry."""

from __future__ import annotations

from dataclasses import replace
from functools import partial

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.data import covalent_radii
from scipy.spatial.transform import Rotation
from torch import Tensor

from qeqtrain.errors import UserMistake
from qeqtrain.models.potential import Potential
from qeqtrain.physics.coulomb import gaussian_kernel
from qeqtrain.structures import Structures
from qeqtrain.units import COULOMB_CONSTANT
from tests.crosses import small_cross
from tests.properties.test_derivatives import slope_at_zero
from tests.systems import batch_of, rattled, slab, triclinic, water

FIELD = (0.11, -0.07, 0.19)

# One cross for every way in which charges follow a field and enter the energy.
WAYS = [
    ("tensornet", "diagonal", "feature"),
    ("tensornet", "diagonal", "coulomb"),
    ("tensornet", "gaussian", "full"),
    ("tensornet", "gaussian", "second"),
    ("nequip", "gaussian", "variational"),
    ("tensornet", "local", "feature"),
]
LEARNED = ("tensornet", "gaussian", "feature")  # beside it dipoles of atoms
FLOWS = [WAYS[1], WAYS[2], WAYS[5]]


@pytest.fixture(params=[*WAYS, LEARNED], ids=" + ".join, name="potential")
def _potential(request: pytest.FixtureRequest) -> Potential:
    return small_cross(*request.param, atomic_dipoles=request.param == LEARNED)


def ion() -> Atoms:
    """A charged molecule away from the origin, without any symmetry."""
    atoms = rattled(Atoms("NaClHO", [[0, 0, 0], [2.4, 0, 0], [0.2, 1.4, 0.3], [0.4, 1.2, 1.6]]))
    atoms.positions += [1.0, -2.0, 0.5]
    atoms.info["charge"] = 1.0
    return atoms


def in_field(potential: Potential, atoms: list[Atoms], field=FIELD) -> Structures:
    batch = batch_of(atoms, potential)
    fields = torch.tensor([field] * len(atoms), dtype=torch.float64)
    return replace(batch, electric_field=fields)


def moment(prediction, batch: Structures) -> Tensor:
    share = prediction.charges[:, None] * batch.positions
    if prediction.atomic_dipoles is not None:
        share = share + prediction.atomic_dipoles
    return batch.sum_over_atoms(share)


def pulled(base: Structures, direction: Tensor, step: float) -> Structures:
    return replace(base, electric_field=base.electric_field + step * direction)


def test_the_energy_in_a_field_falls_by_the_dipole(potential) -> None:
    base = in_field(potential, [ion(), water()])
    direction = torch.tensor([0.3, 0.8, -0.5], dtype=torch.float64)
    expected = -moment(potential(base), base) @ direction
    for i in range(2):
        slope = slope_at_zero(
            lambda h, i=i: float(potential(pulled(base, direction, h)).energy[i]), 1e-3
        )
        np.testing.assert_allclose(slope, float(expected[i]), rtol=1e-8, atol=1e-8)


def test_forces_in_a_field_are_finite_differences_of_the_energy(potential) -> None:
    atoms = ion()
    forces = potential(in_field(potential, [atoms])).forces.numpy()
    direction = np.random.default_rng(0).normal(size=atoms.positions.shape)

    def energy(step: float) -> float:
        moved = atoms.copy()
        moved.positions += step * direction
        return float(potential(in_field(potential, [moved])).energy[0])

    slope = slope_at_zero(energy, 3e-4)
    np.testing.assert_allclose(-(forces * direction).sum(), slope, rtol=1e-8, atol=1e-7)


def test_a_field_pulls_at_the_total_charge(potential) -> None:
    batch = in_field(potential, [ion(), water()])
    net = batch.sum_over_atoms(potential(batch).forces)
    expected = torch.tensor([FIELD, (0.0, 0.0, 0.0)], dtype=torch.float64)
    torch.testing.assert_close(net, expected, rtol=0, atol=1e-10)


def test_born_charges_are_finite_differences_of_forces_in_the_field(potential) -> None:
    base = in_field(potential, [ion(), water()], (0.0, 0.0, 0.0))
    born = potential(base, born_charges=True).born_charges
    for a in range(3):
        axis = torch.eye(3, dtype=torch.float64)[a]
        ends = [potential(pulled(base, axis, h)).forces for h in (-1e-3, 1e-3)]
        slope = (ends[1] - ends[0]) / 2e-3
        torch.testing.assert_close(born[:, a], slope, rtol=1e-6, atol=1e-7)


def test_born_charges_are_finite_differences_of_the_dipole(potential) -> None:
    atoms = ion()
    batch = in_field(potential, [atoms])
    born = potential(batch, born_charges=True).born_charges
    for i, b in [(0, 0), (1, 2), (3, 1)]:

        def dipole(step: float, i: int = i, b: int = b) -> Tensor:
            moved = atoms.copy()
            moved.positions[i, b] += step
            there = in_field(potential, [moved])
            return moment(potential(there), there)[0]

        slope = (dipole(1e-4) - dipole(-1e-4)) / 2e-4
        torch.testing.assert_close(born[i, :, b], slope, rtol=1e-6, atol=1e-6)


def test_born_charges_add_up_to_the_total_charge(potential) -> None:
    batch = in_field(potential, [ion(), water()])
    born = batch.sum_over_atoms(potential(batch, born_charges=True).born_charges)
    expected = torch.eye(3, dtype=torch.float64) * torch.tensor([1.0, 0.0])[:, None, None]
    torch.testing.assert_close(born, expected.double(), rtol=0, atol=1e-9)


def test_the_polarizability_is_the_slope_of_the_dipole_and_symmetric(potential) -> None:
    base = in_field(potential, [ion(), water()])
    alpha = potential(base, polarizability=True).polarizability
    torch.testing.assert_close(alpha, alpha.mT, rtol=0, atol=1e-9)
    for b in range(3):
        axis = torch.eye(3, dtype=torch.float64)[b]
        ends = [pulled(base, axis, h) for h in (-1e-2, 1e-2)]
        low, high = (moment(potential(end), end) for end in ends)
        torch.testing.assert_close(alpha[:, :, b], (high - low) / 2e-2, rtol=1e-7, atol=1e-7)


def test_only_charges_that_are_equilibrated_are_polarizable(potential) -> None:
    alpha = potential(batch_of([ion()], potential), polarizability=True).polarizability[0]
    if potential.charge.equilibrated:
        assert torch.linalg.eigvalsh(alpha).min() > 1e-3
    else:
        assert alpha.abs().max() == 0.0


def test_two_atoms_are_as_polarizable_as_their_hardness_and_interaction_allow() -> None:
    potential = small_cross("tensornet", "gaussian", "feature")
    atoms = Atoms("NaCl", [[0.0, 0.0, 0.0], [0.0, 0.0, 2.6]], info={"charge": 0.0})
    batch = batch_of([atoms], potential)
    found = potential(batch, polarizability=True)
    width = torch.tensor([covalent_radii[11], covalent_radii[17]])
    own = found.hardness + COULOMB_CONSTANT / (np.sqrt(np.pi) * width)
    distance = torch.tensor(2.6, dtype=torch.float64)
    between = gaussian_kernel(distance, width[0], width[1])
    # One number q flows: E = q^2 (H_1 + H_2 - 2 A_12) / 2 - q R F.
    expected = torch.zeros(3, 3, dtype=torch.float64)
    expected[2, 2] = distance**2 / (own.sum() - 2.0 * between)
    torch.testing.assert_close(found.polarizability[0], expected, rtol=1e-9, atol=1e-12)


def test_answers_turn_with_structure_and_field(potential) -> None:
    atoms, turn = ion(), Rotation.from_euler("xyz", [0.4, -1.1, 2.0]).as_matrix()
    asked = {"born_charges": True, "polarizability": True}
    plain = potential(in_field(potential, [atoms]), **asked)
    turned = atoms.copy()
    turned.positions = -atoms.positions @ turn.T  # an improper rotation
    found = potential(in_field(potential, [turned], tuple(-turn @ FIELD)), **asked)
    R = torch.from_numpy(turn)
    close = partial(torch.testing.assert_close, rtol=1e-9, atol=1e-10)
    close(found.energy, plain.energy)
    close(found.forces, -plain.forces @ R.T)
    close(found.born_charges, R @ plain.born_charges @ R.T)
    close(found.polarizability, R @ plain.polarizability @ R.T)


@pytest.mark.parametrize("names", WAYS, ids=" + ".join)
def test_each_structure_of_a_batch_has_its_own_field(names) -> None:
    potential = small_cross(*names)
    batch = in_field(potential, [ion(), water(), slab()], (0.0, 0.0, 0.2))
    fields = torch.tensor([FIELD, (0.0,) * 3, (0.0, 0.0, 0.2)], dtype=torch.float64)
    found = potential(replace(batch, electric_field=fields), born_charges=None)
    first = 0
    for atoms, field in zip((ion(), water(), slab()), fields.tolist(), strict=True):
        alone = potential(in_field(potential, [atoms], field), born_charges=None)
        rows = slice(first, first + len(atoms))
        first += len(atoms)
        close = partial(torch.testing.assert_close, rtol=0, atol=1e-9, equal_nan=True)
        close(found.forces[rows], alone.forces)
        close(found.born_charges[rows], alone.born_charges)


@pytest.mark.parametrize("names", FLOWS, ids=" + ".join)
def test_a_slab_in_a_field_across_it_keeps_its_derivatives(names) -> None:
    potential, atoms = small_cross(*names), slab()
    forces = potential(in_field(potential, [atoms], (0.0, 0.0, 0.2))).forces.numpy()
    direction = np.random.default_rng(0).normal(size=atoms.positions.shape)

    def energy(step: float) -> float:
        moved = atoms.copy()
        moved.positions += step * direction
        return float(potential(in_field(potential, [moved], (0.0, 0.0, 0.2))).energy[0])

    slope = slope_at_zero(energy, 3e-4)
    np.testing.assert_allclose(-(forces * direction).sum(), slope, rtol=1e-8, atol=1e-6)


@pytest.mark.parametrize("names", FLOWS, ids=" + ".join)
def test_moving_an_atom_of_a_slab_to_its_image_changes_nothing(names) -> None:
    potential, atoms = small_cross(*names), slab()
    moved = atoms.copy()
    moved.positions[0] += atoms.cell[0] - atoms.cell[1]
    field = (0.0, 0.0, 0.2)
    energies = [potential(in_field(potential, [a], field)).energy for a in (atoms, moved)]
    torch.testing.assert_close(*energies, rtol=0, atol=1e-8)


@pytest.mark.parametrize("names", [*WAYS, LEARNED], ids=" + ".join)
def test_losses_on_born_charges_and_polarizability_have_exact_gradients(names) -> None:
    potential = small_cross(*names, atomic_dipoles=names == LEARNED).train()
    batch = in_field(potential, [ion(), water()])
    parameters = [p for p in potential.parameters() if p.requires_grad]

    def loss() -> Tensor:
        found = potential(batch, born_charges=True, polarizability=True)
        parts = (found.forces, found.born_charges, found.polarizability)
        return sum(p.square().mean() for p in parts)

    gradients = torch.autograd.grad(loss(), parameters, allow_unused=True)
    generator = torch.Generator().manual_seed(1)
    direction = [torch.randn(p.shape, generator=generator, dtype=p.dtype) for p in parameters]
    pairs = zip(gradients, direction, strict=True)
    expected = sum(float((g * d).sum()) for g, d in pairs if g is not None)

    def loss_at(step: float) -> float:
        with torch.no_grad():
            for p, d in zip(parameters, direction, strict=True):
                p.add_(step * d)
        found = float(loss().detach())
        with torch.no_grad():
            for p, d in zip(parameters, direction, strict=True):
                p.sub_(step * d)
        return found

    np.testing.assert_allclose(expected, slope_at_zero(loss_at, 2e-5), rtol=1e-6, atol=1e-7)


def test_a_field_that_nothing_follows_is_a_mistake() -> None:
    potential = small_cross("tensornet", "none", "feature")
    with pytest.raises(UserMistake, match=r"H2O.*no charges that could follow"):
        potential(in_field(potential, [water()]))
    with pytest.raises(UserMistake, match="Born charges asked of a model without charges"):
        potential(batch_of([water()], potential), born_charges=True)
    assert potential(batch_of([water()], potential), born_charges=None).born_charges is None


@pytest.mark.parametrize("charge", ["diagonal", "gaussian", "local"])
def test_answers_along_periodic_directions_are_refused_where_charge_flows(charge) -> None:
    potential = small_cross("tensornet", charge, "feature")
    crystal = triclinic()
    with pytest.raises(
        UserMistake, match=r"Cl4Na4.*along the periodic direction a and b and c"
    ):
        potential(in_field(potential, [water(), crystal]))
    calm = batch_of([water(), crystal], potential)
    with pytest.raises(UserMistake, match="Born charges of flowing charge"):
        potential(calm, born_charges=True)
    with pytest.raises(UserMistake, match="polarizability of flowing charge"):
        potential(calm, polarizability=True)
    found = potential(calm, born_charges=None, polarizability=None)
    assert found.born_charges[:3].isfinite().all()
    assert found.born_charges[3:].isnan().all()
    assert found.polarizability[0].isfinite().all()
    assert found.polarizability[1].isnan().all()
