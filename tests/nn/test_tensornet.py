"""TensorNet in nine components."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from qeqtrain.errors import UserMistake
from qeqtrain.nn.matrices import MatrixProducts, matrix_basis
from qeqtrain.nn.tensornet import (
    TensorNet,
    direction_components,
)
from qeqtrain.physics.tracing import tracing
from tests.nn import oracle
from tests.systems import (
    ELEMENTS,
    batch_of,
    one_atom_cell,
    slab,
    small_qet,
    triclinic,
    water,
    wire,
)


def test_the_nine_matrices_are_orthonormal_and_of_their_kind() -> None:
    basis = matrix_basis()
    torch.testing.assert_close(torch.einsum("aij,bij->ab", basis, basis), torch.eye(9).double())
    torch.testing.assert_close(basis[1:4], -basis[1:4].mT)
    torch.testing.assert_close(basis[4:], basis[4:].mT)
    assert basis[4:].diagonal(dim1=1, dim2=2).sum(-1).abs().max() < 1e-15


def test_direction_components_are_those_of_the_three_matrices() -> None:
    u = torch.tensor([0.6, -0.48, 0.64], dtype=torch.float64)
    identity = torch.eye(3, dtype=torch.float64)
    whole = identity + oracle.cross(u) + torch.outer(u, u) - identity / 3
    expected = torch.einsum("kij,ij->k", matrix_basis(), whole)
    torch.testing.assert_close(direction_components(u[None])[0], expected)


def test_anticommutator_on_components_is_that_of_the_matrices() -> None:
    a, b = torch.randn(2, 4, 9, 3, dtype=torch.float64)
    basis = matrix_basis()
    A, B = (torch.einsum("nkc,kij->ncij", x, basis) for x in (a, b))
    expected = torch.einsum("ncij,kij->nkc", A @ B + B @ A, basis)
    products = MatrixProducts()
    torch.testing.assert_close(products.anticommutator(a, b), expected)
    torch.testing.assert_close(products.square(a), 0.5 * products.anticommutator(a, a))


@pytest.mark.parametrize("legacy", [False, True])
@pytest.mark.parametrize("system", [triclinic, water, slab, wire, one_atom_cell])
def test_fast_model_equals_the_slow_one(system, legacy: bool) -> None:
    potential = small_qet(convention="legacy" if legacy else "corrected")
    batch = batch_of([system()], potential)
    found = potential(batch)
    energy, charges = oracle.energy(potential, batch, legacy=legacy)
    torch.testing.assert_close(found.energy[0], energy.detach(), rtol=0, atol=1e-11)
    torch.testing.assert_close(found.charges, charges.detach(), rtol=0, atol=1e-12)


def test_an_unknown_spin_is_not_taken_for_a_singlet() -> None:
    potential = small_qet(conditioning="charge_and_spin")
    batch = batch_of([water()], potential)
    with pytest.raises(UserMistake, match="does not state its own"):
        potential(replace(batch, spin=torch.full_like(batch.spin, torch.nan)))
    assert potential(batch).energy.isfinite().all()


def test_a_hardness_that_rounds_to_zero_keeps_its_floor() -> None:
    potential = small_qet(dtype="float32")
    with torch.no_grad():
        potential.charge.hardness.layers[-1].bias.fill_(-300.0)
    found = potential(batch_of([water(1.0)], potential))
    assert found.charges.isfinite().all()
    assert found.hardness.min() == 1e-3


def test_attributes_are_added_to_the_species_vector() -> None:
    torch.manual_seed(0)
    net = TensorNet(channels=8, layers=1, elements=ELEMENTS, attributes=2).double()
    batch = batch_of([water()], small_qet(cutoff=5.0))
    species = torch.tensor([ELEMENTS.index(int(z)) for z in batch.numbers])
    given = torch.zeros(3, 2, dtype=torch.float64)
    without = net(batch, species, given)
    given[0, 1] = 1.0
    assert (net(batch, species, given) - without).abs().amin(dim=1).max() > 1e-6
    with pytest.raises(ValueError, match="0 attributes per atom given, 2 expected"):
        net(batch, species)


def test_products_of_matrices_have_exact_first_and_second_derivatives() -> None:
    products = MatrixProducts()
    a, b = (torch.randn(5, 9, 3, dtype=torch.float64, requires_grad=True) for _ in range(2))
    for given in (products.anticommutator, lambda a, b: products.square(a + 2.0 * b)):
        assert torch.autograd.gradcheck(given, (a, b))
        assert torch.autograd.gradgradcheck(given, (a, b))


def test_products_are_those_that_a_compiler_is_given() -> None:
    products = MatrixProducts()
    a, b = torch.randn(2, 300, 9, 64, dtype=torch.float64)  # several pieces
    found = products.anticommutator(a, b), products.square(a)
    with tracing():
        expected = products.anticommutator(a, b), products.square(a)
    torch.testing.assert_close(found, expected)
