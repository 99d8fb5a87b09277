"""Writing of the store: parts joined, every column in one piece, each with its checksums.

Parts (:mod:`qeqtrain.data.parts`) are copied column by column and slab by slab, so that memory
does not grow with the data. The bytes of a store follow from its frames, their order and the
conventions alone: not from the time, the machine's load, or how many processes made the parts.
Nothing appears under the name of the store until it is whole.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import h5py
import numpy as np

from qeqtrain.data.columns import COUNTED_BY, absent_value, counted_as, digest
from qeqtrain.data.contiguous import Checksums
from qeqtrain.data.frames import Frame
from qeqtrain.data.labels import LABELS, Conventions
from qeqtrain.data.parts import PartWriter, put_in_place
from qeqtrain.data.store import FORMAT, dataset_names, seal
from qeqtrain.data.sums import Sums, sums_of
from qeqtrain.data.tally import PREFIX
from qeqtrain.errors import UserMistake

_SLAB = 2**22  # bytes copied at a time


@dataclass(frozen=True)
class Stretch:
    """Frames ``start`` to ``stop`` of one part."""

    part: Path
    start: int
    stop: int


def count_frames(part: Path) -> int:
    """Count the frames of a part."""
    with h5py.File(part, "r") as file:
        return len(file["sizes"])


class _Rows:
    """Where the rows of a stretch lie in each kind of column of its part."""

    def __init__(self, file: h5py.File, stretch: Stretch) -> None:
        self._file, self._stretch = file, stretch
        self._known: dict[str, tuple[int, int]] = {}

    def __call__(self, column: str) -> tuple[int, int]:
        kind = counted_as(column)
        start, stop = self._stretch.start, self._stretch.stop
        if kind is None:
            return start, stop
        if kind not in self._known:
            counts = self._file[COUNTED_BY[kind]][:stop].astype(np.int64)
            first = int(counts[:start].sum())
            self._known[kind] = first, first + int(counts[start:].sum())
        return self._known[kind]


class _Column:
    """A column of the store while it is written."""

    def __init__(self, dtype: np.dtype, width: tuple[int, ...], name: str) -> None:
        self.name, self.dtype, self.width = name, dtype, width
        self.rows = 0
        self.written = 0
        self.checks = Checksums()

    def create(self, file: h5py.File) -> None:
        file.create_dataset(
            self.name, (self.rows, *self.width), dtype=self.dtype, fill_time="never"
        )

    def append(self, file: h5py.File, values: np.ndarray) -> None:
        if len(values):
            file[self.name][self.written : self.written + len(values)] = values
            self.checks.update(values)
            self.written += len(values)


def _plan(stretches: Sequence[Stretch]) -> dict[str, _Column]:
    """Columns that the stretches have together, with their types and lengths."""
    columns: dict[str, _Column] = {}
    totals: dict[str | None, int] = {}
    for stretch in stretches:
        with h5py.File(stretch.part, "r") as file:
            rows = _Rows(file, stretch)
            counted: dict[str | None, int] = {}
            for name in dataset_names(file):
                dataset = file[name]
                column = columns.setdefault(
                    name, _Column(dataset.dtype, dataset.shape[1:], name)
                )
                column.dtype = np.result_type(column.dtype, dataset.dtype)
                start, stop = rows(name)
                counted[counted_as(name)] = stop - start
        for kind, count in counted.items():
            totals[kind] = totals.get(kind, 0) + count
    for name, column in columns.items():
        column.rows = totals[counted_as(name)]
    return columns


def _slabs(start: int, stop: int, width: int) -> Iterator[tuple[int, int]]:
    step = max(_SLAB // max(width, 1), 1)
    for a in range(start, stop, step):
        yield a, min(a + step, stop)


def _copy(source: h5py.File, rows: _Rows, column: _Column, target: h5py.File) -> None:
    """Copy a column's rows of one stretch, or fill up what its part lacks."""
    start, stop = rows(column.name)
    width = column.dtype.itemsize * int(np.prod(column.width, dtype=int))
    for a, b in _slabs(start, stop, width):
        if column.name in source:
            values = source[column.name][a:b].astype(column.dtype, copy=False)
        else:
            shape = (b - a, *column.width)
            values = np.full(shape, absent_value(column.name)).astype(column.dtype)
        column.append(target, values)


