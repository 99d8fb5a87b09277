r"""Sums over neighbour pairs that never hold a tensor of all pairs at once.

Gathering neighbours is a trilinear form: with filters f of every pair and tensors x, y of every
atom,

.. math:: \Psi(f, x, y) = \sum_{p = (s, r)} f_p \cdot (x_s \circ y_r + x_r \circ y_s)

The message is its derivative by y, the gradient of the filters its derivative by f, and as
pairs count both ways the derivative by x is the message again. Two functions, each the other's
derivative, therefore serve energies, forces and training. Both go through the pairs in blocks
that stay in the cache: a third of the time of the plain expression on a CPU, and no (P, 9, C)
tensor kept for the backward pass. :func:`spread` is the same for the first tensors of all.
What is traced for a compiler is the plain expression (:mod:`~qeqtrain.physics.tracing`).
"""

from __future__ import annotations

import functools
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function

from qeqtrain.nn.blocks import pairs_at_once
from qeqtrain.physics.tracing import traced

PARTS = (1, 3, 5)
"""Components of the trace, the antisymmetric and the traceless symmetric part of a matrix."""

BLOCK = 1 << 14
"""Numbers per component in a block on a CPU: about half a megabyte with nine components."""


def gather(x: Tensor, filters: Tensor, sender: Tensor, receiver: Tensor) -> Tensor:
    """Sum the neighbours' tensors, every part multiplied by its own filter of the pair.

    Args:
        x: shape ``(N, 9, C)``.
        filters: for the three parts, shape ``(P, 3, C)``.
        sender: one end of every pair, shape ``(P,)``.
        receiver: the other; a pair counts in both directions.

    Returns:
        Shape ``(N, 9, C)``; differentiable any number of times.
    """
    if traced():
        wide, total = widen(filters), torch.zeros_like(x)
        total = total.index_add(0, receiver, wide * x.index_select(0, sender))
        return total.index_add(0, sender, wide * x.index_select(0, receiver))
    return _Gather.apply(x, filters, sender, receiver)


def spread(weights: Tensor, directions: Tensor, target: Tensor, atoms: int) -> Tensor:
    r"""Sum the outer products of weights and direction tensors at one end of every pair.

    .. math:: y_{ikc} = \sum_{p: t_p = i} d_{pk}\, w_{p\,l(k)\,c}

    Args:
        weights: for the three parts, shape ``(P, 3, C)``.
        directions: components of the pair's direction, shape ``(P, 9)``.
        target: atom that receives, shape ``(P,)``.
        atoms: N.

    Returns:
        Shape ``(N, 9, C)``; differentiable any number of times.
    """
    if traced():
        total = weights.new_zeros((atoms, 9, weights.shape[-1]))
        return total.index_add(0, target, widen(weights) * directions[:, :, None])
    return _Spread.apply(weights, directions, target, atoms)


def _blocks(pairs: int, like: Tensor) -> Iterator[slice]:
    """Cut the pairs into blocks that fit a CPU's cache; a GPU takes them all at once."""
    size = pairs_at_once(pairs, like, BLOCK)
    for start in range(0, pairs, size):
        yield slice(start, min(pairs, start + size))


@functools.cache
def _part_of_component(device: torch.device) -> Tensor:
    """List the part that each of the nine components belongs to."""
    return torch.arange(3, device=device).repeat_interleave(torch.tensor(PARTS, device=device))


def widen(x: Tensor) -> Tensor:
    """Repeat ``(K, 3, C)`` along its parts to ``(K, 9, C)``."""
    return x.index_select(1, _part_of_component(x.device))


def narrow(x: Tensor, out: Tensor) -> None:
    """Sum ``(K, 9, C)`` over the components of every part into ``(K, 3, C)``."""
    for k, part in enumerate(x.split(PARTS, dim=1)):
        torch.sum(part, dim=1, out=out[:, k])


