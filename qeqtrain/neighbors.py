"""Neighbour lists, by vesin: every pair within a cutoff, listed once.

vesin was the fastest of the lists measured on a CPU and has no dependency of its own. Half
lists are what the package keeps: distances, and all that follows from them, are then worked
out once.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from numbers import Real

import numpy as np
import vesin

from qeqtrain.errors import UserMistake
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


@dataclass
class _Kept:
    """Pairs found at one geometry, with what tells how far another is from it."""

    pairs: Pairs  # up to the cutoff then, and the skin
    positions: np.ndarray
    inverse: np.ndarray  # of the completed cell


class SkinnedLists:
    r"""Neighbour lists of a structure that moves: found rarely, then shortened to the cutoff.

    Pairs are listed up to the cutoff and a skin beyond. With the strain F that leads from the
    cell then to the cell now, and u the farthest that an atom has moved beside it and beside
    the motion of all, no other pair has come within the cutoff as long as

    .. math:: (r_c + 2u)\, \lVert F^{-1} \rVert \le r_c^{then} + \mathrm{skin} .

    What is given out are the pairs within the cutoff, the same as in a list made anew.

    Args:
        skin: A; with 0 every list is made anew.

    Raises:
        UserMistake: a skin below zero.
    """

    def __init__(self, skin: float) -> None:
        if not isinstance(skin, Real) or not 0.0 <= skin < math.inf:
            raise UserMistake(f"skin={skin}: expected 0 or more, A")
        self.skin = skin
        self.built = 0
        """Lists made anew so far."""
        self._kept: dict[str, _Kept] = {}
        self._kind: tuple[int, bytes] = (0, b"")

    def __call__(self, structure: Structure, cutoffs: Mapping[str, Reach]) -> Structure:
        """Do what :func:`with_pairs` does."""
        kind = len(structure), np.asarray(structure.pbc, dtype=bool).tobytes()
        if kind != self._kind:
            self._kept, self._kind = {}, kind
        found: dict[float, Pairs] = {}
        pairs = {}
        for consumer, reach in cutoffs.items():
            cutoff = reach(structure) if callable(reach) else reach
            if cutoff not in found:
                found[cutoff] = self._pairs(structure, consumer, cutoff)
            pairs[consumer] = found[cutoff]
        return replace(structure, pairs=pairs)

    def _pairs(self, structure: Structure, consumer: str, cutoff: float) -> Pairs:
        if not self.skin or not len(structure) or math.isinf(cutoff):
            self.built += 1
            return find_pairs(structure, cutoff)
        cell = completed_cell(structure.cell, structure.pbc)
        kept = self._kept.get(consumer)
        if kept is None or not self._holds(kept, structure.positions, cell, cutoff):
            self.built += 1
            kept = _Kept(
                find_pairs(structure, cutoff + self.skin),
                structure.positions,
                np.linalg.inv(cell),
            )
            self._kept[consumer] = kept
        return _within(kept.pairs, structure.positions, cell, cutoff)

    @staticmethod
    def _holds(kept: _Kept, positions: np.ndarray, cell: np.ndarray, cutoff: float) -> bool:
        strain = kept.inverse @ cell
        moved = positions - kept.positions @ strain
        moved -= moved.mean(axis=0)
        farthest = math.sqrt((moved * moved).sum(axis=1).max())
        # NaN fails the comparison, as it should.
        stretch = np.linalg.norm(np.linalg.inv(strain), ord=2)
        return bool((cutoff + 2.0 * farthest) * stretch <= kept.pairs.cutoff)


def _within(pairs: Pairs, positions: np.ndarray, cell: np.ndarray, cutoff: float) -> Pairs:
    """Choose the pairs whose distance is within a cutoff."""
    squares = np.zeros(len(pairs))
    for axis in range(3):
        row = np.ascontiguousarray(positions[:, axis])
        along = row.take(pairs.receiver)
        along -= row.take(pairs.sender)
        along += pairs.shift @ cell[:, axis]
        squares += np.square(along, out=along)
    near = np.flatnonzero(squares <= cutoff * cutoff)
    return Pairs(
        pairs.sender.take(near),
        pairs.receiver.take(near),
        pairs.shift.take(near, axis=0),
        cutoff,
    )
