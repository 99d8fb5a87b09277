"""Total charge and spin as inputs of a backbone.

Charges of an equilibration whose electronegativity does not know the total charge are linear in
it at fixed geometry; those of real charge states are not. An embedding of charge and spin,
added to every atom's species vector, lifts that bound.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn

from qeqtrain.errors import UserMistake
from qeqtrain.nn.mlp import MLP
from qeqtrain.structures import Structures

Conditions = Literal["none", "charge", "charge_and_spin"]


class ChargeSpinEmbedding(nn.Module):
    """A vector per structure from its total charge and multiplicity.

    Args:
        channels: C.
        conditions: ``charge``, or ``charge_and_spin``.
    """

    def __init__(self, channels: int, conditions: Conditions) -> None:
        super().__init__()
        self.with_spin = conditions == "charge_and_spin"
        self.network = MLP([2 if self.with_spin else 1, channels, channels])

    def forward(self, structures: Structures, like: Tensor) -> Tensor:
        """Give every atom its structure's vector, ``(N, C)``, in the dtype of ``like``.

        Raises:
            UserMistake: a structure's spin is asked for and not known.
        """
        inputs = [structures.total_charge]
        if self.with_spin:
            known = structures.spin.device.type != "cpu" or not structures.spin.isnan().any()
            if not known:
                raise UserMistake(
                    "the model reads the spin multiplicity, and a structure does not state its "
                    "own; give it (spin, spin_multiplicity or uhf), or use "
                    "backbone.conditioning=charge"
                )
            inputs.append(structures.spin - 1.0)  # unpaired electrons
        per_structure = self.network(torch.stack(inputs, dim=-1).to(like.dtype))
        return per_structure.index_select(0, structures.batch)
