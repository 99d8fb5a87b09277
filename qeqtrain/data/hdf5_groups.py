"""Groups of a foreign HDF5 file that hold frames, read some hundred frames at a time."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import h5py
import numpy as np

from qeqtrain.data.frames import RawFrame
from qeqtrain.data.labels import (
    ALIASES,
    LABELS,
    SPIN_KEYS,
    TOTAL_CHARGE_KEYS,
    UNPAIRED_KEYS,
)
from qeqtrain.errors import UserMistake
from qeqtrain.fragments import CHARGES, POTENTIALS
from qeqtrain.units import BOHR, HARTREE

# Names of what every frame needs, and what says where frames end in flat arrays.
ROLES: dict[str, tuple[str, ...]] = {
    "positions": ("coord", "coordinates", "positions", "pos", "R"),
    "numbers": ("numbers", "atomic_numbers", "species", "Z", "z"),
    "cell": ("cell", "lattice", "cells"),
    "pbc": ("pbc",),
    "n_atoms": ("n_atoms", "natoms", "num_atoms", "sizes"),
    "offsets": ("offsets", "ptr"),
}
_OF_FRAMES = {
    *(*TOTAL_CHARGE_KEYS, *SPIN_KEYS, *UNPAIRED_KEYS),
    *("electric_field", CHARGES, POTENTIALS, "source_id", "group"),
}
UNITS = {
    **dict.fromkeys(("angstrom", "a", "å", "ev", "ev/angstrom", "ev/a", "e", ""), 1.0),
    **dict.fromkeys(("nanometers", "nm"), 10.0),
    "bohr": BOHR,
    "hartree": HARTREE,
    "hartree/bohr": HARTREE / BOHR,
    **dict.fromkeys(("ev/angstrom^3", "ev/a^3", "e*angstrom", "e*a", "e a"), 1.0),
    **dict.fromkeys(("e*bohr", "e a0"), BOHR),
}
_ROWS = 512  # frames read together
_EMPTIER = 1000  # an array this many times what the file stores of it was never written


def factor_of(unit: object, what: str) -> float:
    """Find the factor from a unit to ours; a leading minus turns the sign.

    Raises:
        UserMistake: the unit is not one of those known.
    """
    text = (unit.decode() if isinstance(unit, bytes) else str(unit)).strip().lower()
    factor = UNITS.get(text.removeprefix("-"))
    if factor is None:
        raise UserMistake(
            f"{what} is in {text!r}; the units read are {', '.join(u for u in UNITS if u)}"
        )
    return -factor if text.startswith("-") else factor


@dataclass(frozen=True)
class Column:
    """A dataset of a group, and the factor of its unit."""

    dataset: h5py.Dataset
    factor: float

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of the dataset; empty for one value."""
        return tuple(self.dataset.shape or ())

    def rows(self, start: int | None = None, stop: int | None = None) -> np.ndarray:
        """Read rows, in our units."""
        values = self.dataset[()] if start is None else self.dataset[start:stop]
        numeric = self.factor != 1.0
        return np.asarray(values, dtype=np.float64) * self.factor if numeric else values


def _refuse_unwritten(column: Column, path: Path) -> None:
    stored = column.dataset.id.get_storage_size()
    if column.dataset.nbytes > _EMPTIER * (stored + 2**10):
        raise UserMistake(
            f"{path}: {column.dataset.name} should have {column.dataset.nbytes:,} bytes and "
            f"{stored:,} were written; the file is damaged or half made"
        )


def _plain(value: object) -> object:
    return value.decode(errors="replace") if isinstance(value, bytes) else value


def _is_per_atom(key: str, by_shape: bool) -> bool:
    """Whether a dataset belongs to atoms: by its name if that is known, else by its shape.

    Three-atom molecules have dipoles of the shape of their charges, and files of single atoms
    as many atoms as frames.
    """
    if key == "charge":  # of the atoms or of the frame: its shape tells
        return by_shape
    if key in _OF_FRAMES:
        return False
    known = [LABELS[name] for name, others in ALIASES.items() if key in (name, *others)]
    return known[0].per_atom if known else by_shape


