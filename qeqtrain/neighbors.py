"""Neighbour lists, by vesin: every pair within a cutoff, listed once.

vesin was the fastest of the lists measured on a CPU and has no dependency of its own. Half
lists are what the package keeps: distances, and all that follows from them, are then worked
out once.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import replace

import numpy as np
import vesin

from qeqtrain.structures import Pairs, Structure

Reach = float | Callable[[Structure], float]
"""How far a consumer's pairs reach, A: a cutoff, or a rule that gives one per structure."""


def completed_cell(cell: np.ndarray, pbc: np.ndarray) -> np.ndarray:
    """Replace the vectors along open directions by unit vectors orthogonal to the others.

    Args:
        cell: rows, A, shape ``(3, 3)``; rows of open directions are ignored.
        pbc: shape ``(3,)``.

    Raises:
        ValueError: the periodic vectors are zero or linearly dependent.
    """
    periodic = np.flatnonzero(pbc)
    rows = np.asarray(cell, dtype=np.float64)[periodic]
    if len(periodic):
        spread = np.linalg.svd(rows, compute_uv=False)
        if spread.min() < 1e-6 * max(spread.max(), 1.0):
            raise ValueError(
                f"the cell vectors {rows.tolist()} of the periodic directions do not span "
                "a cell; give the lattice, or set pbc to False"
            )
    full = np.zeros((3, 3))
    full[periodic] = rows
    open_ = np.flatnonzero(~np.asarray(pbc, dtype=bool))
    if len(open_):
        # The rows of vh beyond the rank span the space orthogonal to the periodic vectors.
        vh = np.linalg.svd(rows)[2] if len(periodic) else np.eye(3)
        full[open_] = vh[len(periodic) :]
    return full


def find_pairs(structure: Structure, cutoff: float) -> Pairs:
    """List all pairs within ``cutoff``, periodic images included, each pair once.

    An atom and its own image count as a pair; an atom and itself do not. A molecule may have
    an infinite cutoff: all pairs.
    """
    if len(structure) == 0:
        empty = np.zeros(0, dtype=np.int64)
        return Pairs(empty, empty, np.zeros((0, 3), dtype=np.int64), cutoff)
    if math.isinf(cutoff):
        if structure.pbc.any():
            raise ValueError("a periodic structure has no end of pairs; give a finite cutoff")
        sender, receiver = np.triu_indices(len(structure), k=1)
        none = np.zeros((len(sender), 3), dtype=np.int64)
        return Pairs(sender.astype(np.int64), receiver.astype(np.int64), none, cutoff)
    finder = vesin.NeighborList(cutoff=cutoff, full_list=False, sorted=True, n_threads=1)
    sender, receiver, shift = finder.compute(
        points=structure.positions,
        box=completed_cell(structure.cell, structure.pbc),
        periodic=[bool(p) for p in structure.pbc],
        quantities="ijS",
    )
    return Pairs(
        sender.astype(np.int64), receiver.astype(np.int64), shift.astype(np.int64), cutoff
    )


def with_pairs(structure: Structure, cutoffs: Mapping[str, Reach]) -> Structure:
    """Give a structure the neighbour lists that a model's consumers ask for.

    Args:
        structure: lists it has already are kept.
        cutoffs: A, by consumer (``Potential.cutoffs``), or rules that give them.
    """
    found: dict[float, Pairs] = {}
    pairs = {}
    for consumer, reach in cutoffs.items():
        cutoff = reach(structure) if callable(reach) else reach
        known = structure.pairs.get(consumer)
        if known is None or known.cutoff != cutoff:
            known = found.get(cutoff) or find_pairs(structure, cutoff)
            found[cutoff] = known
        pairs[consumer] = known
    return replace(structure, pairs=pairs)
