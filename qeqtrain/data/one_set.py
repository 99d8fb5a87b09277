"""One of several data sets that are mixed: files, conventions, weight, kind of labels."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any, Literal, TypedDict

from qeqtrain.data.elements import ATOMIC_NUMBERS, SYMBOLS
from qeqtrain.data.labels import (
    BornOrder,
    Conventions,
    DipoleOrigin,
    NanPolicy,
    TotalChargePolicy,
)
from qeqtrain.data.opening import DataFiles
from qeqtrain.data.splits import SplitBy
from qeqtrain.errors import UserMistake, nearest

References = Literal["own", "main"] | dict[str, float]
"""Energies of elements: fitted to the set, those of the main set, or given, eV."""


class SetOptions(TypedDict, total=False):
    """What a recipe says of one set, under ``data.sets.NAME``."""

    train: str | list[str]
    val: str | list[str] | None
    test: str | list[str] | None
    split: dict[str, float] | None
    split_by: SplitBy
    split_file: str | None
    weight: float
    charge_type: str | None
    references: Literal["own", "main"] | dict[str, float]
    total_charge: TotalChargePolicy
    nan: NanPolicy
    aliases: dict[str, str | None] | None
    dipole_origin: DipoleOrigin | None
    born_charges_order: BornOrder | None
    valences: dict[str, float] | None
    hdf5: dict[str, str] | None


KEYS = tuple(SetOptions.__annotations__)
_FILES = ("train", "val", "test", "split", "split_by", "split_file")
_NAME = re.compile(r"[A-Za-z0-9_-]+")
_OWN_KEY = re.compile(rf"\bdata\.(?=(?:{'|'.join(KEYS)})\b)")


@dataclass(frozen=True)
class OneSet:
    """One data set of a mixture.

    Attributes:
        name: of the set.
        files: its files and conventions.
        weight: how often its frames come in an epoch; 1 is once.
        charge_type: what its charges are, such as ``bader``; ``None``: those of the main set.
        references: its energies of elements: ``own``, ``main``, or given, eV by symbol.
    """

    name: str
    files: DataFiles
    weight: float = 1.0
    charge_type: str | None = None
    references: References = "own"

    def said(self, text: str) -> str:
        """Name a key of the recipe where it stands: under this set."""
        return _OWN_KEY.sub(f"data.sets.{self.name}.", text)


def read_set(name: str, options: Mapping[str, Any]) -> OneSet:
    """Take one set from a recipe.

    Args:
        name: of the set.
        options: as in :class:`SetOptions`.

    Raises:
        UserMistake: all that is wrong with it, each value with its full key.
    """
    here = f"data.sets.{name}"
    problems = []
    if not _NAME.fullmatch(name):
        problems.append(f"{here}: expected a name of letters, digits, _ and -")
    problems += [
        f"{here} takes no '{key}'{nearest(str(key), KEYS)} (it takes: {', '.join(KEYS)})"
        for key in options
        if key not in KEYS
    ]
    if not options.get("train"):
        problems.append(f"{here}.train must be given: {here}.train=<path>")
    weight = options.get("weight", 1.0)
    if isinstance(weight, bool) or not isinstance(weight, int | float):
        problems.append(f"{here}.weight is {weight!r}; expected a number above 0")
    elif not 0.0 < weight < math.inf:
        problems.append(
            f"{here}.weight is {weight:g}; expected a number above 0: 1 is every frame once in "
            "an epoch, 0.25 a quarter of them; a set that is not wanted is left out altogether"
        )
    references = options.get("references", "own")
    problems += _reference_mistakes(f"{here}.references", references)
    known = {f.name for f in fields(Conventions)}
    given = {k: v for k, v in options.items() if k in known and v is not None}
    conventions = Conventions()
    try:
        conventions = Conventions(**given)
    except UserMistake as mistake:
        problems += [_OWN_KEY.sub(f"{here}.", text) for text in mistake.problems]
    files = DataFiles(
        **{"train": "", **{k: options[k] for k in _FILES if k in options}},
        conventions=conventions,
    )
    problems += [_OWN_KEY.sub(f"{here}.", text) for text in files.mistakes()]
    if problems:
        raise UserMistake(*problems)
    return OneSet(name, files, float(weight), options.get("charge_type"), references)


def _reference_mistakes(key: str, value: object) -> list[str]:
    """Say what is wrong with the energies of elements of a set."""
    if value in ("own", "main"):
        return []
    if not isinstance(value, Mapping):
        return [
            f"{key} is {value!r}; expected own (fitted to this set), main (those of the main "
            f"set), or energies by element in eV{nearest(str(value), ('own', 'main'))}"
        ]
    return [
        f"{key} names {symbol!r}; expected chemical symbols{nearest(str(symbol), SYMBOLS)}"
        for symbol in value
        if symbol not in ATOMIC_NUMBERS
    ]
