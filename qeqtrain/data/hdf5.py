"""Foreign HDF5: one group per size with a leading frame axis, or flat arrays with offsets.

Both are the layouts of published data sets: groups such as ``007/coord (frames, 7, 3)``, and
flat ``positions (atoms, 3)`` beside ``n_atoms (frames,)``. Lengths are A, energies eV, unless a
dataset's ``units`` attribute says otherwise.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
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

_POSITIONS = ("coord", "coordinates", "positions", "pos", "R")
_NUMBERS = ("numbers", "atomic_numbers", "species", "Z", "z")
_COUNTS = ("n_atoms", "natoms", "num_atoms", "sizes")
_CELLS = ("cell", "lattice", "cells")
_OF_FRAMES = {
    *(*TOTAL_CHARGE_KEYS, *SPIN_KEYS, *UNPAIRED_KEYS),
    *("electric_field", CHARGES, POTENTIALS),
}
_UNITS = {
    **dict.fromkeys(("angstrom", "a", "å", "ev", "ev/angstrom", "ev/a", "e", ""), 1.0),
    "nanometers": 10.0,
    "nm": 10.0,
    "bohr": BOHR,
    "hartree": HARTREE,
    "hartree/bohr": HARTREE / BOHR,
    "ev/angstrom^3": 1.0,
    "ev/a^3": 1.0,
    "e*angstrom": 1.0,
    "e*a": 1.0,
    "e a": 1.0,
    "e*bohr": BOHR,
}


def _first(group: Mapping[str, object], names: tuple[str, ...]) -> str | None:
    return next((n for n in names if n in group), None)


def _values(dataset: h5py.Dataset) -> np.ndarray:
    """Read a dataset and convert it by its ``units`` attribute.

    Raises:
        UserMistake: the unit is not one of those known.
    """
    unit = dataset.attrs.get("units", "")
    unit = unit.decode() if isinstance(unit, bytes) else str(unit)
    factor = _UNITS.get(unit.strip().lower())
    if factor is None:
        raise UserMistake(
            f"{dataset.file.filename}: dataset {dataset.name} is in {unit!r}; the units read "
            f"are {', '.join(u for u in _UNITS if u)}"
        )
    array = dataset[()]
    return array if factor == 1.0 else np.asarray(array, dtype=np.float64) * factor


def _plain(value: object) -> object:
    return value.decode() if isinstance(value, bytes) else value


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


def _batched_group(group: h5py.Group, path: Path, start: int) -> Iterator[RawFrame]:
    """Frames of one group whose datasets have a leading frame axis."""
    data = {k: _values(v) for k, v in group.items() if isinstance(v, h5py.Dataset)}
    positions = data.pop(_first(data, _POSITIONS))
    if positions.ndim == 2:
        positions = positions[None]
    frames, n_atoms = positions.shape[:2]
    numbers = np.asarray(data.pop(_first(data, _NUMBERS))).astype(np.int64)
    numbers = np.broadcast_to(numbers, (frames, n_atoms))
    cell_key = _first(data, _CELLS)
    cells = None if cell_key is None else np.broadcast_to(data.pop(cell_key), (frames, 3, 3))
    pbc = np.broadcast_to(data.pop("pbc", cells is not None), (frames, 3))
    for i in range(frames):
        info: dict[str, object] = {}
        arrays: dict[str, np.ndarray] = {}
        for key, values in data.items():
            if values.ndim == 0 or len(values) != frames:
                continue
            if _is_per_atom(key, values.ndim > 1 and values.shape[1] == n_atoms):
                arrays[key] = values[i]
            else:
                info[key] = _plain(values[i])
        name = group.name.strip("/")
        # `_id` names the molecule, not the conformer.
        info["source_id"] = f"{path.stem}/{name}/{i}" if name else f"{path.stem}/{i}"
        yield RawFrame(
            numbers=numbers[i],
            positions=positions[i],
            cell=np.zeros((3, 3)) if cells is None else cells[i],
            pbc=pbc[i],
            info=info,
            arrays=arrays,
            where=f"{path}, frame {start + i} (/{name}, {i})",
        )


def _flat(file: h5py.Group, path: Path, counts: np.ndarray) -> Iterator[RawFrame]:
    """Frames of flat arrays with the number of atoms of each."""
    data = {k: _values(v) for k, v in file.items() if isinstance(v, h5py.Dataset)}
    offsets = np.concatenate([[0], np.cumsum(counts)])
    for name in (*_COUNTS, "offsets", "ptr"):
        data.pop(name, None)
    positions = data.pop(_first(data, _POSITIONS))
    numbers = data.pop(_first(data, _NUMBERS)).astype(np.int64)
    if len(positions) != offsets[-1] or len(numbers) != offsets[-1]:
        raise UserMistake(
            f"{path}: {len(positions)} positions and {len(numbers)} atomic numbers; the frames "
            f"have {offsets[-1]} atoms together"
        )
    cell_key = _first(data, _CELLS)
    cells = data.pop(cell_key) if cell_key else None
    pbc = data.pop("pbc", None)
    n_frames, n_atoms = len(counts), int(offsets[-1])
    for i in range(n_frames):
        rows = slice(offsets[i], offsets[i + 1])
        info: dict[str, object] = {}
        arrays: dict[str, np.ndarray] = {}
        for key, values in data.items():
            length = len(values) if values.ndim else 0
            if length == n_atoms and _is_per_atom(key, n_atoms != n_frames):
                arrays[key] = values[rows]
            elif length == n_frames:
                info[key] = _plain(values[i])
        info.setdefault("source_id", f"{path.stem}/{i}")
        yield RawFrame(
            numbers=numbers[rows],
            positions=positions[rows],
            cell=np.zeros((3, 3)) if cells is None else cells[i],
            pbc=np.full(3, cells is not None) if pbc is None else np.broadcast_to(pbc[i], 3),
            info=info,
            arrays=arrays,
            where=f"{path}, frame {i}",
        )


def _frame_groups(file: h5py.File) -> list[h5py.Group]:
    groups: list[h5py.Group] = []

    def visit(_: str, item: h5py.Group | h5py.Dataset) -> None:
        if isinstance(item, h5py.Group) and _first(item, _POSITIONS) and _first(item, _NUMBERS):
            groups.append(item)

    file.visititems(visit)
    if _first(file, _POSITIONS) and _first(file, _NUMBERS):
        groups.append(file["/"])
    return groups


def _refuse(file: h5py.File, path: Path) -> UserMistake:
    paths: list[str] = []
    file.visit(paths.append)
    names = {path.rsplit("/", 1)[-1] for path in paths}
    datasets = sorted(n for n in names if n.isidentifier())[:8]
    if "conformations" in names:
        return UserMistake(
            f"{path} holds conformations without labels (no energies, no forces, no charges); "
            "training needs the file with labels"
        )
    return UserMistake(
        f"{path}: met {', '.join(datasets) or 'no datasets'}; expected a qeqtrain store, "
        f"groups with {_POSITIONS[0]} and {_NUMBERS[0]}, or flat positions, numbers and n_atoms"
    )


def read_hdf5(path: Path) -> list[RawFrame]:
    """Read a foreign HDF5 file.

    Raises:
        UserMistake: its layout is not known, it has no labels, or a unit is not known.
    """
    try:
        with h5py.File(path, "r") as file:
            groups = _frame_groups(file)
            if not groups:
                raise _refuse(file, path)
            counts_key = _first(file, _COUNTS)
            if counts_key is not None:
                return list(_flat(file, path, file[counts_key][()].astype(np.int64)))
            offsets_key = _first(file, ("offsets", "ptr"))
            if offsets_key is not None:
                return list(_flat(file, path, np.diff(file[offsets_key][()].astype(np.int64))))
            frames: list[RawFrame] = []
            for group in groups:
                frames += _batched_group(group, path, len(frames))
            return frames
    except OSError as error:
        raise UserMistake(
            f"{path} cannot be read as HDF5 ({error}); is it cut short?"
        ) from None
