"""Frames as flat arrays: the one representation that memory, store and fingerprint share.

Everything per atom of all frames stands in one array, everything per frame in another, and
``offsets`` says where a frame begins. A store is these arrays in an HDF5 file; a file of any
other format is these arrays in memory.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from hashlib import blake2b
from typing import Any

import numpy as np

from qeqtrain.data import tally
from qeqtrain.data.frames import Frame, geometry_digest
from qeqtrain.data.labels import LABELS
from qeqtrain.structures import Pairs, Structure

PER_FRAME = ("cell", "pbc", "total_charge", "spin", "electric_field", "geometry")
# Fragments are laid out by atom, so that there is no third kind of length: which fragment, and
# its charge and potential.
_FRAGMENTS = ("fragment", "fragment_charge", "fragment_potential")
PER_ATOM = ("numbers", "positions", "external_potential", *_FRAGMENTS)
OPTIONAL: dict[str, tuple[int, ...]] = {
    "electric_field": (3,),
    "external_potential": (),
    **dict.fromkeys(_FRAGMENTS, ()),
}
"""What a frame may lack; NaN then. Shape for one structure, or for one atom."""
COUNTED_BY = {
    "atom": "sizes",
    "pair": "pairs/counts",
    "element": "tally/kinds",
    "source_id": "source_id/lengths",
    "group": "group/lengths",
}
"""What there can be several of in a frame, and the column that says how many."""
BY_GEOMETRY = "geometry:"  # prefix of groups that nobody stated
_OF_ELEMENTS = {tally.PREFIX + name for name in tally.BY_ELEMENT}
_DERIVED = ("pairs/", "checks/", "statistics/", tally.PREFIX)  # follow from the rest
_SLAB = 2**24  # bytes read at a time for a digest


def counted_as(column: str) -> str | None:
    """What the rows of a column are: a key of :data:`COUNTED_BY`, ``None`` for frames."""
    folder, _, name = column.rpartition("/")
    if column in PER_ATOM or (folder == "labels" and LABELS[name].per_atom):
        return "atom"
    if folder == "pairs" and name != "counts":
        return "pair"
    if column in _OF_ELEMENTS:
        return "element"
    return folder if name == "characters" else None


def absent_value(column: str) -> float:
    """What stands where a frame lacks what others have: zero under a mask, or NaN."""
    return 0.0 if "/" in column else np.nan


def digest(array: np.ndarray) -> str:
    """Fingerprint of an array, in memory or on disk: every byte, its type and its shape."""
    state = blake2b(digest_size=16)
    width = array.dtype.itemsize * int(np.prod(array.shape[1:], dtype=int))
    rows = max(_SLAB // max(width, 1), 1)
    for start in range(0, len(array), rows):
        state.update(np.ascontiguousarray(array[start : start + rows]).tobytes())
    state.update(f"{array.dtype.str}{array.shape}".encode())
    return state.hexdigest()


def encode_texts(texts: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
    """Write texts as bytes and lengths, so that they are arrays like everything else."""
    parts = [t.encode() for t in texts]
    lengths = np.fromiter((len(p) for p in parts), dtype=np.int32, count=len(parts))
    return np.frombuffer(b"".join(parts), dtype=np.uint8), lengths


def compact_pairs(pairs: Pairs, index: type | None = None) -> Pairs:
    """Keep a neighbour list in 7 bytes a pair where sizes allow: int16 atoms, int8 shifts."""
    if index is None:
        largest = int(max(pairs.sender.max(initial=0), pairs.receiver.max(initial=0)))
        index = np.int16 if largest < 2**15 else np.int32
    shift = np.int8 if np.abs(pairs.shift).max(initial=0) < 2**7 else np.int16
    return Pairs(
        pairs.sender.astype(index), pairs.receiver.astype(index), pairs.shift.astype(shift),
        pairs.cutoff,
    )  # fmt: skip


def _stated_group(frame: Frame) -> str:
    """Group of a frame, empty where it only repeats the geometry."""
    group = frame.group or ""
    return "" if group.startswith(BY_GEOMETRY) else group


def columns_of(frames: Sequence[Frame]) -> dict[str, np.ndarray]:
    """Lay frames out as flat arrays.

    Args:
        frames: any number; labels need not be the same in all.

    Returns:
        ``sizes`` and the arrays of :data:`PER_FRAME` and :data:`PER_ATOM`, ``labels/<name>``
        with zeros where absent, ``present/<name>``, and texts as ``<name>/characters`` and
        ``<name>/lengths``. Absent charges and spins are NaN.
    """
    structures = [f.structure for f in frames]
    sizes = np.fromiter((len(s) for s in structures), dtype=np.int64, count=len(frames))
    n, n_atoms = len(frames), int(sizes.sum())

    def flat(parts: list[np.ndarray], shape: tuple[int, ...], dtype: type) -> np.ndarray:
        joined = np.concatenate(parts) if parts else np.zeros((0, *shape))
        return np.ascontiguousarray(joined, dtype=dtype)

    nan = np.nan
    columns = {
        "sizes": sizes,
        "numbers": flat([s.numbers for s in structures], (), np.uint8),
        "positions": flat([s.positions for s in structures], (3,), np.float64),
        "cell": np.array([s.cell for s in structures], dtype=np.float64).reshape(n, 3, 3),
        "pbc": np.array([s.pbc for s in structures], dtype=bool).reshape(n, 3),
        "total_charge": np.array(
            [nan if s.total_charge is None else s.total_charge for s in structures]
        ),
        "spin": np.array([nan if s.spin is None else s.spin for s in structures]),
        "geometry": np.array([geometry_digest(s) for s in structures], dtype=np.uint64),
    }
    for name, shape in OPTIONAL.items():
        values = [_optional(s, name) for s in structures]
        if all(v is None for v in values):
            continue
        if name in PER_FRAME:
            columns[name] = np.array([np.full(shape, nan) if v is None else v for v in values])
        else:
            filled = [
                np.full((len(s), *shape), nan) if v is None else v
                for v, s in zip(values, structures, strict=True)
            ]
            columns[name] = flat(filled, shape, np.float64)
    for name, label in LABELS.items():
        present = np.array([name in f.labels for f in frames], dtype=bool)
        if not present.any():
            continue
        columns[f"present/{name}"] = present
        column = np.zeros((n_atoms if label.per_atom else n, *label.shape))
        parts = [f.labels[name] for f in frames if name in f.labels]
        if label.per_atom:
            column[np.repeat(present, sizes)] = np.concatenate(parts)
        else:
            column[present] = np.array(parts)
        columns[f"labels/{name}"] = column
    for name, texts in (
        ("source_id", [f.source_id for f in frames]),
        ("group", [_stated_group(f) for f in frames]),
    ):
        columns[f"{name}/characters"], columns[f"{name}/lengths"] = encode_texts(texts)
    return columns


def _optional(structure: Structure, name: str) -> np.ndarray | None:
    """Give a value of :data:`OPTIONAL`, or ``None``."""
    if name not in _FRAGMENTS:
        value: np.ndarray | None = getattr(structure, name)
        return value
    if structure.fragments is None or name == "fragment":
        return structure.fragments
    by_fragment: np.ndarray | None = getattr(structure, f"{name}s")
    return None if by_fragment is None else by_fragment[structure.fragments]


def _fragments_at(columns: Mapping[str, np.ndarray], rows: slice) -> dict[str, Any]:
    """Gather the fragments of one frame, as fields of a structure."""
    if "fragment" not in columns:
        return {}
    stored = columns["fragment"][rows]
    if np.isnan(stored).any():
        return {}
    fragments = stored.astype(np.int64)
    _, first = np.unique(fragments, return_index=True)
    values = {
        f"{name}s": columns[name][rows][first]
        if name in columns
        else np.full(len(first), np.nan)
        for name in _FRAGMENTS[1:]
    }
    if not np.isnan(values["fragment_charges"]).any():
        values["fragment_potentials"] = None
    return {"fragments": fragments, **values}


def fingerprint(digests: Mapping[str, str]) -> str:
    """One fingerprint for all columns, but for those that follow from the rest."""
    state = blake2b(digest_size=16)
    for name in sorted(d for d in digests if not d.startswith(_DERIVED)):
        state.update(f"{name}={digests[name]};".encode())
    return state.hexdigest()


def frame_at(
    columns: Mapping[str, np.ndarray], i: int, start: int, stop: int, source_id: str, group: str
) -> Frame:
    """Cut one frame out of flat arrays, in memory or on disk.

    Args:
        columns: as :func:`columns_of` lays them out.
        i: index of the frame.
        start: its first atom.
        stop: one past its last atom.
        source_id: where it comes from.
        group: what it belongs to; empty for none.
    """
    rows = slice(start, stop)
    charge, spin = float(columns["total_charge"][i]), float(columns["spin"][i])
    extra: dict[str, Any] = {}
    for name in OPTIONAL:
        if name in columns and name not in _FRAGMENTS:
            value = columns[name][i] if name in PER_FRAME else columns[name][rows]
            if not np.isnan(value).any():
                extra[name] = value
    structure = Structure(
        numbers=columns["numbers"][rows].astype(np.int64),
        positions=columns["positions"][rows],
        cell=columns["cell"][i],
        pbc=columns["pbc"][i],
        total_charge=None if charge != charge else charge,
        spin=None if spin != spin else spin,
        **extra,
        **_fragments_at(columns, rows),
    )
    labels: dict[str, np.ndarray] = {}
    for name, label in LABELS.items():
        mask = columns.get(f"present/{name}")
        if mask is not None and mask[i]:
            column = columns[f"labels/{name}"]
            labels[name] = column[rows] if label.per_atom else np.asarray(column[i])
    return Frame(structure, labels, source_id, group or None)
