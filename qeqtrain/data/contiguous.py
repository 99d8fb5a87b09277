"""Columns that lie in one piece of a file: read with one system call, each block checked once.

A frame of fifty atoms is a few hundred bytes in each of ten columns. Reading them through HDF5
costs ten times as much as the bytes themselves; where a column is contiguous, its place in the
file is one number, and the operating system reads from there straight into the array of a
batch. HDF5's own checksums need chunks, so a column carries its own: a CRC-32 of every block of
:data:`BLOCK` bytes, compared when a process first touches the block. Nothing is mapped into
memory, so that a store larger than memory does not look like memory used.
"""

from __future__ import annotations

import os
import zlib
from hashlib import blake2b
from pathlib import Path

import numpy as np

from qeqtrain.errors import UserMistake

BLOCK = 2**18  # bytes under one checksum: read whole the first time any of it is wanted


class Checksums:
    """What is written beside a column: its digest, and a CRC-32 of each block of bytes."""

    def __init__(self) -> None:
        """Begin with no bytes."""
        self._digest = blake2b(digest_size=16)
        self._blocks: list[int] = []
        self._running, self._filled = 0, 0

    def update(self, values: np.ndarray) -> None:
        """Take the next rows of the column."""
        data = np.ascontiguousarray(values).reshape(-1).view(np.uint8)
        self._digest.update(data)
        start = 0
        while start < len(data):
            piece = data[start : start + BLOCK - self._filled]
            self._running = zlib.crc32(piece, self._running)
            self._filled += len(piece)
            start += len(piece)
            if self._filled == BLOCK:
                self._blocks.append(self._running)
                self._running, self._filled = 0, 0

    def digest(self, dtype: np.dtype, shape: tuple[int, ...]) -> str:
        """Fingerprint of every byte, the type and the shape (as ``columns.digest``)."""
        state = self._digest.copy()
        state.update(f"{dtype.str}{shape}".encode())
        return state.hexdigest()

    def blocks(self) -> np.ndarray:
        """CRC-32 of each block, the last one shorter, uint32."""
        last = [self._running] if self._filled else []
        return np.array([*self._blocks, *last], dtype=np.uint32)


class OpenFile:
    """A file descriptor that is opened where it is first used, and never sent anywhere."""

    def __init__(self, path: Path) -> None:
        """Remember the path; open nothing."""
        self.path = path
        self._descriptor = -1

    @property
    def descriptor(self) -> int:
        """Descriptor for reading; each read says where, so that a fork may share it."""
        if self._descriptor < 0:
            self._descriptor = os.open(self.path, os.O_RDONLY)
        return self._descriptor

    def __del__(self) -> None:
        """Close it."""
        if self._descriptor >= 0:
            os.close(self._descriptor)

    def __getstate__(self) -> dict[str, object]:
        """Leave the descriptor behind when sent to another process."""
        return {"path": self.path, "_descriptor": -1}


class ContiguousColumn:
    """A column in one piece of a file; reads like an array.

    Args:
        file: that holds it.
        name: for messages.
        offset: of its first byte.
        dtype, shape: of the whole.
        checks: CRC-32 of each block.
    """

    def __init__(
        self,
        file: OpenFile,
        name: str,
        offset: int,
        dtype: np.dtype,
        shape: tuple[int, ...],
        checks: np.ndarray,
    ) -> None:
        """Remember where it lies; read nothing."""
        self._file, self._name, self._offset = file, name, offset
        self.dtype, self.shape = dtype, shape
        self._width = dtype.itemsize * int(np.prod(shape[1:], dtype=int))
        self._checks = checks
        self._seen = bytearray(len(checks))

    def __len__(self) -> int:
        """Count the rows."""
        return self.shape[0]

    @property
    def nbytes(self) -> int:
        """Bytes of the whole column."""
        return self._width * self.shape[0]

    def read_into(self, start: int, stop: int, out: np.ndarray) -> None:
        """Read rows into an array of the same type and of their shape.

        Raises:
            UserMistake: the file is cut short, or a block differs from its checksum.
        """
        first, size = start * self._width, (stop - start) * self._width
        if size == 0:
            return
        seen, block, last = self._seen, first // BLOCK, (first + size - 1) // BLOCK
        while block <= last:
            if not seen[block]:
                self._check(block)
            block += 1
        # Most reads are short, and there are many: this line is what loading costs.
        if os.preadv(self._file.descriptor, (out,), self._offset + first) != size:
            self._fill(first, memoryview(out.reshape(-1).view(np.uint8)))

    def _fill(self, start: int, out: memoryview) -> None:
        """Read bytes of the column, in as many calls as it takes."""
        got = 0
        while got < len(out):
            more = os.preadv(self._file.descriptor, [out[got:]], self._offset + start + got)
            if more == 0:
                raise self._damaged("the file ends too early")
            got += more

    def _check(self, block: int) -> None:
        start = block * BLOCK
        data = bytearray(min(BLOCK, self.nbytes - start))
        self._fill(start, memoryview(data))
        if zlib.crc32(data) != int(self._checks[block]):
            raise self._damaged(f"bytes from {start:,} on differ from their checksum")
        self._seen[block] = 1

    def _damaged(self, how: str) -> UserMistake:
        return UserMistake(
            f"{self._file.path} is damaged ({self._name}: {how}); copy it again from its "
            "origin, or convert the data anew"
        )

    def __getitem__(self, key: int | slice | tuple[()]) -> np.ndarray:
        """Read a row, a range of rows, or (with ``()``) all."""
        if key == ():
            key = slice(None)
        if isinstance(key, slice):
            start, stop, step = key.indices(len(self))
            if step != 1:
                raise IndexError("a column is read row after row")
            out = np.empty((max(stop - start, 0), *self.shape[1:]), dtype=self.dtype)
            self.read_into(start, start + len(out), out)
            return out
        row = range(len(self))[int(key)]  # type: ignore[arg-type]  # an index by now
        out = np.empty((1, *self.shape[1:]), dtype=self.dtype)
        self.read_into(row, row + 1, out)
        return out[0]

    def __getstate__(self) -> dict[str, object]:
        """Forget which blocks were checked: another process may see another disk."""
        return {**self.__dict__, "_seen": bytearray(len(self._checks))}
