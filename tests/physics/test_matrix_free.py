from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from qeqtrain.neighbors import with_pairs
from qeqtrain.physics.ewald import CoulombReach
from qeqtrain.physics.interaction import GaussianCoulomb
from qeqtrain.physics.matrix_free import MatrixFreeCoulomb
from qeqtrain.physics.qeq import Equilibrium, equilibrate
from qeqtrain.structures import Structure, Structures, collate

WIDTHS = {8: 0.7, 12: 1.2}
CRYSTAL = np.array([[9.0, 0.0, 0.0], [2.0, 8.0, 0.0], [-1.0, 1.5, 10.0]])


def jittered(
    cell: np.ndarray, steps: int, pbc: tuple[bool, bool, bool], seed: int
) -> Structure:
    """Oxygen and magnesium in turn on a grid of ``steps`` cubed, displaced at random."""
    rng = np.random.default_rng(seed)
    grid = np.stack(np.meshgrid(*[np.arange(steps)] * 3, indexing="ij"), -1).reshape(-1, 3)
    places = (grid + 0.5 + rng.uniform(-0.15, 0.15, grid.shape)) / steps
    return Structure(
        numbers=np.where(grid.sum(axis=1) % 2, 8, 12),
        positions=places @ cell,
        cell=cell * np.array(pbc)[:, None],
        pbc=np.array(pbc),
        total_charge=float(pbc[2]),
    )


def batch_of(structures: list[Structure], accuracy: float) -> tuple[Structures, Tensor]:
    reach = CoulombReach(WIDTHS, accuracy)
    batch = collate([with_pairs(s, {"charge": reach}) for s in structures])
    width = torch.where(batch.numbers == 8, WIDTHS[8], WIDTHS[12]).double()
    return batch, width


def molecule_slab_crystal(accuracy: float = 1e-11) -> tuple[Structures, Tensor]:
    return batch_of(
        [
            jittered(CRYSTAL, 2, (False, False, False), seed=1),
            jittered(CRYSTAL, 3, (True, True, False), seed=2),
            jittered(CRYSTAL, 4, (True, True, True), seed=3),
        ],
        accuracy,
    )


def neutral(batch: Structures, seed: int) -> Tensor:
    """Random charges whose sum is zero in every structure: a slab's has to be."""
    charges = torch.tensor(np.random.default_rng(seed).normal(size=batch.n_atoms))
    mean = batch.sum_over_atoms(charges) / batch.atom_counts()
    return charges - mean.index_select(0, batch.batch)


@pytest.mark.parametrize(("mesh", "accuracy"), [(False, 1e-11), (True, 1e-6)])
def test_products_are_the_potentials_of_the_interaction(mesh: bool, accuracy: float):
    batch, width = molecule_slab_crystal()
    charges = neutral(batch, seed=4)
    charges[-64:] += 0.1  # the crystal may have a charge
    exact = GaussianCoulomb(batch, width, 1e-11).potential(charges)
    found = MatrixFreeCoulomb(batch, width, accuracy, mesh=mesh).product(charges)
    # A slab's zero of the potential depends on the vacuum, and that on the accuracy.
    difference = found - exact
    slab = batch.batch == 1
    difference[slab] -= difference[slab].mean()
    assert difference.abs().max() < 100.0 * accuracy


@pytest.mark.parametrize(("mesh", "accuracy"), [(False, 1e-11), (True, 1e-6)])
def test_the_bilinear_form_is_the_same(mesh: bool, accuracy: float):
    batch, width = molecule_slab_crystal()
    u, v = neutral(batch, seed=4), neutral(batch, seed=5)
    exact = GaussianCoulomb(batch, width, 1e-11).energy(u, v)
    found = MatrixFreeCoulomb(batch, width, accuracy, mesh=mesh).energy(u, v)
    torch.testing.assert_close(found, exact, rtol=0.0, atol=1e3 * accuracy)


def observables(
    batch: Structures, width: Tensor, accuracy: float, **solver: Any
) -> tuple[Equilibrium, dict[str, Tensor]]:
    """Charges, forces of an energy that reads charges too, and gradients of those forces."""
    rng = np.random.default_rng(6)
    n = batch.n_atoms
    chi = np.where(batch.numbers.numpy() == 8, 6.0, -2.0) + rng.normal(0.0, 0.5, n)
    electronegativity = torch.tensor(chi).requires_grad_()
    hardness = torch.tensor(rng.uniform(2.0, 3.0, n)).requires_grad_()
    batch = replace(
        batch,
        positions=batch.positions.clone().requires_grad_(),
        cell=batch.cell.clone().requires_grad_(),
    )
    width = width.clone().requires_grad_()
    rest = equilibrate(electronegativity, hardness, width, batch, accuracy=accuracy, **solver)
    energy = rest.energy.sum() + 0.3 * (rest.charges**2).sum()
    slopes = torch.autograd.grad(energy, (batch.positions, batch.cell), create_graph=True)
    probe = (slopes[0] * torch.linspace(-1.0, 1.0, 3 * n).double().view(n, 3)).sum()
    second = torch.autograd.grad(probe, (electronegativity, hardness, width))
    names = (
        "charges",
        "forces",
        "virial",
        "of electronegativity",
        "of hardness",
        "of width",
    )
    values = (rest.charges, *slopes, *second)
    return rest, {k: v.detach() for k, v in zip(names, values, strict=True)}


@pytest.mark.parametrize(
    ("mesh", "accuracy", "allowed"), [(False, 1e-11, 1e-8), (True, 1e-7, 1e-5)]
)
def test_iterative_charges_forces_and_second_derivatives_equal_dense_ones(
    mesh: bool, accuracy: float, allowed: float
):
    small = jittered(CRYSTAL, 2, (False, False, False), seed=1)
    large = jittered(2.0 * CRYSTAL, 8, (True, True, True), seed=5)  # 512 atoms
    batch, width = batch_of([small, large], 1e-11)
    _, exact = observables(batch, width, 1e-11, solver="dense")
    rest, found = observables(batch, width, accuracy, solver="iterative", mesh=mesh)
    assert rest.effort is not None
    assert rest.effort.solver == "iterative"
    assert 10 < rest.effort.iterations.max() < 100
    for name, value in exact.items():
        difference = (found[name] - value).abs().max() / value.abs().max()
        assert difference < allowed, name
