r"""The minimum of the energy of charges and shells, and its derivatives to any order.

At rest :math:`\rho(q, s) + C^T m = 0` and :math:`C q = Q`, with :math:`\rho` the gradient of
the energy in charges and shells. Newton's steps find it, from shells at rest; a step that leads
uphill is shortened. What is found must be a minimum: where the second derivative H of the
energy is not positive definite on the plane C q = 0, nothing holds the shells. This
polarisation catastrophe is reported. It depends on the size of a cell: a mode that a small one
lacks may be unstable in a larger one.

With cotangents :math:`\bar q, \bar s`, and (p, :math:`\nu`) the solution of the equations with
H for them,

.. math:: \bar\theta = -\partial_\theta\, (p \cdot \rho), \qquad \bar Q = \nu

for any parameter :math:`\theta`; p is differentiated by one more solution of its kind. H of n
atoms is dense, 4n by 4n: meant for some hundred atoms.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

from qeqtrain.errors import EquilibrationFailed
from qeqtrain.physics.function import Function, wanted
from qeqtrain.physics.interaction import Geometry
from qeqtrain.physics.naming import name_of
from qeqtrain.physics.polarization.curvature import Curvature
from qeqtrain.physics.polarization.functional import Functional

STEPS = 100
"""Newton's steps, rejected ones counted, after which a structure has no rest."""

SETTLED = 1e-9
"""Last Newton step, e and A: the one after it is its square."""

LOOSE = 3.0
"""Displacement of a shell, A, beyond which it has left its atom."""


class Point(NamedTuple):
    """What the energy depends on beside charges and shells; each may have a history."""

    electronegativity: Tensor  # (N,) eV/e
    hardness: Tensor  # (N,) eV/e^2
    stiffness: Tensor  # (N,) eV/A^2
    core: Tensor  # (N,) e
    shell_pull: Tensor  # (N, 3) eV/A
    positions: Tensor  # (N, 3) A
    cell: Tensor  # (B, 3, 3) A
    width: Tensor  # (N,) A


class RestProblem:
    """What the minimum and all its derivatives share.

    Args:
        functional: the energy.
        constant: of Coulomb, eV A/e^2.
    """

    def __init__(self, functional: Functional, constant: float) -> None:
        self.functional, self.constant = functional, constant
        self.structures = functional.structures
        at = functional.sums.here
        self.point = Point(
            functional.electronegativity,
            functional.hardness,
            functional.stiffness,
            functional.core,
            functional.shell_pull,
            at.positions,
            at.cell,
            at.width,
        )
        self.curvature: Curvature | None = None

    def energy(self, q: Tensor, s: Tensor, at: Point) -> Tensor:
        """E(q, s) of every structure, eV, ``(B,)``."""
        geometry = Geometry(at.positions, at.cell, at.width)
        pairs, _ = self.functional.sums.core_shell(q, at.core, s, geometry)
        own = q * (at.electronegativity + 0.5 * at.hardness * q)
        own = own + 0.5 * at.stiffness * (s * s).sum(-1) + (at.shell_pull * s).sum(-1)
        total: Tensor = self.structures.sum_over_atoms(own) + self.constant * pairs
        return total

    def slope(self, p_q: Tensor, p_s: Tensor, q: Tensor, s: Tensor, at: Point) -> Tensor:
        """Derivative of the energy of all structures along (p_q, p_s); q and s need history."""
        return _along(self.energy(q, s, at).sum(), (q, s), (p_q, p_s))

    @torch.no_grad()
    def find(self, q: Tensor) -> tuple[Tensor, Tensor]:
        """Minimise from charges that add up as they should, and shells at rest.

        Raises:
            EquilibrationFailed: no minimum is found, naming the structure.
        """
        structures, owner = self.structures, self.structures.batch
        at = Point(*(t.detach() for t in self.point))
        q, s = q.detach(), torch.zeros_like(at.positions)
        shift = torch.zeros_like(structures.total_charge)  # eV/A^2, of every structure
        done = torch.zeros_like(shift, dtype=torch.bool)
        for _ in range(STEPS):
            energy, in_q, in_s = self._slopes(q, s, at)
            curvature = Curvature(self.functional, self.constant, q, s, shift)
            d_q, d_s, _ = curvature.solve(-in_q, -in_s, torch.zeros_like(curvature.open_sums))
            stable = curvature.stable
            far = torch.maximum(d_q.abs(), d_s.abs().amax(-1))
            far = shift.new_zeros(len(shift)).scatter_reduce(0, owner, far, "amax")
            done = done | (stable & (shift == 0.0) & (far < SETTLED))
            move = (stable & energy.isfinite()).double().index_select(0, owner)
            there = (q + move * d_q, s + move[:, None] * d_s)
            after = self.energy(*there, at)
            better = stable & (after <= energy + 1e-11 * (1.0 + energy.abs()))
            better = better & (far < LOOSE)
            keep = better.index_select(0, owner)
            q = torch.where(keep, there[0], q)
            s = torch.where(keep[:, None], there[1], s)
            if bool(done.all()):
                self.curvature = Curvature(self.functional, self.constant, q, s, None)
                self._refuse(~self.curvature.stable, s)
                return q, s
            # Where a step failed the next is shorter; where one was good, longer.
            eased = torch.where(shift < 1e-3, 0.0, 0.2 * shift)
            shift = torch.where(better, eased, torch.clamp(5.0 * shift, min=0.05))
            lost = (shift > 1e6) | ~energy.isfinite() | self._loose(s)
            stuck = (far < SETTLED) & stable & (shift > 0.0)
            self._refuse(lost | stuck, s)
        self._refuse(~done, s)
        raise AssertionError("a structure that has not settled is refused")

    def _slopes(self, q: Tensor, s: Tensor, at: Point) -> tuple[Tensor, Tensor, Tensor]:
        with torch.enable_grad():
            q, s = q.detach().requires_grad_(), s.detach().requires_grad_()
            energy = self.energy(q, s, at)
            in_q, in_s = torch.autograd.grad(energy.sum(), [q, s])
        return energy.detach(), in_q, in_s

    def _loose(self, s: Tensor) -> Tensor:
        lengths = s.norm(dim=-1)
        farthest = lengths.new_zeros(len(self.structures))
        farthest = farthest.scatter_reduce(0, self.structures.batch, lengths, "amax")
        loose: Tensor = farthest > LOOSE
        return loose

    def _refuse(self, failed: Tensor, s: Tensor) -> None:
        if not bool(failed.any()):
            return
        index = int(torch.nonzero(failed)[0])
        lengths = s.norm(dim=-1)[self.structures.batch == index]
        raise EquilibrationFailed(
            f"{name_of(self.structures, index)}: polarisation catastrophe: no minimum holds "
            f"its shells (one is {float(lengths.max()):.2g} A from its core); expected stiffer "
            "springs or softer charges; raise charge.damping to 1, or say charge.mode=labels"
        )


