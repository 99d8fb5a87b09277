"""Validation errors as sums and counts: batches of any size add up to the right mean."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from qeqtrain.training.quantities import QUANTITIES, compare

if TYPE_CHECKING:
    from qeqtrain.data.batching import Batch
    from qeqtrain.structures import Prediction


class ErrorSums:
    """Running sums of errors of every quantity.

    Attributes:
        sums: count of components, sum of absolute errors and of squared errors by quantity, in
            eV, A and e, float64, shape ``(quantities, 3)``. Sums of several ranks simply add.
        by_set: the same for every data set, shape ``(sets, quantities, 3)``.

    Args:
        device: where the sums are.
        sets: names of the data sets, where structures tell theirs.
    """

    def __init__(self, device: torch.device | str = "cpu", sets: Sequence[str] = ()) -> None:
        self._names = tuple(sets)
        self.sums = torch.zeros((len(QUANTITIES), 3), dtype=torch.float64, device=device)
        self.by_set = self.sums.new_zeros((len(self._names), *self.sums.shape))

    def add(self, prediction: Prediction, batch: Batch) -> None:
        """Count a batch in."""
        for row, name in enumerate(QUANTITIES):
            compared = compare(prediction, batch, name)
            if compared is None:
                continue
            difference = compared.difference.detach()
            parts = [compared.count, difference.abs().sum(), difference.square().sum()]
            self.sums[row] += torch.stack(parts)
            owner = batch.structures.data_set
            if owner is not None and self._names:
                if QUANTITIES[name].per_atom:
                    owner = owner.index_select(0, batch.structures.batch)
                self.by_set[:, row].index_add_(0, owner, _row_sums(difference, compared.mask))

    def summary(self) -> dict[str, float]:
        """Errors in printed units: ``<quantity>_mae``, ``<quantity>_rmse`` of what was met.

        Those of a data set have its name behind a stroke: ``energy_rmse/mp``.
        """
        errors = _errors(self.sums, "")
        for name, sums in zip(self._names, self.by_set, strict=True):
            errors |= _errors(sums, f"/{name}")
        return errors


def _row_sums(difference: Tensor, mask: Tensor) -> Tensor:
    """Count, sum of absolute errors and of squared ones of every row, shape ``(rows, 3)``."""
    components = difference.shape[1:].numel()
    flat = difference.reshape(len(difference), components)
    parts = [mask.double() * components, flat.abs().sum(dim=1), flat.square().sum(dim=1)]
    return torch.stack(parts, dim=1)


def _errors(sums: Tensor, suffix: str) -> dict[str, float]:
    """Errors by quantity, in printed units."""
    errors: dict[str, float] = {}
    for (name, quantity), (count, absolute, square) in zip(
        QUANTITIES.items(), sums.tolist(), strict=True
    ):
        if count:
            errors[f"{name}_mae{suffix}"] = quantity.factor * absolute / count
            errors[f"{name}_rmse{suffix}"] = quantity.factor * math.sqrt(square / count)
    return errors


def score(errors: dict[str, float], trained: Iterable[str]) -> float:
    """Rank a set of weights: the sum of RMSEs in eV per atom, eV/A, eV/A^3, e and e A.

    Args:
        errors: from :meth:`ErrorSums.summary`.
        trained: quantities the loss gives a weight; others do not decide.

    Returns:
        The sum, lower is better; infinite if nothing could be compared.
    """
    parts = [
        errors[f"{name}_rmse"] / QUANTITIES[name].factor
        for name in trained
        if f"{name}_rmse" in errors
    ]
    total = sum(parts)
    return total if parts and math.isfinite(total) else math.inf


def as_tensor(summary: dict[str, float]) -> dict[str, Tensor]:
    """Turn printed numbers into what Lightning logs."""
    return {k: torch.tensor(v, dtype=torch.float32) for k, v in summary.items()}
