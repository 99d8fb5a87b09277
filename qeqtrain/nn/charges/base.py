"""What every charge model returns, and the model that returns nothing."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor, nn

from qeqtrain.neighbors import Reach
from qeqtrain.physics.fields import FieldCoupling
from qeqtrain.structures import Structures

Fragments = Literal["constrain", "ignore"]


@dataclass(frozen=True)
class Charges:
    """Charges of a batch and what belongs to them, all float64.

    Attributes:
        charges: e, shape ``(N,)``.
        electrostatic_potential: at every atom, V, shape ``(N,)``.
        chemical_potential: +dE/dQ, eV/e, shape ``(B,)``.
        energy: of the equilibration, eV, shape ``(B,)``. In an electric field it contains what
            the field does to charges and dipoles, as it does where nothing is equilibrated.
        coulomb_energy: the part of it that charges share pairwise, eV, shape ``(B,)``.
        electronegativity: eV/e, shape ``(N,)``.
        hardness: eV/e^2, shape ``(N,)``.
        dipoles: of every atom by itself, e A, shape ``(N, 3)``; ``None`` where atoms have none.
    """

    charges: Tensor
    electrostatic_potential: Tensor
    chemical_potential: Tensor
    energy: Tensor
    coulomb_energy: Tensor
    electronegativity: Tensor
    hardness: Tensor
    dipoles: Tensor | None = None


@dataclass(frozen=True)
class ChargeResponse:
    """What a coupling adds to the charge functional before it is minimised.

    Attributes:
        electronegativity: eV/e, shape ``(N,)``.
        hardness: not negative, eV/e^2, shape ``(N,)``.
    """

    electronegativity: Tensor
    hardness: Tensor


class NoCharges(nn.Module):
    """No charges: energy and forces come from the backbone alone."""

    features = 0
    """How many numbers per atom a coupling may read."""

    equilibrated = False
    """Whether the charges minimise an energy, which a coupling may add."""

    field: FieldCoupling = "none"
    """What follows an electric field: nothing."""

    traceable = True
    """Whether it can be written down as a graph and compiled."""

    @property
    def cutoffs(self) -> dict[str, Reach]:
        """Neighbour lists this module reads, by consumer: none."""
        return {}

    def forward(
        self,
        structures: Structures,
        features: Tensor,
        species: Tensor,
        response: ChargeResponse | None = None,
    ) -> None:
        """Return nothing, whatever the batch."""
        return


def grouped(structures: Structures, fragments: Fragments) -> Structures:
    """Keep the charge groups of a batch, or let charge flow through every structure."""
    return structures if fragments == "constrain" else replace(structures, groups=None)


def per_structure(chemical_potential: Tensor, structures: Structures) -> Tensor:
    """Give each structure the chemical potential of its only group.

    Args:
        chemical_potential: of every group, shape ``(G,)``.
        structures: B of them.

    Returns:
        Shape ``(B,)``; NaN for a structure of several groups.
    """
    if structures.groups is None:
        return chemical_potential
    owner = structures.groups.structure
    none = chemical_potential.new_zeros(len(structures))
    count = none.index_add(0, owner, torch.ones_like(chemical_potential))
    total = none.index_add(0, owner, chemical_potential)
    return torch.where(count == 1, total, torch.nan)
