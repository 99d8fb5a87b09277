"""Charges with shells: what is returned is what is differentiated, and obeys the symmetries."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.build import bulk, molecule
from scipy.spatial.transform import Rotation
from torch import Tensor

from qeqtrain.errors import EquilibrationFailed, UserMistake
from qeqtrain.neighbors import with_pairs
from qeqtrain.physics.polarization import (
    Constants,
    Parameters,
    own_interaction,
    own_stiffness,
    polarize,
    table_parameters,
)
from qeqtrain.physics.polarization.kernel import TaperedKernel, boys
from qeqtrain.physics.response import strained
from qeqtrain.structures import Structure, Structures, collate
from tests.systems import rattled

MODES = ("labels", "released", "self_consistent")
EXACT = 1e-11


def batch(*systems: Atoms, cutoff: float = 12.5, **given: Any) -> Structures:
    """Join systems, with pairs; charge and field from ``info``."""
    ready = [
        with_pairs(
            Structure.from_atoms(
                a,
                total_charge=a.info.get("charge", 0.0),
                electric_field=a.info.get("field"),
                **given,
            ),
            {"charge": cutoff},
        )
        for a in systems
    ]
    return collate(ready)


def water(charge: float = 0.0, field: tuple[float, ...] = (0.1, -0.05, 0.2)) -> Atoms:
    atoms = rattled(molecule("H2O"), 0.05, seed=1)
    atoms.info |= {"charge": charge, "field": np.array(field)}
    return atoms


def crystal() -> Atoms:
    """Sheared lithium fluoride: springs are stiff there."""
    atoms = rattled(bulk("LiF", "rocksalt", a=4.1, cubic=True), 0.1, seed=2)
    shear = np.array([[1.02, 0.05, -0.03], [0.0, 0.96, 0.06], [0.02, 0.0, 1.03]])
    atoms.set_cell(atoms.cell.array @ shear, scale_atoms=True)
    atoms.info["field"] = np.array([0.05, 0.1, -0.02])
    return atoms


def slab() -> Atoms:
    atoms = rattled(bulk("MgO", "rocksalt", a=4.21, cubic=True), 0.05, seed=3)
    atoms.pbc = (True, True, False)
    atoms.info["field"] = np.array([0.1, 0.0, 0.2])
    return atoms


SYSTEMS = {"water": water, "ion": partial(water, 1.0), "crystal": crystal, "slab": slab}


def energy_of(structures: Structures, **options: Any) -> Tensor:
    return polarize(table_parameters(structures.numbers), structures, **options).energy


def derivatives(atoms: Atoms, **options: Any) -> tuple[np.ndarray, np.ndarray]:
    """Forces, and the derivative in strain."""
    structures = batch(atoms)
    positions = structures.positions.requires_grad_()
    strain = torch.zeros(1, 3, 3, dtype=torch.float64, requires_grad=True)
    energy = energy_of(strained(structures, strain), **options)
    slope, in_strain = torch.autograd.grad(energy.sum(), [positions, strain])
    return -slope.numpy(), in_strain[0].numpy()


def slope_at_zero(function: Any, h: float) -> float:
    near, far = function(h) - function(-h), function(2 * h) - function(-2 * h)
    return (8 * near - far) / (12 * h)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("system", SYSTEMS)
def test_forces_and_stress_are_finite_differences(system: str, mode: str) -> None:
    atoms = SYSTEMS[system]()
    forces, in_strain = derivatives(atoms, mode=mode)
    rng = np.random.default_rng(0)
    direction, strain = rng.normal(size=forces.shape), rng.normal(size=(3, 3))
    strain = 0.5 * (strain + strain.T)

    def moved(step: float) -> float:
        there = atoms.copy()
        there.positions += step * direction
        return float(energy_of(batch(there), mode=mode)[0])

    def bent(step: float) -> float:
        there = atoms.copy()
        there.set_cell(atoms.cell.array @ (np.eye(3) + step * strain))
        there.positions = atoms.positions @ (np.eye(3) + step * strain)
        return float(energy_of(batch(there), mode=mode)[0])

    assert abs(slope_at_zero(moved, 2e-4) + (forces * direction).sum()) < 1e-7
    assert abs(slope_at_zero(bent, 1e-4) - (in_strain * strain).sum()) < 1e-7


def test_frozen_forces_are_no_derivative_of_the_energy() -> None:
    exact, _ = derivatives(crystal(), mode="labels")
    frozen, _ = derivatives(crystal(), mode="labels", gradients="frozen")
    assert np.abs(exact - frozen).max() > 1e-4


def test_at_rest_frozen_forces_are_the_derivative_of_the_energy() -> None:
    exact, _ = derivatives(crystal(), mode="self_consistent")
    frozen, _ = derivatives(crystal(), mode="self_consistent", gradients="frozen")
    np.testing.assert_allclose(exact, frozen, rtol=0, atol=1e-9)


def inputs_of(structures: Structures) -> tuple[Tensor, ...]:
    """Parameters unlike any table's, positions, strain and total charges, to differentiate."""
    place = torch.arange(structures.n_atoms, dtype=torch.float64)
    width = 0.6 + 0.2 * torch.sin(place)
    values = (
        torch.cos(1.3 * place),
        own_interaction(width) + 2.0 + torch.sin(0.7 * place),
        width,
        own_stiffness(width) + 9.0 + torch.cos(place),
        1.0 + 0.2 * torch.sin(2.0 * place),
        structures.positions,
        torch.zeros_like(structures.cell),
        structures.total_charge,
        structures.electric_field,
    )
    return tuple(v.clone().requires_grad_() for v in values)


