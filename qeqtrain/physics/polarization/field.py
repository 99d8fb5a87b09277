"""Which part of an electric field can move charge from atom to atom."""

from __future__ import annotations

import torch
from torch import Tensor

from qeqtrain.structures import Structures


def open_field(structures: Structures) -> Tensor:
    """Take from the field what lies along periodic directions, V/A, shape ``(B, 3)``.

    There the position of a charge is known up to a cell vector, and so would its energy be.
    """
    field = structures.electric_field
    periodic = structures.pbc.to(field.dtype)[:, :, None]
    rows = structures.cell * periodic  # (B, 3, 3), zero along open directions
    along = torch.linalg.pinv(rows) @ rows  # projects onto the span of the periodic vectors
    return field - torch.einsum("bx,bxy->by", field, along)