def settle(problem: RestProblem, start: Tensor) -> tuple[Tensor, Tensor]:
    """Find charges, ``(N,)``, and shells, ``(N, 3)``; differentiable to any order.

    Args:
        problem: the energy.
        start: charges to begin with, e, shape ``(N,)``.

    Raises:
        EquilibrationFailed: a polarisation catastrophe.
    """
    groups = problem.functional.groups
    fixed = torch.where(groups.held, 0.0, groups.charge)
    q, s = _Rest.apply(*problem.point, fixed, start.detach(), problem)
    return q, s


class _Rest(Function):
    """Charges and shells at rest."""

    @staticmethod
    def forward(ctx: Any, *given: Any) -> tuple[Tensor, Tensor]:
        *point, _, start, problem = given
        q, s = problem.find(start)
        ctx.save_for_backward(*point, q, s)
        ctx.problem = problem
        return q, s

    @staticmethod
    def backward(ctx: Any, in_q: Tensor, in_s: Tensor) -> tuple[Tensor | None, ...]:
        *point, q, s = ctx.saved_tensors
        problem: RestProblem = ctx.problem
        none = torch.zeros_like(problem.functional.groups.potential)
        p_q, p_s, nu = _Adjoint.apply(in_q, in_s, none, q, s, *point, problem)
        asked = [False, False, *wanted(ctx)[: len(point)]]

        def product(q: Tensor, s: Tensor, at: Point) -> Tensor:
            return problem.slope(p_q, p_s, q, s, at)

        found = _partial(product, [q, s, *point], asked)[2:]
        return (*(None if f is None else -f for f in found), nu, None, None)


class _Adjoint(Function):
    """Solution (x_q, x_s, m) of the equations with H for (b_q, b_s, c)."""

    @staticmethod
    def forward(ctx: Any, *given: Any) -> tuple[Tensor, ...]:
        b_q, b_s, c, q, s, *point, problem = given
        found: tuple[Tensor, ...] = problem.curvature.solve(b_q, b_s, c)
        ctx.save_for_backward(q, s, *point, *found[:2])
        ctx.problem = problem
        return found

    @staticmethod
    def backward(ctx: Any, *cotangents: Tensor) -> tuple[Tensor | None, ...]:
        q, s, *point, x_q, x_s = ctx.saved_tensors
        problem: RestProblem = ctx.problem
        l_q, l_s, l_m = _Adjoint.apply(*cotangents, q, s, *point, problem)
        asked = wanted(ctx)[3:]

        def product(q: Tensor, s: Tensor, at: Point) -> Tensor:
            along = problem.slope(x_q, x_s, q, s, at)
            return _along(along, (q, s), (l_q, l_s))

        found = _partial(product, [q, s, *point], asked)
        return (l_q, l_s, l_m, *(None if f is None else -f for f in found), None)


def _along(number: Tensor, at: tuple[Tensor, Tensor], by: tuple[Tensor, Tensor]) -> Tensor:
    """Derivative of a number in charges and shells, along a direction."""
    slopes = torch.autograd.grad(number, at, create_graph=True)
    return (slopes[0] * by[0]).sum() + (slopes[1] * by[1]).sum()


def _partial(product: Any, given: list[Tensor], asked: list[bool]) -> list[Tensor | None]:
    """Derivatives of a number in q, s and the point, where wanted; what else it holds is fixed.

    Args:
        product: of q, s and the point; q and s have a history of their own.
        given: q, s and the parts of the point.
        asked: which derivatives are wanted.
    """
    found: list[Tensor | None] = [None] * len(given)
    chosen = [i for i, w in enumerate(asked) if w]
    if not chosen:
        return found
    again = torch.is_grad_enabled()
    with torch.enable_grad():
        here = [
            t.view_as(t)
            if again and t.requires_grad
            else t.detach().requires_grad_(i < 2 or asked[i])
            for i, t in enumerate(given)
        ]
        number = product(here[0], here[1], Point(*here[2:]))
        slopes = torch.autograd.grad(
            number, [here[i] for i in chosen], create_graph=again, materialize_grads=True
        )
    for i, slope in zip(chosen, slopes, strict=True):
        found[i] = slope
    return found
