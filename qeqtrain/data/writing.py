"""Frames written: to a store, or as extended XYZ that ASE and others read."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

import numpy as np

from qeqtrain.data.columns import BY_GEOMETRY
from qeqtrain.data.elements import SYMBOLS
from qeqtrain.data.frames import Frame
from qeqtrain.data.labels import LABELS, Conventions
from qeqtrain.data.store_writer import StoreWriter
from qeqtrain.errors import UserMistake
from qeqtrain.fragments import CHARGES, COLUMN, POTENTIALS


def write_store(
    path: str | Path,
    frames: Iterable[Frame],
    conventions: Conventions | None = None,
    notes: Iterable[str] = (),
    pairs_cutoff: float | None = None,
) -> None:
    """Write frames to a store.

    Args:
        path: replaced in one step when all is written.
        frames: may be a generator; only a block of them is kept in memory.
        conventions: under which they were read.
        notes: shown by ``data info``.
        pairs_cutoff: A; stores neighbour lists of this cutoff.
    """
    with StoreWriter(Path(path), conventions, notes, pairs_cutoff) as writer:
        writer.write(frames)


def _bare(text: str) -> str:
    return f'"{text}"' if any(c in text for c in " =,") or not text else text


def _row(values: np.ndarray) -> str:
    return " ".join(repr(float(v)) for v in np.asarray(values).ravel())


def _text(frame: Frame) -> str:
    s = frame.structure
    columns = ["species:S:1", "pos:R:3"]
    blocks = [s.positions]
    for name, label in LABELS.items():
        if label.per_atom and name in frame.labels:
            values = frame.labels[name].reshape(len(s), -1)
            columns.append(f"{name}:R:{values.shape[1]}")
            blocks.append(values)
    if s.external_potential is not None:
        columns.append("external_potential:R:1")
        blocks.append(s.external_potential[:, None])
    ends = [""] * len(s)  # of the lines of atoms
    if s.fragments is not None:
        columns.append(f"{COLUMN}:I:1")
        ends = [f" {k}" for k in s.fragments.tolist()]
    parts = []
    if s.cell.any():
        parts.append(f'Lattice="{_row(s.cell)}"')
    parts.append(f"Properties={':'.join(columns)}")
    if s.total_charge is not None:
        whole = s.total_charge == int(s.total_charge)
        parts.append(f"charge={int(s.total_charge) if whole else repr(s.total_charge)}")
    if s.spin is not None:
        parts.append(f"spin_multiplicity={s.spin:g}")
    if s.electric_field is not None:
        parts.append(f'electric_field="{_row(s.electric_field)}"')
    if s.fragments is not None:
        stated = {CHARGES: s.fragment_charges, POTENTIALS: s.fragment_potentials}
        parts += [f'{k}="{_row(v)}"' for k, v in stated.items() if v is not None]
    parts.append(f"source_id={_bare(frame.source_id)}")
    if frame.group and not frame.group.startswith(BY_GEOMETRY):
        parts.append(f"group={_bare(frame.group)}")
    for name, label in LABELS.items():
        if name in frame.labels and not label.per_atom:
            value = frame.labels[name]
            plain = repr(float(value)) if label.shape == () else f'"{_row(value)}"'
            parts.append(f"{name}={plain}")
    if "dipole" in frame.labels and s.total_charge:
        parts.append("dipole_origin=center_of_mass")
    if "born_charges" in frame.labels:
        parts.append("born_charges_order=dipole_displacement")
    parts.append(f'pbc="{" ".join("T" if p else "F" for p in s.pbc)}"')
    table = np.concatenate([b.reshape(len(s), -1) for b in blocks], axis=1)
    atoms = [
        f"{SYMBOLS[z]:<2} {_row(values)}{end}"
        for z, values, end in zip(s.numbers.tolist(), table, ends, strict=True)
    ]
    return "\n".join([str(len(s)), " ".join(parts), *atoms, ""])


def write_extxyz(
    path: str | Path,
    frames: Iterable[Frame],
) -> None:
    """Write frames as extended XYZ, with every digit; each says itself what it needs.

    Args:
        path: replaced in one step when all is written.
        frames: may be a generator.

    Raises:
        UserMistake: there is no frame.
    """
    target = Path(path)
    target.parent.mkdir(parents=True, exist_ok=True)
    temporary = target.with_name(f".{target.name}.{os.getpid()}.tmp")
    written = 0
    try:
        with temporary.open("w", encoding="utf-8") as file:
            for frame in frames:
                file.write(_text(frame))
                written += 1
            file.flush()
            os.fsync(file.fileno())
        if written == 0:
            raise UserMistake(f"{path}: there is no frame to write")
        temporary.replace(target)
    finally:
        temporary.unlink(missing_ok=True)
