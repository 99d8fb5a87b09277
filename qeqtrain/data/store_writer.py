"""Writing of the store, block by block: nothing appears under its name until it is whole."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Self

import h5py
import numpy as np

from qeqtrain.data.columns import OPTIONAL, PER_ATOM, columns_of, digest
from qeqtrain.data.frames import Frame
from qeqtrain.data.labels import LABELS, Conventions, plural
from qeqtrain.data.store import FORMAT, dataset_names, seal
from qeqtrain.errors import UserMistake
from qeqtrain.neighbors import find_pairs

_CHUNK = 2**15  # bytes; a random read pays for one chunk and its checksum
_BLOCK = 2048  # frames laid out at a time


class StoreWriter:
    """Write frames to a store, block by block; nothing appears at ``path`` until it is whole.

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
        """Open the temporary file beside ``path``."""
        self._path = path
        self._temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
        self._conventions = conventions or Conventions()
        self._notes = list(notes)
        self._cutoff = pairs_cutoff
        self._frames = 0
        self._atoms = 0
        self._pairs = 0
        self._elements: set[int] = set()
        self._states: dict[str, tuple[object, str, int, tuple[int, ...]]] = {}
        path.parent.mkdir(parents=True, exist_ok=True)
        self._file = h5py.File(self._temporary, "w", libver=("v110", "v110"))

    def __enter__(self) -> Self:
        """Begin."""
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        """Finish, or take the temporary file away."""
        if kind is None:
            self.close()
        else:
            self._file.close()
            self._temporary.unlink(missing_ok=True)

    def _rows_before(self, name: str) -> int:
        kind = name.removeprefix("labels/")
        per_atom = kind in PER_ATOM or (name.startswith("labels/") and LABELS[kind].per_atom)
        return self._atoms if per_atom else self._frames

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
                absent = 0.0 if "/" in name else np.nan
                filler = np.full((before, *block.shape[1:]), absent).astype(block.dtype)
                self._append(name, filler, 0)
        dataset = self._file[name]
        start = len(dataset)
        dataset.resize(start + len(block), axis=0)
        dataset[start:] = block

    def write(self, frames: Iterable[Frame]) -> None:
        """Add frames."""
        block: list[Frame] = []
        for frame in frames:
            block.append(frame)
            if len(block) == _BLOCK:
                self._write_block(block)
                block = []
        if block:
            self._write_block(block)

    def _write_block(self, frames: list[Frame]) -> None:
        columns = columns_of(frames)
        self._elements |= {int(z) for z in np.unique(columns["numbers"])}
        for name, values in columns.items():
            self._append(name, values, self._rows_before(name))
        for name in self._file.get("labels", ()):
            # A label that this block lacks altogether still needs its rows.
            for column in (f"labels/{name}", f"present/{name}"):
                if column not in columns:
                    dataset = self._file[column]
                    rows = len(frames)
                    if column.startswith("labels/") and LABELS[name].per_atom:
                        rows = len(columns["numbers"])
                    self._append(column, np.zeros((rows, *dataset.shape[1:]), dataset.dtype), 0)
        for name in OPTIONAL:
            if name in self._file and name not in columns:
                rows = len(columns["numbers"]) if name in PER_ATOM else len(frames)
                self._append(name, np.full((rows, *self._file[name].shape[1:]), np.nan), 0)
        if self._cutoff is not None:
            self._write_pairs(frames, self._cutoff)
        self._frames += len(frames)
        self._atoms += len(columns["numbers"])

    def _write_pairs(self, frames: list[Frame], cutoff: float) -> None:
        lists = [find_pairs(f.structure, cutoff) for f in frames]
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

    def close(self) -> None:
        """Write digests and seal, make sure that all is on disk, and put the file in place.

        Raises:
            UserMistake: no frame was written.
        """
        file = self._file
        if self._frames == 0:
            file.close()
            self._temporary.unlink(missing_ok=True)
            raise UserMistake(f"{self._path}: there is no frame to write")
        digests = {name: digest(file[name]) for name in dataset_names(file)}
        attributes: dict[str, object] = {
            "format": FORMAT,
            "conventions": json.dumps(self._conventions.as_dict(), sort_keys=True),
            "notes": json.dumps(self._notes),
            "digests": json.dumps(digests, sort_keys=True),
            "pairs_cutoff": 0.0 if self._cutoff is None else float(self._cutoff),
            "elements": json.dumps(sorted(self._elements)),
            "frames": self._frames,
        }
        for name, value in attributes.items():
            file.attrs[name] = value
        file.attrs["seal"] = seal(attributes)
        file.attrs["kind"] = "qeqtrain store"
        file.flush()
        file.attrs["complete"] = 1
        file.close()
        with self._temporary.open("rb+") as raw:
            os.fsync(raw.fileno())
        self._temporary.replace(self._path)
        folder = os.open(self._path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)
