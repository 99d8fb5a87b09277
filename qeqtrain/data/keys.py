"""Which key of a file is which label, decided once per file and never guessed."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import combinations
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


_EITHER = {
    label: tuple(dict.fromkeys((*names, *LAST_RESORT.get(label, ()))))
    for label, names in ALIASES.items()
}


def _values_agree(one: object, other: object) -> bool:
    a, b = np.asarray(one, dtype=object), np.asarray(other, dtype=object)
    return a.size == b.size and np.array_equal(a.ravel(), b.ravel())


@dataclass
class Survey:
    """What has to be known of all frames of a file to decide on its keys.

    Surveys of parts of a file add up (:meth:`merge`), and are small whatever the file.

    Attributes:
        in_info, in_arrays: keys that were met.
        differ: by label, pairs of its keys that do not hold the same in every frame.
        nonzero: keys of the last resort that are not zero throughout.
    """

    in_info: set[str] = field(default_factory=set)
    in_arrays: set[str] = field(default_factory=set)
    differ: dict[str, set[frozenset[str]]] = field(default_factory=dict)
    nonzero: set[str] = field(default_factory=set)
    _settled: set[tuple[str, ...]] = field(default_factory=set, compare=False, repr=False)

    def add(self, raw: _HasKeys) -> None:
        """Look at one frame."""
        # Frames of a file mostly have the same keys, and once seen have nothing new to say.
        met = (*raw.info, "", *raw.arrays)
        if met in self._settled:
            return
        self.in_info.update(raw.info)
        self.in_arrays.update(raw.arrays)
        settled = True
        for label, names in _EITHER.items():
            holder = raw.arrays if LABELS[label].per_atom else raw.info
            here = [k for k in names if k in holder]
            if not here:
                continue
            for key in LAST_RESORT.get(label, ()):
                if key in holder and key not in self.nonzero:
                    if np.any(holder[key]):
                        self.nonzero.add(key)
                    else:
                        settled = False
            self._compare(label, names, here, holder)
            settled &= all(frozenset(p) in self.differ[label] for p in combinations(here, 2))
        if settled:
            self._settled.add(met)

    def _compare(
        self,
        label: str,
        names: Sequence[str],
        here: Sequence[str],
        holder: Mapping[str, object] | Mapping[str, np.ndarray],
    ) -> None:
        differ = self.differ.setdefault(label, set())
        # A key that others lack in this frame differs from them, whether or not they are met
        # elsewhere in the file.
        for key in here:
            for other in names:
                pair = frozenset((key, other))
                if key == other or pair in differ:
                    continue
                if other not in holder or not _values_agree(holder[key], holder[other]):
                    differ.add(pair)

    def merge(self, other: Survey) -> None:
        """Take in what another part of the file showed."""
        self.in_info |= other.in_info
        self.in_arrays |= other.in_arrays
        self.nonzero |= other.nonzero
        for label, pairs in other.differ.items():
            self.differ.setdefault(label, set()).update(pairs)

    def seen(self, label: str) -> set[str]:
        """Keys that could hold a label of this kind, of the atoms or of the structure."""
        return self.in_arrays if LABELS[label].per_atom else self.in_info

    def equal(self, label: str, first: str, other: str) -> bool:
        """Whether two keys hold the same in every frame, so that nothing is to be chosen."""
        return frozenset((first, other)) not in self.differ.get(label, set())


def _ambiguous(label: str, found: Sequence[str], name: str) -> str:
    return (
        f"{name}: {' and '.join(repr(f) for f in found)} could all be {label}; choose one with "
        f"data.aliases.{label}={found[0]} (the key to read)"
    )


def _choose(
    label: str,
    survey: Survey,
    conventions: Conventions,
    name: str,
    problems: list[str],
) -> tuple[str, ...]:
    seen = survey.seen(label)
    if label in conventions.aliases:
        wanted = conventions.aliases[label]
        if wanted is None:
            return ()
        # A file in our own names, a converted one for instance, needs no alias.
        return tuple(k for k in (wanted, label) if k in seen)[:1]
    found = [k for k in ALIASES[label] if k in seen]
    if not found:
        rest = [k for k in LAST_RESORT.get(label, ()) if k in seen]
        return tuple(k for k in rest if k in survey.nonzero)
    if any(not survey.equal(label, found[0], other) for other in found[1:]):
        problems.append(_ambiguous(label, found, name))
    return (found[0],)


def choose_keys(
    survey: Survey | Iterable[_HasKeys], conventions: Conventions, name: str
) -> Keys:
    """Decide which keys of a file to read for which label.

    Args:
        survey: of all frames, or the frames.
        conventions: of the user.
        name: of the file, for messages.

    Raises:
        UserMistake: two keys with different values could be the same label, or a key that the
            user named is not in the file.
    """
    if not isinstance(survey, Survey):
        frames, survey = survey, Survey()
        for raw in frames:
            survey.add(raw)
    problems: list[str] = []
    result = Keys()
    for label in LABELS:
        seen = survey.seen(label)
        keys = _choose(label, survey, conventions, name, problems)
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
        # Of the other labels the undecided keys are what the chosen one was made of.
        elif (
            label == "energy"
            and doubtful
            and keys[0] != label
            and label not in conventions.aliases
        ):
            result.notes.append(
                f"{name}: {label} is read from '{keys[0]}', not from '{doubtful[0]}' "
                f"({reason}); data.aliases.{label}={doubtful[0]} would choose that"
            )
    if problems:
        raise UserMistake(*problems)
    used = {k for keys in result.chosen.values() for k in keys}
    result.unused = tuple(sorted((survey.in_info | survey.in_arrays) - used - _UNDERSTOOD))
    return result
