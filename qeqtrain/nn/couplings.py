r"""How charges enter the energy.

Four ways, each with an energy of every atom read from its features x, and with or without the
energy of the equilibration beside it:

* :class:`FeatureCoupling`: the readout sees charge and potential, :math:`e(x, q, V)`;
* :class:`AdditiveCoupling`: :math:`e(x)` plus the charge energy, in full or its Coulomb part;
* :class:`VariationalCoupling`: :math:`e_0 + e_1 q + \tfrac12 e_2 q^2`, which enters the solve;
* :class:`~qeqtrain.nn.second_network.SecondNetwork`: another backbone that sees the charges.

Energies are in units of the model's scale, charge energies in eV.
"""

from __future__ import annotations

import itertools
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from qeqtrain.errors import UserMistake
from qeqtrain.nn.charges import ChargeResponse, Charges
from qeqtrain.nn.mlp import GatedMLP, UnitLinear
from qeqtrain.structures import Structures

ChargeEnergy = Literal["none", "full", "coulomb"]
Readout = Literal["gated", "linear"]


class Coupling(nn.Module):
    """What every coupling offers to :class:`~qeqtrain.models.potential.Potential`.

    Args:
        charge_energy: part of the equilibration's energy that is added: ``none``, all of it
            (``full``), or what charges share pairwise (``coulomb``).
        charge_features: numbers per atom of the charge model (0 without charges).
        equilibrated: whether the charges minimise an energy.

    Raises:
        UserMistake: an energy of charges is asked for where there is none.
    """

    traceable = True
    """Whether it can be written down as a graph and compiled."""

    def __init__(
        self, charge_energy: ChargeEnergy, charge_features: int, *, equilibrated: bool
    ) -> None:
        super().__init__()
        if charge_energy != "none" and charge_features == 0:
            raise UserMistake(
                f"coupling.charge_energy is {charge_energy}, but charge=none has no charges; "
                "say coupling=feature, or choose charge=diagonal or gaussian"
            )
        if charge_energy == "full" and not equilibrated:
            raise UserMistake(
                "coupling.charge_energy is full, but charge=local minimises no energy; say "
                "coupling.charge_energy=coulomb, or choose charge=diagonal or gaussian"
            )
        self.charge_energy = charge_energy

    responds = False
    """Whether the coupling has a say in what charges minimise."""

    @property
    def reads_potential(self) -> bool:
        """Whether the energy depends on the electrostatic potential at the atoms."""
        return self.charge_energy == "coulomb"

    @property
    def reads_rest(self) -> bool:
        """Whether the energy depends on charges otherwise than through their full energy.

        Such charges are those at rest without an electric field; what a field changes comes on
        top (:meth:`~qeqtrain.models.potential.Potential.evaluate`).
        """
        return True

    def response(self, features: Tensor) -> ChargeResponse | None:
        """Say what is added to the charge functional before it is minimised: nothing.

        Args:
            features: of the backbone, shape ``(N, C)``.
        """
        return None

    def energy_of(self, charges: Charges) -> Tensor | float:
        """Give the part of the charge energy that is added, eV, shape ``(B,)``."""
        if self.charge_energy == "none":
            return 0.0
        return charges.energy if self.charge_energy == "full" else charges.coulomb_energy


class FeatureCoupling(Coupling):
    """The readout sees an atom's charge and potential beside its features, as in QET.

    Args:
        hidden: widths between input and energy; ``None``: of a gated readout input, C, C, as
            published; a linear one is then a single map.
        readout: ``gated`` perceptrons as in QET, or ``linear`` as in NequIP.
        charge_energy: what is added besides; QET adds nothing: what charges are worth is
            learned.
        channels: C, features of the backbone.
        charge_features: numbers per atom of the charge model (0 without charges).
        equilibrated: whether the charges minimise an energy.
    """

    def __init__(
        self,
        hidden: list[int] | None = None,
        readout: Readout = "gated",
        charge_energy: ChargeEnergy = "none",
        *,
        channels: int,
        charge_features: int,
        equilibrated: bool = True,
    ) -> None:
        super().__init__(charge_energy, charge_features, equilibrated=equilibrated)
        width = channels + charge_features
        if hidden is not None and any(h < 1 for h in hidden):
            raise UserMistake(f"coupling.hidden is {hidden}; expected widths of 1 or more")
        self.norm: nn.Module = nn.Identity()
        self.energy: nn.Module
        if readout == "gated":
            inner = [width, channels, channels] if hidden is None else hidden
            self.norm, self.energy = nn.LayerNorm(width), GatedMLP([width, *inner, 1])
        elif hidden:
            sizes = itertools.pairwise([width, *hidden, 1])
            self.energy = nn.Sequential(*(UnitLinear(a, b) for a, b in sizes))
        else:
            self.energy = UnitLinear(width, 1)

    @property
    def reads_potential(self) -> bool:
        """Always: the potential is an input of the readout."""
        return True

    def forward(
        self,
        structures: Structures,
        species: Tensor,
        features: Tensor,
        charges: Charges | None,
    ) -> Tensor:
        """Read the energy of every atom.

        Args:
            structures: the batch.
            species: index of every atom's element, shape ``(N,)``.
            features: shape ``(N, C)``.
            charges: of the charge model, or ``None``.

        Returns:
            Energies in units of the model's scale, shape ``(N,)``.
        """
        if charges is not None:
            read = torch.stack([charges.charges, charges.electrostatic_potential], dim=-1)
            features = torch.cat([features, read.to(features.dtype)], dim=-1)
        return self.energy(self.norm(features)).squeeze(-1)


