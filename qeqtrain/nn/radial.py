"""Functions of a distance that radial networks start from, and one such network.

Every basis takes distances ``(P,)`` in A and gives ``(P, K)``; nothing in it is trained but,
if asked, the roots of :class:`Bessel`.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from typing import Literal

import numpy as np
import torch
from torch import Tensor, nn

from qeqtrain.nn.gate import SILU_GAIN, silu
from qeqtrain.physics.cutoff import polynomial_cutoff, switch


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


CutoffPower = int | Literal["switch"]

SWITCHED = 0.5
"""Width of the shell below the cutoff, A, in which a switch falls; ReaxNet's."""


class Bessel(nn.Module):
    r"""Spherical Bessel functions (l = 0), damped towards the cutoff.

    .. math:: e_n(r) = \frac{2}{r_c} \frac{\sin(w_n r / r_c)}{r}\, u(r / r_c), \quad w_n = n \pi

    as NequIP has them; its 2 / r_c stands where an orthonormal set has the square root.

    Args:
        functions: how many.
        cutoff: r_c, A.
        power: p of the cutoff polynomial u; ``switch``: u leaves them as they are, but for the
            last half A (:func:`~qeqtrain.physics.cutoff.switch`).
        trainable: whether the roots w_n are trained.
    """

    def __init__(
        self, functions: int, cutoff: float, power: CutoffPower, *, trainable: bool
    ) -> None:
        super().__init__()
        self.cutoff = cutoff
        self.power = power
        roots = math.pi * torch.arange(1, functions + 1, dtype=torch.float64)
        if trainable:
            self.roots = nn.Parameter(roots.to(torch.get_default_dtype()))
        else:
            self.register_buffer("roots", roots, persistent=False)

    def forward(self, distance: Tensor) -> Tensor:
        """Evaluate at ``(P,)`` distances > 0, A: ``(P, K)``, 1/A^2."""
        r = distance[:, None]
        x = r / self.cutoff
        if self.power == "switch":
            fading = switch(r, self.cutoff - SWITCHED, self.cutoff)
        else:
            fading = polynomial_cutoff(x, self.power)
        envelope = (2.0 / self.cutoff) * fading / r
        return torch.sin(x * self.roots.to(distance.dtype)) * envelope


Scaling = Literal["moment", "root_two", "steep"]


class RadialNetwork(nn.Module):
    """Weights of every path from the radial functions: a perceptron without bias.

    Args:
        sizes: width of the input, of every hidden layer and of the output.
        scaling: of activations and weights, whose own variance starts as 1. ``moment``:
            activations to unit variance; ``root_two``: all maps but the first by the root of
            2; ``steep``: all maps but the last by 2.
    """

    def __init__(self, sizes: Sequence[int], scaling: Scaling) -> None:
        super().__init__()
        self.weights = nn.ParameterList(
            nn.Parameter(torch.randn(a, b)) for a, b in itertools.pairwise(sizes)
        )
        if scaling == "root_two":
            for weight in self.weights:
                nn.init.uniform_(weight, -(3.0**0.5), 3.0**0.5)
        # A gain of the activation and one of the next layer's weights are the same thing.
        later = len(self.weights) - 1
        self.gains = {
            "moment": [1.0] + later * [SILU_GAIN],
            "root_two": [1.0] + later * [2.0**0.5],
            "steep": later * [2.0] + [1.0],
        }[scaling]

    def forward(self, x: Tensor) -> Tensor:
        """Map ``(P, sizes[0])`` to ``(P, sizes[-1])``."""
        for k, (weight, gain) in enumerate(zip(self.weights, self.gains, strict=True)):
            x = (silu(x) if k else x) @ (weight * (gain * weight.shape[0] ** -0.5))
        return x
