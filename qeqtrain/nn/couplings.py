"""How charges enter the energy."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from qeqtrain.errors import UserMistake
from qeqtrain.nn.charges import Charges
from qeqtrain.nn.mlp import GatedMLP


class FeatureCoupling(nn.Module):
    """The readout sees an atom's charge and potential beside its features, as QET does.

    The energy of the equilibration is not added: what charges are worth is learned.

    Args:
        hidden: widths between input and energy; as published: input, C, C.
        channels: C, features of the backbone.
        charge_features: numbers per atom of the charge model (0 without charges).
    """

    def __init__(
        self, hidden: list[int] | None = None, *, channels: int, charge_features: int
    ) -> None:
        super().__init__()
        if hidden is not None and any(h < 1 for h in hidden):
            raise UserMistake(f"coupling.hidden is {hidden}; expected widths of 1 or more")
        width = channels + charge_features
        self.norm = nn.LayerNorm(width)
        inner = [width, channels, channels] if hidden is None else hidden
        self.energy = GatedMLP([width, *inner, 1])

    def forward(self, features: Tensor, charges: Charges | None) -> Tensor:
        """Read the energy of every atom.

        Args:
            features: shape ``(N, C)``.
            charges: of the charge model, or ``None``.

        Returns:
            Energies in units of the model's scale, shape ``(N,)``.
        """
        if charges is not None:
            read = torch.stack([charges.charges, charges.electrostatic_potential], dim=-1)
            features = torch.cat([features, read.to(features.dtype)], dim=-1)
        return self.energy(self.norm(features)).squeeze(-1)
