"""Diagonal charge equilibration of QET: closed form, linear in the number of atoms."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from ase.data import covalent_radii
from torch import Tensor, nn
from torch.nn import functional

from qeqtrain.neighbors import Reach
from qeqtrain.nn.charges.base import (
    ChargeResponse,
    Charges,
    Fragments,
    grouped,
    per_structure,
)
from qeqtrain.nn.mlp import MLP
from qeqtrain.physics.coulomb import tapered_potential
from qeqtrain.physics.fields import FieldCoupling, applied_potential
from qeqtrain.physics.qeq import equilibrate_diagonal
from qeqtrain.structures import Structures

HARDNESS_FLOOR = 1e-3
"""Smallest hardness the head gives, eV/e^2: far below any that was trained, above rounding."""


class DiagonalCharges(nn.Module):
    """Charges at rest without interaction between them; atoms share the total charge only.

    Electronegativity and hardness are read from the backbone's features. The potential that
    the charges make within the cutoff is an input of the readout, not a term of the energy.
    Not size consistent: fragments far apart still share one chemical potential.

    Args:
        hardness: read from an atom's ``environment``, or one trained number per ``species``.
        cutoff: of the potential, A.
        convention: whose charge makes the potential at an atom: its neighbours'
            (``corrected``), or, in the weights published first, its own (``legacy``).
        train_widths: train the Gaussian widths, which start from covalent radii.
        fragments: ``constrain`` the charge of fragments where the data name them, or
            ``ignore`` them.
        channels: C, features of the backbone.
        elements: atomic numbers the model knows.
    """

    features = 2
    """How many numbers per atom a coupling may read: charge and potential."""

    equilibrated = True
    """Whether the charges minimise an energy, which a coupling may add."""

    field: FieldCoupling = "open"
    """What follows an electric field: flowing charge, in open directions."""

    traceable = True
    """Whether it can be written down as a graph and compiled."""

    def __init__(
        self,
        hardness: Literal["environment", "species"] = "environment",
        cutoff: float = 5.0,
        convention: Literal["corrected", "legacy"] = "corrected",
        train_widths: bool = False,
        fragments: Fragments = "constrain",
        *,
        channels: int,
        elements: Sequence[int],
    ) -> None:
        super().__init__()
        self.cutoff = cutoff
        self.fragments = fragments
        self.own_charge = convention == "legacy"
        sizes = [channels, channels, channels, 1]
        self.electronegativity = MLP(sizes, activate_last=True)
        self.hardness: MLP | None = None
        if hardness == "environment":
            self.hardness = MLP(sizes, functional.softplus, activate_last=True)
        else:
            # softplus(x) = 1: every species starts with a hardness of 1 eV/e^2.
            start = torch.full((len(elements),), 0.5413248546129181)
            self.species_hardness = nn.Parameter(start)
        radii = torch.tensor([covalent_radii[z] for z in elements])
        self.width = nn.Parameter(radii, requires_grad=train_widths)

    @property
    def trains_potential(self) -> bool:
        """Whether there are weights that only the potential depends on."""
        return self.width.requires_grad

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
        """Equilibrate.

        Args:
            structures: with edges for ``charge`` and the total charges.
            features: of the backbone, shape ``(N, C)``.
            species: index of every atom's element, shape ``(N,)``.
            response: of the coupling, added to electronegativity and hardness.
        """
        structures = grouped(structures, self.fragments)
        chi = self.electronegativity(features).squeeze(-1).double()  # (N,) eV/e
        if response is not None:
            chi = chi + response.electronegativity
        applied = applied_potential(structures)
        if applied is not None:
            chi = chi + applied
        if structures.external_potential is not None:
            chi = chi + structures.external_potential
        if self.hardness is not None:
            eta = self.hardness(features).squeeze(-1)  # (N,) eV/e^2
        else:
            eta = functional.softplus(self.species_hardness).index_select(0, species)
        eta = eta.double().clamp_min(HARDNESS_FLOOR)
        if response is not None:
            eta = eta + response.hardness
        rest = equilibrate_diagonal(chi, eta, structures)
        potential = tapered_potential(
            rest.charges,
            self.width.index_select(0, species),
            structures,
            "charge",
            own_charge=self.own_charge,
        )
        return Charges(
            charges=rest.charges,
            electrostatic_potential=potential,
            chemical_potential=per_structure(rest.chemical_potential, structures),
            energy=rest.energy,
            coulomb_energy=0.5 * structures.sum_over_atoms(rest.charges * potential),
            electronegativity=chi,
            hardness=eta,
        )