@pytest.mark.parametrize(
    ("mode", "damping"),
    [
        ("labels", 0.7),
        pytest.param("released", 0.0, marks=pytest.mark.slow),
        pytest.param("self_consistent", 0.0, marks=pytest.mark.slow),
    ],
)
def test_all_that_is_returned_can_be_differentiated_twice(mode: str, damping: float) -> None:
    structures = batch(water(1.0), crystal()[[0, 1]], cutoff=3.5)
    inputs = inputs_of(structures)
    probe = torch.sin(torch.arange(5.0 * structures.n_atoms)).double().view(-1, 5)

    def outputs(*given: Tensor) -> Tensor:
        *rows, positions, strain, charge, field = given
        at = replace(structures, positions=positions, total_charge=charge, electric_field=field)
        found = polarize(Parameters(*rows), strained(at, strain), mode=mode, damping=damping)
        atomic = torch.stack([found.charges, found.potential, *found.shells.unbind(-1)], dim=-1)
        return found.energy + structures.sum_over_atoms((probe * atomic).sum(-1))

    assert torch.autograd.gradcheck(outputs, inputs, fast_mode=True)
    assert torch.autograd.gradgradcheck(outputs, inputs, fast_mode=True)


@pytest.mark.parametrize("mode", MODES)
def test_a_batch_gives_what_its_structures_give_alone(mode: str) -> None:
    systems = [make() for make in SYSTEMS.values()]
    together = batch(*systems)
    found = polarize(table_parameters(together.numbers), together, mode=mode)
    alone = [polarize(table_parameters(b.numbers), b, mode=mode) for b in map(batch, systems)]
    for name in ("energy", "charges", "shells", "potential", "chemical_potential"):
        parts = torch.cat([getattr(p, name) for p in alone])
        torch.testing.assert_close(getattr(found, name), parts, rtol=0, atol=EXACT)


@pytest.mark.parametrize("mode", MODES)
def test_a_supercell_is_its_cells(mode: str) -> None:
    atoms = crystal()
    small, large = batch(atoms), batch(atoms.repeat((2, 1, 1)))
    large = replace(large, electric_field=small.electric_field)
    one, two = (polarize(table_parameters(b.numbers), b, mode=mode) for b in (small, large))
    torch.testing.assert_close(two.energy, 2 * one.energy, rtol=0, atol=EXACT)
    torch.testing.assert_close(two.shells[: len(atoms)], one.shells, rtol=0, atol=EXACT)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("system", ["crystal", "ion"])
