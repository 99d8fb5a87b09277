"""Foreign HDF5: frames by group, flat arrays with offsets, or as the user says.

Three layouts are known: groups whose datasets have a leading frame axis, such as
``007/coord (frames, 7, 3)``; groups of one structure each; and flat ``positions (atoms, 3)``
beside ``n_atoms (frames,)``. Lengths are A, energies eV, unless a dataset's ``units`` attribute
says otherwise. For any other naming ``data.hdf5`` says where what is, relative to each group,
and in which unit; a minus makes a gradient a force::

    data:
      hdf5: {numbers: Z, positions: xyz nm, energy: E hartree, forces: grad -hartree/bohr}
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from itertools import accumulate
from pathlib import Path

import h5py

from qeqtrain.data.frames import RawFrame
from qeqtrain.data.hdf5_groups import ROLES, Column, Group, factor_of
from qeqtrain.data.labels import Conventions
from qeqtrain.data.streams import PIECE_FRAMES, Bad, Piece, Stream
from qeqtrain.errors import UserMistake, nearest

_BROKEN = (OSError, RuntimeError, KeyError, ValueError, TypeError, AttributeError, MemoryError)
_NEEDED = ("positions", "numbers")


def _dataset(group: h5py.Group, name: str) -> h5py.Dataset | None:
    found = group.get(name)
    return found if isinstance(found, h5py.Dataset) else None


def _named(group: h5py.Group) -> dict[str, Column] | None:
    """Columns of a group that uses the names we know; ``None`` if it holds no frames."""
    roles = {
        role: next((n for n in names if _dataset(group, n) is not None), None)
        for role, names in ROLES.items()
    }
    if not all(roles[role] for role in _NEEDED):
        return None
    of_role = {name: role for role, name in roles.items() if name}
    return {
        of_role.get(name, name): Column(
            item, factor_of(item.attrs.get("units", ""), f"{item.file.filename}: {item.name}")
        )
        for name, item in group.items()
        if isinstance(item, h5py.Dataset)
    }


def _mapped(group: h5py.Group, where: dict[str, tuple[str, float]]) -> dict[str, Column] | None:
    """Columns of a group as the user says; ``None`` if it lacks positions or numbers."""
    found = {
        key: Column(dataset, factor)
        for key, (name, factor) in where.items()
        if (dataset := _dataset(group, name)) is not None
    }
    return found if all(role in found for role in _NEEDED) else None


class Hdf5(Stream):
    """Reader of foreign HDF5; pieces are ranges of frames."""

    def __init__(self, path: Path, conventions: Conventions) -> None:
        """Read what the user says of the layout.

        Raises:
            UserMistake: ``data.hdf5`` lacks positions or numbers, or names an unknown unit.
        """
        super().__init__(path, conventions)
        given = conventions.hdf5
        problems = [
            f"data.hdf5 lacks {role}: say data.hdf5.{role}=<dataset>"
            for role in _NEEDED
            if given and role not in given
        ]
        if problems:
            raise UserMistake(*problems)
        self._where: dict[str, tuple[str, float]] = {}
        for key, text in given.items():
            name, _, unit = str(text).strip().partition(" ")
            self._where[key] = name, factor_of(unit, f"data.hdf5.{key}")

    @contextmanager
    def _groups(self) -> Iterator[list[Group]]:
        """Open the file and find its groups of frames.

        Raises:
            UserMistake: it is damaged, or holds none.
        """
        try:
            with h5py.File(self.path, "r") as file:
                found: list[Group] = []

                def visit(name: str, item: h5py.Group | h5py.Dataset) -> None:
                    if isinstance(item, h5py.Group):
                        columns = _mapped(item, self._where) if self._where else _named(item)
                        if columns is not None:
                            found.append(Group(columns, name, self.path))

                file.visititems(visit)
                visit("", file)
                if not found:
                    raise self._refusal(file)
                yield found
        except UserMistake:
            raise
        except _BROKEN as error:
            first = (str(error).splitlines() or [type(error).__name__])[0][:160]
            raise UserMistake(
                f"{self.path} cannot be read as HDF5 ({first}); is it cut short? copy it again "
                "from its origin"
            ) from None

    def _refusal(self, file: h5py.File) -> UserMistake:
        paths: list[str] = []
        file.visit(paths.append)
        names = {path.rsplit("/", 1)[-1] for path in paths}
        if self._where:
            wanted = [self._where[role][0] for role in _NEEDED]
            near = "".join(nearest(w, [*paths, *names]) for w in wanted if w not in names)
            return UserMistake(
                f"{self.path}: no group holds {' and '.join(wanted)}, which data.hdf5 names; "
                f"the file has {', '.join(sorted(paths)[:8])}{near}"
            )
        if "conformations" in names:
            return UserMistake(
                f"{self.path} holds conformations without labels that are known (energy, "
                "forces, charges); training needs the file with labels, or data.hdf5 that "
                "names its datasets"
            )
        datasets = ", ".join(sorted(n for n in names if n.isidentifier())[:8])
        return UserMistake(
            f"{self.path}: met {datasets or 'no datasets'}; expected a qeqtrain store, groups "
            "with coord and numbers, or flat positions, numbers and n_atoms; data.hdf5 can say "
            "where what is (data.hdf5.positions=<dataset>, data.hdf5.numbers=<dataset>, ...)"
        )

    def pieces(self, size: int | None = None) -> list[Piece]:
        """Cut the frames of all groups, one group after the other."""
        size = size or PIECE_FRAMES
        with self._groups() as groups:
            total = sum(group.frames for group in groups)
        return [Piece(i, min(i + size, total), i) for i in range(0, total, size)]

    def read(self, piece: Piece) -> Iterator[RawFrame | Bad]:
        """Read a range of frames."""
        with self._groups() as groups:
            ends = list(accumulate((group.frames for group in groups), initial=0))
            index = piece.start
            for group, before, after in zip(groups, ends, ends[1:], strict=False):
                start, stop = max(piece.start, before), min(piece.stop, after)
                for raw in group.read(start - before, stop - before):
                    raw.index = index
                    index += 1
                    yield raw
