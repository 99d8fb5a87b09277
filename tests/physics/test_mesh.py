from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor

from qeqtrain.physics.mesh import choose_mesh, mesh_sum
from qeqtrain.physics.structure_factors import structure_factor_sum

Sum = Callable[..., Callable[[Tensor], Tensor]]

CUBIC = 11.0 * np.eye(3)
SKEW = np.array([[9.0, 0.0, 0.0], [5.0, 10.0, 0.0], [-4.0, 3.0, 14.0]])
FLAT = np.array([[17.0, 2.0, 0.0], [-8.0, 16.0, 1.0], [1.0, 0.5, 4.0]])
CELLS = {"cubic": CUBIC, "skew": SKEW, "flat": FLAT}


def gas(cell: np.ndarray, n: int = 60, seed: int = 0) -> tuple[Tensor, Tensor, Tensor]:
    """Charges that do not add up to zero, positions in and outside the cell, and the cell."""
    rng = np.random.default_rng(seed)
    positions = rng.uniform(-1.0, 2.0, (n, 3)) @ cell
    return torch.tensor(rng.normal(size=n)), torch.tensor(positions), torch.tensor(cell)


def obvious_sum(
    charges: Tensor,
    positions: Tensor,
    cell: Tensor,
    width: float,
    spread: Tensor | float = 0.0,
) -> np.ndarray:
    """Every wave vector, one sine and cosine per atom; numpy."""
    q, r, a = charges.numpy(), positions.numpy(), cell.numpy()
    cutoff = 8.5 / width
    spans = [int(cutoff * np.linalg.norm(v) / (2 * np.pi)) + 1 for v in a]
    n = np.stack(np.meshgrid(*[np.arange(-s, s + 1) for s in spans], indexing="ij"), -1)
    k = 2.0 * np.pi * n.reshape(-1, 3) @ np.linalg.inv(a).T
    square = (k * k).sum(-1)
    k = k[(square > 0.0) & (square < cutoff**2)]
    square = (k * k).sum(-1)
    strength = (
        4.0 * np.pi / np.abs(np.linalg.det(a)) * np.exp(-(width**2) * square / 2) / square
    )
    form = np.exp(-0.5 * np.outer(np.broadcast_to(spread, len(q)), square))
    phase = form * np.exp(1j * r @ k.T)
    return (phase.conj() @ (strength * (q @ phase))).real


def error(found: Tensor, exact: np.ndarray, charges: Tensor, width: float) -> float:
    """As the accuracy of :func:`mesh_sum` is defined."""
    own = np.sqrt(2.0 / np.pi) / width * np.sqrt((charges.numpy() ** 2).mean())
    return float(np.sqrt(((found.numpy() - exact) ** 2).mean()) / own)


@pytest.mark.parametrize("accuracy", [1e-3, 1e-5, 1e-7, 1e-9])
@pytest.mark.parametrize("cell", CELLS.values(), ids=CELLS)
@pytest.mark.parametrize("width", [1.1, 2.3])
def test_the_mesh_keeps_the_accuracy_asked_for(width: float, cell: np.ndarray, accuracy: float):
    charges, positions, box = gas(cell)
    found = mesh_sum(positions, box, width, accuracy)(charges)
    assert error(found, obvious_sum(charges, positions, box, width), charges, width) < accuracy


@pytest.mark.parametrize("cell", CELLS.values(), ids=CELLS)
def test_structure_factors_are_exact(cell: np.ndarray):
    charges, positions, box = gas(cell, n=300)  # more than one block of atoms
    found = structure_factor_sum(positions, box, 1.5, 1e-14)(charges)
    assert error(found, obvious_sum(charges, positions, box, 1.5), charges, 1.5) < 1e-14


@pytest.mark.parametrize("accuracy", [1e-4, 1e-8, 1e-12])
def test_structure_factors_keep_the_accuracy_asked_for(accuracy: float):
    charges, positions, box = gas(SKEW)
    found = structure_factor_sum(positions, box, 1.3, accuracy)(charges)
    assert error(found, obvious_sum(charges, positions, box, 1.3), charges, 1.3) < accuracy