class AdditiveCoupling(Coupling):
    r"""Energy of the surroundings plus energy of the charges; the readout does not see them.

    With the ``full`` energy charges are at its minimum, and forces need no derivative of them;
    ``coulomb`` adds :math:`\tfrac12 q^T A q` alone, as 4G networks do.

    Args:
        charge_energy: ``full`` or ``coulomb``.
        hidden: widths between features and energy; ``None``: of a gated readout C, C; a linear
            one is then a single map.
        readout: ``gated`` perceptrons, or ``linear``.
        channels: C, features of the backbone.
        charge_features: numbers per atom of the charge model (0 without charges).
        equilibrated: whether the charges minimise an energy.
    """

    def __init__(
        self,
        charge_energy: Literal["full", "coulomb"] = "full",
        hidden: list[int] | None = None,
        readout: Readout = "gated",
        *,
        channels: int,
        charge_features: int,
        equilibrated: bool = True,
    ) -> None:
        super().__init__(charge_energy, charge_features, equilibrated=equilibrated)
        if hidden is None and readout == "gated":
            hidden = [channels, channels]
        self.local = FeatureCoupling(
            hidden,
            readout,
            channels=channels,
            charge_features=0,
        )

    @property
    def reads_rest(self) -> bool:
        """Only for the Coulomb part: the readout does not see the charges."""
        return self.charge_energy != "full"

    def forward(
        self,
        structures: Structures,
        species: Tensor,
        features: Tensor,
        charges: Charges | None,
    ) -> Tensor:
        """Read the energy of every atom, shape ``(N,)``; see :class:`FeatureCoupling`."""
        return self.local(structures, species, features, None)


class VariationalCoupling(Coupling):
    r"""The network's dependence on charge is part of what the charges minimise.

    .. math:: E = \sum_i \big(e_0 + e_1 q_i + \tfrac12 e_2 q_i^2\big)
              + E_{charge}(q), \qquad \partial E / \partial q_i = \mu

    so the total energy is stationary in the charges and forces need no response of theirs.

    Args:
        hidden: widths between features and the three coefficients; ``None``: C, C.
        channels: C, features of the backbone.
        charge_features: numbers per atom of the charge model.
        equilibrated: whether the charges minimise an energy.

    Raises:
        UserMistake: nothing is minimised, or a width below 1.
    """

    responds = True
    """Whether the coupling has a say in what charges minimise."""

    def __init__(
        self,
        hidden: list[int] | None = None,
        *,
        channels: int,
        charge_features: int,
        equilibrated: bool = True,
    ) -> None:
        if charge_features == 0 or not equilibrated:
            met = "local" if charge_features else "none"
            raise UserMistake(
                "coupling=variational needs charges that minimise an energy, and charge="
                f"{met} has none such; say charge=gaussian or diagonal"
            )
        super().__init__("full", charge_features, equilibrated=equilibrated)
        inner = [channels, channels] if hidden is None else hidden
        if any(h < 1 for h in inner):
            raise UserMistake(f"coupling.hidden is {hidden}; expected widths of 1 or more")
        self.norm = nn.LayerNorm(channels)
        self.constant = GatedMLP([channels, *inner, 1])
        self.linear = GatedMLP([channels, *inner, 1])
        self.quadratic = GatedMLP([channels, *inner, 1])

    @property
    def reads_rest(self) -> bool:
        """Never: everything that depends on charges is minimised."""
        return False

    def response(self, features: Tensor) -> ChargeResponse:
        """Give e1 (eV/e) and e2 >= 0 (eV/e^2) of every atom, shapes ``(N,)``.

        Args:
            features: of the backbone, shape ``(N, C)``.
        """
        x = self.norm(features)
        return ChargeResponse(
            electronegativity=self.linear(x).squeeze(-1).double(),
            hardness=functional.softplus(self.quadratic(x).squeeze(-1).double()),
        )

    def forward(
        self,
        structures: Structures,
        species: Tensor,
        features: Tensor,
        charges: Charges | None,
    ) -> Tensor:
        """Give e0 of every atom, shape ``(N,)``; see :class:`FeatureCoupling`."""
        return self.constant(self.norm(features)).squeeze(-1)