def _sums(file: h5py.File, rows: _Rows) -> Sums:
    """Statistics of the frames of one stretch."""

    def read(name: str) -> np.ndarray:
        start, stop = rows(name)
        return file[name][start:stop]

    tally = {n: read(n) for n in dataset_names(file) if n.startswith(PREFIX)}
    present = {n: read(f"present/{n}") for n in LABELS if f"present/{n}" in file}
    energies = read("labels/energy") if "energy" in present else None
    return sums_of(tally, read("sizes").astype(np.int64), present, energies)


def join(
    stretches: Sequence[Stretch],
    path: Path,
    conventions: Conventions | None = None,
    notes: Iterable[str] = (),
    pairs_cutoff: float | None = None,
    shard: tuple[int, int] = (0, 1),
    advance: Callable[[int], None] = lambda _: None,
) -> None:
    """Join frames of parts, in this order, into one store.

    Args:
        stretches: frames to take.
        path: of the store; an existing file is replaced in one step at the end.
        conventions: under which the frames were read.
        notes: what was left out on reading, shown again by ``data info``.
        pairs_cutoff: A, of the neighbour lists that the parts hold.
        shard: which one this is of how many, counted from 0.
        advance: told how many frames were copied, now and then.

    Raises:
        UserMistake: there is no frame.
    """
    stretches = [s for s in stretches if s.stop > s.start]
    if not stretches:
        raise UserMistake(f"{path}: there is no frame to write")
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    columns = _plan(stretches)
    sums: Sums | None = None
    try:
        with h5py.File(temporary, "w", libver=("v110", "v110")) as file:
            for name in sorted(columns):
                columns[name].create(file)
            for stretch in stretches:
                with h5py.File(stretch.part, "r") as part:
                    rows = _Rows(part, stretch)
                    for name in sorted(columns):
                        _copy(part, rows, columns[name], file)
                    found = _sums(part, rows)
                    sums = found if sums is None else sums.merge(found)
                advance(stretch.stop - stretch.start)
            assert sums is not None
            attributes: dict[str, object] = {
                "conventions": json.dumps(
                    (conventions or Conventions()).as_dict(), sort_keys=True
                ),
                "notes": json.dumps(list(notes)),
                "pairs_cutoff": 0.0 if pairs_cutoff is None else float(pairs_cutoff),
                "shard": json.dumps(shard),
            }
            _finish(file, columns, sums, attributes)
        put_in_place(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def _finish(
    file: h5py.File,
    columns: dict[str, _Column],
    sums: Sums,
    attributes: dict[str, object],
) -> None:
    """Write statistics, checksums, header and seal, and last the mark that all is there."""
    digests = {}
    for name, column in columns.items():
        digests[name] = column.checks.digest(column.dtype, (column.rows, *column.width))
    beside = sums.arrays() | {f"checks/{n}": c.checks.blocks() for n, c in columns.items()}
    for name in sorted(beside):
        file.create_dataset(name, data=beside[name])
        digests[name] = digest(beside[name])
    attributes |= {
        "format": FORMAT,
        "digests": json.dumps(digests, sort_keys=True),
        "elements": json.dumps([int(z) for z in sums.elements]),
        "frames": sums.frames,
    }
    for name, value in attributes.items():
        file.attrs[name] = value
    file.attrs["seal"] = seal(attributes)
    file.attrs["kind"] = "qeqtrain store"
    file.flush()
    file.attrs["complete"] = 1


class StoreWriter:
    """Write frames to a store as they come.

    Args:
        path: of the store; an existing file is replaced in one step at the end.
        conventions: under which the frames were read.
        notes: what was left out on reading, shown again by ``data info``.
        pairs_cutoff: A, if neighbour lists are stored too (half lists).
    """

    def __init__(
        self,
        path: Path,
        conventions: Conventions | None = None,
        notes: Iterable[str] = (),
        pairs_cutoff: float | None = None,
    ) -> None:
        """Open a part beside ``path``."""
        self._path, self._conventions, self._notes = path, conventions, list(notes)
        self._cutoff = pairs_cutoff
        self._part = path.with_name(f".{path.name}.{os.getpid()}.part")
        self._writer = PartWriter(self._part, pairs_cutoff)

    def __enter__(self) -> Self:
        """Begin."""
        return self

    def write(self, frames: Iterable[Frame]) -> None:
        """Add frames; only a block of them is kept in memory."""
        self._writer.write(frames)

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        """Finish, or take away what was begun.

        Raises:
            UserMistake: no frame was written.
        """
        self._writer.__exit__(kind)
        try:
            if kind is None:
                whole = [Stretch(self._part, 0, self._writer.frames)]
                join(whole, self._path, self._conventions, self._notes, self._cutoff)
        finally:
            self._part.unlink(missing_ok=True)
