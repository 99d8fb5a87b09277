from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor

from qeqtrain.physics.solvers.iterative import ConjugateGradient
from qeqtrain.physics.solvers.solution import Outcome, Solution
from qeqtrain.structures import ChargeGroups

SIZES = (1, 2, 17, 60)


def spd_block(n: int, hardness: float, seed: int) -> np.ndarray:
    """Random atoms with a smeared 1/r interaction plus a hardness, eV/e^2."""
    rng = np.random.default_rng(seed)
    positions = rng.uniform(0.0, 2.2 * n ** (1 / 3), (n, 3))
    distance = np.linalg.norm(positions[:, None] - positions[None], axis=-1)
    kernel = (
        14.4
        * torch.erf(torch.tensor(distance / 2.0)).numpy()
        / np.where(distance, distance, 1.0)
    )
    kernel[np.diag_indices(n)] = 14.4 / np.sqrt(np.pi)
    return kernel + hardness * np.eye(n)


def blocks(hardness: float = 2.0) -> list[np.ndarray]:
    return [spd_block(n, hardness, seed) for seed, n in enumerate(SIZES)]


def one_group_each(sizes: tuple[int, ...] = SIZES) -> ChargeGroups:
    count = len(sizes)
    return ChargeGroups(
        member=torch.repeat_interleave(torch.arange(count), torch.tensor(sizes)),
        charge=torch.zeros(count, dtype=torch.float64),
        potential=torch.zeros(count, dtype=torch.float64),
        structure=torch.arange(count),
    )


def several_groups() -> ChargeGroups:
    """One group; one free; two fragments interleaved; fragment, electrode and fragment."""
    member = np.concatenate(
        [[0], [1, 1], 2 + np.arange(17) % 2, 4 + np.repeat([0, 1, 2], [10, 30, 20])]
    )
    charge = [0.0, np.nan, 0.0, 0.0, 0.0, np.nan, 0.0]
    return ChargeGroups(
        member=torch.tensor(member),
        charge=torch.tensor(charge, dtype=torch.float64),
        potential=torch.zeros(7, dtype=torch.float64),
        structure=torch.tensor([0, 1, 2, 2, 3, 3, 3]),
    )


def solve(
    matrices: list[np.ndarray],
    groups: ChargeGroups,
    b: np.ndarray,
    c: np.ndarray,
    tolerance: float = 1e-12,
    **settings: int,
) -> Solution:
    matrix = torch.block_diag(*(torch.tensor(m) for m in matrices))

    def matvec(x: Tensor) -> Tensor:
        # Block by block: what is not finite in one structure must not reach another.
        parts = torch.split(x, [len(m) for m in matrices])
        return torch.cat([torch.tensor(m) @ p for m, p in zip(matrices, parts, strict=True)])

    prepared = ConjugateGradient(tolerance, **settings).prepare(
        matvec, torch.diagonal(matrix), groups, len(matrices)
    )
    return prepared.solve(torch.tensor(b), torch.tensor(c))


