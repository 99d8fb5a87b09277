"""When an evaluation keeps its intermediates for the forces, and when it makes them twice."""

from __future__ import annotations

from typing import Literal

import torch

from qeqtrain.errors import UserMistake, nearest
from qeqtrain.physics.recomputing import What
from qeqtrain.structures import Structures

Memory = Literal["auto", "small", "medium", "plain"]
"""``plain``: intermediates are kept until forces are known, some 400 kB for every atom of QET;
``medium``: those of pairs are worked out again, which leaves some 130; ``small``: all are, some
50; ``auto``: by size."""

LEVELS: dict[str, What] = {"plain": "nothing", "medium": "pairs", "small": "all"}

CHOICES = ("auto", *reversed(LEVELS))

KEPT_UP_TO = 2000
"""Atoms up to which ``auto`` keeps everything on a CPU: at 1,000 atoms of QET that is faster by
a fifth, at 8,000 slower by as much."""

MEDIUM_UP_TO = 60_000
"""Atoms up to which it keeps what atoms make: 8 GB."""

PER_ATOM = 4e5
"""Bytes that an atom's intermediates take, about."""


def checked_memory(memory: str) -> Memory:
    """Check what a user says.

    Raises:
        UserMistake: unknown.
    """
    if memory not in CHOICES:
        raise UserMistake(
            f"memory={memory}: expected one of {', '.join(CHOICES)}{nearest(memory, CHOICES)}"
        )
    return memory  # type: ignore[return-value]  # mypy does not narrow by in


def worked_out_again(memory: Memory, structures: Structures) -> What:
    """Choose for a batch whose energy is to be differentiated once.

    Args:
        memory: what the user says.
        structures: the batch.
    """
    if memory != "auto":
        return LEVELS[memory]
    if structures.positions.is_cuda:
        device = structures.positions.device
        free, _ = torch.cuda.mem_get_info(device)
        # Torch keeps for itself what it has once had: that is free for torch as well.
        free += torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return "all" if structures.n_atoms * PER_ATOM > 0.5 * free else "nothing"
    if structures.n_atoms <= KEPT_UP_TO:
        return "nothing"
    return "pairs" if structures.n_atoms <= MEDIUM_UP_TO else "all"
