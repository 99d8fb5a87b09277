"""Stationary points of matrices that are not positive definite."""

from __future__ import annotations

import torch

from qeqtrain.physics.buckets import buckets_by_size
from qeqtrain.physics.solvers.dense import PreparedCholesky
from qeqtrain.physics.solvers.indefinite import PreparedLU
from qeqtrain.physics.solvers.solution import Outcome
from qeqtrain.structures import ChargeGroups

COUNTS = (3, 5, 4)


def problem(shift: float):
    """Three structures side by side, the second with two groups, the last held."""
    torch.manual_seed(0)
    buckets = [b for _, b in buckets_by_size(COUNTS, (0, 0, 0), torch.device("cpu"))]
    wholes, matrices = {}, []
    for bucket in buckets:
        block = torch.zeros(*bucket.atoms.shape, bucket.shape[1], dtype=torch.float64)
        for row, index in enumerate(bucket.structures.tolist()):
            n = COUNTS[index]
            a = torch.randn(n, n, dtype=torch.float64)
            wholes[index] = a @ a.T + shift * torch.eye(n).double()
            block[row, :n, :n] = wholes[index]
        matrices.append(block)
    groups = ChargeGroups(
        member=torch.tensor([0, 0, 0, 1, 1, 2, 2, 2, 3, 3, 3, 3]),
        charge=torch.tensor([1.0, -0.5, 0.5, torch.nan]).double(),
        potential=torch.zeros(4).double(),
        structure=torch.tensor([0, 1, 1, 2]),
    )
    return buckets, wholes, matrices, groups


def test_every_equation_of_a_saddle_is_met() -> None:
    buckets, wholes, matrices, groups = problem(-1.5)
    b = torch.sin(torch.arange(12.0)).double()
    c = torch.nan_to_num(groups.charge)
    found = PreparedLU(buckets, matrices, groups, 3).solve(b, c)
    H = torch.block_diag(*(wholes[i] for i in range(3)))
    assert torch.linalg.eigvalsh(H)[0] < -0.1
    m = found.multiplier.index_select(0, groups.member)
    torch.testing.assert_close(H @ found.x + m, b, rtol=0, atol=1e-11)
    sums = groups.sum_over_atoms(found.x)[:3]
    torch.testing.assert_close(sums, c[:3], rtol=0, atol=1e-12)
    assert found.multiplier[3] == 0.0
    assert (found.outcome == Outcome.CONVERGED).all()
    assert found.residual.max() < 1e-12


def test_where_there_is_a_minimum_it_is_that_of_the_cholesky_factor() -> None:
    buckets, _, matrices, groups = problem(1.0)
    b, c = torch.cos(torch.arange(12.0)).double(), torch.nan_to_num(groups.charge)
    a = PreparedLU(buckets, matrices, groups, 3).solve(b, c)
    other = PreparedCholesky(buckets, matrices, groups, 3).solve(b, c)
    torch.testing.assert_close(a.x, other.x, rtol=0, atol=1e-11)
    torch.testing.assert_close(a.multiplier, other.multiplier, rtol=0, atol=1e-11)


def test_a_singular_matrix_is_not_solved() -> None:
    buckets, _, matrices, groups = problem(1.0)
    for matrix in matrices:
        matrix.zero_()
    b = torch.ones(12).double()
    found = PreparedLU(buckets, matrices, groups, 3).solve(b, torch.nan_to_num(groups.charge))
    assert found.outcome[2] == Outcome.NOT_FINITE