def test_shells_turn_with_the_atoms_and_the_field(system: str, mode: str) -> None:
    atoms = SYSTEMS[system]()
    turn = -Rotation.from_rotvec([0.3, -1.1, 0.7]).as_matrix()
    turned = atoms.copy()
    turned.set_cell(atoms.cell.array @ turn.T)
    turned.positions = atoms.positions @ turn.T
    turned.info = {**atoms.info, "field": turn @ atoms.info["field"]}
    a, b = (
        polarize(table_parameters(s.numbers), s, mode=mode)
        for s in (batch(atoms), batch(turned))
    )
    torch.testing.assert_close(b.energy, a.energy, rtol=0, atol=EXACT)
    torch.testing.assert_close(
        b.shells, a.shells @ torch.from_numpy(turn.T), rtol=0, atol=EXACT
    )


def test_translation_and_wrapping_change_nothing_in_a_cell() -> None:
    atoms = crystal()
    moved = atoms.copy()
    moved.positions += [3.1, -7.7, 12.2]
    moved.wrap()
    a, b = (energy_of(batch(x), mode="labels") for x in (atoms, moved))
    torch.testing.assert_close(a, b, rtol=0, atol=EXACT)


@pytest.mark.parametrize("mode", MODES)
def test_charges_add_up_to_the_total_charge(mode: str) -> None:
    structures = batch(*(make() for make in SYSTEMS.values()))
    found = polarize(table_parameters(structures.numbers), structures, mode=mode)
    sums = structures.sum_over_atoms(found.charges)
    torch.testing.assert_close(sums, structures.total_charge, rtol=0, atol=1e-12)


@pytest.mark.parametrize("mode", MODES)
def test_fragments_keep_the_charges_they_are_given(mode: str) -> None:
    atoms = molecule("H2O") + molecule("H2O")
    atoms.positions[3:] += [0.3, 0.2, 3.0]
    structures = batch(
        atoms, fragments=np.repeat([0, 1], 3), fragment_charges=np.array([1.0, -1.0])
    )
    found = polarize(table_parameters(structures.numbers), structures, mode=mode)
    sums = structures.charge_groups().sum_over_atoms(found.charges)
    torch.testing.assert_close(sums, torch.tensor([1.0, -1.0]).double(), rtol=0, atol=1e-12)


def test_the_chemical_potential_is_the_derivative_in_the_total_charge() -> None:
    structures = batch(water(0.3))
    structures.total_charge.requires_grad_()
    found = polarize(table_parameters(structures.numbers), structures)
    (slope,) = torch.autograd.grad(found.energy.sum(), structures.total_charge)
    torch.testing.assert_close(found.chemical_potential, slope, rtol=0, atol=1e-9)


def test_the_dipole_is_the_derivative_in_the_field() -> None:
    structures = batch(water())
    structures.electric_field.requires_grad_()
    found = polarize(table_parameters(structures.numbers), structures)
    (slope,) = torch.autograd.grad(found.energy.sum(), structures.electric_field)
    arms = found.charges[:, None] * structures.positions + found.dipoles
    torch.testing.assert_close(-slope, structures.sum_over_atoms(arms), rtol=0, atol=1e-9)


def test_along_a_periodic_direction_the_field_moves_shells_only() -> None:
    atoms = slab()
    at, field = table_parameters(batch(atoms).numbers), np.array([0.3, -0.2, 0.0])
    stiff = replace(at, stiffness=torch.full_like(at.stiffness, 1e12))
    charges = []
    for given in (np.zeros(3), field):
        atoms.info["field"] = given
        charges.append(polarize(stiff, batch(atoms), mode="labels").charges)
    torch.testing.assert_close(charges[0], charges[1], rtol=0, atol=1e-10)
    atoms.info["field"] = np.array([0.0, 0.0, 0.2])
    assert (
        polarize(stiff, batch(atoms), mode="labels").charges - charges[0]
    ).abs().max() > 0.01


