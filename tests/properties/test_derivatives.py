"""Forces and stress are the derivatives of the energy, to any order that training needs."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor

from qeqtrain.physics.response import strained
from tests.properties.test_symmetry import MODELS
from tests.systems import all_systems, batch_of, slab, small_qet, triclinic, water


@pytest.fixture(params=MODELS, name="potential")
def _potential(request: pytest.FixtureRequest):
    return small_qet(**MODELS[request.param])


@pytest.mark.parametrize("make", [triclinic, water, slab])
def test_forces_are_finite_differences_of_the_energy(potential, make) -> None:
    atoms, h = make(), 1e-4
    forces = potential(batch_of([atoms], potential)).forces
    direction = np.random.default_rng(0).normal(size=atoms.positions.shape)
    ends = []
    for sign in (-1, 1):
        moved = atoms.copy()
        moved.positions += sign * h * direction
        ends.append(float(potential(batch_of([moved], potential)).energy[0]))
    slope = (ends[1] - ends[0]) / (2 * h)
    assert abs(slope + float((forces.numpy() * direction).sum())) < 1e-7


def test_stress_is_the_finite_difference_of_the_energy_under_strain(potential) -> None:
    atoms, h = triclinic(), 1e-5
    stress = potential(batch_of([atoms], potential)).stress[0].numpy()
    for i, j in [(0, 0), (1, 1), (2, 2), (1, 2), (0, 2), (0, 1)]:
        ends = []
        for sign in (-1, 1):
            strain = np.eye(3)
            strain[i, j] += sign * h / 2
            strain[j, i] += sign * h / 2
            bent = atoms.copy()
            bent.set_cell(atoms.cell.array @ strain, scale_atoms=True)
            ends.append(float(potential(batch_of([bent], potential)).energy[0]))
        slope = (ends[1] - ends[0]) / (2 * h) / atoms.get_volume()
        assert abs(slope - stress[i, j]) < 1e-8


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


def test_gradients_of_a_force_loss_are_finite_differences_in_the_weights() -> None:
    potential = small_qet().train()
    batch = batch_of(all_systems(), potential)
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
    h, ends = 1e-5, []
    for sign in (-1, 2):
        with torch.no_grad():
            for p, d in zip(parameters, direction, strict=True):
                p.add_(sign * h * d)
        ends.append(loss().detach())
    slope = (ends[1] - ends[0]) / (2 * h)
    torch.testing.assert_close(slope, expected, rtol=1e-6, atol=1e-7)


def test_evaluation_leaves_no_graph_behind() -> None:
    potential = small_qet()
    found = potential(batch_of([water()], potential))
    assert not found.energy.requires_grad
    assert not found.forces.requires_grad
