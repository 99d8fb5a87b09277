"""ASE databases in LMDB (``.aselmdb``), as OMat24, OMol25 and their kin are published.

A row is JSON, compressed: atoms, results of the calculator (eV, A; stress as ASE has it), and
``data`` with the id of the source, and the total charge and multiplicity in molecular sets.
Neither fairchem nor ase-db-backends is needed. ``metadata.npz`` beside the files counts the
atoms of every row of a folder and so tells whether a file of it is missing.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from qeqtrain.data.frames import RawFrame
from qeqtrain.data.lmdb_file import LARGEST, Damaged, LmdbFile
from qeqtrain.data.streams import PIECE_FRAMES, Bad, Piece, Stream
from qeqtrain.errors import UserMistake

SUFFIX = ".aselmdb"
_METADATA = "metadata.npz"
_BESIDE_ROWS = (b"nextid", b"deleted_ids", b"metadata")
_OF_ATOMS = ("forces", "charges", "magmoms", "born_effective_charges")
_OF_STRUCTURE = ("energy", "free_energy", "stress", "dipole")
_SOURCE_IDS = ("sid", "source_id", "source")
_NOT_NUMBERS = (TypeError, ValueError, KeyError, OverflowError)


def _uncompressed(value: bytes) -> bytes:
    """Uncompress a row, but never into more than a row can be.

    Raises:
        ValueError: it is not compressed, or is cut short, or grows without end.
    """
    state = zlib.decompressobj()
    try:
        text = state.decompress(value, LARGEST)
    except zlib.error as error:
        raise ValueError(f"it cannot be uncompressed ({error})") from None
    if not state.eof:
        raise ValueError("it cannot be uncompressed: it is cut short")
    return text


def _decode(value: bytes) -> Any:
    try:
        return msgspec.json.decode(_uncompressed(value))
    except (msgspec.DecodeError, RecursionError) as error:
        raise ValueError(f"it is no JSON ({str(error)[:80]})") from None


def plain(value: object) -> object:
    """Turn ASE's ``{"__ndarray__": [shape, type, values]}`` into an array.

    Raises:
        ValueError: shape and values disagree.
    """
    if isinstance(value, dict) and "__ndarray__" in value:
        shape, kind, values = value["__ndarray__"]
        if kind == "bool":
            return np.array(values, dtype=bool).reshape(shape)
        integers = str(kind).startswith(("int", "uint"))
        return np.array(values, dtype=np.int64 if integers else np.float64).reshape(shape)
    return value


def _from_row(row: Mapping[str, Any], where: str) -> RawFrame:
    """Understand a row.

    Raises:
        ValueError, TypeError, KeyError: it is no structure with results.
    """
    numbers = np.asarray(plain(row["numbers"]), dtype=np.int64).reshape(-1)
    n = len(numbers)
    info: dict[str, object] = {}
    arrays: dict[str, np.ndarray] = {}
    for holder in (row.get("key_value_pairs"), row.get("data")):
        if isinstance(holder, dict):
            info |= {k: plain(v) for k, v in holder.items() if v is not None}
    for key in _OF_STRUCTURE:
        if row.get(key) is not None:
            info[key] = plain(row[key])
    for key in _OF_ATOMS:
        if row.get(key) is not None:
            arrays[key] = np.asarray(plain(row[key]), dtype=np.float64).reshape(n, -1)
            if arrays[key].shape[1] == 1:
                arrays[key] = arrays[key][:, 0]
    for key in ("initial_charges", "initial_magmoms"):
        if row.get(key) is not None:
            arrays[key] = np.asarray(plain(row[key]), dtype=np.float64).reshape(n)
    source = next((info.pop(k) for k in _SOURCE_IDS if k in info), None)
    if source is not None:
        info["source_id"] = source
    cell = plain(row["cell"]) if row.get("cell") is not None else np.zeros((3, 3))
    if isinstance(cell, dict):  # ASE also writes cells as objects
        cell = plain(cell.get("array", cell))
    pbc = plain(row.get("pbc", False))
    return RawFrame(
        numbers,
        np.asarray(plain(row["positions"]), dtype=np.float64).reshape(n, 3),
        np.asarray(cell, dtype=np.float64).reshape(3, 3),
        np.broadcast_to(np.asarray(pbc, dtype=bool), 3).copy(),
        info,
        arrays,
        where,
    )


class Aselmdb(Stream):
    """Reader of one ``.aselmdb`` file; pieces are ranges of row numbers."""

    def pieces(self, size: int | None = None) -> list[Piece]:
        """Cut the rows by their numbers."""
        size = size or PIECE_FRAMES
        with self._opened() as file:
            stop = self._next_id(file)
        return [Piece(i, min(i + size, stop)) for i in range(1, stop, size)]

    def _opened(self) -> LmdbFile:
        try:
            return LmdbFile(self.path)
        except Damaged as error:
            raise UserMistake(
                f"{self.path}: {error}; copy the file again from its origin"
            ) from None

    def _next_id(self, file: LmdbFile) -> int:
        """Read the number that the next row would get, and check it against the tree."""
        try:
            value = file.get(b"nextid")
            deleted = file.get(b"deleted_ids")
            following = 1 if value is None else int(_as_json(value))
            gone = [] if deleted is None else _as_json(deleted)
            others = sum(file.get(key) is not None for key in _BESIDE_ROWS)
            rows = file.entries - others
            if following - 1 - len(set(gone)) != rows:
                raise ValueError(
                    f"it holds {rows:,} rows, and its counter says {following - 1:,}"
                )
        except (ValueError, TypeError) as error:
            raise UserMistake(
                f"{self.path}: {error}; copy the file again from its origin"
            ) from None
        return following

    def read(self, piece: Piece) -> Iterator[RawFrame | Bad]:
        """Read rows by their numbers; deleted ones are passed over."""
        with self._opened() as file:
            for number in range(piece.start, piece.stop):
                name = f"{self.path}, row {number}"
                try:
                    value = file.get(str(number).encode())
                    if value is None:
                        continue
                    raw = _from_row(_decode(value), name)
                except Damaged as error:
                    yield Bad(f"{self.name}:{number}", f"the file is damaged: {error}")
                    continue
                except _NOT_NUMBERS as error:
                    said = f"{error.args[0]!r} is missing" if type(error) is KeyError else error
                    yield Bad(f"{self.name}:{number}", str(said)[:200])
                    continue
                raw.index = number - 1
                raw.info.setdefault("source_id", f"{self.name}:{number}")
                yield raw


def _as_json(value: bytes) -> Any:
    """Read a value beside the rows: compressed JSON, or plain."""
    try:
        return _decode(value)
    except ValueError:
        return msgspec.json.decode(value)


def check_folder(folder: Path, files: Sequence[Path]) -> None:
    """Compare the rows of a folder with its ``metadata.npz``, where it has one.

    Raises:
        UserMistake: rows are missing: the folder was not copied whole.
    """
    metadata = folder / _METADATA
    if not metadata.exists():
        return
    try:
        with np.load(metadata, allow_pickle=False) as found:
            expected = len(found["natoms"])
    except (OSError, ValueError, KeyError, EOFError, zlib.error) as error:
        raise UserMistake(
            f"{metadata}: not read ({str(error)[:80]}); copy it again, or remove it"
        ) from None
    rows = 0
    for path in files:
        with LmdbFile(path) as file:
            rows += file.entries - sum(file.get(k) is not None for k in _BESIDE_ROWS)
    if rows != expected:
        raise UserMistake(
            f"{folder}: {_METADATA} counts {expected:,} rows, {len(files)} files hold "
            f"{rows:,}; copy what is missing from the origin"
        )
