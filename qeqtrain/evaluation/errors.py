"""Errors of predictions against labels, in the units of the tables."""

from __future__ import annotations

from dataclasses import asdict, dataclass

import numpy as np

from qeqtrain.training.quantities import QUANTITIES


@dataclass(frozen=True)
class Errors:
    """Errors of one quantity over a set of components, in its printed unit.

    Attributes:
        mae: mean absolute error.
        rmse: root of the mean square error.
        bias: mean of prediction minus label.
        largest: largest absolute error.
        count: components that were compared.
    """

    mae: float
    rmse: float
    bias: float
    largest: float
    count: int

    def as_dict(self) -> dict[str, float]:
        """Give plain values."""
        return asdict(self)


@dataclass(frozen=True)
class Compared:
    """Predictions beside labels of one quantity, in eV (per atom), eV/A, eV/A^3, e, e A.

    Attributes:
        quantity: one of :data:`~qeqtrain.training.quantities.QUANTITIES`.
        predicted, label: shape ``(rows, components)``; energies are per atom.
        frame: index of the frame of each row, shape ``(rows,)``.
        numbers: atomic number of each row, for quantities per atom; shape ``(rows,)``.
    """

    quantity: str
    predicted: np.ndarray
    label: np.ndarray
    frame: np.ndarray
    numbers: np.ndarray | None = None

    @property
    def difference(self) -> np.ndarray:
        """Prediction minus label, in the package's units, shape ``(rows, components)``."""
        difference: np.ndarray = self.predicted - self.label
        return difference

    def errors(self, rows: np.ndarray | None = None) -> Errors | None:
        """Errors over all rows, or over those a mask selects; ``None`` if there are none."""
        difference = self.difference if rows is None else self.difference[rows]
        if difference.size == 0:
            return None
        scaled = QUANTITIES[self.quantity].factor * difference
        size = np.abs(scaled)
        return Errors(
            mae=float(size.mean()),
            rmse=float(np.sqrt(np.square(scaled).mean())),
            bias=float(scaled.mean()),
            largest=float(size.max()),
            count=int(scaled.size),
        )

    def per_frame(self, n_frames: int) -> np.ndarray:
        """Root mean square error of every frame in the printed unit, NaN without a label."""
        square = np.square(QUANTITIES[self.quantity].factor * self.difference).mean(axis=1)
        total = np.bincount(self.frame, weights=square, minlength=n_frames)
        count = np.bincount(self.frame, minlength=n_frames)
        means = np.full(n_frames, np.nan)
        np.divide(total, count, out=means, where=count > 0)
        root: np.ndarray = np.sqrt(means)
        return root
