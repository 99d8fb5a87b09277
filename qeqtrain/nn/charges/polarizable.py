"""Charges with shells on springs: given by a network, or by ReaxNet's table of elements."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor, nn

from qeqtrain.errors import UserMistake
from qeqtrain.neighbors import Reach
from qeqtrain.nn.charges.base import (
    ChargeResponse,
    Charges,
    Fragments,
    grouped,
    per_structure,
)
from qeqtrain.nn.charges.heads import ElectronegativityHead, Hardness, HardnessHead, Widths
from qeqtrain.physics.fields import FieldCoupling
from qeqtrain.physics.polarization import (
    PUBLISHED,
    Constants,
    Gradients,
    Mode,
    Parameters,
    own_interaction,
    own_stiffness,
    polarize,
    table_rows,
)
from qeqtrain.physics.stationary import Effort
from qeqtrain.structures import Structures

STIFFNESS = 9.0
"""A spring's first stiffness above that of its own density, in units of it; as in the table."""


class CoreShells(nn.Module):
    """What both kinds of polarizable charges share: the settings of the solution.

    Args:
        mode: ``labels`` (charges with shells at rest, then one step of the shells),
            ``released`` (both twice, no shell further than 0.25 A), or ``self_consistent``.
        gradients: ``exact``, or ``frozen``: charges and shells are constants of the forces.
        damping: stiffens springs of shells that sit in their neighbours' densities; 1 keeps
            self-consistent shells bound where no charge is below -1 e, 0 is as published.
        cutoff: of all interactions, which are tapered, A.
        fragments: ``constrain`` the charge of fragments where the data name them, or
            ``ignore`` them.
        constants: Coulomb constants.

    Raises:
        UserMistake: a cutoff or damping without sense.
    """

    features = 2
    """How many numbers per atom a coupling may read: charge and potential."""

    equilibrated = True
    """Whether the charges minimise an energy, which a coupling may add."""

    traceable = True
    """Whether it can be written down as a graph and compiled."""

    opaque = True
    """Whether the graph keeps Python in it."""

    field: FieldCoupling = "every"
    """What follows an electric field: charge in open directions, shells in every one."""

    def __init__(
        self,
        mode: Mode,
        gradients: Gradients,
        damping: float,
        cutoff: float,
        fragments: Fragments,
        constants: Constants,
    ) -> None:
        super().__init__()
        if not damping >= 0.0:
            raise UserMistake(f"charge.damping is {damping}; expected 0 or more")
        if not cutoff > 0.0:
            raise UserMistake(f"charge.cutoff is {cutoff}; expected above 0, A")
        self.mode, self.gradients, self.damping = mode, gradients, damping
        self.cutoff, self.fragments, self.constants = cutoff, fragments, constants
        self.effort: Effort | None = None
        """What the last solution for the charges took."""

    @property
    def cutoffs(self) -> dict[str, Reach]:
        """Neighbour lists this module reads, by consumer."""
        return {"charge": self.cutoff}

    def polarized(
        self,
        structures: Structures,
        parameters: Parameters,
        response: ChargeResponse | None,
    ) -> Charges:
        """Place charges and shells."""
        structures = grouped(structures, self.fragments)
        chi, hardness = parameters.electronegativity, parameters.hardness
        if response is not None:
            chi, hardness = chi + response.electronegativity, hardness + response.hardness
        if structures.external_potential is not None:
            chi = chi + structures.external_potential
        found = polarize(
            Parameters(chi, hardness, parameters.width, parameters.stiffness, parameters.core),
            structures,
            mode=self.mode,
            gradients=self.gradients,
            constants=self.constants,
            damping=self.damping,
        )
        self.effort = found.effort
        return Charges(
            charges=found.charges,
            electrostatic_potential=found.potential,
            chemical_potential=per_structure(found.chemical_potential, structures),
            energy=found.energy,
            coulomb_energy=found.coulomb_energy,
            electronegativity=chi,
            hardness=hardness,
            dipoles=found.dipoles,
        )


