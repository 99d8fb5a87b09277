"""When an evaluation keeps its intermediates for the forces, and when it makes them twice."""

from __future__ import annotations

from typing import Literal

import torch

from qeqtrain.errors import UserMistake, nearest
from qeqtrain.structures import Structures

Memory = Literal["auto", "small", "plain"]
"""``small``: intermediates are worked out again for the forces, some 50 kB for every atom
instead of some 400; ``plain``: they are kept; ``auto``: by size."""

CHOICES = ("auto", "small", "plain")

KEPT_UP_TO = 2000
"""Atoms up to which ``auto`` keeps intermediates on a CPU. QET takes as long either way from
there on; below, keeping them is a tenth faster (NequIP: a quarter)."""

PER_ATOM = 4e5
"""Bytes that an atom's intermediates take, about."""


def checked_memory(memory: str) -> Memory:
    """Check what a user says.

    Raises:
        UserMistake: unknown.
    """
    for known in CHOICES:
        if memory == known:
            return known  # type: ignore[return-value]  # mypy does not narrow by ==
    raise UserMistake(
        f"memory={memory}: expected one of {', '.join(CHOICES)}{nearest(memory, CHOICES)}"
    )


def spares_memory(memory: Memory, structures: Structures) -> bool:
    """Choose for a batch whose energy is to be differentiated once.

    Args:
        memory: what the user says.
        structures: the batch.
    """
    if memory != "auto":
        return memory == "small"
    if structures.positions.is_cuda:
        free, _ = torch.cuda.mem_get_info(structures.positions.device)
        return structures.n_atoms * PER_ATOM > 0.5 * free
    return structures.n_atoms > KEPT_UP_TO
