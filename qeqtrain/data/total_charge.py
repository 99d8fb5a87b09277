"""Total charge of a frame: as stated, the sum of its fragments, or what a policy assumes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from qeqtrain.data.labels import TOTAL_CHARGE_KEYS, Conventions
from qeqtrain.errors import UserMistake
from qeqtrain.fragments import read_fragments, total_of_fragments


def _number(value: object) -> float:
    if type(value) is float:
        return value
    return float(np.asarray(value, dtype=np.float64).reshape(()))


def first_number(
    info: Mapping[str, object], keys: Sequence[str], problems: list[str]
) -> float | None:
    """Read one number that may stand under several names; they must not disagree."""
    found = {}
    for key in keys:
        if key in info:
            try:
                found[key] = _number(info[key])
            except (TypeError, ValueError):
                problems.append(f"{key} is {info[key]!r}; expected one number")
    if not found:
        return None
    if len(found) > 1 and len({round(v, 6) for v in found.values()}) > 1:
        shown = " and ".join(f"{k}={v:g}" for k, v in found.items())
        problems.append(f"{shown} disagree; remove the wrong one")
    value = next(iter(found.values()))
    return None if value != value else value + 0.0  # -0.0 becomes 0.0


def fragments_of(
    arrays: Mapping[str, np.ndarray],
    info: Mapping[str, object],
    n_atoms: int,
    problems: list[str],
) -> dict[str, Any]:
    """Read fragments as fields of a structure; nothing where there are none."""
    try:
        return read_fragments(arrays, info, n_atoms)
    except UserMistake as mistake:
        problems += mistake.problems
        return {}


def total_charge_of(
    info: Mapping[str, object],
    labels: Mapping[str, np.ndarray],
    groups: Mapping[str, Any],
    conventions: Conventions,
    problems: list[str],
) -> float | None:
    """Find the total charge, e: as stated, as fragments have it, or by the policy."""
    charge = first_number(info, TOTAL_CHARGE_KEYS, problems)
    try:
        charge = total_of_fragments(groups, charge)
    except UserMistake as mistake:
        problems += mistake.problems
    return charge if charge is not None else assumed_charge(labels, conventions, problems)


def assumed_charge(
    labels: Mapping[str, np.ndarray], conventions: Conventions, problems: list[str]
) -> float | None:
    """Total charge, e, of a frame that states none, as the policy has it; ``None`` if open."""
    if conventions.total_charge == "zero":
        return 0.0
    if conventions.total_charge == "sum_of_charges" and "charges" in labels:
        total = float(labels["charges"].sum())
        if abs(total - round(total)) > 0.1:
            problems.append(
                f"the charges add up to {total:.3f} e, too far from an integer to stand for "
                "the total charge; state it, or say data.total_charge=zero"
            )
        return float(round(total))
    return None
