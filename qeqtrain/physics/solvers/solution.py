"""What a solver hands back: the unknowns, and how well each structure's equations were met."""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum

from torch import Tensor


class Outcome(IntEnum):
    """How the solution of one structure's equations ended; the caller decides what to raise."""

    CONVERGED = 0
    STALLED = 1
    NOT_POSITIVE_DEFINITE = 2
    NOT_FINITE = 3


@dataclass(frozen=True)
class Solution:
    r"""Unknowns of the equations, without gradient.

    .. math:: \begin{pmatrix} H & C^T \\ C & 0 \end{pmatrix}
              \begin{pmatrix} x \\ \mu \end{pmatrix} =
              \begin{pmatrix} b \\ c \end{pmatrix}

    Attributes:
        x: shape ``(N,)``; of use only where the outcome is ``CONVERGED``.
        multiplier: :math:`\mu`, shape ``(G,)``; zero for groups without a constraint.
        outcome: an :class:`Outcome` for every structure, int64, shape ``(B,)``.
        residual: of the returned x, worked out afresh and relative to the right-hand side,
            shape ``(B,)``.
        iterations: products with H that each structure needed, int64, shape ``(B,)``.
    """

    x: Tensor
    multiplier: Tensor
    outcome: Tensor
    residual: Tensor
    iterations: Tensor
