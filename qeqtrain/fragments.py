"""Fragments of a structure as files and ``ase.Atoms`` state them.

Three keys: a column ``fragment`` with a whole number for every atom, and for the structure
``fragment_charges`` (e) and ``fragment_potentials`` (V), each with one value per fragment, in
the order of the fragments' numbers. A fragment has either a charge of its own or a potential at
which it is held; NaN stands for the other. (``fragment_charge``, in the singular, is a label of
some data sets and constrains nothing.)
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from qeqtrain.errors import UserMistake

COLUMN, CHARGES, POTENTIALS = "fragment", "fragment_charges", "fragment_potentials"
_SAME = 1e-6  # e; charges of fragments add up to the total charge within this


def read_fragments(
    arrays: Mapping[str, Any], info: Mapping[str, Any], n_atoms: int
) -> dict[str, Any]:
    """Understand the three keys of one structure.

    Args:
        arrays: values per atom by key; ``fragment`` may be any whole numbers, shape ``(n,)``.
        info: values of the structure by key.
        n_atoms: n.

    Returns:
        Fields of :class:`~qeqtrain.structures.Structure`: ``fragments`` (numbered from 0),
        ``fragment_charges``, ``fragment_potentials``; nothing without fragments.

    Raises:
        UserMistake: what is stated is not complete, or contradicts itself.
    """
    column, charges, potentials = arrays.get(COLUMN), info.get(CHARGES), info.get(POTENTIALS)
    if column is None and charges is None and potentials is None:
        return {}
    if column is None:
        stated = CHARGES if charges is not None else POTENTIALS
        raise UserMistake(
            f"{stated} without fragments; add a column '{COLUMN}' with the fragment of every "
            f"atom (Properties=...:{COLUMN}:I:1)"
        )
    numbers = _numbers(column, COLUMN)
    if numbers.shape != (n_atoms,) or not np.array_equal(numbers, np.rint(numbers)):
        raise UserMistake(
            f"'{COLUMN}' is {_short(numbers)}; expected a whole number for each of the "
            f"{n_atoms} atoms"
        )
    known, fragments = np.unique(numbers, return_inverse=True)
    if charges is None and potentials is None:
        raise UserMistake(
            f"{len(known)} fragments without charges; state {CHARGES} (e) or {POTENTIALS} (V), "
            f"one value per fragment, or take the column '{COLUMN}' out"
        )
    given = {CHARGES: charges, POTENTIALS: potentials}
    values = {
        key: np.full(len(known), np.nan) if value is None else _numbers(value, key)
        for key, value in given.items()
    }
    for key, array in values.items():
        if array.shape != known.shape:
            raise UserMistake(
                f"{key} has {_count(array.size)}; expected one for each of the {len(known)} "
                f"fragments ({', '.join(f'{k:g}' for k in known[:8])})"
            )
        if np.isinf(array).any():
            raise UserMistake(f"{key} is {_short(array)}; expected finite numbers, or NaN")
    stated_twice = ~np.isnan(values[CHARGES]) & ~np.isnan(values[POTENTIALS])
    stated_never = np.isnan(values[CHARGES]) & np.isnan(values[POTENTIALS])
    for wrong, what in ((stated_twice, "both"), (stated_never, "neither")):
        if wrong.any():
            raise UserMistake(
                f"fragment {known[wrong][0]:g} has {what} of a charge and a potential; state "
                f"one in {CHARGES} or {POTENTIALS} and write NaN for the other"
            )
    return {
        "fragments": fragments.astype(np.int64).reshape(-1),
        "fragment_charges": values[CHARGES],
        "fragment_potentials": values[POTENTIALS] if np.isnan(values[CHARGES]).any() else None,
    }


def total_of_fragments(fields: Mapping[str, Any], stated: float | None) -> float | None:
    """Give the total charge, e: as stated, or the sum over fragments; ``None`` if it is open.

    Args:
        fields: of :func:`read_fragments`.
        stated: total charge of the structure, if it is stated.

    Raises:
        UserMistake: charges of the fragments do not add up to the total charge.
    """
    if not fields or fields["fragment_potentials"] is not None:
        return stated
    total = float(fields["fragment_charges"].sum())
    if stated is None:
        return float(round(total)) if abs(total - round(total)) < _SAME else total
    if abs(total - stated) > _SAME:
        raise UserMistake(
            f"{CHARGES} add up to {total:+g} e, and the total charge is {stated:+g} e; mend "
            "the wrong one"
        )
    return stated


def _numbers(value: object, key: str) -> np.ndarray:
    try:
        return np.atleast_1d(np.asarray(value, dtype=np.float64))
    except (TypeError, ValueError):
        raise UserMistake(f"{key} is {value!r}; expected numbers") from None


def _short(array: np.ndarray) -> str:
    return np.array2string(array, threshold=6, edgeitems=3, precision=4)


def _count(size: int) -> str:
    return f"{size} value" if size == 1 else f"{size} values"
