"""Several sources as one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import cached_property, reduce
from hashlib import blake2b

import numpy as np

from qeqtrain.data.frames import Frame, unique_ids
from qeqtrain.data.labels import LABELS
from qeqtrain.data.source import Source
from qeqtrain.data.sums import Sums
from qeqtrain.data.texts import Chained, repeated
from qeqtrain.structures import Pairs


def joined_fingerprint(prints: Sequence[str]) -> str:
    """One fingerprint of several files, in this order."""
    return blake2b("".join(prints).encode(), digest_size=16).hexdigest()


class Joined(Source):
    """Several sources, one after the other."""

    def __init__(self, parts: Sequence[Source]) -> None:
        """Join what is known of the parts; frames stay where they are."""
        self._parts = list(parts)
        self.name = " + ".join(p.name for p in parts)
        self.path = None
        self.conventions = parts[0].conventions
        self.sizes = np.concatenate([p.sizes for p in parts])
        self.offsets = np.concatenate([[0], np.cumsum(self.sizes)])
        self.starts = np.concatenate([[0], np.cumsum([len(p) for p in parts])])
        self.present = {
            label: np.concatenate(
                [p.present.get(label, np.zeros(len(p), dtype=bool)) for p in parts]
            )
            for label in LABELS
            if any(label in p.present for p in parts)
        }
        self.total_charges = np.concatenate([p.total_charges for p in parts])
        self.spins = np.concatenate([p.spins for p in parts])
        self.geometries = np.concatenate([p.geometries for p in parts])
        self.periodic = np.concatenate([p.periodic for p in parts])
        self.source_ids = self._ids()
        self.groups = Chained([p.groups for p in parts])
        self.elements = set().union(*(p.elements for p in parts))
        self.fingerprint = joined_fingerprint([p.fingerprint for p in parts])
        self.notes = [n for p in parts for n in p.notes]
        self.unused = tuple(dict.fromkeys(k for p in parts for k in p.unused))
        cutoffs = {p.pairs_cutoff for p in parts}
        self.pairs_cutoff = cutoffs.pop() if len(cutoffs) == 1 else None
        self.kept_in_memory = all(p.kept_in_memory for p in parts)

    def _ids(self) -> Sequence[str]:
        """Unique name of each frame."""
        chained = Chained([p.source_ids for p in self._parts])
        return unique_ids(chained) if repeated(chained) else chained

    @property
    def parts(self) -> list[Source]:
        """Sources that hold the frames, one after the other."""
        return self._parts

    def locate(self, frames: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Which of :attr:`parts` holds each frame, and as which of its own."""
        frames = np.asarray(frames, dtype=np.int64)
        part = np.searchsorted(self.starts, frames, side="right") - 1
        return part, frames - self.starts[part]

    def sum_up(self, frames: np.ndarray | None = None) -> Sums:
        """Add up frames, part by part."""
        every = np.arange(len(self)) if frames is None else np.unique(frames)
        part, local = self.locate(every)
        found = [p.sum_up(local[part == k]) for k, p in enumerate(self.parts)]
        return reduce(Sums.merge, found)

    def pair_counts(self, cutoff: float) -> np.ndarray | None:
        """Pairs of every frame within a cutoff, if all parts store them."""
        counts = [p.pair_counts(cutoff) for p in self.parts]
        known = [c for c in counts if c is not None]
        return np.concatenate(known) if len(known) == len(counts) else None

    def _find(self, i: int) -> tuple[Source, int]:
        i = range(len(self))[int(i)]
        part = int(np.searchsorted(self.starts, i, side="right")) - 1
        return self.parts[part], i - int(self.starts[part])

    def __getitem__(self, i: int) -> Frame:
        """Read one frame."""
        part, local = self._find(i)
        frame = part[local]
        return replace(frame, source_id=self.source_ids[i])

    def column(self, label: str) -> np.ndarray:
        """All values of a label, part after part; zero where absent."""
        kind = LABELS[label]
        return np.concatenate(
            [
                p.column(label)
                if label in p.present
                else np.zeros((int(p.sizes.sum()) if kind.per_atom else len(p), *kind.shape))
                for p in self.parts
            ]
        )

    @property
    def fields(self) -> np.ndarray:
        """Electric fields, V/A, zero where none is stated, shape ``(n, 3)``."""
        return np.concatenate([p.fields for p in self.parts])

    @property
    def cells(self) -> np.ndarray:
        """Cells, rows, A, shape ``(n, 3, 3)``."""
        return np.concatenate([p.cells for p in self.parts])

    @property
    def in_fragments(self) -> int:
        """How many frames are divided into fragments."""
        return sum(p.in_fragments for p in self.parts)

    @property
    def numbers(self) -> np.ndarray:
        """Atomic numbers of all atoms, shape ``(N,)``."""
        return np.concatenate([p.numbers for p in self.parts])

    def pairs(self, i: int, cutoff: float, frame: Frame | None = None) -> Pairs:
        """Neighbour list of frame ``i``, from the part that holds it."""
        part, local = self._find(i)
        return part.pairs(local, cutoff, frame)

    @cached_property
    def files(self) -> list[str]:
        """Short name of the file that each frame comes from."""
        return [name for p in self.parts for name in p.files]