def test_the_release_moves_no_shell_further_than_its_clamp() -> None:
    structures = batch(water(field=(8.0, 0.0, 0.0)))
    given = table_parameters(structures.numbers)
    free = polarize(given, structures, mode="labels").shells.norm(dim=-1)
    clamped = polarize(given, structures, mode="released").shells.norm(dim=-1)
    assert free.max() > 0.25
    torch.testing.assert_close(clamped.max(), torch.tensor(0.25).double())


def test_a_polarisation_catastrophe_is_reported_and_damping_prevents_it() -> None:
    salt = bulk("NaCl", "rocksalt", a=5.64, cubic=True).repeat((2, 2, 2))
    structures = batch(water(field=(0, 0, 0)), rattled(salt, 0.01))
    given = table_parameters(structures.numbers)
    with pytest.raises(EquilibrationFailed, match=r"structure 1 .*Cl32Na32.* catastrophe"):
        polarize(given, structures)
    found = polarize(given, structures, damping=1.0)
    assert found.shells.norm(dim=-1).max() < 0.1


def test_damping_stiffens_shells_within_other_densities_only() -> None:
    apart = Atoms("NaCl", [[0, 0, 0], [11.0, 0, 0]])
    near = Atoms("NaCl", [[0, 0, 0], [2.4, 0, 0]])
    for atoms, alike in ((apart, True), (near, False)):
        structures = batch(atoms)
        free, damped = (
            energy_of(structures, mode="labels", damping=c).item() for c in (0.0, 1.0)
        )
        assert (abs(free - damped) < 1e-7) == alike


def test_a_hardness_without_bound_is_reported_where_it_matters() -> None:
    structures = batch(water())
    given = table_parameters(structures.numbers)
    lost = replace(given, electronegativity=given.electronegativity * torch.nan)
    with pytest.raises(EquilibrationFailed, match=r"structure 0 .*H2O.* not finite"):
        polarize(lost, structures, mode="labels")


def test_a_wrong_name_is_a_users_mistake() -> None:
    structures = batch(water())
    with pytest.raises(UserMistake, match="did you mean 'labels'"):
        polarize(table_parameters(structures.numbers), structures, mode="label")


def test_elements_outside_the_table_are_named() -> None:
    with pytest.raises(UserMistake, match="Lr, Rf"):
        table_parameters(torch.tensor([1, 103, 104]))


def test_two_charges_by_hand() -> None:
    distance, constants = 2.0, Constants(energy=10.0, solve=10.0)
    structures = batch(Atoms("H2", [[0, 0, 0], [distance, 0, 0]]))
    chi, eta, width, stiff = 1.0, 12.0, 0.5, 1e9  # of the first; the second has chi = -1
    one = torch.ones(2, dtype=torch.float64)
    given = Parameters(torch.tensor([chi, -chi]), eta * one, width * one, stiff * one, one)
    found = polarize(given, structures, mode="labels", constants=constants)
    t = distance / 12.5
    taper = 1 - 35 * t**4 + 84 * t**5 - 70 * t**6 + 20 * t**7
    kernel = 10.0 * float(torch.erf(torch.tensor(distance / (2 * width)))) / distance * taper
    charge = chi / (eta - kernel)
    torch.testing.assert_close(found.charges[1].item(), charge, rtol=1e-6, atol=0)


def test_derivatives_of_the_kernel_agree_within_and_without_a_density() -> None:
    x = torch.tensor([1e-12, 1e-3, 0.3, 0.999, 1.001, 4.0, 60.0], dtype=torch.float64)
    rate = torch.ones_like(x)
    kernel = TaperedKernel(x, rate, 12.5, masked=True)
    for order in range(4):
        series = 2.0 / np.sqrt(np.pi) * (-1.0) ** order * boys(x[:5], order)
        torch.testing.assert_close(
            kernel._bare_derivative(order)[:5], series, rtol=2e-11, atol=0
        )
    x = x[2:].clone().requires_grad_()

    def value(x: Tensor) -> Tensor:
        return TaperedKernel(x, rate[2:], 12.5, masked=True).of(x, rate[2:])

    assert torch.autograd.gradcheck(value, [x])
    assert torch.autograd.gradgradcheck(value, [x])
