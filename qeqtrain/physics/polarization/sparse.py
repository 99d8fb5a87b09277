"""Charges of structures that are too large for a matrix: the taper leaves it sparse."""

from __future__ import annotations

import torch
from torch import Tensor

from qeqtrain.physics.polarization.interaction import CoreShellSum
from qeqtrain.physics.solvers.iterative import ConjugateGradient
from qeqtrain.physics.solvers.saddle import PreparedMinimalResidual
from qeqtrain.physics.solvers.solution import Outcome, Solution
from qeqtrain.physics.sparse import symmetric_matrix
from qeqtrain.structures import ChargeGroups

TOLERANCE = 1e-12
"""Residual relative to the right-hand side. Energies are not stationary in these charges, so
that an error of theirs shows; 1e-12 leaves 1e-11 e of it. At a saddle rounding is larger, and
ten times as much is allowed."""


class SparseCharges:
    """Solver of the charges' equations: conjugate gradients, or, at a saddle, least residuals.

    Args:
        sums: the interaction.
        hardness: eV/e^2, shape ``(N,)``.
        groups: which atoms share charge.
    """

    @torch.no_grad()
    def __init__(self, sums: CoreShellSum, hardness: Tensor, groups: ChargeGroups) -> None:
        matrix = symmetric_matrix(sums.pairs, sums.pair_values())

        def product(charges: Tensor) -> Tensor:
            return hardness * charges + matrix @ charges

        count = len(sums.structures)
        self._minimum = ConjugateGradient(TOLERANCE).prepare(product, hardness, groups, count)
        positive = hardness.clamp(min=1e-3)
        self._saddle = PreparedMinimalResidual(
            product, positive, groups, count, tolerance=10.0 * TOLERANCE
        )
        self._indefinite = False

    def solve(self, b: Tensor, c: Tensor) -> Solution:
        """Solve for one right-hand side; see :class:`Solution`.

        Args:
            b: shape ``(N,)``.
            c: shape ``(G,)``; not read for groups held at a potential.
        """
        if not self._indefinite:
            found = self._minimum.solve(b, c)
            self._indefinite = bool((found.outcome == Outcome.NOT_POSITIVE_DEFINITE).any())
        return self._saddle.solve(b, c) if self._indefinite else found
