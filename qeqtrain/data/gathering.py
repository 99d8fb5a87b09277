"""Batches cut straight out of flat arrays, without an object per frame.

The columns of a store hold frame after frame; so does a batch. What lies between are ranges:
rows of the atoms of each frame, rows of its pairs. Every column of a batch is one array that is
filled range by range, neighbours in the file by one read, and only then brought to the types
that a model computes in.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from qeqtrain.data.contiguous import ContiguousColumn
from qeqtrain.data.labels import LABELS
from qeqtrain.data.source import Source
from qeqtrain.neighbors import Reach, with_pairs
from qeqtrain.structures import Edges, Pairs, Structure, Structures, reach_of

Lists = Callable[[int, float], Pairs]
"""Gives the neighbour list of a frame within a cutoff, A, where the source holds none."""


@dataclass(frozen=True)
class Ranges:
    """Rows of a batch and where they come from; adjacent ones are one range.

    Attributes:
        part: which part of the source, for every range.
        start, stop: rows there.
        place: first row in the batch.
        total: rows of the batch.
    """

    part: list[int]
    start: list[int]
    stop: list[int]
    place: list[int]
    total: int

    @classmethod
    def of(cls, part: np.ndarray, start: np.ndarray, stop: np.ndarray) -> Ranges:
        """Join the ranges of frames where one follows the other."""
        place = np.concatenate([[0], np.cumsum(stop - start)])
        begins = np.ones(len(part), dtype=bool)
        begins[1:] = (part[1:] != part[:-1]) | (start[1:] != stop[:-1])
        ends = np.append(begins[1:], True)[: len(part)]
        return cls(
            part[begins].tolist(),
            start[begins].tolist(),
            stop[ends].tolist(),
            place[:-1][begins].tolist(),
            int(place[-1]),
        )

    def take(self, columns: Sequence[Mapping[str, np.ndarray]], name: str) -> np.ndarray | None:
        """Read these rows of a column; zero (NaN) in parts that lack it, ``None`` if all do.

        Args:
            columns: of every part.
            name: of the column.
        """
        held = [c.get(name) for c in columns]
        known = [c for c in held if c is not None]
        if not known:
            return None
        dtype = np.result_type(*(c.dtype for c in known)) if len(known) > 1 else known[0].dtype
        out = np.empty((self.total, *known[0].shape[1:]), dtype=dtype)
        for part, start, stop, place in zip(
            self.part, self.start, self.stop, self.place, strict=True
        ):
            column, rows = held[part], out[place : place + stop - start]
            if isinstance(column, ContiguousColumn) and column.dtype == dtype:
                column.read_into(start, stop, rows)
            elif column is not None:
                rows[...] = column[start:stop]
            else:
                rows[...] = 0 if "/" in name else np.nan
        return out


class Gathering:
    """Frames of a source, gathered as the tensors of one batch.

    Args:
        source: that holds them.
        frames: their indices, in the order of the batch.

    Raises:
        ValueError: a total charge is missing.
    """

    def __init__(self, source: Source, frames: np.ndarray) -> None:
        """Find the rows of every frame."""
        self._source, self._frames = source, frames
        self._parts = source.parts
        self._columns = [p.columns for p in self._parts]
        self._part, self._local = source.locate(frames)
        self.sizes = source.sizes[frames]
        self._first = np.concatenate([[0], np.cumsum(self.sizes)])
        self._of_frames = Ranges.of(self._part, self._local, self._local + 1)
        start = self._offsets("offsets")
        self._of_atoms = Ranges.of(self._part, start, start + self.sizes)
        unknown = np.flatnonzero(np.isnan(source.total_charges[frames]))
        if len(unknown):
            raise ValueError(
                f"structures {unknown[:5].tolist()} have no total charge; state it, or choose "
                "a policy (data.total_charge = zero | sum_of_charges)"
            )

    def _offsets(self, name: str) -> np.ndarray:
        """Where each frame begins in the rows of its part."""
        if len(self._parts) == 1:
            found: np.ndarray = getattr(self._parts[0], name)[self._local]
            return found
        start = np.zeros(len(self._local), dtype=np.int64)
        for k, part in enumerate(self._parts):
            here = self._part == k
            start[here] = getattr(part, name)[self._local[here]]
        return start

    def _frame_rows(self, name: str) -> np.ndarray | None:
        return self._of_frames.take(self._columns, name)

    def _atom_rows(self, name: str) -> np.ndarray | None:
        return self._of_atoms.take(self._columns, name)

    def structures(self, cutoffs: Mapping[str, Reach], lists: Lists) -> Structures:
        """Gather geometries and neighbour lists.

        Args:
            cutoffs: A, or rules, by consumer.
            lists: neighbour lists that the source does not hold.
        """
        frames, source = self._frames, self._source
        numbers, positions = self._atom_rows("numbers"), self._atom_rows("positions")
        cell = self._frame_rows("cell")
        assert numbers is not None
        assert positions is not None
        assert cell is not None
        field = self._frame_rows("electric_field")
        applied = self._atom_rows("external_potential")
        if applied is not None:
            applied = None if np.isnan(applied).all() else np.nan_to_num(applied, copy=False)
        numbers = numbers.astype(np.int64)
        pbc = source.periodic[frames]
        charge = source.total_charges[frames]
        owners = None if source.owners is None else source.owners[frames].astype(np.int64)
        edges = {}
        fixed: dict[float, Edges] = {}
        for name, reach in cutoffs.items():
            if callable(reach):
                edges[name] = self._by_rule(name, reach, numbers, positions, cell)
                continue
            if reach not in fixed:
                fixed[reach] = self._edges(reach, lists, positions, cell)
            edges[name] = fixed[reach]
        return Structures(
            numbers=torch.from_numpy(numbers),
            positions=torch.from_numpy(positions),
            batch=torch.from_numpy(np.repeat(np.arange(len(frames)), self.sizes)),
            cell=torch.from_numpy(cell),
            pbc=torch.from_numpy(pbc),
            total_charge=torch.from_numpy(charge),
            spin=torch.from_numpy(source.spins[frames]),
            electric_field=torch.from_numpy(
                np.zeros((len(frames), 3)) if field is None else np.nan_to_num(field)
            ),
            external_potential=None if applied is None else torch.from_numpy(applied),
            data_set=None if owners is None else torch.from_numpy(owners),
            edges=edges,
        )

    def labels(
        self, names: Sequence[str]
    ) -> tuple[dict[str, torch.Tensor], dict[str, torch.Tensor]]:
        """Gather labels, zero where absent, and which frames carry each."""
        values, present = {}, {}
        for name in names:
            kind = LABELS[name]
            rows = self._atom_rows if kind.per_atom else self._frame_rows
            found = rows(f"labels/{name}")
            if found is None:
                n = int(self._first[-1]) if kind.per_atom else len(self._frames)
                found = np.zeros((n, *kind.shape))
            values[name] = torch.from_numpy(found)
            mask = self._source.present.get(name)
            there = np.zeros(len(self._frames), dtype=bool)
            present[name] = torch.from_numpy(there if mask is None else mask[self._frames])
        return values, present

    def _edges(
        self, cutoff: float, lists: Lists, positions: np.ndarray, cell: np.ndarray
    ) -> Edges:
        """Neighbour lists within one cutoff, in the numbering of the batch."""
        holds = self._source.pairs_cutoff
        if holds is not None and holds >= cutoff:
            start = self._offsets("pair_offsets")
            counts = self._pair_counts(start)
            ranges = Ranges.of(self._part, start, start + counts)
            named = [ranges.take(self._columns, f"pairs/{n}") for n in _PAIRS]
            sender, receiver, shift = (x for x in named if x is not None)
        else:
            found = [lists(i, cutoff) for i in self._frames.tolist()]
            counts = np.fromiter((len(p) for p in found), dtype=np.int64, count=len(found))
            sender, receiver, shift = (
                np.concatenate([getattr(p, n) for p in found]) for n in _PAIRS
            )
        first = np.repeat(self._first[:-1], counts)
        sender, receiver = sender + first, receiver + first  # int64 from here on
        shift = shift.astype(np.float64)
        if holds is not None and holds > cutoff:
            # Summed as the slow path sums them, so that both keep the same pairs.
            owner = np.repeat(np.arange(len(counts)), counts)
            image = np.einsum("pa,pab->pb", shift, cell[owner])
            vectors = positions[receiver] - positions[sender] + image
            near = np.sqrt((vectors**2).sum(-1)) <= cutoff
            sender, receiver, shift = sender[near], receiver[near], shift[near]
        return Edges(
            torch.from_numpy(sender),
            torch.from_numpy(receiver),
            torch.from_numpy(shift),
            cutoff,
        )

    def _pair_counts(self, start: np.ndarray) -> np.ndarray:
        if len(self._parts) == 1:
            after: np.ndarray = self._parts[0].pair_offsets[self._local + 1]
            return after - start
        counts = np.zeros(len(start), dtype=np.int64)
        for k, part in enumerate(self._parts):
            here = self._part == k
            counts[here] = part.pair_offsets[self._local[here] + 1] - start[here]
        return counts

    def _by_rule(
        self,
        name: str,
        rule: Callable[[Structure], float],
        numbers: np.ndarray,
        positions: np.ndarray,
        cell: np.ndarray,
    ) -> Edges:
        """Neighbour lists whose cutoff is a matter of the structure: made anew, and long."""
        made = []
        for k, i in enumerate(self._frames.tolist()):
            rows = slice(int(self._first[k]), int(self._first[k + 1]))
            spin = float(self._source.spins[i])
            structure = Structure(
                numbers[rows],
                positions[rows],
                cell[k],
                self._source.periodic[i],
                total_charge=float(self._source.total_charges[i]),
                spin=None if spin != spin else spin,
            )
            made.append(with_pairs(structure, {name: rule}).pairs[name])
        counts = [len(p) for p in made]
        first = np.repeat(self._first[:-1], counts)
        return Edges(
            torch.from_numpy(np.concatenate([p.sender for p in made]) + first),
            torch.from_numpy(np.concatenate([p.receiver for p in made]) + first),
            torch.from_numpy(np.concatenate([p.shift for p in made]).astype(np.float64)),
            cutoff=min(p.cutoff for p in made),
            reach=reach_of(made),
        )


_PAIRS = ("sender", "receiver", "shift")
