"""One frame: a structure with its labels, converted from what a file holds.

Readers hand over :class:`RawFrame`, keys and values as the file names them, already in eV, A
and e. :func:`convert_frames` decides once per file which key is which label, applies the
conventions, checks every frame, and reports all mistakes together.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from hashlib import blake2b

import numpy as np

from qeqtrain.data.checks import all_finite, geometry_mistakes
from qeqtrain.data.keys import Keys, choose_keys
from qeqtrain.data.labels import (
    BORN_ORDERS,
    LABELS,
    SPIN_KEYS,
    UNPAIRED_KEYS,
    Conventions,
)
from qeqtrain.data.total_charge import first_number, fragments_of, total_charge_of
from qeqtrain.errors import UserMistake
from qeqtrain.structures import Structure

BORN_ORDER_UNKNOWN = (
    "Born charges are left out: which index is the displacement is not stated; say "
    f"data.born_charges_order={' or '.join(BORN_ORDERS)}"
)
MAX_SHOWN = 5  # mistakes of one file that are printed; the rest are counted

# Ids of materials: frames of one relaxation or of one trajectory belong together.
_MATERIAL = re.compile(r"^((?:mp|mvc)-[A-Za-z0-9]+|wbm-\d+-\d+|agm\d+)(?![A-Za-z0-9])")
_GROUP_KEYS = ("group", "material_id", "mp_id")


@dataclass(frozen=True)
class Frame:
    """A structure with its labels.

    Attributes:
        structure: geometry, total charge, spin, field, fragments.
        labels: by name (:data:`qeqtrain.data.labels.LABELS`), float64, eV, A, e; absent ones
            are not there.
        source_id: where the frame comes from.
        group: what must not be torn apart by a split; ``None`` where the geometry decides.
    """

    structure: Structure
    labels: dict[str, np.ndarray]
    source_id: str
    group: str | None = None

    def __len__(self) -> int:
        """Count the atoms."""
        return len(self.structure)


@dataclass
class RawFrame:
    """A frame as a file holds it, units converted, names not yet understood.

    Attributes:
        numbers: atomic numbers, shape ``(n,)``.
        positions: A, shape ``(n, 3)``.
        cell: rows, A, shape ``(3, 3)``.
        pbc: shape ``(3,)``.
        info: values of the structure by the file's key.
        arrays: values of the atoms by the file's key, first axis n.
        where: file and index, for messages.
        index: number of the frame in its file; -1 where frames have names instead.
    """

    numbers: np.ndarray
    positions: np.ndarray
    cell: np.ndarray
    pbc: np.ndarray
    info: dict[str, object] = field(default_factory=dict)
    arrays: dict[str, np.ndarray] = field(default_factory=dict)
    where: str = ""
    index: int = -1


def geometry_digest(structure: Structure) -> int:
    """Number a geometry by its atoms, positions (to 1e-4 A) and cell, whatever its charge."""
    digest = blake2b(digest_size=8)
    digest.update(np.asarray(structure.numbers, dtype=np.int64).tobytes())
    for lengths in (structure.positions, structure.cell):
        digest.update(np.rint(np.asarray(lengths) * 1e4).astype(np.int64).tobytes())
    digest.update(np.asarray(structure.pbc, dtype=np.uint8).tobytes())
    return int.from_bytes(digest.digest(), "little")


def center_of_mass(structure: Structure) -> np.ndarray:
    """Centre of mass, A, shape ``(3,)``."""
    from ase.data import atomic_masses

    masses = atomic_masses[structure.numbers]
    return masses @ structure.positions / masses.sum()


def _spin(info: Mapping[str, object], problems: list[str]) -> float | None:
    """Multiplicity 2S+1, given as such or by the number of unpaired electrons."""
    spin = first_number(info, SPIN_KEYS, problems)
    unpaired = first_number(info, UNPAIRED_KEYS, problems)
    if spin is None:
        return None if unpaired is None else unpaired + 1.0
    if unpaired is not None and abs(unpaired + 1.0 - spin) > 1e-6:
        problems.append(
            f"multiplicity {spin:g} and {unpaired:g} unpaired electrons disagree (2S+1 = uhf+1)"
        )
    return spin


def _shaped(label: str, value: object, n_atoms: int) -> np.ndarray:
    """Bring a label into its shape.

    Raises:
        ValueError: it has another number of values.
    """
    kind = LABELS[label]
    array = np.asarray(value, dtype=np.float64)
    shape = (n_atoms, *kind.shape) if kind.per_atom else kind.shape
    if label == "stress":
        if array.size == 6:
            xx, yy, zz, yz, xz, xy = array.ravel()
            array = np.array([[xx, xy, xz], [xy, yy, yz], [xz, yz, zz]])
        array = array.reshape(3, 3)
        return 0.5 * (array + array.T)
    if array.size != math.prod(shape):
        raise ValueError(f"{label} has shape {array.shape}; expected {shape}")
    return array.reshape(shape)


def _given(
    holder: Mapping[str, object], key: str, shape: tuple[int, ...], problems: list[str]
) -> np.ndarray | None:
    """Read an optional input of the structure."""
    if key not in holder:
        return None
    try:
        return np.asarray(holder[key], dtype=np.float64).reshape(shape)
    except (TypeError, ValueError):
        problems.append(f"{key} is {holder[key]!r}; expected numbers of shape {shape}")
        return None


def _group(info: Mapping[str, object], source_id: object) -> str | None:
    for key in _GROUP_KEYS:
        if info.get(key) not in (None, ""):
            return str(info[key])
    if "name" in info and "sample" in info:
        return f"{info['name']}/{info['sample']}"
    material = _MATERIAL.match(str(source_id)) if source_id is not None else None
    return material.group(1) if material else None


def _dipole_about_center(
    raw: RawFrame, dipole: np.ndarray, structure: Structure, conventions: Conventions
) -> tuple[np.ndarray | None, str]:
    """Move a dipole to the centre of mass; second: why it is dropped, or an empty string."""
    if structure.pbc.any():
        return None, "dipoles of periodic frames are left out: they are not defined"
    origin = raw.info.get("dipole_origin", conventions.dipole_origin)
    charge = structure.total_charge
    if charge == 0.0 or origin == "center_of_mass":
        return dipole, ""
    if charge is None:
        return None, "dipoles of frames with unknown total charge are left out"
    if origin == "coordinates":
        return dipole - charge * center_of_mass(structure), ""
    return None, (
        "dipoles of charged frames are left out: their origin is not stated; "
        "say data.dipole_origin=center_of_mass or =coordinates"
    )


def drop_not_numbers(
    labels: dict[str, np.ndarray], conventions: Conventions, problems: list[str]
) -> None:
    """Remove labels that are not numbers, or call them a mistake, as the convention says."""
    for name in [k for k, v in labels.items() if not all_finite(v)]:
        del labels[name]
        if conventions.nan == "error":
            problems.append(
                f"{name} is not a number (NaN or infinite); remove the frame, or say "
                "data.nan=missing to treat such labels as absent"
            )


def convert_frame(
    raw: RawFrame, keys: Keys, conventions: Conventions, fallback_id: str
) -> tuple[Frame, list[str], list[str]]:
    """Understand one frame.

    Returns:
        The frame, its mistakes, and remarks on what was left out.
    """
    problems: list[str] = []
    remarks: list[str] = []
    numbers = np.asarray(raw.numbers, dtype=np.int64)
    n_atoms = len(numbers)
    labels: dict[str, np.ndarray] = {}
    for label, candidates in keys.chosen.items():
        holder = raw.arrays if LABELS[label].per_atom else raw.info
        key = next((k for k in candidates if k in holder), None)
        if key is None or holder[key] is None:
            continue
        try:
            labels[label] = _shaped(label, holder[key], n_atoms)
        except (TypeError, ValueError) as error:
            problems.append(f"key '{key}': {error}")
            continue
        if label == "born_charges":
            order = raw.info.get("born_charges_order", conventions.born_charges_order)
            if order == "displacement_dipole":
                labels[label] = labels[label].swapaxes(1, 2).copy()
            elif order is not None and order not in BORN_ORDERS:
                problems.append(
                    f"born_charges_order is {order!r}; expected {' | '.join(BORN_ORDERS)}"
                )
            elif order is None and key != label:
                del labels[label]
                remarks.append(f"{BORN_ORDER_UNKNOWN}, in '{key}'")
    drop_not_numbers(labels, conventions, problems)
    groups = fragments_of(raw.arrays, raw.info, n_atoms, problems)
    structure = Structure(
        numbers=numbers,
        positions=np.asarray(raw.positions, dtype=np.float64).reshape(-1, 3),
        cell=np.asarray(raw.cell, dtype=np.float64).reshape(3, 3),
        pbc=np.asarray(raw.pbc, dtype=bool).reshape(3),
        **groups,
        total_charge=total_charge_of(raw.info, labels, groups, conventions, problems),
        spin=_spin(raw.info, problems),
        electric_field=_given(raw.info, "electric_field", (3,), problems),
        external_potential=_given(raw.arrays, "external_potential", (n_atoms,), problems),
    )
    problems += geometry_mistakes(structure)
    if "stress" in labels and not structure.pbc.all():
        del labels["stress"]
        remarks.append("stress of frames that are not periodic in all directions is left out")
    if "dipole" in labels and not problems:
        moved, why = _dipole_about_center(raw, labels.pop("dipole"), structure, conventions)
        if moved is not None:
            labels["dipole"] = moved
        else:
            remarks.append(why)
    source_id = raw.info.get("source_id")
    group = _group(raw.info, source_id)
    frame = Frame(
        structure, labels, fallback_id if source_id is None else str(source_id), group
    )
    return frame, problems, remarks


def convert_frames(
    raws: Sequence[RawFrame], conventions: Conventions, name: str
) -> tuple[list[Frame], list[str]]:
    """Understand all frames of a file.

    Args:
        raws: as the reader gives them.
        conventions: of the user.
        name: short name of the file, for messages and for ids of frames that have none.

    Returns:
        The frames, and notes on what was left out and why.

    Raises:
        UserMistake: keys that could mean two things, and every kind of bad frame.
    """
    keys = choose_keys(raws, conventions, name)
    frames: list[Frame] = []
    problems: list[str] = []
    remarks: Counter[str] = Counter()
    for index, raw in enumerate(raws):
        frame, wrong, left_out = convert_frame(raw, keys, conventions, f"{name}:{index}")
        frames.append(frame)
        problems += [f"{raw.where or f'{name}, frame {index}'}: {text}" for text in wrong]
        remarks.update(left_out)
    refuse(problems, name)
    notes = keys.notes + [
        f"{name}: {text} ({count:,} frames)" for text, count in remarks.items()
    ]
    return frames, notes


def refuse(problems: Sequence[str], name: str) -> None:
    """Raise the mistakes of a file, the first few in full.

    Raises:
        UserMistake: there are some.
    """
    if not problems:
        return
    rest = len(problems) - MAX_SHOWN
    more = [f"{name}: and {rest:,} more of the kind"] if rest > 0 else []
    raise UserMistake(*problems[:MAX_SHOWN], *more)


def unique_ids(ids: Iterable[str]) -> list[str]:
    """Number repeated ids, so that each names one frame: ``a, a`` becomes ``a, a#2``."""
    seen: Counter[str] = Counter()
    unique = []
    for name in ids:
        seen[name] += 1
        unique.append(name if seen[name] == 1 else f"{name}#{seen[name]}")
    return unique
