"""How many pairs are worked out together."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

import torch
from torch import Tensor

_BESIDE: ContextVar[bool] = ContextVar("beside_other_threads", default=False)


@contextmanager
def beside_other_threads(are_there: bool) -> Iterator[None]:
    """Say whether other threads of Python work on other structures at the same time."""
    token = _BESIDE.set(are_there)
    try:
        yield
    finally:
        _BESIDE.reset(token)


def pairs_at_once(pairs: int, like: Tensor, numbers: int) -> int:
    """Choose the size of a block of pairs, at least 1.

    On one thread of a CPU a block stays in the cache. Several threads share every operation of
    a block, and wait for each other at its end: blocks of the size for one leave them with
    less work than waiting (two threads took longer than one), so that they get 2 each. Threads
    of Python wait for each other between operations, and get blocks of 2 as well. A GPU takes
    all pairs at once.

    Args:
        pairs: P.
        like: tensor of the network, channels last.
        numbers: of every component in the block of one thread.
    """
    if like.is_cuda:
        return max(1, pairs)
    threads = torch.get_num_threads()
    larger = threads > 1 or _BESIDE.get()
    return max(1, numbers * threads * (2 if larger else 1) // like.shape[-1])
