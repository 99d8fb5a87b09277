r"""The smooth part of Ewald's sum as a matrix-free product, exact to any accuracy.

.. math:: \frac{4 \pi}{V} \sum_{\mathbf k \neq 0} \frac{e^{-\eta^2 k^2 / 2}}{k^2}
          \Re \big( e^{-i \mathbf k \cdot \mathbf r_i} S(\mathbf k) \big), \qquad
          S(\mathbf k) = \sum_j q_j e^{i \mathbf k \cdot \mathbf r_j}

With :math:`\mathbf k = 2 \pi \sum_a n_a \mathbf b_a` the phase is a product over the three
lattice directions, so that S is a matrix product of the phases of two directions with those of
the third: memory for N x K^(2/3) numbers instead of N x K, and the speed of a matrix product.
At 2000 atoms this is 15 MB and 30 ms a product on one core (accuracy 1e-12), where the
sines and cosines of every atom and wave vector would take 1 GB.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

_ATOMS_AT_ONCE = 256
"""Phases of so many atoms stay in a processor's cache while they are multiplied."""


def smooth_spectrum(waves: Tensor, reciprocal: Tensor, width: float) -> Tensor:
    r"""Fourier coefficients of the smooth interaction of unit charges, 1/A, zero at k = 0.

    .. math:: \frac{4 \pi}{V} \frac{e^{-\eta^2 k^2 / 2}}{k^2}, \qquad
              \mathbf k = 2 \pi \sum_a n_a \mathbf b_a

    Args:
        waves: integers n, shape ``(..., 3)``.
        reciprocal: the inverse of the cell, :math:`\mathbf b_a` as columns, 1/A, ``(3, 3)``.
        width: standard deviation :math:`\eta` that splits Ewald's sum, A.
    """
    k = 2.0 * math.pi * waves @ reciprocal.T
    origin = (waves == 0.0).all(dim=-1)
    square = (k * k).sum(dim=-1) + origin
    per_volume = 4.0 * math.pi * torch.linalg.det(reciprocal).abs()
    return torch.where(origin, 0.0, per_volume * torch.exp(-0.5 * width**2 * square) / square)


def largest_wave(width: float, accuracy: float) -> float:
    """Wave number beyond which the smooth interaction is below ``accuracy``, 1/A.

    What is left out of the interaction of a charge with itself is erfc(width k / sqrt 2) of
    it, less than exp(-(width k)^2 / 2).
    """
    return math.sqrt(-2.0 * math.log(accuracy)) / width


def structure_factor_sum(
    positions: Tensor, cell: Tensor, width: float, accuracy: float
) -> Callable[[Tensor], Tensor]:
    r"""Prepare the smooth potential of point charges at the charges, own one included.

    Args:
        positions: A, float64, shape ``(n, 3)``.
        cell: rows, A, float64, shape ``(3, 3)``; periodic in all directions.
        width: standard deviation :math:`\eta` that splits Ewald's sum, A.
        accuracy: what is left out, relative to the smooth interaction of a charge with itself.

    Returns:
        Charges, e, ``(n,)``, to potential, e/A, ``(n,)``: linear and symmetric; differentiable
        any number of times in charges, positions and cell where these were in a graph.
    """
    lengths = torch.linalg.vector_norm(cell.detach(), dim=-1)
    cutoff = largest_wave(width, accuracy)
    # |n_a| = |k . a_a| / 2 pi. The longest direction is multiplied last, which keeps the
    # product of the two others small; of S(-k) = S(k)* one half is enough.
    counts = (lengths * (cutoff / (2.0 * math.pi))).floor().long().tolist()
    order = sorted(range(3), key=lambda axis: counts[axis])
    reciprocal = torch.linalg.inv(cell)[:, order]
    first, second, third = (
        torch.arange(-counts[axis], counts[axis] + 1.0, dtype=cell.dtype, device=cell.device)
        for axis in order
    )
    first = first[counts[order[0]] :]

    with torch.no_grad():
        waves = torch.cartesian_prod(first, second, third).view(-1, len(third), 3)
        k = 2.0 * math.pi * waves @ reciprocal.T
        waves = waves[((k * k).sum(dim=-1) <= cutoff**2).any(dim=-1)]  # (K2, K3, 3)
    spectrum = smooth_spectrum(waves, reciprocal, width)
    spectrum = torch.where(waves[..., 0] > 0.0, 2.0 * spectrum, spectrum)  # both halves

    turns = 2.0 * math.pi * positions @ reciprocal  # (n, 3)
    one = torch.ones((), dtype=cell.dtype, device=cell.device)
    blocks = torch.split(turns, _ATOMS_AT_ONCE)
    # Phases of the first two directions, (K2, n), and of the third, (n, K3).
    planes = [torch.polar(one, waves[:, 0, :2] @ part[:, :2].T) for part in blocks]
    lines = [torch.polar(one, part[:, 2:] * third) for part in blocks]

    def potential(charges: Tensor) -> Tensor:
        factors = torch.zeros_like(spectrum, dtype=torch.complex128)
        parts = torch.split(charges, _ATOMS_AT_ONCE)
        for plane, line, part in zip(planes, lines, parts, strict=True):
            factors = factors + (plane * part) @ line
        factors = spectrum * factors
        return torch.cat(
            [
                (torch.view_as_real(plane) * torch.view_as_real(factors @ line.mH)).sum((0, 2))
                for plane, line in zip(planes, lines, strict=True)
            ]
        )

    return potential
