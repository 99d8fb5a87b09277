r"""The stationary point of a quadratic energy, and its derivatives to any order.

.. math:: E = \min_x \tfrac12 x^T H(\theta)\, x - b^T x, \quad C x = c, \qquad
          \begin{pmatrix} H & C^T \\ C & 0 \end{pmatrix}
          \begin{pmatrix} x \\ m \end{pmatrix} = \begin{pmatrix} b \\ c \end{pmatrix}

with :math:`H = A + \mathrm{diag}(J)`. Derivatives go through one more solution of the same
equations. With cotangents :math:`\bar x, \bar m, \bar E` and :math:`(p, \nu)` the solution for
:math:`(\bar x, \bar m)`,

.. math:: \bar\theta = \partial_\theta \big(\tfrac12 \bar E x - p\big)^T A(\theta)\, x, \quad
          \bar b = p - \bar E x, \quad \bar c = \nu - \bar E m, \quad
          \bar J = \big(\tfrac12 \bar E x - p\big) x

for any parameter :math:`\theta` of A (positions, cell, widths), right-hand sides b and c. All
of it is made of differentiable operations again, so that any order of derivative is exact.
The energy alone asks for no further solution: it is stationary in x.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any, Generic, Protocol, TypeVar

import torch
from torch import Tensor

from qeqtrain.errors import EquilibrationFailed
from qeqtrain.physics.function import Function, wanted
from qeqtrain.physics.interaction import Geometry, coincident, refuse_coincident
from qeqtrain.physics.naming import name_of
from qeqtrain.physics.pairs import PairList
from qeqtrain.physics.solvers.solution import Outcome, Solution
from qeqtrain.structures import Structures


@dataclass(frozen=True)
class Effort:
    """What the solution of each structure's equations took; nothing here has a gradient.

    Attributes:
        solver: ``closed form``, ``dense`` or ``iterative``.
        residual: relative to the right-hand side, shape ``(B,)``.
        iterations: products with H, shape ``(B,)``; 1 for a direct solver.
        condition: estimate of the condition number of H, from below, shape ``(B,)``; NaN
            where the solver has none.
    """

    solver: str
    residual: Tensor
    iterations: Tensor
    condition: Tensor


_HEARD: ContextVar[list[Effort] | None] = ContextVar("efforts", default=None)


@contextmanager
def efforts() -> Iterator[list[Effort]]:
    """Collect what every solution takes within, also in threads that copy this context."""
    heard: list[Effort] = []
    token = _HEARD.set(heard)
    try:
        yield heard
    finally:
        _HEARD.reset(token)


class Interaction(Protocol):
    """A symmetric A, known by its bilinear form."""

    structures: Structures
    unseen: PairList | None

    def energy(self, u: Tensor, v: Tensor, at: Geometry | None = None) -> Tensor:
        """Bilinear form u.A.v of every structure, ``(B,)``; differentiable in all."""
        ...


AnyInteraction = TypeVar("AnyInteraction", bound=Interaction)


class Solver(Protocol):
    """Whatever solves the bordered equations for many right-hand sides."""

    def solve(self, b: Tensor, c: Tensor) -> Solution:
        """Solve for one right-hand side, ``(N,)`` and ``(G,)``."""
        ...


class Problem(Generic[AnyInteraction]):
    """What the solution and all its derivatives share: the interaction and a factored H.

    Args:
        coulomb: the interaction.
        solver: of the equations.
        name: ``dense`` or ``iterative``.
        condition: estimate of the condition number, ``(B,)``.
        remedy: what a user can do about a solver that stalls.
    """

    def __init__(
        self,
        coulomb: AnyInteraction,
        solver: Solver,
        name: str,
        condition: Tensor,
        remedy: str = "raise the hardness or use charge.solver=dense",
    ) -> None:
        self.coulomb, self.solver, self.name = coulomb, solver, name
        self.condition, self.remedy = condition, remedy
        self.effort: Effort | None = None

    def solve(self, b: Tensor, c: Tensor) -> tuple[Tensor, Tensor]:
        """Solve, or say which structure could not be solved and why."""
        solution = self.solver.solve(b, c)
        failed = solution.outcome != Outcome.CONVERGED
        if self._must_look(failed) and self._in_doubt(failed):
            if self.coulomb.unseen is not None:
                refuse_coincident(self.coulomb.structures, self.coulomb.unseen)
            raise EquilibrationFailed(self._why(solution, int(torch.nonzero(failed)[0])))
        if self.effort is None:
            self.effort = Effort(
                self.name, solution.residual, solution.iterations, self.condition
            )
            heard = _HEARD.get()
            if heard is not None:
                heard.append(self.effort)
        return solution.x, solution.multiplier

    def _must_look(self, failed: Tensor) -> bool:
        """Whether this solution may fail: on a GPU, looking is waiting.

        What was factored once is good for every right-hand side; if that is not finite,
        neither is what comes out.
        """
        return failed.device.type == "cpu" or self.effort is None or self.name == "iterative"

    def _in_doubt(self, failed: Tensor) -> bool:
        """Read, at once, whether a solution failed or atoms coincide."""
        doubt = failed.any()
        if self.effort is None and self.coulomb.unseen is not None:
            doubt = doubt | coincident(self.coulomb.unseen).any()
        return bool(doubt)

    def _why(self, solution: Solution, index: int) -> str:
        reasons = {
            Outcome.NOT_POSITIVE_DEFINITE: "the matrix of hardness and Coulomb interaction "
            "is not positive definite; expected a hardness of at least 0, better 1 eV/e^2",
            Outcome.NOT_FINITE: "electronegativity, hardness, width or positions are not "
            "finite; the network or its input has diverged",
            Outcome.STALLED: "the iterative solver stopped at a relative residual of "
            f"{float(solution.residual[index]):.1e} after {int(solution.iterations[index])} "
            f"iterations; {self.remedy}",
        }
        outcome = Outcome(int(solution.outcome[index]))
        return f"{name_of(self.coulomb.structures, index)}: {reasons[outcome]}"


def solve_stationary(
    b: Tensor, c: Tensor, J: Tensor, at: Geometry, problem: Problem[Any]
) -> tuple[Tensor, Tensor, Tensor]:
    """Find the stationary point; differentiable to any order in all tensors given.

    Args:
        b: eV/e, shape ``(N,)``.
        c: e, shape ``(G,)``; not read for groups held at a potential.
        J: hardness, eV/e^2, shape ``(N,)``.
        at: the geometry of the problem's interaction.
        problem: a factored or prepared H for these J and this geometry.

    Returns:
        x, e, ``(N,)``; m, eV/e, ``(G,)``; E, eV, ``(B,)``.

    Raises:
        EquilibrationFailed: a structure's equations could not be solved.
    """
    x, m, energy = _Rest.apply(b, c, J, at.positions, at.cell, at.width, problem)
    return x, m, energy


class _Rest(Function):
    """Solution (x, m) for (b, c), and the minimum of x.H.x/2 - b.x, per structure."""

    @staticmethod
    def forward(
        ctx: Any,
        b: Tensor,
        c: Tensor,
        J: Tensor,
        positions: Tensor,
        cell: Tensor,
        width: Tensor,
        problem: Problem[Any],
    ) -> tuple[Tensor, Tensor, Tensor]:
        ctx.set_materialize_grads(False)
        x, m = problem.solve(b, c)
        structures = problem.coulomb.structures
        owner = structures.charge_groups().structure
        # H x = b - C^T m, so x.H.x/2 - b.x = -(b.x + m.c)/2.
        energy = structures.sum_over_atoms(b * x).index_add(0, owner, m * c)
        ctx.save_for_backward(J, positions, cell, width, x, m)
        ctx.problem = problem
        return x, m, -0.5 * energy

    @staticmethod
    def backward(
        ctx: Any, in_x: Tensor | None, in_m: Tensor | None, in_energy: Tensor | None
    ) -> tuple[Tensor | None, ...]:
        J, positions, cell, width, x, m = ctx.saved_tensors
        problem: Problem[Any] = ctx.problem
        structures = problem.coulomb.structures
        in_b = in_c = weight = None
        if in_x is not None or in_m is not None:
            right = torch.zeros_like(x) if in_x is None else in_x
            target = torch.zeros_like(m) if in_m is None else in_m
            p, nu, _ = _Rest.apply(right, target, J, positions, cell, width, problem)
            in_b, in_c, weight = p, nu, -p
        if in_energy is not None:
            owner = structures.charge_groups().structure
            scaled = in_energy.index_select(0, structures.batch) * x
            each = in_energy.index_select(0, owner) * m
            in_b = -scaled if in_b is None else in_b - scaled
            in_c = -each if in_c is None else in_c - each
            weight = 0.5 * scaled if weight is None else weight + 0.5 * scaled
        if weight is None:
            return (None,) * 7
        asked = wanted(ctx)
        in_J = weight * x if asked[2] else None
        at = (positions, cell, width)
        return in_b, in_c, in_J, *_form_gradient(problem, weight, x, asked[3:], at), None


def _form_gradient(
    problem: Problem[Any],
    u: Tensor,
    v: Tensor,
    asked: list[bool],
    at: tuple[Tensor, Tensor, Tensor],
) -> list[Tensor | None]:
    """Derivative of the sum of u.A.v in positions, cell and width, where it is wanted."""
    found: list[Tensor | None] = [None, None, None]
    chosen = [i for i, w in enumerate(asked) if w]
    if not chosen:
        return found
    again = torch.is_grad_enabled()
    with torch.enable_grad():
        if again:
            # Views: u and v depend on the geometry too, and are constants of this derivative.
            here = [t.view_as(t) for t in at]
        else:
            u, v = u.detach(), v.detach()
            here = [t.detach().requires_grad_(w) for t, w in zip(at, asked, strict=True)]
        total = problem.coulomb.energy(u, v, Geometry(*here)).sum()
        if not total.requires_grad:  # no pairs: a rank without structures, or lone atoms
            total = total + sum(0.0 * t.sum() for t in here)
        slopes = torch.autograd.grad(
            total, [here[i] for i in chosen], create_graph=again, materialize_grads=True
        )
    for i, slope in zip(chosen, slopes, strict=True):
        found[i] = slope
    return found