class PolarizableCharges(CoreShells):
    r"""Polarizable charges whose electronegativity, hardness and springs the network gives.

    Bounds keep what is minimised convex, up to the taper and the finite size of shells: with
    :math:`\sigma` the width of an atom's densities and h, s > 0 of the network

    .. math:: \eta = \frac{k}{\sqrt\pi\,\sigma} + J_{min} + h, \qquad
              K = \frac{k}{6 \sqrt\pi\, \sigma^3}\, (1 + 9 s) .

    Core and shell of an atom carry one charge beyond q, of opposite sign. Gradients are exact.

    Args:
        mode: see :class:`CoreShells`; ``labels`` costs one solution and never diverges. For
            dipoles in a field and polarizabilities, which belong to the energy at its minimum
            alone, say ``self_consistent``.
        hardness: read from an atom's ``environment``, or one trained number per ``species``.
        hardness_floor: J_min, eV/e^2.
        stiffness: of springs; from the ``environment`` or per ``species``.
        widths: ``covalent`` radii, or those of ReaxNet's ``table``.
        head: ``mlp``, or ``linear`` maps without bias from features to electronegativity.
        damping: see :class:`CoreShells`.
        cutoff: see :class:`CoreShells`; much below 12.5 A the taper spoils the convexity.
        fragments: see :class:`CoreShells`.
        channels: C, features of the backbone.
        elements: atomic numbers the model knows.

    Raises:
        UserMistake: a cutoff, damping or floor without sense, an element outside the table.
    """

    def __init__(
        self,
        mode: Mode = "labels",
        hardness: Hardness = "environment",
        hardness_floor: float = 1.0,
        stiffness: Hardness = "environment",
        widths: Literal["covalent", "table"] = "covalent",
        head: Literal["mlp", "linear"] = "mlp",
        damping: float = 0.0,
        cutoff: float = 12.5,
        fragments: Fragments = "constrain",
        *,
        channels: int,
        elements: Sequence[int],
    ) -> None:
        super().__init__(mode, "exact", damping, cutoff, fragments, Constants())
        sizes = {"channels": channels, "species": len(elements)}
        self.electronegativity = ElectronegativityHead(head, **sizes)
        self.hardness = HardnessHead(hardness, hardness_floor, **sizes)
        self.stiffness = HardnessHead(stiffness, 0.0, **sizes)
        self.width = Widths(elements, trained=False)
        if widths == "table":
            self.width.radii = table_rows(elements)[2]

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
        width = self.width(species)  # (N,) A
        parameters = Parameters(
            electronegativity=self.electronegativity(features, species),
            hardness=own_interaction(width) + self.hardness(features, species),
            width=width,
            stiffness=own_stiffness(width)
            * (1.0 + STIFFNESS * self.stiffness(features, species)),
            core=torch.ones_like(width),
        )
        return self.polarized(structures, parameters, response)


class PQEqCharges(CoreShells):
    """Polarizable charges of ReaxNet: a table of elements, and nothing to train.

    With ``coupling=additive`` their energy is added to the network's, and taken from the labels
    before reference energies and scale are fitted: the network learns the difference. All
    defaults are how ReaxNet's training labels were made, except for exact gradients.

    Args:
        mode: see :class:`CoreShells`.
        gradients: see :class:`CoreShells`; ``frozen`` are the published forces, which are not
            the derivative of the energy.
        damping: see :class:`CoreShells`.
        cutoff: see :class:`CoreShells`.
        fragments: see :class:`CoreShells`.
        elements: atomic numbers the model knows.

    Raises:
        UserMistake: an element outside the table, a cutoff or damping without sense.
    """

    fixed = True
    """Whether there is nothing to train: an energy of these charges is known beforehand."""

    def __init__(
        self,
        mode: Mode = "labels",
        gradients: Gradients = "exact",
        damping: float = 0.0,
        cutoff: float = 12.5,
        fragments: Fragments = "constrain",
        *,
        elements: Sequence[int],
    ) -> None:
        super().__init__(mode, gradients, damping, cutoff, fragments, PUBLISHED)
        self.register_buffer("rows", table_rows(elements), persistent=False)

    def forward(
        self,
        structures: Structures,
        features: Tensor | None,
        species: Tensor,
        response: ChargeResponse | None = None,
    ) -> Charges:
        """Equilibrate; see :class:`PolarizableCharges`. The features are not read."""
        chi, hardness, width, stiffness = (row.index_select(0, species) for row in self.rows)
        core = torch.ones_like(chi)
        parameters = Parameters(chi, hardness, width, stiffness, core)
        return self.polarized(structures, parameters, response)
