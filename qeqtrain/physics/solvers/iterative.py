r"""Projected conjugate gradients: constrained linear equations from products with H alone.

.. math:: \begin{pmatrix} H & C^T \\ C & 0 \end{pmatrix}
          \begin{pmatrix} x \\ \mu \end{pmatrix} = \begin{pmatrix} b \\ c \end{pmatrix}

C has one row of ones per group of atoms whose sum is given; groups are disjoint, a group that
is held at a potential has no row. The iteration stays in the plane C x = c and is
preconditioned by the diagonal of H (Gould, Hribar and Nocedal, SIAM J. Sci. Comput. 23, 1376
(2001), constraint preconditioner diag H).

Two things differ from the textbook:

* the multipliers are taken out of the residual in *every* step, by subtracting its weighted
  mean over each group. The projected direction is the same, but without this the residual
  grows a component along C^T that ends as rounding error: asked for 1e-10, the textbook form
  stalls at 1e-2;
* the structures of a batch iterate together, each with its own step lengths and its own end,
  so that one product with H serves all of them.

Convergence is claimed on a residual worked out afresh, not on the one carried along; if the
two differ, the iteration starts again from where it stands.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from itertools import count

import torch
from torch import Tensor

from qeqtrain.physics.solvers.solution import Outcome, Solution
from qeqtrain.structures import ChargeGroups

_LOOK_EVERY = 8
"""Iterations between two looks at what is still running, where a look waits for a GPU; what is
worked out too much changes nothing."""

_RESTARTS = 5
"""Fresh residuals after which a structure that still misses its tolerance has stalled."""

_SMOOTH_STEPS = 200
"""Steps with long waves taken out after which there is a fresh start; the last starts are
without."""


@dataclass(frozen=True)
class ConjugateGradient:
    r"""Settings of the iteration.

    Attributes:
        tolerance: residual, relative to the right-hand side, both in the norm
            :math:`\sqrt{r^T \mathrm{diag}(H)^{-1} r}` with the multipliers taken out.
        max_iterations: products with H after which a structure has stalled.
    """

    tolerance: float = 1e-10
    max_iterations: int = 2000

    def prepare(
        self,
        matvec: Callable[[Tensor], Tensor],
        diagonal: Tensor,
        groups: ChargeGroups,
        n_structures: int,
        smooth: Callable[[Tensor], Tensor] | None = None,
    ) -> PreparedConjugateGradient:
        """Fix the matrix; the result solves for any number of right-hand sides.

        Args:
            matvec: H x for the whole batch, ``(N,) -> (N,)``; H does not couple structures.
            diagonal: of H, shape ``(N,)``.
            groups: which atoms share a constraint; charges and potentials are not read.
            n_structures: B.
            smooth: S of a better preconditioner :math:`D^{-1} - D^{-1} S D^{-1}` than the
                diagonal D, ``(N,) -> (N,)``: symmetric, and such that this is positive.
        """
        return PreparedConjugateGradient(
            self, matvec, diagonal.detach(), groups, n_structures, smooth
        )


class PreparedConjugateGradient:
    """Projected conjugate gradients for one H; see :meth:`ConjugateGradient.prepare`."""

    def __init__(
        self,
        settings: ConjugateGradient,
        matvec: Callable[[Tensor], Tensor],
        diagonal: Tensor,
        groups: ChargeGroups,
        n_structures: int,
        smooth: Callable[[Tensor], Tensor] | None = None,
    ) -> None:
        self._settings = settings
        self._smooth = smooth
        self._matvec = matvec
        self._groups = groups
        self._n_structures = n_structures
        self._batch = groups.structure.index_select(0, groups.member)  # (N,)
        # A diagonal that is not positive is reported as an outcome, not divided by; NaN is
        # left to show in the residual.
        self._indefinite = self._sum((diagonal <= 0.0).to(diagonal)) > 0.0  # (B,)
        self._weight = torch.where(diagonal > 0.0, 1.0 / diagonal, 1.0)
        softness = groups.sum_over_atoms(self._weight)  # (G,)
        self._constrained = ~groups.held & (softness > 0.0)
        self._share = torch.where(self._constrained, 1.0 / softness, 0.0)

    def _sum(self, per_atom: Tensor) -> Tensor:
        """Add up over the atoms of each structure, ``(N,) -> (B,)``."""
        return per_atom.new_zeros(self._n_structures).index_add(0, self._batch, per_atom)

    def _square(self, residual: Tensor) -> Tensor:
        """Square of the norm in which progress is measured, shape ``(B,)``."""
        return self._sum(residual * residual * self._weight)

    def _preconditioned(self, residual: Tensor, *, smooth: bool) -> tuple[Tensor, Tensor]:
        """Give a direction, (N,), in the plane, and its product with the residual, (B,)."""
        plain = self._weight * residual
        if self._smooth is None or not smooth:
            return plain, self._sum(residual * plain)
        direction = self._weight * self._centred(residual - self._smooth(plain))[0]
        product = self._sum(residual * direction)
        # Of a preconditioner that is not positive after all.
        direction = torch.where(self._of_atoms(product > 0.0), direction, plain)
        return direction, self._sum(residual * direction)

    def _of_atoms(self, per_structure: Tensor) -> Tensor:
        return per_structure.index_select(0, self._batch)

    def _centred(self, residual: Tensor) -> tuple[Tensor, Tensor]:
        """Take the multipliers, (G,), out of a residual, (N,)."""
        mean = self._groups.sum_over_atoms(self._weight * residual) * self._share
        return residual - mean.index_select(0, self._groups.member), mean

    def _feasible(self, x: Tensor, c: Tensor) -> Tensor:
        """Shift x along diag(H)^-1 C^T until every constrained sum is met."""
        missing = torch.where(self._constrained, c - self._groups.sum_over_atoms(x), 0.0)
        per_atom = (missing * self._share).index_select(0, self._groups.member)
        return x + self._weight * per_atom

    def _scale(self, b: Tensor, product: Tensor) -> Tensor:
        """Size of the two terms that cancel in the end, shape ``(B,)``.

        An offset common to all atoms of a group is left out, but for what its rounding leaves
        in the residual.
        """
        rounding = 4.0 * torch.finfo(b.dtype).eps / self._settings.tolerance
        scale = torch.zeros_like(self._square(b))
        for term in (b, product):
            scale = scale + self._square(self._centred(term)[0]).sqrt()
            scale = scale + rounding * self._square(term).sqrt()
        return scale.clamp(min=torch.finfo(b.dtype).tiny)

    @torch.no_grad()
    def solve(self, b: Tensor, c: Tensor, guess: Tensor | None = None) -> Solution:
        """Solve for one right-hand side.

        Args:
            b: shape ``(N,)``.
            c: sum of x over each group, shape ``(G,)``; not read for groups whose potential
                is held.
            guess: where to start, shape ``(N,)``.
        """
        settings = self._settings
        x = self._feasible(torch.zeros_like(b) if guess is None else guess, c)
        product = self._matvec(x)
        scale = self._scale(b, product)
        iterations = torch.zeros_like(scale, dtype=torch.int64)
        indefinite = self._indefinite.clone()
        for attempt in range(_RESTARTS + 1):
            residual, multiplier = self._centred(b - product)
            relative = self._square(residual).sqrt() / scale  # (B,)
            wanting = (relative > settings.tolerance) & torch.isfinite(scale)
            wanting &= ~indefinite & (iterations < settings.max_iterations)
            if attempt == _RESTARTS or not wanting.any():
                break
            # Half the tolerance, for what the carried residual and the true one differ by.
            target = (0.5 * settings.tolerance * scale) ** 2
            smooth = attempt < _RESTARTS - 2
            x = self._descend(x, residual, wanting, target, iterations, indefinite, smooth)
            x = self._feasible(x, c)
            product = self._matvec(x)
        outcome = torch.full_like(iterations, Outcome.STALLED)
        outcome[relative <= settings.tolerance] = Outcome.CONVERGED
        outcome[~torch.isfinite(relative)] = Outcome.NOT_FINITE
        outcome[indefinite] = Outcome.NOT_POSITIVE_DEFINITE
        return Solution(x, multiplier, outcome, relative, iterations)

    def _descend(
        self,
        x: Tensor,
        residual: Tensor,
        running: Tensor,
        target: Tensor,
        iterations: Tensor,
        indefinite: Tensor,
        smooth: bool,
    ) -> Tensor:
        """Iterate from x until the square of every carried residual is below ``target``.

        Args:
            x: shape ``(N,)``.
            residual: b - H x, centred, shape ``(N,)``.
            running: which structures take part, shape ``(B,)``.
            target: shape ``(B,)``.
            iterations: counted up in place, shape ``(B,)``.
            indefinite: set in place where a direction of negative curvature turns up.
            smooth: whether long waves are taken out.
        """
        direction, squared = self._preconditioned(residual, smooth=smooth)
        smooth = smooth and self._smooth is not None
        most = self._settings.max_iterations
        last = (iterations + _SMOOTH_STEPS).clamp(max=most) if smooth else most
        every = 1 if x.device.type == "cpu" else _LOOK_EVERY
        for step_number in count(1):
            product = self._matvec(direction)
            curvature = self._sum(direction * product)
            iterations += running
            indefinite |= running & (curvature <= 0.0)
            # What is not finite fails this comparison too, and shows in the fresh residual.
            running = running & (curvature > 0.0)
            step = self._of_atoms(torch.where(running, squared / curvature, 0.0))
            moving = self._of_atoms(running)
            x = torch.where(moving, x + step * direction, x)
            residual = torch.where(moving, residual - step * product, residual)
            residual = self._centred(residual)[0]
            running = running & (self._square(residual) > target)
            running = running & (iterations < last)
            if step_number % every == 0 and not running.any():
                break
            previous = squared
            conditioned, squared = self._preconditioned(residual, smooth=smooth)
            slope = self._of_atoms(torch.where(running, squared / previous, 0.0))
            direction = conditioned + slope * direction
        return x
