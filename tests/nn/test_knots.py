"""Radial networks on knots: splines, their derivatives, and the backbones that use them."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from torch.autograd import gradcheck, gradgradcheck

from qeqtrain.errors import UserMistake
from qeqtrain.models.graph import ResponseGraph, weights_of
from qeqtrain.models.potential import Potential
from qeqtrain.nn.knots import EveryPair, Knots, spline_weights
from qeqtrain.nn.mlp import MLP
from qeqtrain.nn.radial import Bessel, RadialNetwork, SmoothBessel
from qeqtrain.testing import check_potential
from tests.crosses import small_cross
from tests.systems import batch_of, triclinic, water

CUTOFF = 5.0


@pytest.fixture(autouse=True)
def _in_float64():
    torch.manual_seed(0)
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


def derivatives(function, r: torch.Tensor) -> list[torch.Tensor]:
    """Value, slope and second derivative of functions of one distance, each ``(P, W)``."""
    r = r.clone().requires_grad_(True)
    columns = []
    for column in function(r).unbind(-1):
        (slope,) = torch.autograd.grad(column.sum(), r, create_graph=True)
        (bend,) = torch.autograd.grad(slope.sum(), r, retain_graph=True)
        columns.append((column.detach(), slope.detach(), bend))
    return [torch.stack(parts, dim=-1) for parts in zip(*columns, strict=True)]


def test_splines_add_up_to_one_and_bend_as_they_should_at_their_centres() -> None:
    at = torch.tensor([0.0, 0.3, 1.0, 2.9, 4.0])
    torch.testing.assert_close(spline_weights(at, 5).sum(dim=1), torch.ones(5))
    one = torch.tensor([2.0])  # the spline about the third knot, and its neighbours
    for values, expected in zip(
        derivatives(lambda r: spline_weights(r, 5), one),
        ([1 / 6, 2 / 3, 1 / 6], [-0.5, 0.0, 0.5], [1.0, -2.0, 1.0]),
        strict=True,
    ):
        torch.testing.assert_close(values[0, 2:5], torch.tensor(expected))
        assert not values[0, [0, 1, 5, 6]].any()


def test_cubic_polynomials_are_reproduced_everywhere() -> None:
    knots = Knots(CUTOFF, 10, vanishing=False)
    powers = torch.arange(4.0)
    r = torch.rand(50) * CUTOFF

    def polynomials(d: torch.Tensor) -> torch.Tensor:
        return d[:, None] ** powers

    found = knots(polynomials, r, torch.float64).through(lambda x: x)
    # The first knot stands a thousandth of a spacing away from zero.
    torch.testing.assert_close(found, polynomials(r), rtol=0, atol=2e-3)
    torch.testing.assert_close(found[r > 2.5], polynomials(r[r > 2.5]), rtol=0, atol=2e-5)


def test_what_vanishes_at_the_cutoff_does_so_with_two_derivatives() -> None:
    knots = Knots(CUTOFF, 24, vanishing=True)
    network = RadialNetwork([8, 16, 5], "moment")
    basis = Bessel(8, CUTOFF, 6, trainable=False)
    near = torch.tensor([CUTOFF, CUTOFF - 1e-4])
    found = derivatives(lambda r: knots(basis, r, torch.float64).through(network), near)
    for order, values in enumerate(found):
        assert values[0].abs().max() < 1e-10
        assert values[1].abs().max() < 100.0 * 1e-4 ** (3 - order)


@pytest.mark.parametrize("vanishing", [False, True])
def test_the_error_falls_with_the_fourth_power_of_the_spacing(vanishing: bool) -> None:
    network = RadialNetwork([6, 16, 5], "moment") if vanishing else MLP([6, 16, 5])
    basis = Bessel(6, CUTOFF, 6, trainable=False) if vanishing else SmoothBessel(6, CUTOFF)
    r = torch.linspace(0.6, CUTOFF - 1e-6, 500)
    exact = EveryPair(CUTOFF)(basis, r, torch.float64).through(network)
    errors = [
        (
            Knots(CUTOFF, n, vanishing=vanishing)(basis, r, torch.float64).through(network)
            - exact
        )
        .abs()
        .max()
        for n in (65, 129, 257)
    ]
    assert errors[0] < 0.02 * exact.abs().max()
    for wide, narrow in itertools.pairwise(errors):
        assert narrow < wide / 10.0


def test_derivatives_are_exact_also_on_a_knot() -> None:
    knots = Knots(CUTOFF, 9, vanishing=True)
    network = RadialNetwork([4, 6, 3], "moment")
    basis = Bessel(4, CUTOFF, 6, trainable=True)
    r = torch.tensor([0.7, 1.9, 3.1, 4.7], requires_grad=True)
    first = network.weights[0]

    def function(r: torch.Tensor, *_) -> torch.Tensor:
        return knots(basis, r, torch.float64).through(network)

    inputs = (r, first, basis.roots)
    assert gradcheck(function, inputs)
    assert gradgradcheck(function, inputs)
    # On a knot itself the third derivative jumps: the second is compared from both sides.
    at = 3 * knots.spacing
    sides = derivatives(function, at + torch.tensor([-1e-7, 0.0, 1e-7]))
    for values in sides:
        torch.testing.assert_close(values[0], values[1], rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(values[2], values[1], rtol=1e-4, atol=1e-4)


def test_too_few_knots_are_refused() -> None:
    with pytest.raises(UserMistake, match=r"radial_knots is 5; expected 8 or more"):
        Knots(CUTOFF, 5, vanishing=True)


def on_knots(backbone: str, knots: int | None) -> Potential:
    return small_cross(backbone, "diagonal", "feature", radial_knots=knots)


@pytest.mark.parametrize("backbone", ["tensornet", "nequip"])
def test_a_potential_on_knots_keeps_every_law(backbone: str) -> None:
    check_potential(on_knots(backbone, 12))


@pytest.mark.parametrize("backbone", ["tensornet", "nequip"])
def test_many_knots_give_the_network_itself_and_few_do_not(backbone: str) -> None:
    plain = on_knots(backbone, None)
    batch = batch_of([triclinic(), water()], plain)
    expected = plain(batch)
    errors = []
    for knots in (16, 400):
        potential = on_knots(backbone, knots)
        potential.load_state_dict(plain.state_dict())  # the weights have the same names
        found = potential(batch)
        errors.append((found.forces - expected.forces).abs().max())
    assert errors[0] > 1e-4
    assert errors[1] < 1e-5 * expected.forces.abs().max()


@pytest.mark.parametrize("backbone", ["tensornet", "nequip"])
def test_a_pair_that_leaves_takes_no_step_with_it(backbone: str) -> None:
    potential = on_knots(backbone, 12)
    energies = []
    for gap in (4.0 - 1e-5, 4.0 + 1e-5):
        atoms = water()[:2]
        atoms.positions = np.array([[0.0, 0.0, 0.0], [gap, 0.0, 0.0]])
        energies.append(potential(batch_of([atoms], potential)).energy.item())
    assert abs(energies[0] - energies[1]) < 1e-8


def test_knots_are_part_of_the_graph_that_is_compiled() -> None:
    potential = on_knots("nequip", 12).train()
    graph = ResponseGraph(potential, forces=True, stress=False)
    batch = batch_of([water(), triclinic(), water()], potential)
    expected = potential(batch, stress=False)
    found = graph.prediction(graph.plain(weights_of(potential), graph.flat(batch)))
    torch.testing.assert_close(found.energy, expected.energy, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(found.forces, expected.forces, rtol=1e-11, atol=1e-12)
