r"""Minimal residuals: constrained equations from products with an H that may be indefinite.

.. math:: \begin{pmatrix} H & C^T \\ C & 0 \end{pmatrix}
          \begin{pmatrix} x \\ \mu \end{pmatrix} = \begin{pmatrix} b \\ c \end{pmatrix}

What conjugate gradients do for a minimum this does for a saddle (Paige and Saunders, SIAM J.
Numer. Anal. 12, 617 (1975)), as the LU factorisation does among the dense solvers. With D the
diagonal, the iteration solves :math:`P \hat H P y = P \hat b`,
:math:`\hat H = D^{-1/2} H D^{-1/2}`, with P the orthogonal projector onto
:math:`C D^{-1/2} y = 0`. Structures of a batch iterate together.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from qeqtrain.physics.solvers.solution import Outcome, Solution
from qeqtrain.structures import ChargeGroups

_RESTARTS = 3
"""Fresh residuals after which a structure that still misses its tolerance has stalled."""


class PreparedMinimalResidual:
    """Solves for any number of right-hand sides.

    Args:
        matvec: H x for the whole batch, ``(N,) -> (N,)``; H does not couple structures.
        diagonal: positive, near the diagonal of H, shape ``(N,)``.
        groups: which atoms share a constraint; charges and potentials are not read.
        n_structures: B.
        tolerance: residual relative to the right-hand side, both in the norm of
            :math:`D^{-1}` with the multipliers taken out.
        max_iterations: products after which a structure has stalled.
    """

    def __init__(
        self,
        matvec: Callable[[Tensor], Tensor],
        diagonal: Tensor,
        groups: ChargeGroups,
        n_structures: int,
        *,
        tolerance: float,
        max_iterations: int = 5000,
    ) -> None:
        self._matvec, self._groups, self._n_structures = matvec, groups, n_structures
        self._tolerance, self._max_iterations = tolerance, max_iterations
        self._batch = groups.structure.index_select(0, groups.member)
        self._root = diagonal.detach().rsqrt()  # D^(-1/2)
        softness = groups.sum_over_atoms(self._root * self._root)
        self._share = torch.where(~groups.held & (softness > 0.0), 1.0 / softness, 0.0)

    def _dot(self, a: Tensor, b: Tensor) -> Tensor:
        return a.new_zeros(self._n_structures).index_add(0, self._batch, a * b)

    def _each(self, per_structure: Tensor) -> Tensor:
        return per_structure.index_select(0, self._batch)

    def _projected(self, y: Tensor) -> tuple[Tensor, Tensor]:
        """Take the multipliers, (G,), out of scaled residuals, (N,)."""
        mean = self._groups.sum_over_atoms(self._root * y) * self._share
        return y - self._root * mean.index_select(0, self._groups.member), mean

    def _product(self, y: Tensor) -> Tensor:
        return self._projected(self._root * self._matvec(self._root * y))[0]

    @torch.no_grad()
    def solve(self, b: Tensor, c: Tensor) -> Solution:
        """Solve for one right-hand side; see :class:`Solution`.

        Args:
            b: shape ``(N,)``.
            c: shape ``(G,)``; not read for groups held at a potential.
        """
        given = torch.where(self._groups.held, 0.0, c) * self._share
        x = self._root**2 * given.index_select(0, self._groups.member)
        scale = torch.zeros_like(self._dot(x, x))
        for term in (b, self._matvec(x)):  # what cancels in the end
            own = self._projected(self._root * term)[0]
            scale = scale + self._dot(own, own).sqrt()
        scale = scale.clamp(min=torch.finfo(b.dtype).tiny)
        iterations = torch.zeros_like(scale, dtype=torch.int64)
        for attempt in range(_RESTARTS + 1):
            residual, multiplier = self._projected(self._root * (b - self._matvec(x)))
            relative = self._dot(residual, residual).sqrt() / scale
            wanting = (relative > self._tolerance) & relative.isfinite()
            wanting &= iterations < self._max_iterations
            if attempt == _RESTARTS or not wanting.any():
                break
            target = 0.5 * self._tolerance * scale
            x = x + self._root * self._descend(residual, wanting, target, iterations)
        outcome = torch.full_like(iterations, Outcome.STALLED)
        outcome[relative <= self._tolerance] = Outcome.CONVERGED
        outcome[~relative.isfinite()] = Outcome.NOT_FINITE
        return Solution(x, multiplier, outcome, relative, iterations)

    def _descend(
        self, residual: Tensor, running: Tensor, target: Tensor, iterations: Tensor
    ) -> Tensor:
        """Minimise the residual in growing Krylov spaces; names as in the paper's algorithm.

        Args:
            residual: projected, shape ``(N,)``.
            running: which structures take part, shape ``(B,)``.
            target: norm of the residual to reach, shape ``(B,)``.
            iterations: counted up in place, shape ``(B,)``.
        """
        y = previous = residual
        before = torch.zeros_like(residual)
        beta = self._dot(y, y).sqrt().clamp(min=torch.finfo(y.dtype).tiny)
        old_beta = torch.ones_like(beta)
        d_bar = epsilon = sine = torch.zeros_like(beta)
        cosine = -torch.ones_like(beta)
        left = beta
        w = w_old = found = torch.zeros_like(residual)
        first = True
        while True:
            v = y / self._each(beta)
            y = self._product(v)
            iterations += running
            if not first:
                y = y - self._each(beta / old_beta) * before
            alpha = self._dot(v, y)
            y = y - self._each(alpha / beta) * previous
            before, previous = previous, y
            old_beta, beta = beta, self._dot(y, y).sqrt()
            old_epsilon = epsilon
            delta = cosine * d_bar + sine * alpha
            g_bar = sine * d_bar - cosine * alpha
            epsilon, d_bar = sine * beta, -cosine * beta
            gamma = torch.hypot(g_bar, beta).clamp(min=torch.finfo(y.dtype).tiny)
            cosine, sine = g_bar / gamma, beta / gamma
            phi, left = cosine * left, sine * left
            w, w_old = (
                (v - self._each(old_epsilon) * w_old - self._each(delta) * w)
                / self._each(gamma),
                w,
            )
            found = found + self._each(torch.where(running, phi, 0.0)) * w
            running = running & (left > target) & (iterations < self._max_iterations)
            running = running & beta.isfinite() & (beta > 0.0)
            beta = torch.where(beta > 0.0, beta, 1.0)
            first = False
            if not running.any():
                return found