class _Gather(Function):
    """Derivative of the form by y."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, f: Tensor, s: Tensor, r: Tensor) -> Tensor:
        ctx.save_for_backward(x, f, s, r)
        total = torch.zeros_like(x)
        for block in _blocks(len(s), x):
            wide, ends = widen(f[block]), (s[block], r[block])
            total.index_add_(0, ends[1], x.index_select(0, ends[0]).mul_(wide))
            total.index_add_(0, ends[0], wide.mul_(x.index_select(0, ends[1])))
        return total

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor | None, ...]:
        x, f, s, r = ctx.saved_tensors
        by_x = _Gather.apply(g, f, s, r) if ctx.needs_input_grad[0] else None
        by_f = _Overlap.apply(x, g, s, r) if ctx.needs_input_grad[1] else None
        return by_x, by_f, None, None


class _Overlap(Function):
    """Derivative of the form by the filters."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, y: Tensor, s: Tensor, r: Tensor) -> Tensor:
        ctx.save_for_backward(x, y, s, r)
        out = x.new_empty((len(s), 3, x.shape[-1]))
        for block in _blocks(len(s), x):
            ends = s[block], r[block]
            product = x.index_select(0, ends[0]).mul_(y.index_select(0, ends[1]))
            product.addcmul_(x.index_select(0, ends[1]), y.index_select(0, ends[0]))
            narrow(product, out[block])
        return out

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor | None, ...]:
        x, y, s, r = ctx.saved_tensors
        by_x = _Gather.apply(y, g, s, r) if ctx.needs_input_grad[0] else None
        by_y = _Gather.apply(x, g, s, r) if ctx.needs_input_grad[1] else None
        return by_x, by_y, None, None


class _Spread(Function):
    """Derivative by y of the form sum_p d_pk w_plc y_tkc."""

    @staticmethod
    def forward(ctx: Any, w: Tensor, d: Tensor, t: Tensor, atoms: int) -> Tensor:
        ctx.save_for_backward(w, d, t)
        total = w.new_zeros((atoms, 9, w.shape[-1]))
        for block in _blocks(len(t), w):
            total.index_add_(0, t[block], widen(w[block]).mul_(d[block, :, None]))
        return total

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor | None, ...]:
        w, d, t = ctx.saved_tensors
        by_w = _SpreadWeights.apply(d, g, t) if ctx.needs_input_grad[0] else None
        by_d = _SpreadDirections.apply(w, g, t) if ctx.needs_input_grad[1] else None
        return by_w, by_d, None, None


class _SpreadWeights(Function):
    """Derivative of that form by the weights."""

    @staticmethod
    def forward(ctx: Any, d: Tensor, y: Tensor, t: Tensor) -> Tensor:
        ctx.save_for_backward(d, y, t)
        out = y.new_empty((len(t), 3, y.shape[-1]))
        for block in _blocks(len(t), y):
            narrow(y.index_select(0, t[block]).mul_(d[block, :, None]), out[block])
        return out

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor | None, ...]:
        d, y, t = ctx.saved_tensors
        by_d = _SpreadDirections.apply(g, y, t) if ctx.needs_input_grad[0] else None
        by_y = _Spread.apply(g, d, t, len(y)) if ctx.needs_input_grad[1] else None
        return by_d, by_y, None


class _SpreadDirections(Function):
    """Derivative of that form by the directions."""

    @staticmethod
    def forward(ctx: Any, w: Tensor, y: Tensor, t: Tensor) -> Tensor:
        ctx.save_for_backward(w, y, t)
        out = w.new_empty((len(t), 9))
        for block in _blocks(len(t), w):
            product = y.index_select(0, t[block]).mul_(widen(w[block]))
            torch.sum(product, dim=-1, out=out[block])
        return out

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor | None, ...]:
        w, y, t = ctx.saved_tensors
        by_w = _SpreadWeights.apply(g, y, t) if ctx.needs_input_grad[0] else None
        by_y = _Spread.apply(w, g, t, len(y)) if ctx.needs_input_grad[1] else None
        return by_w, by_y, None