@pytest.mark.parametrize("sum_", [mesh_sum, structure_factor_sum])
def test_densities_may_differ_in_width(sum_: Sum):
    charges, positions, box = gas(SKEW)
    spread = torch.tensor([0.0, 0.7, 0.0, 2.5]).double().repeat(15)
    found = sum_(positions, box, 1.1, 1e-7, spread)(charges)
    exact = obvious_sum(charges, positions, box, 1.1, spread.numpy())
    assert error(found, exact, charges, 1.1) < 1e-7


@pytest.mark.parametrize("sum_", [mesh_sum, structure_factor_sum])
def test_first_and_second_derivatives_in_the_widths_are_right(sum_: Sum):
    charges, positions, box = gas(SKEW, n=4)
    spread = torch.tensor([0.0, 0.7, 0.7, 0.2]).double()

    def energy(s: Tensor, r: Tensor, c: Tensor) -> Tensor:
        return charges @ sum_(r, c, 2.0, 1e-9, s)(charges)

    inputs = tuple(t.clone().requires_grad_() for t in (spread, positions, box))
    assert torch.autograd.gradcheck(energy, inputs, atol=1e-6)
    assert torch.autograd.gradgradcheck(energy, inputs, atol=1e-6)


def test_an_atom_alone_feels_its_own_images():
    charges, positions, box = gas(CUBIC, n=1)
    exact = obvious_sum(charges, positions, box, 2.0)
    assert exact[0] != 0.0
    for sum_, accuracy in ((mesh_sum, 1e-8), (structure_factor_sum, 1e-12)):
        found = sum_(positions, box, 2.0, accuracy)(charges)
        np.testing.assert_allclose(found.numpy(), exact, rtol=10 * accuracy)


@pytest.mark.parametrize("sum_", [mesh_sum, structure_factor_sum])
def test_the_product_is_symmetric_however_coarse_the_sum(sum_: Sum):
    charges, positions, box = gas(SKEW, n=12)
    potential = sum_(positions, box, 1.5, 1e-2)
    matrix = torch.stack([potential(column) for column in torch.eye(12).double()])
    torch.testing.assert_close(matrix, matrix.T, rtol=0.0, atol=1e-13)
    torch.testing.assert_close(potential(charges), matrix @ charges)


@pytest.mark.parametrize("sum_", [mesh_sum, structure_factor_sum])
def test_first_and_second_derivatives_are_right(sum_: Sum):
    charges, positions, box = gas(SKEW / 3.0, n=3)
    inputs = tuple(t.requires_grad_() for t in (charges, positions, box))

    def potential(charges: Tensor, positions: Tensor, cell: Tensor) -> Tensor:
        return sum_(positions, cell, 1.2, 1e-2)(charges)

    assert torch.autograd.gradcheck(potential, inputs)
    assert torch.autograd.gradgradcheck(potential, inputs)


@pytest.mark.parametrize("accuracy", [1e-4, 1e-6, 1e-8])
def test_derivatives_of_the_mesh_approach_those_of_the_sum(accuracy: float):
    def slopes(sum_: Sum, accuracy: float) -> tuple[Tensor, ...]:
        charges, positions, box = gas(SKEW)
        positions.requires_grad_()
        box.requires_grad_()
        energy = charges @ sum_(positions, box, 1.5, accuracy)(charges)
        return torch.autograd.grad(energy, (positions, box))

    # A spline's slope errs by p / (h / eta) times as much as the spline.
    for found, exact in zip(
        slopes(mesh_sum, accuracy), slopes(structure_factor_sum, 1e-13), strict=True
    ):
        atol = 20.0 * accuracy * exact.abs().max().item()
        torch.testing.assert_close(found, exact, rtol=0.0, atol=atol)


def test_an_atom_may_leave_through_a_face_of_the_cell():
    charges, positions, box = gas(SKEW)
    moved = positions.clone()
    moved[7] += 3.0 * box[1] - box[2]
    here, there = (mesh_sum(r, box, 1.5, 1e-6)(charges) for r in (positions, moved))
    torch.testing.assert_close(here, there, rtol=0.0, atol=1e-10)


def test_higher_accuracy_costs_more():
    def cost(accuracy: float) -> float:
        order, points = choose_mesh(500, [20.0, 20.0, 20.0], 8000.0, 1.5, accuracy)
        return 500 * order**3 + 4 * float(np.prod(points))

    costs = [cost(10.0**-x) for x in range(2, 10)]
    assert costs == sorted(costs)
