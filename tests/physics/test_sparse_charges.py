"""Charges of large polarizable structures by products, against factored matrices."""

from __future__ import annotations

import pytest
import torch

from qeqtrain.errors import UserMistake
from qeqtrain.physics.pairs import PairList
from qeqtrain.physics.polarization import functional, modes
from qeqtrain.physics.solvers.saddle import PreparedMinimalResidual
from qeqtrain.physics.solvers.solution import Outcome
from qeqtrain.physics.sparse import symmetric_matrix
from tests.crosses import small_cross
from tests.physics.test_indefinite import problem
from tests.systems import batch_of, slab, triclinic, water

MINIMUM = {"mode": "self_consistent", "damping": 1.0}


@pytest.mark.parametrize("mode", ["labels", "released", "self_consistent"])
@pytest.mark.parametrize("charge", ["pqeq", "polarizable"])
def test_products_find_the_charges_that_factors_find(
    charge: str, mode: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = {"mode": mode, "damping": 1.0}
    potential = small_cross("nequip", charge, "full", charge_options=options)
    batch = batch_of([triclinic(), water(), slab(), water(1.0)], potential)
    dense = potential(batch)
    monkeypatch.setattr(functional, "DENSE_BELOW", 0)
    sparse = potential(batch)
    assert potential.charge.effort.solver == "iterative"
    assert int(potential.charge.effort.iterations.max()) > 2
    for name in ("energy", "charges", "forces", "stress", "dipole", "chemical_potential"):
        a, b = getattr(sparse, name), getattr(dense, name)
        torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-10, equal_nan=True)


def saddle_problem(shift: float):
    _, wholes, _, groups = problem(shift)
    return torch.block_diag(*(wholes[i] for i in range(3))), groups


@pytest.mark.parametrize("shift", [-1.5, 1.0])
def test_every_equation_is_met_at_a_saddle_and_at_a_minimum(shift: float) -> None:
    H, groups = saddle_problem(shift)
    b, c = torch.sin(torch.arange(12.0)).double(), torch.nan_to_num(groups.charge)
    solver = PreparedMinimalResidual(
        lambda x: H @ x, H.diagonal().abs(), groups, 3, tolerance=1e-12
    )
    found = solver.solve(b, groups.charge)
    m = found.multiplier.index_select(0, groups.member)
    torch.testing.assert_close(H @ found.x + m, b, rtol=0, atol=1e-10)
    sums = groups.sum_over_atoms(found.x)[:3]
    torch.testing.assert_close(sums, c[:3], rtol=0, atol=1e-12)
    assert found.multiplier[3] == 0.0
    assert (found.outcome == Outcome.CONVERGED).all()


def test_a_saddle_among_large_structures_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    potential = small_cross("nequip", "pqeq", "full")
    potential.charge.rows[1] *= 0.3  # softer than the interaction of the densities
    batch = batch_of([triclinic()], potential)
    dense = potential(batch, forces=False)
    monkeypatch.setattr(functional, "DENSE_BELOW", 0)
    asked = []
    solve = PreparedMinimalResidual.solve
    monkeypatch.setattr(
        PreparedMinimalResidual, "solve", lambda *a: asked.append(1) or solve(*a)
    )
    sparse = potential(batch, forces=False)
    assert asked
    torch.testing.assert_close(sparse.charges, dense.charges, rtol=1e-7, atol=1e-7)


def test_a_structure_too_large_for_its_minimum_is_refused(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    potential = small_cross("nequip", "pqeq", "full", charge_options=MINIMUM)
    batch = batch_of([water(), triclinic()], potential)
    monkeypatch.setattr(modes, "LARGEST", 7)
    with pytest.raises(UserMistake, match=r"has 8 atoms; expected up to 7 .*mode=labels"):
        potential(batch)
    monkeypatch.setattr(modes, "LARGEST", 8)
    assert potential(batch).energy.isfinite().all()


def test_what_is_not_finite_is_said() -> None:
    H, groups = saddle_problem(1.0)
    b = torch.full((12,), torch.nan).double()
    solver = PreparedMinimalResidual(lambda x: H @ x, H.diagonal(), groups, 3, tolerance=1e-12)
    assert (solver.solve(b, groups.charge).outcome == Outcome.NOT_FINITE).all()


def test_images_of_a_pair_add_up_in_the_matrix() -> None:
    potential = small_cross("nequip", "pqeq", "full")
    batch = batch_of([triclinic()], potential)
    pairs = PairList.of(batch, [True])
    values = torch.sin(torch.arange(len(pairs)).double())
    expected = torch.zeros(8, 8).double()
    expected.index_put_((pairs.sender, pairs.receiver), values, accumulate=True)
    found = symmetric_matrix(pairs, values).to_dense()
    torch.testing.assert_close(found, expected + expected.T)
