"""Messages whose filters live for one block of pairs: made, used, and made again for the slope.

The filters of a radial network are the largest tensors of an evaluation, some kilobytes for
every pair and layer. Here they exist for a few hundred pairs at a time
(:mod:`~qeqtrain.physics.recomputing`), and what is kept is what they are made from: distances.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from qeqtrain.physics.function import Function
from qeqtrain.physics.recomputing import slices, slopes_of

PAIRS = 512
"""Pairs of a block on a CPU: with 192 numbers each their filters are half a megabyte."""

PAIRS_ON_DEVICE = 1 << 18
"""The same on a GPU."""


class Form(Protocol):
    """How filters of pairs become sums over atoms."""

    def totals(self, terms: Sequence[Tensor]) -> list[Tensor]:
        """Make the sums, zero to begin with."""

    def add(
        self, part: slice, filters: Tensor, terms: Sequence[Tensor], totals: Sequence[Tensor]
    ) -> None:
        """Add the pairs of a block.

        Args:
            part: which pairs.
            filters: theirs.
            terms: all tensors that are summed or multiplied.
            totals: changed in place.
        """

    def slope(
        self,
        part: slice,
        filters: Tensor,
        terms: Sequence[Tensor],
        cotangents: Sequence[Tensor],
        by: Sequence[Tensor | None],
    ) -> Tensor:
        """Give the derivative by the filters of a block, and add those by the terms.

        Args:
            part: which pairs.
            filters: theirs.
            terms: as above.
            cotangents: of the totals.
            by: derivative by every term, changed in place; ``None`` where it is not wanted.
        """


def streamed(
    form: Form,
    pairs: int,
    make: Callable[..., Tensor],
    terms: Sequence[Tensor],
    features: Sequence[Tensor],
) -> tuple[Tensor, ...]:
    """Sum messages block by block; differentiable once.

    Args:
        form: of the messages.
        pairs: P.
        make: filters ``(p, ...)`` from features of p pairs; what it closes over is constant.
        terms: tensors that the form reads beside the filters.
        features: what filters are made from, shape ``(P, ...)``.
    """
    found: tuple[Tensor, ...] = _Streamed.apply(
        form, pairs, make, len(terms), *terms, *features
    )
    return found


class _Streamed(Function):
    @staticmethod
    def forward(
        ctx: Any,
        form: Form,
        pairs: int,
        make: Callable[..., Tensor],
        count: int,
        *inputs: Tensor,
    ) -> tuple[Tensor, ...]:
        ctx.save_for_backward(*inputs)
        ctx.given = form, pairs, make, count
        terms, features = inputs[:count], inputs[count:]
        totals = form.totals(terms)
        for part in slices(pairs, _pairs_at_once(features[0])):
            form.add(part, make(*(t[part] for t in features)), terms, totals)
        return tuple(totals)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *cotangents: Tensor) -> tuple[Tensor | None, ...]:
        form, pairs, make, count = ctx.given
        inputs, needed = ctx.saved_tensors, ctx.needs_input_grad[4:]
        found = [
            torch.zeros_like(t) if n else None for t, n in zip(inputs, needed, strict=True)
        ]
        terms, features = inputs[:count], inputs[count:]
        for part in slices(pairs, _pairs_at_once(features[0])):

            def cotangent(filters: Tensor, part: slice = part) -> Tensor:
                return form.slope(part, filters, terms, cotangents, found[:count])

            slopes = slopes_of(make, [t[part] for t in features], needed[count:], cotangent)
            for whole, slope in zip(found[count:], slopes, strict=True):
                if whole is not None and slope is not None:
                    whole[part] = slope
        return None, None, None, None, *found


def _pairs_at_once(like: Tensor) -> int:
    return PAIRS_ON_DEVICE if like.is_cuda else PAIRS
