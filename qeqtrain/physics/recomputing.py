"""Intermediates that are worked out again in the backward pass, rather than kept for it.

A network keeps some hundred kilobytes for every atom until its forces are known. Where nothing
but forces and stress is asked for, an operation can keep its inputs alone, and run again when
its turn in the backward pass comes. Either those on ``pairs`` of atoms do so, which make the
most of it, or ``all``, those on atoms too: an eighth of the memory for a third more arithmetic.
Operations on atoms run a few rows at a time in both cases, so that one finds in the cache what
the last has left there. Only first derivatives exist then, and only those in the tensors that
are given: what a function closes over, such as weights, counts as constant.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, Literal

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from qeqtrain.physics.function import Function

What = Literal["nothing", "pairs", "all"]
"""Operations that are run again."""

_ASKED: ContextVar[What] = ContextVar("recomputing", default="nothing")

ROWS = 256
"""Rows that a function is given at once on a CPU: nine components of 64 channels of so many
atoms are half a megabyte."""

ROWS_ON_DEVICE = 1 << 16
"""The same on a GPU, which wants many at a time."""


@contextmanager
def recomputing(what: What) -> Iterator[None]:
    """Choose what is run again within; first derivatives alone, and of inputs alone."""
    token = _ASKED.set(what)
    try:
        yield
    finally:
        _ASKED.reset(token)


def recomputed() -> bool:
    """Tell whether what pairs of atoms make is to be worked out again."""
    return _ASKED.get() != "nothing"


def by_rows(function: Callable[..., Any], *inputs: Tensor) -> Any:
    """Apply a function of atoms, each by itself; in little memory a few rows at a time.

    Args:
        function: of tensors with equally many rows to one with as many, or to a tuple of such;
            no row depends on another.
        *inputs: its tensors, shape ``(N, ...)``.
    """
    what = _ASKED.get()
    if what == "nothing":
        return function(*inputs)
    if what == "pairs":
        size = _rows_at_once(inputs[0])
        pieces = zip(*(torch.split(t, size) for t in inputs), strict=True)
        columns = zip(*(_tuple(function(*piece)) for piece in pieces), strict=True)
        found = tuple(torch.cat(column) for column in columns)
    else:
        found = _Rows.apply(function, *inputs)
    return found if len(found) > 1 else found[0]


def slices(count: int, size: int) -> Iterator[slice]:
    """Cut ``count`` rows into slices of ``size``, one at least."""
    for start in range(0, max(count, 1), size):
        yield slice(start, min(count, start + size))


def slopes_of(
    function: Callable[..., Any],
    inputs: Sequence[Tensor],
    needed: Sequence[bool],
    cotangents: Sequence[Tensor] | Callable[[Tensor], Tensor],
) -> list[Tensor | None]:
    """Run a function again, and differentiate it.

    Args:
        function: of ``inputs``.
        inputs: constants and variables.
        needed: which of them are variables.
        cotangents: of the outputs; or, of a single output, made from it.
    """
    with torch.enable_grad():
        here = [t.detach().requires_grad_(n) for t, n in zip(inputs, needed, strict=True)]
        outputs = _tuple(function(*here))
    given = [cotangents(outputs[0].detach())] if callable(cotangents) else cotangents
    pairs = [(t, g) for t, g in zip(outputs, given, strict=True) if t.requires_grad]
    if not pairs or not any(needed):
        return [None] * len(here)
    slopes = iter(
        torch.autograd.grad(
            [t for t, _ in pairs],
            [t for t, n in zip(here, needed, strict=True) if n],
            [g for _, g in pairs],
            materialize_grads=True,
        )
    )
    return [next(slopes) if n else None for n in needed]


class _Rows(Function):
    """The function in slices, and its derivative in slices."""

    @staticmethod
    def forward(ctx: Any, function: Callable[..., Any], *inputs: Tensor) -> tuple[Tensor, ...]:
        ctx.save_for_backward(*inputs)
        ctx.function = function
        count = len(inputs[0])
        out: tuple[Tensor, ...] = ()
        for part in slices(count, _rows_at_once(inputs[0])):
            found = _tuple(function(*(t[part] for t in inputs)))
            if not out:
                out = tuple(t.new_empty((count, *t.shape[1:])) for t in found)
            for whole, piece in zip(out, found, strict=True):
                whole[part] = piece
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        inputs = ctx.saved_tensors
        needed = ctx.needs_input_grad[1:]
        total = [
            torch.zeros_like(t) if n else None for t, n in zip(inputs, needed, strict=True)
        ]
        for part in slices(len(inputs[0]), _rows_at_once(inputs[0])):
            rows = [g[part] for g in gradients]
            given = [t[part] for t in inputs]
            slopes = slopes_of(ctx.function, given, needed, rows)
            for whole, slope in zip(total, slopes, strict=True):
                if whole is not None and slope is not None:
                    whole[part] = slope
        return None, *total


def _tuple(found: Any) -> tuple[Tensor, ...]:
    return (found,) if isinstance(found, Tensor) else tuple(found)


def _rows_at_once(like: Tensor) -> int:
    return ROWS_ON_DEVICE if like.is_cuda else ROWS
