r"""Radial networks read from a table, where their weights stand still.

A radial network is a function of one number. Evaluated for many pairs it is the larger part of
an inference's arithmetic, and is run again for the forces where nothing is kept for them
(:mod:`~qeqtrain.physics.recomputing`). A table of its values and slopes at some thousand
distances, and cubics that meet both (Hermite interpolation),

.. math:: s(r) = \sum_{m=0}^{3} c_{km} t^m, \quad r = r_c - (K - k - t)\, h

cost a pair four rows. Everything of a table is worked out in float64, so that with
h = 0.004 A it is nearer to the exact network (1.3e-7 of its largest value, 4e-7 to 1e-6 of its
largest slope) than the network in single precision is itself (4e-7 and 1 to 2e-6;
tests/nn/test_tables.py). Half an A before the cutoff, where a switch begins and curvature
jumps, an interval ends. Forces are exact derivatives of the energy that is returned, as
everywhere.

Other than knots (:mod:`~qeqtrain.nn.knots`) this is not a model of its own: it is how a
trained one is read.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import NamedTuple
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn
from torch.autograd.functional import jvp
from torch.nn import functional

from qeqtrain.nn.radial import SWITCHED

Basis = Callable[[Tensor], Tensor]
"""From distances ``(P,)``, A, to functions of them, ``(P, F)``."""

INTERVALS = 1280
"""Of a table, from zero to the cutoff, about."""

PAIRS = 4096
"""Pairs from which on networks are read from tables."""

_ALLOWED: ContextVar[bool] = ContextVar("reading_tables", default=False)
_KEPT: WeakKeyDictionary[nn.Module, tuple[list[Tensor], Tensor]] = WeakKeyDictionary()
"""By network what it was tabulated with, and its table."""


@contextmanager
def reading_tables(allowed: bool = True) -> Iterator[None]:
    """Say that nothing but first derivatives, in positions, is asked for within."""
    token = _ALLOWED.set(allowed)
    try:
        yield
    finally:
        _ALLOWED.reset(token)


class Table(NamedTuple):
    """What pairs read where networks are tabulated.

    Attributes:
        values: functions of the distance at the ends of the intervals, float64, ``(K + 1, F)``.
        slopes: their change over an interval's length, float64, ``(K + 1, F)``.
        rows: interval of every pair, and how far in it is: k + t, ``(P,)``.
    """

    values: Tensor
    slopes: Tensor
    rows: Tensor

    def reader(self, network: nn.Module) -> Callable[[Tensor], Tensor]:
        """Make what gives a network's output, ``(p, W)``, from the rows of any p pairs."""
        table = _table(network, self.values, self.slopes)
        return lambda at: read(table, at)

    def through(self, network: nn.Module) -> Tensor:
        """Give a network's output at every pair, ``(P, W)``."""
        return self.reader(network)(self.rows)


def tabulates(distance: Tensor, dtype: torch.dtype) -> bool:
    """Tell whether networks of a dtype are to be read from tables at distances ``(P,)``.

    Tables are for a CPU, and only as good as a network in single precision.
    """
    if not _ALLOWED.get() or dtype != torch.float32:
        return False
    return distance.device.type == "cpu" and len(distance) >= PAIRS


def tabulated(basis: Basis, distance: Tensor, cutoff: float) -> Table:
    """Prepare a table.

    Args:
        basis: what networks read, of distances in A.
        distance: of the pairs, A, ``(P,)``.
        cutoff: where the table ends, A.
    """
    width = SWITCHED / math.ceil(SWITCHED * INTERVALS / cutoff)
    count = math.ceil(cutoff / width)
    places = cutoff - width * torch.arange(count, -1, -1, dtype=torch.float64)
    places[0] = 1e-3 * width  # functions of a distance have limits at zero, not values
    values, slopes = _along(basis, places, torch.full_like(places, width))
    return Table(values, slopes, (distance - cutoff) / width + count)


def _along(
    function: Callable[[Tensor], Tensor], at: Tensor, direction: Tensor
) -> tuple[Tensor, Tensor]:
    """Evaluate, and differentiate along a direction; without a graph, in any mode of torch."""
    with torch.inference_mode(False):  # a table outlives the mode it is made in
        at, direction = at.clone(), direction.clone()
        # Those who count operations watch the inputs of modules, and must not meet a leaf.
        value, slope = jvp(lambda x: function(x.view_as(x)), at, direction)
    return value, slope


def _table(network: nn.Module, values: Tensor, slopes: Tensor) -> Tensor:
    """Tabulate a network in its own precision, unless its weights are still those of before."""
    weights = [*network.parameters(), *network.buffers(), values]
    known, table = _KEPT.get(network, ([], values))
    if len(known) != len(weights) or not all(map(torch.equal, known, weights)):
        with torch.inference_mode(False):
            table = coefficients(network, values, slopes).to(weights[0].dtype)
        _KEPT[network] = [w.detach().clone() for w in weights], table
    return table


def coefficients(network: nn.Module, values: Tensor, slopes: Tensor) -> Tensor:
    """Give those of 1, t, t^2 and t^3 for every interval, float64, ``(4 K, W)``.

    Args:
        network: of any precision.
        values: what it reads at the ends of the intervals, float64, ``(K + 1, F)``.
        slopes: how that changes over an interval's length, ``(K + 1, F)``.
    """
    value, slope = _along(copy.deepcopy(network).double(), values, slopes)
    rise = value.diff(dim=0)
    before, after = slope[:-1], slope[1:]
    square, cube = 3.0 * rise - 2.0 * before - after, before + after - 2.0 * rise
    return torch.stack([value[:-1], before, square, cube], dim=1).flatten(0, 1)


def read(table: Tensor, at: Tensor) -> Tensor:
    """Evaluate splines; differentiable once in ``at``.

    Args:
        table: from :func:`coefficients`.
        at: distances in units of the spacing, ``(p,)``.

    Returns:
        Shape ``(p, W)``.
    """
    before = at.detach().floor().clamp(0, len(table) // 4 - 1)
    t = (at - before).to(table.dtype)
    powers = torch.stack([torch.ones_like(t), t, t * t, t * t * t], dim=-1)  # (p, 4)
    rows = 4 * before.long()[:, None] + torch.arange(4)
    return functional.embedding_bag(rows, table, mode="sum", per_sample_weights=powers)
