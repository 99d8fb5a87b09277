r"""A uniform electric field: what follows it, and in which directions.

.. math:: E \to E - \mu \cdot F, \qquad \chi_i \to \chi_i - r_i \cdot F

Charge that may flow sees the potential :math:`-r \cdot F`, whose zero is at the origin of the
coordinates as they are given. A structure of total charge Q that is moved by t therefore gains
:math:`-Q\, t \cdot F`, which is the force Q F on the whole of it; a neutral one gains nothing.

Along a periodic direction r is only known up to cell vectors, and the energy of flowing charge
in a field has no single value there. Flowing charge is coupled in the open directions alone,
those orthogonal to every periodic cell vector; a field that points elsewhere is refused.
Dipoles that an atom has by itself, such as a shell's about its core, do not depend on where the
atom is and follow a field in every direction.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from qeqtrain.physics.tracing import traced
from qeqtrain.structures import Structures

FieldCoupling = Literal["none", "open", "every"]
"""What of a charge model follows a field: nothing; flowing charge, in ``open`` directions; and,
in ``every`` direction, dipoles of atoms."""

_ALONG = 1e-6  # cosine between field and cell vector below which they are orthogonal


def open_directions(cell: Tensor, pbc: Tensor) -> Tensor:
    """Projectors onto what is orthogonal to the periodic cell vectors, shape ``(B, 3, 3)``.

    Args:
        cell: rows, A, shape ``(B, 3, 3)``.
        pbc: shape ``(B, 3)``.
    """
    projector = torch.eye(3, dtype=cell.dtype, device=cell.device).expand_as(cell)
    for row, periodic in zip(cell.unbind(1), pbc.unbind(1), strict=True):
        left = torch.einsum("bij,bj->bi", projector, row)  # Gram and Schmidt
        square = torch.where(periodic, left.square().sum(dim=-1), 1.0)
        unit = torch.where(periodic[:, None], left * square.rsqrt()[:, None], 0.0)
        projector = projector - unit[:, :, None] * unit[:, None, :]
    return projector


def open_positions(structures: Structures) -> Tensor:
    """Positions without their components along periodic directions, A, shape ``(N, 3)``."""
    if structures.pbc.device.type == "cpu" and not traced() and not structures.pbc.any():
        return structures.positions
    projector = open_directions(structures.cell, structures.pbc)
    each = projector.index_select(0, structures.batch)
    return torch.einsum("nij,nj->ni", each, structures.positions)


def in_field(structures: Structures) -> bool:
    """Whether any structure is in a field, or a derivative in the field is wanted.

    What is traced for a compiler is the answer without a field.
    """
    if traced():
        return False
    asked = structures.electric_field.requires_grad
    return asked or bool(structures.on_host("electric_field").any())


def applied_potential(structures: Structures) -> Tensor | None:
    r"""Potential :math:`-r_i \cdot F` that flowing charge sees.

    Args:
        structures: with fields (V/A); components along periodic directions are left out.

    Returns:
        V, shape ``(N,)``; ``None`` without a field.
    """
    if not in_field(structures):
        return None
    field = structures.electric_field.index_select(0, structures.batch)
    return -(open_positions(structures) * field).sum(dim=-1)


def field_mistakes(
    field: Tensor, cell: Tensor, pbc: Tensor, coupling: FieldCoupling
) -> dict[int, str]:
    """Say which structures are in a field that a model has no answer to, and the remedy.

    Args:
        field: V/A, shape ``(B, 3)``.
        cell: rows, A, shape ``(B, 3, 3)``.
        pbc: shape ``(B, 3)``.
        coupling: of the charge model.

    Returns:
        What is wrong, by index of the structure.
    """
    if coupling == "every" or not field.any():
        return {}
    size = cell.norm(dim=-1) * field.norm(dim=-1, keepdim=True)
    along = pbc & (torch.einsum("bij,bj->bi", cell, field).abs() > _ALONG * size)  # (B, 3)
    refused = (field if coupling == "none" else along).any(dim=-1)
    wrong: dict[int, str] = {}
    for i in torch.nonzero(refused).flatten().tolist():
        met = f"the electric field is ({', '.join(f'{x:g}' for x in field[i].tolist())}) V/A"
        if coupling == "none":
            wrong[i] = (
                f"{met}, but the model has no charges that could follow it; expected no field, "
                "or a model with charge=gaussian, diagonal or local"
            )
            continue
        names = " and ".join("abc"[d] for d in torch.nonzero(along[i]).flatten().tolist())
        wrong[i] = (
            f"{met}, which has a component along the periodic direction {names}, where the "
            "energy of flowing charge in a field has no single value; expected a field "
            "orthogonal to periodic cell vectors: turn the field, set pbc to False there, or "
            "use a charge model whose shells follow it"
        )
    return wrong
