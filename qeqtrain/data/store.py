"""The store: flat arrays in one HDF5 file, refused if a single byte is not as written.

A file holds the columns of :mod:`qeqtrain.data.columns`, a digest of each, a seal over all
digests and attributes, and a mark set last of all that says it is complete. It is written under
another name and renamed when it is safely on disk, so that no reader meets half of one. HDF5
itself reads flipped bits of plain arrays without a word: that is what the digests are for. A
store of moderate size is read, checked and kept in memory; a larger one is read piece by piece,
each block of it checked when it is first touched (:mod:`qeqtrain.data.contiguous`), and as a
whole by :func:`verify`.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from hashlib import blake2b
from pathlib import Path

import h5py
import numpy as np

from qeqtrain.data.columns import digest, fingerprint
from qeqtrain.data.contiguous import ContiguousColumn, OpenFile
from qeqtrain.data.labels import Conventions
from qeqtrain.data.sums import PLACE, Sums
from qeqtrain.errors import UserMistake
from qeqtrain.structures import Pairs

FORMAT = 2  # columns in one piece; 1: in chunks, without statistics
IN_MEMORY = 64 * 2**20  # bytes; smaller stores are read whole when they are opened
_BESIDE = ("checks/", PLACE)  # datasets that are no columns
HEADER = ("format", "conventions", "notes", "digests", "pairs_cutoff", "elements", "frames")


@dataclass(frozen=True)
class Header:
    """What a store says of itself.

    Attributes:
        conventions: under which its frames were read.
        notes: what was left out then.
        pairs_cutoff: A, of the neighbour lists it holds; ``None`` without.
        elements: atomic numbers that occur.
        fingerprint: of the content.
        sums: statistics of all its frames; ``None`` in stores of format 1.
        shard: which one it is of how many, counted from 0.
    """

    conventions: Conventions
    notes: list[str]
    pairs_cutoff: float | None
    elements: set[int]
    fingerprint: str
    sums: Sums | None
    shard: tuple[int, int] = (0, 1)


def _header_names(attributes: Mapping[str, object]) -> tuple[str, ...]:
    """Attributes that a header of this format has."""
    return HEADER if attributes.get("format") == 1 else (*HEADER, "shard")


def seal(attributes: Mapping[str, object]) -> str:
    """One checksum over the header, and so over all digests."""
    state = blake2b(digest_size=16)
    for name in _header_names(attributes):
        state.update(f"{name}={attributes[name]};".encode())
    return state.hexdigest()


def dataset_names(file: h5py.File) -> list[str]:
    """Paths of all datasets of a file."""
    names: list[str] = []
    file.visititems(
        lambda name, item: names.append(name) if isinstance(item, h5py.Dataset) else None
    )
    return names


@contextmanager
def _clear_errors(path: Path) -> Iterator[None]:
    try:
        yield
    except (OSError, KeyError, RuntimeError, ValueError) as error:
        raise UserMistake(
            f"{path} is cut short or damaged ({str(error).splitlines()[0][:120]}); copy it "
            "again from its origin, or convert the data anew"
        ) from None


def is_store(path: Path) -> bool:
    """Whether an HDF5 file claims to be a store."""
    try:
        with h5py.File(path, "r") as file:
            return "kind" in file.attrs or "seal" in file.attrs
    except OSError:
        return False
    except RuntimeError:  # it has attributes that cannot be read: opening it will say so
        return True


def open_store(
    path: Path, in_memory: int = IN_MEMORY
) -> tuple[dict[str, np.ndarray] | LazyColumns, Header]:
    """Open a store, checked.

    Args:
        path: of the file.
        in_memory: bytes up to which it is read and checked as a whole.

    Returns:
        Its columns and its header.

    Raises:
        UserMistake: it is cut short, altered, incomplete, or of a later format.
    """
    with _clear_errors(path), h5py.File(path, "r") as file:
        attributes = dict(file.attrs)
        if int(attributes.get("format", 0)) > FORMAT:
            raise UserMistake(
                f"{path} has store format {attributes['format']}, this version reads up to "
                f"{FORMAT}; install a newer qeqtrain"
            )
        if attributes.get("complete") != 1:
            raise UserMistake(
                f"{path} is not complete: its writer was stopped; convert the data again"
            )
        whole = all(name in attributes for name in (*_header_names(attributes), "seal"))
        if not whole or seal(attributes) != attributes["seal"]:
            raise UserMistake(
                f"{path} was altered after it was written (header and seal differ); "
                "copy it again from its origin, or convert the data anew"
            )
        digests: dict[str, str] = json.loads(attributes["digests"])
        names = set(dataset_names(file))
        small = path.stat().st_size <= in_memory
        # Checksums and statistics are read in any case, and so are checked.
        kept = names if small else {n for n in names if n.startswith(_BESIDE)}
        read = {name: file[name][()] for name in kept}
        missing = sorted(set(digests) - names)
        altered = missing or [n for n, v in read.items() if digests.get(n) != digest(v)]
        if altered:
            raise _altered(path, altered)
        columns: dict[str, np.ndarray] | LazyColumns
        if small:
            columns = {n: v for n, v in read.items() if not n.startswith(_BESIDE)}
        else:
            columns = LazyColumns(path, _places(file, names - kept, read))
    header = Header(
        conventions=Conventions.from_dict(json.loads(attributes["conventions"])),
        notes=json.loads(attributes["notes"]),
        pairs_cutoff=float(attributes["pairs_cutoff"]) or None,
        elements=set(json.loads(attributes["elements"])),
        fingerprint=fingerprint(digests),
        sums=Sums.from_arrays(read) if f"{PLACE}plain" in read else None,
        shard=tuple(json.loads(attributes.get("shard", "[0, 1]"))),
    )
    return columns, header


def _altered(path: Path, columns: Sequence[str]) -> UserMistake:
    return UserMistake(
        f"{path} was altered after it was written ({', '.join(columns)} differ from their "
        "checksums); copy it again from its origin, or convert the data anew"
    )


def verify(path: Path) -> int:
    """Read a store from the first byte to the last and compare it with its checksums.

    Returns:
        How many bytes of columns were compared.

    Raises:
        UserMistake: it is cut short, altered or incomplete.
    """
    open_store(path, in_memory=0)
    with _clear_errors(path), h5py.File(path, "r") as file:
        digests = json.loads(file.attrs["digests"])
        altered = [name for name in sorted(digests) if digest(file[name]) != digests[name]]
        size = sum(file[name].nbytes for name in digests)
    if altered:
        raise _altered(path, altered)
    return size


@dataclass(frozen=True)
class _Place:
    """Where a contiguous column lies in the file; without an offset HDF5 has to read it."""

    offset: int | None
    dtype: np.dtype
    shape: tuple[int, ...]
    checks: np.ndarray


def _places(
    file: h5py.File, names: set[str], read: Mapping[str, np.ndarray]
) -> dict[str, _Place]:
    places = {}
    for name in sorted(names):
        dataset, checks = file[name], read.get(f"checks/{name}")
        offset = dataset.id.get_offset() if checks is not None else None
        if checks is not None and dataset.size == 0:
            offset = 0  # HDF5 gives an empty column no place
        none = np.zeros(0, dtype=np.uint32)
        places[name] = _Place(
            offset, dataset.dtype, dataset.shape, none if checks is None else checks
        )
    return places


class LazyColumns(Mapping[str, ContiguousColumn]):
    """Columns of a large store, opened once in every process that reads them.

    Those of format 1 are chunked and left to HDF5, whose files must not be carried across a
    fork; looking a dataset up costs more than reading a frame from it: handles are kept, per
    process.
    """

    def __init__(self, path: Path, places: Mapping[str, _Place]) -> None:
        """Remember where the columns are; open nothing."""
        self.path = path
        self._places = dict(places)
        file = OpenFile(path)
        self._columns = {
            name: ContiguousColumn(file, name, p.offset, p.dtype, p.shape, p.checks)
            for name, p in self._places.items()
            if p.offset is not None
        }
        self._owner = -1
        self._handles: dict[str, ContiguousColumn] = {}

    def __getitem__(self, name: str) -> ContiguousColumn:
        """Give a column, which reads like an array."""
        if name in self._columns:
            return self._columns[name]
        if self._owner != os.getpid():
            file = h5py.File(self.path, "r", rdcc_nbytes=4 * 2**20)
            self._handles = {n: file[n] for n, p in self._places.items() if p.offset is None}
            self._owner = os.getpid()
        return self._handles[name]

    def __iter__(self) -> Iterator[str]:
        """Go through the names."""
        return iter(self._places)

    def __len__(self) -> int:
        """Count the columns."""
        return len(self._places)

    def __getstate__(self) -> dict[str, object]:
        """Leave the open file behind when sent to another process."""
        return {**self.__dict__, "_owner": -1, "_handles": {}}


def without(
    columns: dict[str, np.ndarray] | LazyColumns, labels: Sequence[str]
) -> dict[str, np.ndarray] | LazyColumns:
    """Leave labels out."""
    gone = {f"{kind}/{label}" for kind in ("labels", "present") for label in labels}
    if isinstance(columns, LazyColumns):
        left = {n: p for n, p in columns._places.items() if n not in gone}
        return LazyColumns(columns.path, left)
    return {n: v for n, v in columns.items() if n not in gone}


def stored_pairs(
    columns: Mapping[str, np.ndarray], offsets: np.ndarray, i: int, cutoff: float
) -> Pairs:
    """Read the neighbour list of frame ``i`` as it is stored, compact."""
    rows = slice(int(offsets[i]), int(offsets[i + 1]))
    return Pairs(
        columns["pairs/sender"][rows],
        columns["pairs/receiver"][rows],
        columns["pairs/shift"][rows],
        cutoff,
    )
