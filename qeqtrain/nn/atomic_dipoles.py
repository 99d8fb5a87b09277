r"""Dipoles that atoms have by themselves, learned beside their charges.

.. math:: p_i = \sum_j w(x_i, x_j, r_{ij})\, u(r_{ij} / r_c)\, \hat r_{ij}

with the backbone's invariants x, a smooth cutoff u and a network w. Labels of molecular dipoles
are not sums of label charges times positions: Mulliken's and Stockholder charges leave out what
is polarised within an atom. Sums over unit vectors turn with the structure, whatever the
backbone: nothing of the network but its invariants is read.
"""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor, nn
from torch.nn import functional

from qeqtrain.nn.charges import Charges
from qeqtrain.nn.radial import SmoothBessel
from qeqtrain.physics.cutoff import polynomial_cutoff
from qeqtrain.physics.fields import in_field, open_directions
from qeqtrain.structures import Structures


class AtomicDipoles(nn.Module):
    """A dipole of every atom; zero before training.

    Args:
        cutoff: of the ``backbone``'s pairs, A.
        channels: C, features of the backbone.
        functions: of the distance.
    """

    def __init__(self, cutoff: float, channels: int, functions: int = 8) -> None:
        super().__init__()
        self.cutoff = cutoff
        self.basis = SmoothBessel(functions, cutoff)
        self.at_receiver = nn.Linear(channels, channels)
        self.at_sender = nn.Linear(channels, channels, bias=False)
        self.between = nn.Linear(functions, channels, bias=False)
        self.weight = nn.Linear(channels, 1, bias=False)
        nn.init.zeros_(self.weight.weight)

    def forward(self, structures: Structures, features: Tensor) -> Tensor:
        """Give the dipole of every atom, e A, float64, shape ``(N, 3)``.

        Args:
            structures: with edges for ``backbone``.
            features: of the backbone, shape ``(N, C)``.
        """
        pairs = structures.edges["backbone"]
        edges = pairs.both_directions()  # E = 2P
        vectors = structures.edge_vectors("backbone")
        distance = vectors.norm(dim=-1)  # (P,)
        unit = vectors / distance[:, None]
        basis = self.between(self.basis(distance).to(features.dtype))  # (P, C)
        hidden = (
            self.at_receiver(features).index_select(0, edges.receiver)
            + self.at_sender(features).index_select(0, edges.sender)
            + torch.cat([basis, basis])
        )
        weight = self.weight(functional.silu(hidden)).squeeze(-1).double()  # (E,)
        smooth = polynomial_cutoff(distance / self.cutoff, 6)
        moments = (weight * torch.cat([smooth, smooth]))[:, None] * torch.cat([unit, -unit])
        return torch.zeros_like(structures.positions).index_add(0, edges.receiver, moments)

    def added(self, charges: Charges, structures: Structures, features: Tensor) -> Charges:
        """Give charges these dipoles, and their energy in a field, in open directions.

        Args:
            charges: of the charge model.
            structures: with fields.
            features: of the backbone, shape ``(N, C)``.
        """
        own = self(structures, features)
        energy = charges.energy
        if in_field(structures):
            open_ = open_directions(structures.cell.detach(), structures.pbc)
            field = torch.einsum("bij,bj->bi", open_, structures.electric_field)
            energy = energy - (structures.sum_over_atoms(own) * field).sum(dim=-1)
        dipoles = own if charges.dipoles is None else charges.dipoles + own
        return replace(charges, dipoles=dipoles, energy=energy)
