"""Functions of a distance that radial networks start from.

Nothing here is trained. Every basis takes distances ``(P,)`` in A and gives ``(P, K)``.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor, nn


def cosine_cutoff(distance: Tensor, cutoff: float) -> Tensor:
    """Fall from 1 to 0 at the cutoff with a vanishing slope: (cos(pi r/rc) + 1)/2."""
    inside = 0.5 * (torch.cos((math.pi / cutoff) * distance) + 1.0)
    return torch.where(distance < cutoff, inside, 0.0)


class SmoothBessel(nn.Module):
    r"""Orthonormal spherical Bessel functions (l = 0) that vanish twice at the cutoff.

    .. math:: f_n(r) \propto \mathrm{sinc}\frac{(n+1)\pi r}{r_c}
                            + \mathrm{sinc}\frac{(n+2)\pi r}{r_c}, \quad n = 0, 1, \ldots

    made orthonormal in order of n. First and second derivative are zero at the cutoff.
    Kocer, Mason, Erturk, AIP Adv. 10, 015021 (2020). The whole basis is one fixed linear map of
    the K + 1 sinc functions, so that is how it is evaluated.

    Args:
        functions: K.
        cutoff: r_c, A.
    """

    def __init__(self, functions: int, cutoff: float) -> None:
        super().__init__()
        self.cutoff = cutoff
        n = np.arange(functions)
        # f = sinc @ raw.T: two neighbouring sincs each, normalised on [0, r_c] with r^2 dr.
        size = (n + 1) * (n + 2) / np.hypot(n + 1, n + 2)
        size = (-1.0) ** n * math.sqrt(2.0) * math.pi * cutoff**-1.5 * size
        raw = np.zeros((functions, functions + 1))
        raw[n, n] = raw[n, n + 1] = size
        # Gram-Schmidt: overlaps exist between neighbours only, hence a two-term recurrence.
        overlap = n**2 * (n + 2) ** 2 / (4.0 * (n + 1) ** 4 + 1.0)
        basis = np.zeros_like(raw)
        basis[0] = raw[0]
        rest = 1.0
        for k in range(1, functions):
            previous, rest = rest, 1.0 - overlap[k] / rest
            carried = math.sqrt(overlap[k] / previous) * basis[k - 1]
            basis[k] = (raw[k] + carried) / math.sqrt(rest)
        self.register_buffer("mixing", torch.from_numpy(basis.T.copy()), persistent=False)
        waves = math.pi / cutoff * np.arange(1, functions + 2)
        self.register_buffer("waves", torch.from_numpy(waves), persistent=False)

    def forward(self, distance: Tensor) -> Tensor:
        """Evaluate at ``(P,)`` distances > 0, A: ``(P, K)``, A^(-3/2)."""
        phase = distance[:, None] * self.waves.to(distance.dtype)
        return (torch.sin(phase) / phase) @ self.mixing.to(distance.dtype)


class Gaussians(nn.Module):
    """Gaussians, 1 A wide, on a regular grid from 0 to 1 A beyond the cutoff.

    As wide as this they overlap and make a smooth basis; matgl's default is the same.

    Args:
        functions: K.
        cutoff: A.
    """

    def __init__(self, functions: int, cutoff: float) -> None:
        super().__init__()
        centres = torch.linspace(0.0, cutoff + 1.0, functions, dtype=torch.float64)
        self.register_buffer("centres", centres, persistent=False)

    def forward(self, distance: Tensor) -> Tensor:
        """Evaluate at ``(P,)`` distances, A: ``(P, K)``."""
        away = distance[:, None] - self.centres.to(distance.dtype)
        return torch.exp(-0.5 * away * away)


BASES = {"smooth_bessel": SmoothBessel, "gaussian": Gaussians}
