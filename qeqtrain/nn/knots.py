r"""Radial networks that are evaluated at a few distances only, and splines between these.

A network of one number can be tabulated. With K knots :math:`t_k = k r_c / (K - 1)` and the
network g, every pair reads the cubic spline

.. math:: s(r) = \sum_{m=0}^{K+1} c_m\, \beta\!\left(\frac{r}{h} - m + 1\right), \quad
          c = F\, (g(t_0), \ldots, g(t_{K-1}))

of uniform B-splines :math:`\beta`, where F is one fixed matrix: s goes through the values at
the knots and is twice continuously differentiable, so that forces are smooth and a loss on them
can be differentiated. Training moves the network, hence the values; a pair costs one row of
K + 2 numbers, shared by all layers, and one matrix product for each.

Only a function of the distance alone can be tabulated. Both backbones are made so: species
enter by factors of their own.

The function *is* the spline: what the network would say between the knots counts for nothing,
and a network trained without knots changes by what the spline misses of it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from qeqtrain.errors import UserMistake
from qeqtrain.nn.tables import Basis, Table, tabulated, tabulates

FEWEST = 8
"""Knots below which the end conditions meet each other."""

_PIECES = tuple(
    tuple(n / 6.0 for n in row)
    for row in ((1, 4, 1, 0), (-3, 0, 3, 0), (3, -6, 3, 0), (-1, 3, -3, 1))
)
"""Of 1, t, t^2 and t^3 in the four B-splines that meet between two knots."""


class Radial(NamedTuple):
    """What radial networks read, and how pairs read them.

    Attributes:
        values: functions of the distance, of every pair ``(P, F)``, or at the knots ``(K, F)``.
        weights: of the B-splines at every pair, ``(P, K + 2)``; ``None`` without knots.
        fit: from values at the knots to coefficients, ``(K + 2, K)``; ``None`` without knots.
    """

    values: Tensor
    weights: Tensor | None = None
    fit: Tensor | None = None

    @property
    def rows(self) -> Tensor:
        """What every pair reads: its functions, or its B-splines."""
        return self.values if self.weights is None else self.weights

    def reader(self, network: nn.Module) -> Callable[[Tensor], Tensor]:
        """Make what gives a network's output, ``(p, W)``, from the rows of any p pairs."""
        if self.weights is None or self.fit is None:
            return network
        coefficients = self.fit @ network(self.values)
        return lambda rows: rows @ coefficients

    def through(self, network: nn.Module) -> Tensor:
        """Give a network's output at every pair, ``(P, W)``."""
        return self.reader(network)(self.rows)


class Knots(nn.Module):
    """Radial functions that networks meet at knots only.

    Args:
        cutoff: r_c, A.
        knots: K, from zero to the cutoff.
        vanishing: whether what is interpolated ends at the cutoff by itself, as the output of
            a network without bias behind functions with an envelope does: the spline then ends
            in zero with two derivatives, and leaves out the last knot but one. Else no
            condition is made, and an envelope outside ends it.

    Raises:
        UserMistake: fewer knots than a spline needs.
    """

    def __init__(self, cutoff: float, knots: int, *, vanishing: bool) -> None:
        super().__init__()
        if knots < FEWEST:
            raise UserMistake(
                f"backbone.radial_knots is {knots}; expected {FEWEST} or more (64 is usual), "
                "or null for radial networks of every pair"
            )
        self.spacing = cutoff / (knots - 1)
        places = np.linspace(0.0, cutoff, knots)
        places[0] = (
            1e-3 * self.spacing
        )  # functions of a distance have limits at zero, not values
        self.register_buffer("places", torch.from_numpy(places), persistent=False)
        fit = torch.from_numpy(_fit(knots, vanishing=vanishing))
        self.register_buffer("fit", fit, persistent=False)

    def forward(self, basis: Basis, distance: Tensor, dtype: torch.dtype) -> Radial:
        """Prepare for distances ``(P,)``, A; what is given has the dtype that is asked for."""
        values = basis(self.places.to(distance.dtype)).to(dtype)
        weights = spline_weights((distance / self.spacing).to(dtype), len(self.places))
        return Radial(values, weights, self.fit.to(dtype))


class EveryPair(nn.Module):
    """Radial functions that networks meet at every pair, or in a table of the network.

    Args:
        cutoff: A.
    """

    def __init__(self, cutoff: float) -> None:
        super().__init__()
        self.cutoff = cutoff

    def forward(self, basis: Basis, distance: Tensor, dtype: torch.dtype) -> Radial | Table:
        """Evaluate them at distances ``(P,)``, A, in the dtype that is asked for."""
        if tabulates(distance, dtype):
            return tabulated(basis, distance, self.cutoff)
        return Radial(basis(distance).to(dtype))


def radial_reader(cutoff: float, knots: int | None, *, vanishing: bool) -> Knots | EveryPair:
    """Build what ``radial_knots`` names; arguments as for :class:`Knots`."""
    return EveryPair(cutoff) if knots is None else Knots(cutoff, knots, vanishing=vanishing)


def spline_weights(at: Tensor, knots: int) -> Tensor:
    r"""Evaluate all cubic B-splines; of the K + 2, four are not zero anywhere.

    With t the distance from the knot before, in units of the spacing, these are

    .. math:: (1 - t)^3 / 6, \; (3 t^3 - 6 t^2 + 4) / 6, \;
              (-3 t^3 + 3 t^2 + 3 t + 1) / 6, \; t^3 / 6

    Args:
        at: distances in units of the spacing, from 0 to K - 1, shape ``(P,)``.
        knots: K.

    Returns:
        Shape ``(P, K + 2)``; twice continuously differentiable in ``at``.
    """
    before = at.detach().floor().clamp(0, knots - 2)
    t = at - before
    powers = torch.stack([torch.ones_like(t), t, t * t, t * t * t], dim=-1)  # (P, 4)
    four = powers @ torch.tensor(_PIECES, dtype=at.dtype, device=at.device)
    places = before.long()[:, None] + torch.arange(4, device=at.device)
    return at.new_zeros((at.shape[0], knots + 2)).scatter(1, places, four)


def _fit(knots: int, *, vanishing: bool) -> np.ndarray:
    """Map values at the knots to coefficients of B-splines, ``(K + 2, K)``, float64.

    At zero the third derivative goes through the second knot (not-a-knot); so it does at the
    other end, unless the spline vanishes there with two derivatives.
    """
    value, slope, bend = np.array([1, 4, 1]) / 6, np.array([-1, 0, 1]) / 2, [1, -2, 1]
    jump = [1, -4, 6, -4, 1]  # of the third derivative at a knot
    conditions = np.zeros((knots + 2, knots + 2))
    given = np.zeros((knots + 2, knots))
    for k in range(knots):
        conditions[k, k : k + 3] = value
        given[k, k] = 1.0
    conditions[knots, 0:5] = jump
    conditions[knots + 1, -5:] = jump
    if vanishing:
        # Value, slope and bend at the end take the places of two knots' values and the jump.
        given[knots - 2 :] = 0.0
        conditions[[knots - 2, knots + 1]] = 0.0
        conditions[knots - 2, -3:] = slope
        conditions[knots + 1, -3:] = bend
    return np.linalg.solve(conditions, given)
