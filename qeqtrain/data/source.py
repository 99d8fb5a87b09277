"""Frames of one file, or made in memory, behind one face."""

from __future__ import annotations

from collections import ChainMap
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path

import numpy as np

from qeqtrain.data import store
from qeqtrain.data.columns import frame_at
from qeqtrain.data.frames import Frame, refuse, unique_ids
from qeqtrain.data.labels import LABELS, Conventions
from qeqtrain.data.sums import Sums, sums_of
from qeqtrain.data.tally import PREFIX, tally_by_blocks
from qeqtrain.data.texts import Groups, Texts, repeated
from qeqtrain.data.total_charge import assumed_charge
from qeqtrain.errors import UserMistake
from qeqtrain.neighbors import find_pairs
from qeqtrain.structures import Pairs


def _is_kept(column: str) -> bool:
    """Whether a column is so small, and so often looked up, that it stays in memory."""
    return column in {"pbc", "total_charge", "spin"} or column.startswith("present/")


class Source:
    """Frames of one file (or of several, one after the other), with what is known of them.

    Attributes:
        name: short name, for messages.
        path: of the file, if it is one.
        conventions: under which it is read.
        sizes: atoms of each frame, int64, shape ``(n_frames,)``.
        offsets: first atom of each frame, and the end, shape ``(n_frames + 1,)``.
        present: by label, which frames carry it, bool, shape ``(n_frames,)``.
        total_charges, spins: of each frame, NaN where unknown, shape ``(n_frames,)``.
        geometries: number of each geometry, equal for equal ones, uint64, ``(n_frames,)``.
        source_ids: unique name of each frame.
        groups: what a split must not tear apart.
        elements: atomic numbers that occur.
        fingerprint: of the content.
        kept_in_memory: whether frames are views of arrays in memory.
        notes: what was left out on reading, and other things worth knowing.
        unused: keys of the file that no label was taken from.
        owners: data set of each frame where several are mixed, shape ``(n_frames,)``, or
            ``None``.
    """

    owners: np.ndarray | None = None

    def __init__(
        self,
        columns: Mapping[str, np.ndarray],
        *,
        name: str,
        conventions: Conventions,
        fingerprint: str,
        elements: set[int],
        notes: Sequence[str] = (),
        path: Path | None = None,
        pairs_cutoff: float | None = None,
        unused: Sequence[str] = (),
        sums: Sums | None = None,
        shard: tuple[int, int] = (0, 1),
    ) -> None:
        """Take columns and read what is kept of every frame."""
        self.kept_in_memory = isinstance(columns, dict)
        if not self.kept_in_memory:
            kept = {n: columns[n][()] for n in columns if _is_kept(n)}
            columns = ChainMap(kept, columns)  # type: ignore[arg-type]  # never written to
        self._columns = columns
        self.name, self.path, self.conventions = name, path, conventions
        self.fingerprint, self.elements = fingerprint, elements
        self.notes, self.unused = list(notes), tuple(unused)
        self.pairs_cutoff, self._stored_sums, self.shard = pairs_cutoff, sums, shard
        self.sizes = np.asarray(columns["sizes"][()], dtype=np.int64)
        self.offsets = np.concatenate([[0], np.cumsum(self.sizes)])
        self.present = {
            label: np.asarray(columns[f"present/{label}"][()], dtype=bool)
            for label in LABELS
            if f"present/{label}" in columns
        }
        self.total_charges = np.array(columns["total_charge"][()], dtype=np.float64)
        self.spins = np.array(columns["spin"][()], dtype=np.float64)
        self.geometries = np.asarray(columns["geometry"][()])
        self.periodic = np.asarray(columns["pbc"][()], dtype=bool)
        texts = {
            k: (columns[f"{k}/characters"][()], columns[f"{k}/lengths"][()])
            for k in ("source_id", "group")
        }
        self.source_ids: Sequence[str] = Texts(*texts["source_id"])
        if repeated(self.source_ids):
            self.source_ids = unique_ids(self.source_ids)
        self.groups: Sequence[str] = Groups(*texts["group"], self.geometries)
        self.pair_offsets = np.zeros(1, dtype=np.int64)
        if pairs_cutoff is not None:
            counts = columns["pairs/counts"][()]
            self.pair_offsets = np.concatenate([[0], np.cumsum(counts)])
        self._apply_conventions()

    def _apply_conventions(self) -> None:
        """Fill in total charges that a stored frame lacks, as the policy has it."""
        problems: list[str] = []
        if self.conventions.total_charge != "error":
            for i in np.flatnonzero(np.isnan(self.total_charges)).tolist():
                wrong: list[str] = []
                charge = assumed_charge(self._labels(i), self.conventions, wrong)
                problems += [f"{self.source_ids[i]}: {text}" for text in wrong]
                self.total_charges[i] = np.nan if charge is None else charge
        refuse(problems, self.name)

    def __len__(self) -> int:
        """Count the frames."""
        return len(self.sizes)

    def _frame(self, i: int) -> Frame:
        start, stop = int(self.offsets[i]), int(self.offsets[i + 1])
        try:
            return frame_at(self._columns, i, start, stop, self.source_ids[i], self.groups[i])
        except OSError as error:
            raise UserMistake(
                f"{self.path}: frame {i} cannot be read ({str(error).splitlines()[0][:120]}); "
                "the file is damaged: copy it again from its origin"
            ) from None

    def _labels(self, i: int) -> dict[str, np.ndarray]:
        return self._frame(i).labels

    def __getitem__(self, i: int) -> Frame:
        """Read one frame."""
        i = range(len(self))[int(i)]
        frame = self._frame(i)
        charge = self.total_charges[i]
        if frame.structure.total_charge is None and charge == charge:
            structure = replace(frame.structure, total_charge=float(charge))
            frame = replace(frame, structure=structure)
        return frame

    def column(self, label: str) -> np.ndarray:
        """All values of a label: per frame ``(n_frames, ...)`` or per atom ``(N, ...)``.

        Absent ones are zero; see ``present``.
        """
        return self._columns[f"labels/{label}"][()]

    @property
    def parts(self) -> list[Source]:
        """Sources that hold the frames, one after the other: this one."""
        return [self]

    @property
    def columns(self) -> Mapping[str, np.ndarray]:
        """Arrays that hold the frames (:mod:`qeqtrain.data.columns`)."""
        return self._columns

    def locate(self, frames: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Which of :attr:`parts` holds each frame, and as which of its own."""
        frames = np.asarray(frames, dtype=np.int64)
        return np.zeros(len(frames), dtype=np.int64), frames

    @cached_property
    def tally(self) -> Mapping[str, np.ndarray]:
        """What each frame adds to statistics (:mod:`qeqtrain.data.tally`)."""
        stored = {n: self._columns[n][()] for n in self._columns if n.startswith(PREFIX)}
        return stored or tally_by_blocks(self._columns, self.sizes)

    def sum_up(self, frames: np.ndarray | None = None) -> Sums:
        """Add up frames for statistics; those of a whole store are stored.

        Args:
            frames: indices of those that count; all by default.
        """
        every = frames is None or len(np.unique(frames)) == len(self)
        stored = self._stored_sums
        if every and stored is not None:
            counted = {n: int(mask.sum()) for n, mask in self.present.items()}
            if {n: c for n, c in stored.labelled.items() if c} == counted:
                return stored  # no label of the store was left out
        energies = self.column("energy") if "energy" in self.present else None
        return sums_of(self.tally, self.sizes, self.present, energies, frames)

    def pair_counts(self, cutoff: float) -> np.ndarray | None:
        """Pairs of every frame within a cutoff, shape ``(n_frames,)``, if they are stored."""
        return np.diff(self.pair_offsets) if self.pairs_cutoff == cutoff else None

    @property
    def fields(self) -> np.ndarray:
        """Electric fields, V/A, zero where none is stated, shape ``(n, 3)``."""
        if "electric_field" not in self._columns:
            return np.zeros((len(self), 3))
        return np.nan_to_num(self._columns["electric_field"][()])

    @property
    def cells(self) -> np.ndarray:
        """Cells, rows, A, shape ``(n, 3, 3)``."""
        return self._columns["cell"][()]

    @property
    def in_fragments(self) -> int:
        """How many frames are divided into fragments."""
        if "fragment" not in self._columns:
            return 0
        first = self._columns["fragment"][()][self.offsets[:-1]]
        return int((~np.isnan(first)).sum())

    @property
    def numbers(self) -> np.ndarray:
        """Atomic numbers of all atoms, shape ``(N,)``."""
        return self._columns["numbers"][()]

    def pairs(self, i: int, cutoff: float, frame: Frame | None = None) -> Pairs:
        """Neighbour list of frame ``i``: the stored one if it reaches far enough, or a new one.

        Args:
            i: index of the frame.
            cutoff: A.
            frame: the frame, if it has been read.
        """
        frame = self[i] if frame is None else frame
        if self.pairs_cutoff is None or self.pairs_cutoff < cutoff:
            found = find_pairs(frame.structure, cutoff)
            self._refuse_collisions(i, frame, found)
            return found
        known = store.stored_pairs(self._columns, self.pair_offsets, i, cutoff)
        if self.pairs_cutoff == cutoff:
            return known
        near = pair_distances(frame, known) <= cutoff
        return Pairs(known.sender[near], known.receiver[near], known.shift[near], cutoff)

    def _refuse_collisions(self, i: int, frame: Frame, pairs: Pairs) -> None:
        # Images are not looked at when a file is read; here their distances cost little.
        if len(pairs) and frame.structure.pbc.any():
            nearest = float(pair_distances(frame, pairs).min())
            if nearest < 0.1:
                raise UserMistake(
                    f"{self.name}, frame {i} ({self.source_ids[i]}): two atoms are "
                    f"{nearest:.3g} A apart through a cell boundary; remove the frame"
                )

    @cached_property
    def files(self) -> list[str]:
        """Short name of the file that each frame comes from."""
        return [self.name] * len(self)


def pair_distances(frame: Frame, pairs: Pairs) -> np.ndarray:
    """Distances of a neighbour list, A, shape ``(P,)``."""
    s = frame.structure
    vectors = s.positions[pairs.receiver] - s.positions[pairs.sender]
    vectors = vectors + pairs.shift.astype(np.float64) @ s.cell
    return np.sqrt((vectors**2).sum(-1))
