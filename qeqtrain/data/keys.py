"""Which key of a file is which label, decided once per file and never guessed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np

from qeqtrain.data.labels import (
    ALIASES,
    LABELS,
    LAST_RESORT,
    SPIN_KEYS,
    TOTAL_CHARGE_KEYS,
    UNDECIDED,
    UNPAIRED_KEYS,
    Conventions,
)
from qeqtrain.errors import UserMistake, nearest

_UNDERSTOOD = {
    *(*TOTAL_CHARGE_KEYS, *SPIN_KEYS, *UNPAIRED_KEYS, "electric_field", "external_potential"),
    *("fragment", "fragment_charges", "fragment_potentials"),
    *("source_id", "group", "material_id", "mp_id", "name", "sample", "dipole_origin"),
    "born_charges_order",
}


class _HasKeys(Protocol):
    info: dict[str, object]
    arrays: dict[str, np.ndarray]


@dataclass
class Keys:
    """The decision for one file.

    Attributes:
        chosen: keys to read for each label, in order of preference.
        unused: keys of the file that no label was taken from.
        notes: what the user may want to know.
    """

    chosen: dict[str, tuple[str, ...]] = field(default_factory=dict)
    unused: tuple[str, ...] = ()
    notes: list[str] = field(default_factory=list)


def _holder(raw: _HasKeys, label: str) -> dict[str, object] | dict[str, np.ndarray]:
    return raw.arrays if LABELS[label].per_atom else raw.info


def _equal(raws: Sequence[_HasKeys], label: str, first: str, other: str) -> bool:
    """Whether two keys hold the same values in every frame, so that nothing is to be chosen."""
    for raw in raws:
        holder = _holder(raw, label)
        if (first in holder) != (other in holder):
            return False
        if first not in holder:
            continue
        a, b = np.asarray(holder[first], dtype=object), np.asarray(holder[other], dtype=object)
        if a.size != b.size or not np.array_equal(a.ravel(), b.ravel()):
            return False
    return True


def _all_zero(raws: Sequence[_HasKeys], label: str, key: str) -> bool:
    values = (np.asarray(h[key]) for h in (_holder(r, label) for r in raws) if key in h)
    return not any(v.any() for v in values)


def _ambiguous(label: str, found: Sequence[str], name: str) -> str:
    return (
        f"{name}: {' and '.join(repr(f) for f in found)} could all be {label}; choose one with "
        f"data.aliases.{label}={found[0]} (the key to read)"
    )


def _choose(
    label: str,
    seen: set[str],
    raws: Sequence[_HasKeys],
    conventions: Conventions,
    name: str,
    problems: list[str],
) -> tuple[str, ...]:
    if label in conventions.aliases:
        wanted = conventions.aliases[label]
        if wanted is None:
            return ()
        # A file in our own names, a converted one for instance, needs no alias.
        return tuple(k for k in (wanted, label) if k in seen)[:1]
    found = [k for k in ALIASES[label] if k in seen]
    if not found:
        rest = [k for k in LAST_RESORT.get(label, ()) if k in seen]
        return tuple(k for k in rest if not _all_zero(raws, label, k))
    if any(not _equal(raws, label, found[0], other) for other in found[1:]):
        problems.append(_ambiguous(label, found, name))
    return (found[0],)


def choose_keys(raws: Sequence[_HasKeys], conventions: Conventions, name: str) -> Keys:
    """Decide which keys of a file to read for which label.

    Raises:
        UserMistake: two keys with different values could be the same label, or a key that the
            user named is not in the file.
    """
    in_info = {k for raw in raws for k in raw.info}
    in_arrays = {k for raw in raws for k in raw.arrays}
    problems: list[str] = []
    result = Keys()
    for label, kind in LABELS.items():
        seen = in_arrays if kind.per_atom else in_info
        keys = _choose(label, seen, raws, conventions, name, problems)
        if keys:
            result.chosen[label] = keys
        wanted = conventions.aliases.get(label)
        if wanted is not None and not keys:
            problems.append(
                f"{name}: data.aliases.{label} asks for '{wanted}', which the file lacks; "
                f"it has {', '.join(sorted(seen - _UNDERSTOOD)) or 'no such keys'}"
                f"{nearest(wanted, seen)}"
            )
        candidates, reason = UNDECIDED.get(label, ((), ""))
        doubtful = [k for k in candidates if k in seen and k not in keys]
        if doubtful and not keys:
            result.notes.append(
                f"{name}: '{doubtful[0]}' is not taken for {label} unasked ({reason}); if it "
                f"is what you want, say data.aliases.{label}={doubtful[0]}"
            )
    if problems:
        raise UserMistake(*problems)
    used = {k for keys in result.chosen.values() for k in keys}
    result.unused = tuple(sorted((in_info | in_arrays) - used - _UNDERSTOOD))
    return result
