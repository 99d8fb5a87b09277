"""What is compared with labels, in which unit it is printed, and how a batch is compared.

Loss, validation and evaluation all take their differences from here, so that a number of the
training table and one of the report mean the same thing.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from qeqtrain.units import EV_PER_A3_TO_GPA, MILLI

if TYPE_CHECKING:
    from qeqtrain.data.batching import Batch
    from qeqtrain.structures import Prediction


@dataclass(frozen=True)
class Quantity:
    """How a quantity is printed.

    Attributes:
        symbol: short name for column heads.
        unit: of printed errors.
        factor: from the package's unit (eV, A, e) to ``unit``.
        per_atom: one row per atom instead of one per structure.
    """

    symbol: str
    unit: str
    factor: float
    per_atom: bool


QUANTITIES: dict[str, Quantity] = {
    "energy": Quantity("E", "meV/atom", MILLI, per_atom=False),
    "forces": Quantity("F", "meV/A", MILLI, per_atom=True),
    "stress": Quantity("S", "GPa", EV_PER_A3_TO_GPA, per_atom=False),
    "charges": Quantity("q", "me", MILLI, per_atom=True),
    "dipole": Quantity("mu", "e A", 1.0, per_atom=False),
    "born_charges": Quantity("Z*", "me", MILLI, per_atom=True),
}
"""Energies are compared per atom, everything else by component."""


@dataclass(frozen=True)
class Comparison:
    """Prediction minus label of one quantity, in eV, A and e.

    Attributes:
        difference: zero in rows with nothing to compare, float64, shape ``(rows, ...)``;
            energies are divided by the number of atoms.
        mask: rows that have a label and a prediction, bool, shape ``(rows,)``.
        share: of every row in a mean, float64, shape ``(rows,)``; ``None``: all alike.
    """

    difference: Tensor
    mask: Tensor
    share: Tensor | None = None

    @property
    def count(self) -> Tensor:
        """Components that are compared, by their share, float64, shape ``()``."""
        per_row = self.difference[0].numel() if len(self.difference) else 1
        rows = self.mask.double() if self.share is None else self.mask * self.share
        return rows.sum() * per_row


def comparable(batch: Batch, quantity: str) -> Tensor:
    """Mark the structures whose label a prediction can be compared with, bool, ``(B,)``."""
    mask = batch.present[quantity]
    if quantity == "stress":
        return mask & batch.structures.pbc.all(dim=-1)
    if quantity == "dipole":
        return mask & ~batch.structures.pbc.any(dim=-1)
    return mask


def compare(prediction: Prediction, batch: Batch, quantity: str) -> Comparison | None:
    """Subtract labels from predictions where both exist.

    Args:
        prediction: of ``batch.structures``.
        batch: labels, zeros where absent, with their presence.
        quantity: one of :data:`QUANTITIES`.

    Returns:
        ``None`` if the batch knows no such label or the prediction has no such quantity.
    """
    predicted: Tensor | None = getattr(prediction, quantity)
    label = batch.labels.get(quantity)
    if predicted is None or label is None:
        return None
    structures = batch.structures
    mask = comparable(batch, quantity)
    if QUANTITIES[quantity].per_atom:
        mask = mask.index_select(0, structures.batch)
    if quantity == "born_charges":
        # NaN where charge flows along a periodic direction.
        periodic = structures.pbc.any(dim=-1).index_select(0, structures.batch)
        mask = mask & ~(periodic & predicted.isnan().any(dim=-1).any(dim=-1))
    # Selecting before subtracting: what is NaN by design never meets the loss or its gradient.
    rows = mask.reshape(-1, *[1] * (label.dim() - 1))
    zero = torch.zeros((), dtype=torch.float64, device=label.device)
    difference = torch.where(rows, predicted.double(), zero) - torch.where(rows, label, zero)
    if quantity == "energy":
        difference = difference / structures.atom_counts()
    return Comparison(difference, mask)
