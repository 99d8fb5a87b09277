"""What every charge model returns, and the model that returns nothing."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor, nn

from qeqtrain.structures import Structures


@dataclass(frozen=True)
class Charges:
    """Charges of a batch and what belongs to them, all float64.

    Attributes:
        charges: e, shape ``(N,)``.
        electrostatic_potential: at every atom, V, shape ``(N,)``.
        chemical_potential: +dE/dQ, eV/e, shape ``(B,)``.
        energy: of the equilibration, eV, shape ``(B,)``.
        electronegativity: eV/e, shape ``(N,)``.
        hardness: eV/e^2, shape ``(N,)``.
    """

    charges: Tensor
    electrostatic_potential: Tensor
    chemical_potential: Tensor
    energy: Tensor
    electronegativity: Tensor
    hardness: Tensor


class NoCharges(nn.Module):
    """No charges: energy and forces come from the backbone alone."""

    features = 0
    """How many numbers per atom a coupling may read."""

    @property
    def cutoffs(self) -> dict[str, float]:
        """Neighbour lists this module reads, by consumer: none."""
        return {}

    def forward(self, structures: Structures, features: Tensor, species: Tensor) -> None:
        """Return nothing, whatever the batch."""
        return
