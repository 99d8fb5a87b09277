"""Functions that end radial functions and pair potentials without a jump."""

from __future__ import annotations

import torch
from torch import Tensor


def polynomial_cutoff(x: Tensor, power: int) -> Tensor:
    r"""Fall from 1 at x = 0 to 0 at x = 1, where two derivatives vanish too.

    .. math:: u(x) = 1 - \tfrac{(p+1)(p+2)}2 x^p + p(p+2) x^{p+1} - \tfrac{p(p+1)}2 x^{p+2}

    Gasteiger et al., ICLR 2020 (arXiv 2003.03123), Eq. 8; nothing is left beyond x = 1.

    Args:
        x: distance in units of the cutoff, any shape.
        power: p.
    """
    p = float(power)
    a, b, c = (p + 1.0) * (p + 2.0) / 2.0, p * (p + 2.0), p * (p + 1.0) / 2.0
    inside = 1.0 - x**power * (a - x * (b - c * x))
    return torch.where(x < 1.0, inside, 0.0)


def switch(distance: Tensor, onset: float, cutoff: float) -> Tensor:
    r"""Stay at 1 up to the onset, then fall to 0 at the cutoff; slopes vanish at both ends.

    .. math:: u(r) = \frac{(r_c^2 - r^2)^2 (r_c^2 + 2 r^2 - 3 r_o^2)}{(r_c^2 - r_o^2)^3}

    The switching function of molecular dynamics (CHARMM; jax-md's multiplicative isotropic
    cutoff). Its second derivative jumps at both ends.

    Args:
        distance: r, A, any shape.
        onset: r_o, A.
        cutoff: r_c, A.
    """
    r2, a, c = distance * distance, onset * onset, cutoff * cutoff
    falling = (c - r2) ** 2 * (c + 2.0 * r2 - 3.0 * a) / (c - a) ** 3
    inside = torch.where(distance < onset, 1.0, falling)
    return torch.where(distance < cutoff, inside, 0.0)
