"""Parts of a store: columns that grow block by block, to be joined when all are there.

How long a column will be is not known while frames still come. A part is therefore written in
chunks that can be added to; joining parts (:mod:`qeqtrain.data.store_writer`) lays each column
out in one piece.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Self

import h5py
import numpy as np

from qeqtrain.data.columns import OPTIONAL, absent_value, columns_of, counted_as
from qeqtrain.data.frames import Frame
from qeqtrain.data.labels import plural
from qeqtrain.data.tally import tally_of
from qeqtrain.errors import UserMistake
from qeqtrain.neighbors import find_pairs
from qeqtrain.structures import Pairs

_CHUNK = 2**18  # bytes
BLOCK = 2**17  # atoms laid out at a time: every column costs the same once more for each
_OF_LABELS = ("labels", "present")


class PartWriter:
    """Write frames to a part, block by block; nothing appears at ``path`` until it is whole.

    Args:
        path: of the part; an existing file is replaced in one step at the end.
        pairs_cutoff: A, if neighbour lists are stored too (half lists).
    """

    def __init__(self, path: Path, pairs_cutoff: float | None = None) -> None:
        """Open the temporary file beside ``path``."""
        self._path = path
        self._temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
        self._cutoff = pairs_cutoff
        self.frames = 0
        self._atoms = 0
        path.parent.mkdir(parents=True, exist_ok=True)
        self._file = h5py.File(self._temporary, "w", libver=("v110", "v110"))

    def __enter__(self) -> Self:
        """Begin."""
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        """Finish, or take the temporary file away."""
        self._file.close()
        if kind is None and self.frames:
            put_in_place(self._temporary, self._path)
        else:
            self._temporary.unlink(missing_ok=True)

    def _append(self, name: str, block: np.ndarray, before: int) -> None:
        """Add rows to a column; one that appears late is filled up as absent."""
        if name not in self._file:
            width = block.dtype.itemsize * int(np.prod(block.shape[1:], dtype=int))
            self._file.create_dataset(
                name,
                shape=(0, *block.shape[1:]),
                maxshape=(None, *block.shape[1:]),
                dtype=block.dtype,
                chunks=(max(_CHUNK // max(width, 1), 1), *block.shape[1:]),
                fletcher32=True,
            )
            if before:
                shape = (before, *block.shape[1:])
                filler = np.full(shape, absent_value(name)).astype(block.dtype)
                self._append(name, filler, 0)
        dataset = self._file[name]
        start = len(dataset)
        dataset.resize(start + len(block), axis=0)
        dataset[start:] = block

    def write(self, frames: Iterable[Frame], pairs: Sequence[Pairs] | None = None) -> None:
        """Add frames.

        Args:
            frames: any number; only a block of them is kept.
            pairs: their neighbour lists, where they were found before.
        """
        block: list[Frame] = []
        atoms = 0
        for frame in frames:
            block.append(frame)
            atoms += len(frame)
            if pairs is None and atoms >= BLOCK:
                self._write_block(block)
                block, atoms = [], 0
        if block:
            self._write_block(block, pairs)

    def _write_block(self, frames: list[Frame], pairs: Sequence[Pairs] | None = None) -> None:
        columns = columns_of(frames)
        columns |= tally_of(columns)
        rows = {None: len(frames), "atom": len(columns["numbers"])}
        before = {None: self.frames, "atom": self._atoms}
        for name, values in columns.items():
            self._append(name, values, before.get(counted_as(name), 0))
        known = [f"{kind}/{n}" for n in self._file.get("labels", ()) for kind in _OF_LABELS]
        # What this block lacks altogether still needs its rows.
        for name in [*known, *OPTIONAL]:
            if name in self._file and name not in columns:
                dataset = self._file[name]
                shape = (rows[counted_as(name)], *dataset.shape[1:])
                self._append(name, np.full(shape, absent_value(name)).astype(dataset.dtype), 0)
        if self._cutoff is not None:
            cutoff = self._cutoff
            lists = pairs or [find_pairs(f.structure, cutoff) for f in frames]
            self._write_pairs(frames, lists, cutoff)
        self.frames += len(frames)
        self._atoms += len(columns["numbers"])

    def _write_pairs(self, frames: list[Frame], lists: Sequence[Pairs], cutoff: float) -> None:
        # One type for the whole column: the first block decides, later ones must fit.
        known = self._file["pairs/sender"].dtype if "pairs/sender" in self._file else None
        largest = max((len(f) for f in frames), default=0)
        index = known or np.dtype(np.int16 if largest < 2**15 else np.int32)
        if largest > np.iinfo(index).max:
            raise UserMistake(
                f"{self._path}: a frame of {plural(largest, 'atom')} follows smaller ones; "
                "convert the large frames first, or store no neighbour lists"
            )
        counts = np.fromiter((len(p) for p in lists), dtype=np.int64, count=len(lists))
        self._append("pairs/counts", counts, 0)
        for name, dtype in (
            ("sender", index),
            ("receiver", index),
            ("shift", np.dtype(np.int8)),
        ):
            parts = [getattr(p, name) for p in lists]
            joined = np.concatenate(parts)
            if np.abs(joined).max(initial=0) > np.iinfo(dtype).max:
                raise UserMistake(f"{self._path}: the cutoff {cutoff} A is many cells wide")
            self._append(f"pairs/{name}", joined.astype(dtype), 0)


def put_in_place(temporary: Path, path: Path) -> None:
    """Give a finished file its name once it is safely on disk."""
    with temporary.open("rb+") as raw:
        os.fsync(raw.fileno())
    temporary.replace(path)
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)
