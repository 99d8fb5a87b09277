r"""Two periodic directions: a cell with vacuum, and what corrects for it.

A slab is summed as a crystal whose third vector is normal to the surface and so long that the
slab no longer sees its own image. Between neutral slabs the coupling decays as
:math:`e^{-G d}`, with G the shortest in-plane reciprocal vector and d the vacuum; what does
not decay is the field of the planar dipole, which the term of Yeh and Berkowitz, J. Chem. Phys.
111, 3155 (1999), takes away:

.. math:: u^T A_z v = \frac{4\pi}{V} M_u M_v, \qquad M_u = \sum_i u_i (z_i - \bar z).

A charged slab has no finite energy without a counter charge and is refused.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor


def slab_normal(rows: Tensor) -> Tensor:
    """Unit vector normal to the surface, shape ``(3,)``, from ``(2, 3)`` in-plane vectors."""
    across = torch.linalg.cross(rows[0], rows[1])
    unit: Tensor = across / across.norm()
    return unit


def shortest_in_plane(rows: Tensor) -> float:
    """Length of the shortest in-plane reciprocal vector, 1/A.

    Args:
        rows: in-plane cell vectors, A, shape ``(2, 3)``; they may be skewed at will.
    """
    first, second = 2.0 * math.pi * torch.linalg.pinv(rows.detach()).mT
    # Gauss: take from the longer what it has of the shorter until nothing is left to take.
    while True:
        if float(first @ first) > float(second @ second):
            first, second = second, first
        steps = torch.round((first @ second) / (first @ first))
        if float(steps) == 0.0:
            return float(first.norm())
        second = second - steps * first


def vacuum(rows: Tensor, widest: float, accuracy: float) -> float:
    r"""Distance between images at which Gaussian charges no longer see each other, A.

    .. math:: G d = L + \tfrac12 G^2 \gamma^2 \quad (G \gamma \le \sqrt{2L}),
              \qquad d = \sqrt{2L}\, \gamma \quad \mathrm{otherwise}, \qquad L = -\ln \epsilon

    Args:
        rows: in-plane cell vectors, A, shape ``(2, 3)``.
        widest: largest width of a Gaussian density, A; gamma is sqrt 2 times that.
        accuracy: epsilon.
    """
    g, gamma, log = shortest_in_plane(rows), math.sqrt(2.0) * widest, -math.log(accuracy)
    if g * gamma <= math.sqrt(2.0 * log):
        return log / g + 0.5 * g * gamma * gamma
    return math.sqrt(2.0 * log) * gamma


def padded(cell: Tensor, open_direction: int, length: float) -> Tensor:
    """Fill the row of the open direction with the normal; differentiable, shape ``(3, 3)``.

    Args:
        cell: A, shape ``(3, 3)``.
        open_direction: index of the row that is not periodic.
        length: of the new vector, slab and vacuum, A.
    """
    rows = [cell[d] for d in range(3) if d != open_direction]
    normal = length * slab_normal(torch.stack(rows))
    rows.insert(open_direction, normal)
    return torch.stack(rows)