def bordered(
    matrices: list[np.ndarray], groups: ChargeGroups, b: np.ndarray, c: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """The same by one dense LU in numpy: x, and the multipliers of constrained groups."""
    matrix = torch.block_diag(*(torch.tensor(m) for m in matrices)).numpy()
    rows = torch.nn.functional.one_hot(groups.member, len(groups)).numpy().T.astype(float)
    fixed = ~groups.held.numpy()
    rows = rows[fixed]
    kkt = np.block([[matrix, rows.T], [rows, np.zeros((len(rows), len(rows)))]])
    solution = np.linalg.solve(kkt, np.concatenate([b, c[fixed]]))
    multiplier = np.zeros(len(groups))
    multiplier[fixed] = solution[len(b) :]
    return solution[: len(b)], multiplier


def right_hand_side(groups: ChargeGroups, seed: int = 5) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    return rng.normal(3.0, 2.0, len(groups.member)), rng.normal(0.0, 1.0, len(groups))


@pytest.mark.parametrize("grouping", [one_group_each, several_groups])
@pytest.mark.parametrize("hardness", [8.0, 1.0])
def test_the_iteration_ends_where_dense_lu_does(
    grouping: Callable[[], ChargeGroups], hardness: float
):
    matrices, groups = blocks(hardness), grouping()
    b, c = right_hand_side(groups)
    found = solve(matrices, groups, b, c)
    x, multiplier = bordered(matrices, groups, b, c)
    assert found.outcome.eq(Outcome.CONVERGED).all()
    np.testing.assert_allclose(found.x.numpy(), x, atol=1e-10)
    np.testing.assert_allclose(found.multiplier.numpy(), multiplier, atol=1e-10)


def test_tight_tolerances_do_not_stall_at_low_hardness():
    matrices = [spd_block(500, hardness=1.0, seed=1)]
    groups = one_group_each((500,))
    b, c = right_hand_side(groups)
    found = solve(matrices, groups, b, c, tolerance=1e-12)
    assert found.outcome.item() == Outcome.CONVERGED
    assert found.iterations.item() < 300
    np.testing.assert_allclose(found.x.numpy(), bordered(matrices, groups, b, c)[0], atol=1e-9)


def test_constrained_sums_are_met_exactly():
    groups = several_groups()
    b, c = right_hand_side(groups)
    found = solve(blocks(), groups, b, c, tolerance=1e-4)
    sums = groups.sum_over_atoms(found.x)[~groups.held]
    np.testing.assert_allclose(sums.numpy(), c[~groups.held.numpy()], atol=1e-13)


def test_an_offset_common_to_a_group_goes_into_its_multiplier_alone():
    groups = one_group_each()
    b, c = right_hand_side(groups)
    plain, moved = (solve(blocks(), groups, b + offset, c) for offset in (0.0, 500.0))
    np.testing.assert_allclose(moved.x.numpy(), plain.x.numpy(), atol=1e-9)
    np.testing.assert_allclose(moved.multiplier.numpy(), plain.multiplier.numpy() + 500.0)


def test_a_structure_in_a_batch_takes_the_steps_it_takes_alone():
    matrices, groups = blocks(), one_group_each()
    b, c = right_hand_side(groups)
    together = solve(matrices, groups, b, c, tolerance=1e-6)
    starts = np.cumsum((0, *SIZES))
    for i, n in enumerate(SIZES):
        alone = solve(
            [matrices[i]],
            one_group_each((n,)),
            b[starts[i] : starts[i + 1]],
            c[i : i + 1],
            tolerance=1e-6,
        )
        assert alone.iterations.item() == together.iterations[i].item()
        np.testing.assert_allclose(
            alone.x.numpy(), together.x[starts[i] : starts[i + 1]].numpy(), atol=1e-14
        )


def test_a_guess_that_is_the_solution_costs_no_iteration():
    matrices, groups = blocks(), several_groups()
    b, c = right_hand_side(groups)
    matrix = torch.block_diag(*(torch.tensor(m) for m in matrices))
    prepared = ConjugateGradient(1e-10).prepare(
        lambda x: matrix @ x, torch.diagonal(matrix), groups, len(matrices)
    )
    x = torch.tensor(bordered(matrices, groups, b, c)[0])
    found = prepared.solve(torch.tensor(b), torch.tensor(c), guess=x)
    assert found.iterations.eq(0).all()
    assert found.outcome.eq(Outcome.CONVERGED).all()


def test_one_failure_is_told_apart_and_leaves_the_others_alone():
    matrices, groups = blocks(), one_group_each()
    b, c = right_hand_side(groups)
    expected = bordered(matrices, groups, b, c)[0]
    matrices[2] = matrices[2] - 20.0 * np.ones((17, 17)) + np.diag(np.full(17, 10.0))
    matrices[2][0, 1] = matrices[2][1, 0] = 60.0
    b[0] = np.nan
    found = solve(matrices, groups, b, c)
    assert found.outcome.tolist() == [
        Outcome.NOT_FINITE,
        Outcome.CONVERGED,
        Outcome.NOT_POSITIVE_DEFINITE,
        Outcome.CONVERGED,
    ]
    np.testing.assert_allclose(found.x[1:3].numpy(), expected[1:3], atol=1e-10)
    np.testing.assert_allclose(found.x[20:].numpy(), expected[20:], atol=1e-10)


@pytest.mark.parametrize(
    ("value", "outcome"),
    [(np.nan, Outcome.NOT_FINITE), (-1.0, Outcome.NOT_POSITIVE_DEFINITE)],
)
def test_a_bad_diagonal_is_told(value: float, outcome: Outcome):
    matrices, groups = blocks(), one_group_each()
    b, c = right_hand_side(groups)
    matrices[3][5, 5] = value
    found = solve(matrices, groups, b, c)
    assert found.outcome.tolist() == [*[Outcome.CONVERGED] * 3, outcome]


def test_running_out_of_iterations_is_told_with_the_true_residual():
    matrices, groups = blocks(1.0), one_group_each()
    b, c = right_hand_side(groups)
    found = solve(matrices, groups, b, c, max_iterations=5)
    assert found.outcome.tolist() == [*[Outcome.CONVERGED] * 2, *[Outcome.STALLED] * 2]
    assert found.iterations.max().item() == 5
    assert found.residual[3].item() > 1e-6
