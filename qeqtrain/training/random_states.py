"""States of all random generators of a process, as tensors and plain values."""

from __future__ import annotations

import random
from typing import Any

import numpy as np
import torch


def random_states() -> dict[str, Any]:
    """Read the generators of Python, numpy, torch and this process's GPU."""
    state: Any = np.random.get_state()  # noqa: NPY002 (the state that others draw from)
    name, keys, position, has_gauss, gauss = state
    version, internal, gauss_next = random.getstate()
    states: dict[str, Any] = {
        "torch": torch.get_rng_state(),
        "numpy": [name, torch.from_numpy(keys.astype(np.int64)), position, has_gauss, gauss],
        "python": [version, list(internal), gauss_next],
    }
    if torch.cuda.is_available():
        states["cuda"] = torch.cuda.get_rng_state()
    return states


def restore_random_states(states: dict[str, Any]) -> None:
    """Undo :func:`random_states`."""
    torch.set_rng_state(states["torch"].cpu())
    name, keys, position, has_gauss, gauss = states["numpy"]
    np.random.set_state(  # noqa: NPY002 (the state that others draw from)
        (name, keys.numpy().astype(np.uint32), position, has_gauss, gauss)
    )
    version, internal, gauss_next = states["python"]
    random.setstate((version, tuple(internal), gauss_next))
    if "cuda" in states and torch.cuda.is_available():
        torch.cuda.set_rng_state(states["cuda"].cpu())


def shift_random_states(rank: int) -> None:
    """Give a rank random numbers of its own, once weights are drawn alike on all."""
    if rank:
        seed = (torch.initial_seed() + rank) % 2**32
        torch.manual_seed(seed)
        np.random.seed(seed)  # noqa: NPY002 (the state that others draw from)
        random.seed(seed)
