"""What a network says of an atom before charges are solved for: chi, hardness and width."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal

import torch
from ase.data import covalent_radii
from torch import Tensor, nn
from torch.nn import functional

from qeqtrain.errors import UserMistake
from qeqtrain.nn.mlp import MLP, UnitLinear
from qeqtrain.structures import Structures

Head = Literal["mlp", "linear", "charge"]
Hardness = Literal["environment", "species"]

WIDTH_RANGE = 0.25
"""How far trained widths may leave the covalent radius, as a part of it."""

_ONE = math.log(math.e - 1.0)
"""softplus of this is 1: hardness starts 1 eV/e^2 above its floor."""


class ElectronegativityHead(nn.Module):
    """Electronegativity of every atom, read from its features.

    A backbone may have nothing to say of an atom without neighbours, not even its species, so
    that the ``mlp`` adds an offset of the species: two ions far apart differ all the same.

    Args:
        kind: ``mlp``, or two ``linear`` maps without bias, as NequIP-LR has them. (``charge``
            is an ``mlp`` whose output is read as a charge.)
        channels: C, features of the backbone.
        species: how many.
    """

    def __init__(self, kind: Head, *, channels: int, species: int) -> None:
        super().__init__()
        self.per_species: nn.Parameter | None = None
        if kind != "linear":
            self.per_species = nn.Parameter(torch.zeros(species))
            self.network: nn.Module = MLP([channels, channels, 1])
        else:
            self.network = nn.Sequential(
                UnitLinear(channels, channels), UnitLinear(channels, 1)
            )

    def forward(self, features: Tensor, species: Tensor) -> Tensor:
        """Give the electronegativity of every atom, eV/e, float64, shape ``(N,)``."""
        found = self.network(features).squeeze(-1)
        if self.per_species is not None:
            found = found + self.per_species.index_select(0, species)
        return found.double()


class HardnessHead(nn.Module):
    r"""Hardness :math:`J = J_{min} + \mathrm{softplus}(h)`, of every atom or every species.

    The floor keeps the charge solve well conditioned; it lives here, in the head, and not in
    the solver, which minimises what it is given.

    Args:
        kind: read from an atom's ``environment``, or one trained number per ``species``.
        floor: J_min, eV/e^2, 0 or more.
        channels: C, features of the backbone.
        species: how many.

    Raises:
        UserMistake: a negative floor.
    """

    def __init__(self, kind: Hardness, floor: float, *, channels: int, species: int) -> None:
        super().__init__()
        if not floor >= 0.0:
            raise UserMistake(f"charge.hardness_floor is {floor}; expected 0 or more, eV/e^2")
        self.floor = floor
        self.per_species = nn.Parameter(torch.full((species,), _ONE))
        self.network = MLP([channels, channels, 1]) if kind == "environment" else None

    def forward(self, features: Tensor, species: Tensor) -> Tensor:
        """Give the hardness of every atom, float64, shape ``(N,)``."""
        raw = self.per_species.index_select(0, species)
        if self.network is not None:
            raw = raw + self.network(features).squeeze(-1)
        return self.floor + functional.softplus(raw.double())


class Widths(nn.Module):
    """Widths of Gaussian charges: covalent radii, or trained close to them.

    Args:
        elements: atomic numbers.
        trained: let every element's width leave its covalent radius by up to a quarter.
    """

    def __init__(self, elements: Sequence[int], *, trained: bool) -> None:
        super().__init__()
        self.elements = tuple(elements)
        radii = torch.tensor([covalent_radii[z] for z in elements], dtype=torch.float64)
        self.register_buffer("radii", radii, persistent=False)
        self.change = nn.Parameter(torch.zeros(len(radii))) if trained else None

    @property
    def largest(self) -> dict[int, float]:
        """Largest width that every element can have, A, by atomic number."""
        slack = 1.0 if self.change is None else 1.0 + WIDTH_RANGE
        return {z: slack * float(covalent_radii[z]) for z in self.elements}

    def on_host(self, structures: Structures) -> Tensor | None:
        """Give the widths of all atoms where the host can read them; ``None`` if trained."""
        if self.change is not None or structures.numbers.device.type == "cpu":
            return None
        table = torch.zeros(len(covalent_radii), dtype=torch.float64)
        table[list(self.elements)] = torch.tensor(
            [covalent_radii[z] for z in self.elements], dtype=torch.float64
        )
        return table[structures.on_host("numbers")]

    def forward(self, species: Tensor) -> Tensor:
        """Give the width of every atom, A, float64, shape ``(N,)``."""
        widths = self.radii
        if self.change is not None:
            widths = widths * (1.0 + WIDTH_RANGE * torch.tanh(self.change.double()))
        return widths.index_select(0, species)
