r"""What long waves cost an iterative solution, taken out of it beforehand.

A charge density of wave number k costs :math:`4 \pi \rho / k^2` beside the hardness, so that
the condition of the equations grows with the square of the longest wave of a cell, and
iterations with its length. With D the diagonal and S the smooth interaction on a coarse mesh,

.. math:: (D + S)^{-1} \approx D^{-1} - D^{-1} P\, \psi\, P^T D^{-1}, \qquad
          \psi(k) = \frac{\phi(k)}{1 + \varsigma \phi(k)}, \qquad
          \phi(k) = \frac{4\pi k_e}{k^2} e^{-\eta^2 k^2/2}

(Woodbury), exact where :math:`D^{-1}` is spread evenly with density :math:`\varsigma`; P
interpolates with splines. Where it is not, as in a slab, the largest density counts, of those
that waves of this width see, so that the result stays positive as conjugate gradients need it.
4096 atoms of rock salt take 21 products instead of 84, and 10,648 atoms 23 instead of 106.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from qeqtrain.physics.mesh import fast_length, smoothing, spline_polynomials
from qeqtrain.physics.placing import place
from qeqtrain.physics.structure_factors import smooth_spectrum, wave_squares
from qeqtrain.units import COULOMB_CONSTANT

ORDER, SPACING = 4, 0.8
"""Of the splines, and of the mesh in units of the width: some percent of error."""


@torch.no_grad()
def long_waves(
    positions: Tensor, cell: Tensor, width: float, softness: Tensor
) -> Callable[[Tensor], Tensor]:
    r"""Prepare :math:`P \psi P^T` of one structure.

    Args:
        positions: A, float64, shape ``(n, 3)``.
        cell: rows, A, float64, shape ``(3, 3)``; periodic in all directions.
        width: standard deviation :math:`\eta` of the smooth interaction, A.
        softness: :math:`D^{-1}`, e^2/eV, shape ``(n,)``.

    Returns:
        From charges, e, ``(n,)``, to potentials, V, ``(n,)``; symmetric, no gradient.
    """
    lengths = torch.linalg.vector_norm(cell, dim=-1).tolist()
    points = [fast_length(max(ORDER, math.ceil(x / (SPACING * width)))) for x in lengths]
    reciprocal = torch.linalg.inv(cell)
    size = place(torch.tensor(points, dtype=cell.dtype), cell.device)
    at = positions @ reciprocal * size  # in mesh steps
    corner = at.floor()
    steps = torch.arange(ORDER, device=cell.device)
    powers = (at - corner - 0.5)[..., None] ** steps
    a, b, c = (powers @ place(spline_polynomials(ORDER), cell.device).T).unbind(1)
    weights = (a[:, :, None, None] * b[:, None, :, None] * c[:, None, None, :]).flatten(1)
    i, j, k = torch.remainder(corner.long()[..., None] - steps, size.long()[:, None]).unbind(1)
    index = (i[:, :, None, None] * points[1] + j[:, None, :, None]) * points[2]
    index = (index + k[:, None, None, :]).flatten()

    def spread(values: Tensor) -> Tensor:
        mesh = values.new_zeros(math.prod(points))
        return mesh.index_add_(0, index, (weights * values[:, None]).flatten())

    frequencies = [
        transform(length, 1.0 / length, dtype=cell.dtype, device=cell.device)
        for transform, length in zip(
            (torch.fft.fftfreq, torch.fft.fftfreq, torch.fft.rfftfreq), points, strict=True
        )
    ]
    waves = torch.stack(torch.meshgrid(*frequencies, indexing="ij"), dim=-1)
    phi = COULOMB_CONSTANT * smooth_spectrum(waves, reciprocal, width) * math.prod(points)
    blur = torch.exp(-2.0 * width**2 * wave_squares(waves, reciprocal))
    density = torch.fft.irfftn(blur * torch.fft.rfftn(spread(softness).view(points)), s=points)
    psi = phi / (1.0 + density.max() * phi)
    u, v, w = (smoothing(n, x, ORDER) for n, x in zip(frequencies, points, strict=True))
    psi = psi * (u[:, None, None] * v[:, None] * w)

    def potential(charges: Tensor) -> Tensor:
        wave = torch.fft.rfftn(spread(charges).view(points))
        smooth = torch.fft.irfftn(psi * wave, s=points).flatten()
        at_atoms: Tensor = smooth.index_select(0, index).view(weights.shape) * weights
        return at_atoms.sum(dim=1)

    return potential
