"""Charges and dipoles against labels, where a data set has them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from qeqtrain.data.labels import Conventions
from qeqtrain.data.sources import open_source
from qeqtrain.errors import UserMistake
from qeqtrain.evaluation.benchmarks.suite import TaskFailed
from qeqtrain.evaluation.evaluate import evaluate
from qeqtrain.models.potential import Potential

_OWN = ("total_charge", "nan", "aliases", "dipole_origin")
"""Conventions of the training data that hold for other files as well."""


def compare_with_labels(potential: Potential, content: Mapping[str, Any]) -> dict[str, Any]:
    """Errors of charges and dipoles on a file, all together and by element and total charge.

    Raises:
        TaskFailed: the file has labels of neither.
    """
    own = {key: potential.conventions[key] for key in _OWN if key in potential.conventions}
    own |= content["said"]
    file = content["file"]
    try:
        found = evaluate(potential, {file: open_source(file, Conventions(**own))})
    except UserMistake as mistake:
        raise TaskFailed(f"{file}: {mistake}") from mistake
    errors = {k: e.as_dict() for k, e in found.errors().items() if k in ("charges", "dipole")}
    if not errors:
        reasons = {k: found.missing.get(k, "") for k in ("charges", "dipole")}
        raise TaskFailed(f"{file}: charges: {reasons['charges']}; dipole: {reasons['dipole']}")
    return {
        "structures": len(found.frames),
        "errors": errors,
        "by_element": {
            s: e.as_dict() for s, e in found.by_element().get("charges", {}).items()
        },
        "by_total_charge": {
            q: {k: e.as_dict() for k, e in errors.items() if k in ("charges", "dipole")}
            for q, errors in found.by_total_charge().items()
        },
        "missing": {k: v for k, v in found.missing.items() if k in ("charges", "dipole")},
    }
