"""How many pairs are worked out together."""

from __future__ import annotations

import torch
from torch import Tensor


def pairs_at_once(pairs: int, like: Tensor, numbers: int) -> int:
    """Choose the size of a block of pairs, at least 1.

    On one thread of a CPU a block stays in the cache. Several threads share every operation of
    a block, and wait for each other at its end: blocks of the size for one leave them with
    less work than waiting (two threads took longer than one), so that they get 2 each. A GPU
    takes all pairs at once.

    Args:
        pairs: P.
        like: tensor of the network, channels last.
        numbers: of every component in the block of one thread.
    """
    if like.is_cuda:
        return max(1, pairs)
    threads = torch.get_num_threads()
    return max(1, numbers * (1 if threads == 1 else 2 * threads) // like.shape[-1])
