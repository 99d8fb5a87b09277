"""Forces and stress are the derivatives of the energy, to any order that training needs."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor

from qeqtrain.physics.response import strained
from tests.crosses import CROSSES, small_cross
from tests.properties.test_symmetry import MODELS, systems_for
from tests.systems import batch_of, slab, small_qet, triclinic, water


@pytest.fixture(params=MODELS, name="potential")
def _potential(request: pytest.FixtureRequest):
    return MODELS[request.param]()


def slope_at_zero(function: Callable[[float], float], h: float) -> float:
    """Differentiate by central differences of fourth order."""
    near = function(h) - function(-h)
    far = function(2 * h) - function(-2 * h)
    return (8 * near - far) / (12 * h)


@pytest.mark.parametrize("make", [triclinic, water, slab])
def test_forces_are_finite_differences_of_the_energy(potential, make) -> None:
    atoms = make()
    forces = potential(batch_of([atoms], potential)).forces.numpy()
    direction = np.random.default_rng(0).normal(size=atoms.positions.shape)

    def energy(step: float) -> float:
        moved = atoms.copy()
        moved.positions += step * direction
        return float(potential(batch_of([moved], potential)).energy[0])

    slope = slope_at_zero(energy, 3e-4)
    np.testing.assert_allclose(-(forces * direction).sum(), slope, rtol=1e-8, atol=1e-7)


def test_stress_is_the_finite_difference_of_the_energy_under_strain(potential) -> None:
    atoms = triclinic()
    stress = potential(batch_of([atoms], potential)).stress[0].numpy()
    for i, j in [(0, 0), (1, 1), (2, 2), (1, 2), (0, 2), (0, 1)]:

        def energy(step: float, i: int = i, j: int = j) -> float:
            strain = np.eye(3)
            strain[i, j] += step / 2
            strain[j, i] += step / 2
            bent = atoms.copy()
            bent.set_cell(atoms.cell.array @ strain, scale_atoms=True)
            return float(potential(batch_of([bent], potential)).energy[0])

        slope = slope_at_zero(energy, 3e-5) / atoms.get_volume()
        np.testing.assert_allclose(stress[i, j], slope, rtol=1e-8, atol=1e-8)


def test_energy_has_exact_first_and_second_derivatives_in_positions_and_strain(
    potential,
) -> None:
    batch = batch_of([water(1.0), triclinic()[[0, 1, 4]]], potential)

    def energy(positions: Tensor, strain: Tensor) -> Tensor:
        return potential.evaluate(strained(replace(batch, positions=positions), strain)).energy

    inputs = (
        batch.positions.clone().requires_grad_(),
        torch.zeros(2, 3, 3, dtype=torch.float64, requires_grad=True),
    )
    # Scaling the energy does not matter here; fast mode projects on random directions.
    assert torch.autograd.gradcheck(energy, inputs, fast_mode=True)
    assert torch.autograd.gradgradcheck(energy, inputs, fast_mode=True)


@pytest.mark.parametrize("names", CROSSES, ids=" + ".join)
def test_gradients_of_a_force_loss_are_finite_differences_in_the_weights(names) -> None:
    potential = small_cross(*names).train()
    batch = batch_of(systems_for(potential), potential)
    parameters = [p for p in potential.parameters() if p.requires_grad]

    def loss() -> Tensor:
        found = potential(batch, forces=True, stress=True)
        whole = torch.nan_to_num(found.stress)
        return (
            found.energy.square().mean() * 1e-4
            + found.forces.square().mean()
            + whole.square().sum()
        )

    gradients = torch.autograd.grad(loss(), parameters)
    generator = torch.Generator().manual_seed(1)
    direction = [torch.randn(p.shape, generator=generator, dtype=p.dtype) for p in parameters]
    expected = sum((g * d).sum() for g, d in zip(gradients, direction, strict=True))

    def loss_at(step: float) -> float:
        with torch.no_grad():
            for p, d in zip(parameters, direction, strict=True):
                p.add_(step * d)
        found = float(loss().detach())
        with torch.no_grad():
            for p, d in zip(parameters, direction, strict=True):
                p.sub_(step * d)
        return found

    slope = slope_at_zero(loss_at, 2e-5)
    np.testing.assert_allclose(float(expected), slope, rtol=1e-6, atol=1e-7)


def test_evaluation_leaves_no_graph_behind() -> None:
    potential = small_qet()
    found = potential(batch_of([water()], potential))
    assert not found.energy.requires_grad
    assert not found.forces.requires_grad