class Group:
    """A group that holds frames.

    Attributes:
        frames: how many.
        name: its path in the file, empty for the root.
    """

    def __init__(self, columns: dict[str, Column], name: str, path: Path) -> None:
        """Take what a group holds by role and by key, and see how it is laid out."""
        self.name, self._path = name, path
        self._roles = {r: columns.pop(r) for r in ROLES if r in columns}
        self._columns = columns
        positions = self._roles["positions"]
        _refuse_unwritten(positions, path)
        shape = positions.shape
        if len(shape) not in (2, 3) or shape[-1] != 3:
            raise UserMistake(
                f"{path}: {positions.dataset.name} has the shape {shape}; expected "
                "(frames, atoms, 3) or (atoms, 3)"
            )
        self._ends = self._flat_ends(shape)
        self._single = len(shape) == 2 and self._ends is None
        if self._ends is not None:
            self.frames = len(self._ends) - 1
        else:
            self.frames = 1 if self._single else shape[0]

    def _flat_ends(self, shape: tuple[int, ...]) -> np.ndarray | None:
        """First atom of each frame and the end, where atoms of all frames follow each other."""
        for role in ("n_atoms", "offsets"):
            if role in self._roles and len(shape) == 2 and len(self._roles[role].shape) == 1:
                counts = np.asarray(self._roles[role].rows(), dtype=np.int64)
                ends = counts if role == "offsets" else np.concatenate([[0], counts.cumsum()])
                atoms = self._roles["numbers"].shape[0]
                if (
                    ends[0] != 0
                    or (np.diff(ends) < 0).any()
                    or not ends[-1] == shape[0] == atoms
                ):
                    raise UserMistake(
                        f"{self._path}: {shape[0]} positions and {atoms} atomic numbers; the "
                        f"frames have {ends[-1]} atoms together"
                    )
                return ends
        return None

    def read(self, start: int, stop: int) -> Iterator[RawFrame]:
        """Read frames, some hundred at a time."""
        for first in range(start, stop, _ROWS):
            last = min(first + _ROWS, stop)
            if self._ends is None:
                yield from self._batched(first, last)
            else:
                yield from self._flat(self._ends, first, last)

    def _where(self, i: int) -> str:
        return f"{self._path}, " + (f"/{self.name}, " if self.name else "") + f"frame {i}"

    def _rows(self, column: Column, first: int, last: int, leading: bool) -> np.ndarray:
        """Rows of frames; what is the same for all is repeated."""
        if self._single:
            return np.asarray(column.rows())[None]
        if leading:
            return np.asarray(column.rows(first, last))
        values = np.asarray(column.rows())
        return np.broadcast_to(values, (last - first, *values.shape))

    def _batched(self, first: int, last: int) -> Iterator[RawFrame]:
        roles, count = self._roles, last - first
        positions = self._rows(roles["positions"], first, last, leading=True)
        n = positions.shape[1]
        numbers = self._rows(
            roles["numbers"], first, last, leading=len(roles["numbers"].shape) == 2
        )
        numbers = np.asarray(numbers).astype(np.int64)
        cells = pbc = None
        if "cell" in roles:
            cells = self._rows(roles["cell"], first, last, len(roles["cell"].shape) == 3)
        if "pbc" in roles:
            pbc = self._rows(roles["pbc"], first, last, len(roles["pbc"].shape) == 2)
        data = {
            key: self._rows(column, first, last, leading=True)
            for key, column in self._columns.items()
            if self._single or (column.shape and column.shape[0] == self.frames)
        }
        of_atoms = {k: v.ndim > 1 and _is_per_atom(k, v.shape[1] == n) for k, v in data.items()}
        for i in range(count):
            info = {k: _plain(v[i]) for k, v in data.items() if not of_atoms[k]}
            arrays = {k: v[i] for k, v in data.items() if of_atoms[k]}
            # `_id` names the molecule, not the conformer.
            parts = [self._path.stem, *([self.name] if self.name else [])]
            if not self._single:
                parts.append(str(first + i))
            info.setdefault("source_id", "/".join(parts))
            yield _frame(
                numbers[i],
                positions[i],
                None if cells is None else cells[i],
                None if pbc is None else pbc[i],
                info,
                arrays,
                self._where(first + i),
            )

    def _flat(self, ends: np.ndarray, first: int, last: int) -> Iterator[RawFrame]:
        start, atoms, frames = int(ends[first]), int(ends[-1]), len(ends) - 1
        rows = start, int(ends[last])
        numbers = np.asarray(self._roles["numbers"].rows(*rows)).astype(np.int64)
        positions = self._roles["positions"].rows(*rows)
        data: dict[str, np.ndarray] = {}
        of_atoms: dict[str, bool] = {}
        for key, column in {**self._roles, **self._columns}.items():
            length = column.shape[0] if column.shape else 0
            if key in ("numbers", "positions", "n_atoms", "offsets"):
                continue
            if length == atoms and _is_per_atom(key, atoms != frames) and key != "cell":
                data[key], of_atoms[key] = column.rows(*rows), True
            elif length == frames:
                data[key], of_atoms[key] = column.rows(first, last), False
        cells, pbc = data.pop("cell", None), data.pop("pbc", None)
        for i in range(last - first):
            at = slice(int(ends[first + i]) - start, int(ends[first + i + 1]) - start)
            info = {k: _plain(v[i]) for k, v in data.items() if not of_atoms[k]}
            name = f"{self._path.stem}/{self.name}/" if self.name else f"{self._path.stem}/"
            info.setdefault("source_id", f"{name}{first + i}")
            yield _frame(
                numbers[at],
                positions[at],
                None if cells is None else cells[i],
                None if pbc is None else pbc[i],
                info,
                {k: v[at] for k, v in data.items() if of_atoms[k]},
                self._where(first + i),
            )


def _frame(
    numbers: np.ndarray,
    positions: np.ndarray,
    cell: np.ndarray | None,
    pbc: np.ndarray | None,
    info: dict[str, object],
    arrays: dict[str, np.ndarray],
    where: str,
) -> RawFrame:
    periodic = np.full(3, cell is not None) if pbc is None else np.broadcast_to(pbc, 3)
    cell = np.zeros((3, 3)) if cell is None else np.asarray(cell, dtype=np.float64)
    return RawFrame(numbers, positions, cell, periodic.astype(bool), info, arrays, where)
