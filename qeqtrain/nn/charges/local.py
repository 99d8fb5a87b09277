"""Charges read from an atom's surroundings alone: the control beside every equilibration."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor, nn

from qeqtrain.errors import UserMistake
from qeqtrain.neighbors import Reach
from qeqtrain.nn.charges.base import ChargeResponse, Charges, Fragments, grouped
from qeqtrain.nn.mlp import MLP
from qeqtrain.physics.coulomb import tapered_potential
from qeqtrain.physics.fields import FieldCoupling, applied_potential
from qeqtrain.structures import Structures


class LocalCharges(nn.Module):
    """A charge for every atom from its features, as third-generation networks have it.

    Nothing is minimised and there is no energy of charges: an atom further away than the
    backbone sees makes no difference, which is what equilibration is there to mend. An electric
    field acts on the charges and does not change them.

    Args:
        total: ``shift`` all charges of a structure (or fragment) alike until they add up to its
            total charge, or leave them ``free``.
        cutoff: of the potential that a coupling may read, A.
        fragments: ``constrain`` the charge of fragments where the data name them, or
            ``ignore`` them.
        channels: C, features of the backbone.
        elements: atomic numbers the model knows.
    """

    features = 2
    """How many numbers per atom a coupling may read: charge and potential."""

    equilibrated = False
    """Whether the charges minimise an energy, which a coupling may add."""

    field: FieldCoupling = "open"
    """What follows an electric field: the charges, in open directions."""

    traceable = True
    """Whether it can be written down as a graph and compiled."""

    def __init__(
        self,
        total: Literal["shift", "free"] = "shift",
        cutoff: float = 5.0,
        fragments: Fragments = "constrain",
        *,
        channels: int,
        elements: Sequence[int],
    ) -> None:
        super().__init__()
        self.shifted = total == "shift"
        self.cutoff = cutoff
        self.fragments = fragments
        # An atom without neighbours may have no features; it still has a species.
        self.per_species = nn.Parameter(torch.zeros(len(elements)))
        self.charge = MLP([channels, channels, 1])

    @property
    def cutoffs(self) -> dict[str, Reach]:
        """Neighbour lists this module reads, by consumer."""
        return {"charge": self.cutoff}

    def forward(
        self,
        structures: Structures,
        features: Tensor,
        species: Tensor,
        response: ChargeResponse | None = None,
    ) -> Charges:
        """Read the charges.

        Args:
            structures: with edges for ``charge`` and the total charges.
            features: of the backbone, shape ``(N, C)``.
            species: index of every atom's element, shape ``(N,)``.
            response: of a variational coupling, which has nothing to act on here.

        Raises:
            UserMistake: a response is given, or a fragment is held at a potential.
        """
        if response is not None:
            raise UserMistake(
                "coupling=variational needs charges that minimise an energy; "
                "say charge=gaussian or diagonal"
            )
        structures = grouped(structures, self.fragments)
        offset = self.per_species.index_select(0, species)
        charges = (self.charge(features).squeeze(-1) + offset).double()  # (N,) e
        if self.shifted:
            groups = structures.charge_groups()
            given = structures.groups is not None and groups.charge.device.type == "cpu"
            if given and groups.held.any():  # on another device: NaN
                raise UserMistake(
                    "a fragment is held at a potential, which charge=local cannot follow; "
                    "say charge=gaussian or diagonal, or charge.fragments=ignore"
                )
            sizes = groups.sum_over_atoms(torch.ones_like(charges))
            missing = (groups.charge - groups.sum_over_atoms(charges)) / sizes  # (G,)
            charges = charges + missing.index_select(0, groups.member)
        width = torch.ones_like(charges)  # A: the shape of a bare pair potential
        potential = tapered_potential(charges, width, structures, "charge", own_charge=False)
        nothing = torch.zeros_like(structures.total_charge)
        applied = applied_potential(structures)
        return Charges(
            charges=charges,
            electrostatic_potential=potential,
            chemical_potential=torch.full_like(nothing, torch.nan),
            energy=nothing if applied is None else structures.sum_over_atoms(charges * applied),
            coulomb_energy=0.5 * structures.sum_over_atoms(charges * potential),
            electronegativity=torch.zeros_like(charges),
            hardness=torch.zeros_like(charges),
        )
