"""What charge solves took during training: the worst since somebody last looked."""

from __future__ import annotations

import torch
from torch import Tensor

from qeqtrain.physics.stationary import Effort

COLUMNS = ("solve_residual", "solve_iterations", "solve_condition")
"""Relative residual, products with the matrix, and its condition number: names in tables."""


class WorstSolve:
    """Largest residual, number of iterations and condition number of many solves.

    Nothing waits for the device until :meth:`values` is asked for.
    """

    def __init__(self) -> None:
        self._worst: Tensor | None = None

    def add(self, effort: Effort) -> None:
        """Count the solves of a batch, or of a part of it, in."""
        if effort.residual.numel() == 0:
            return
        found = torch.stack(
            [
                effort.residual.double().max(),
                effort.iterations.double().max(),
                effort.condition.double().nan_to_num(nan=-1.0).max(),
            ]
        )
        self._worst = found if self._worst is None else torch.maximum(self._worst, found)

    def values(self) -> dict[str, float]:
        """Give the worst figures by column; empty before the first solve.

        A condition number that no solver estimated is left out.
        """
        if self._worst is None:
            return {}
        found = zip(COLUMNS, self._worst.tolist(), strict=True)
        return {name: value for name, value in found if value >= 0.0}

    def forget(self) -> None:
        """Begin anew."""
        self._worst = None
