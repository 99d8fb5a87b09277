"""Several models on the same frames, in one table."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from qeqtrain.evaluation.document import Document
from qeqtrain.evaluation.errors import Errors
from qeqtrain.evaluation.evaluate import Evaluation
from qeqtrain.evaluation.plots import AXES, parity_plots
from qeqtrain.evaluation.report import as_json
from qeqtrain.evaluation.tables import Table, facts, number
from qeqtrain.training.quantities import QUANTITIES

Evaluations = Mapping[str, Evaluation]
"""By the model's name."""
Groups = Mapping[str, Mapping[str, Errors]]
"""Errors by group (a total charge, a file) and quantity."""


def models_table(found: Evaluations) -> Table:
    """Set the errors of all models side by side, a column each."""
    errors = [evaluation.errors() for evaluation in found.values()]
    rows = [
        [_words(n), q.unit, kind, *(_cell(e.get(n), kind) for e in errors)]
        for n, q in QUANTITIES.items()
        for kind in _KINDS
        if any(n in e for e in errors)
    ]
    return Table("Errors of every model", ["quantity", "unit", "kind", *found], rows, names=3)


def _cell(errors: Errors | None, kind: str) -> str:
    return "-" if errors is None else number(getattr(errors, kind.lower()))


def group_tables(found: Evaluations) -> list[Table]:
    """Compare RMSEs by total charge, data source and element; a table per quantity."""
    by_charge = {m: e.by_total_charge() for m, e in found.items()}
    by_part = {m: e.by_part() for m, e in found.items()}
    tables = _tables("total charge", "Q (e)", by_charge)
    tables += _tables("data source", "source", by_part)
    by_element = {m: _by_symbol(e) for m, e in found.items()}
    return tables + _tables("element", "element", by_element)


def _tables(what: str, head: str, by_model: Mapping[str, Groups]) -> list[Table]:
    """Make a table per quantity: groups in rows, models in columns; none for a single group."""
    groups = list(dict.fromkeys(g for found in by_model.values() for g in found))
    if len(groups) < 2:
        return []
    made = []
    for name, quantity in QUANTITIES.items():
        rows = []
        for group in groups:
            errors = [found.get(group, {}).get(name) for found in by_model.values()]
            if any(errors):
                rows.append([group, *(_cell(e, "RMSE") for e in errors)])
        title = f"RMSE of {_words(name)} by {what} ({quantity.unit})"
        if rows:
            made.append(Table(title, [head, *by_model], rows))
    return made


def _by_symbol(evaluation: Evaluation) -> dict[str, dict[str, Errors]]:
    """Errors by chemical symbol and quantity."""
    turned: dict[str, dict[str, Errors]] = {}
    for name, by_symbol in evaluation.by_element().items():
        for symbol, errors in by_symbol.items():
            turned.setdefault(symbol, {})[name] = errors
    return turned


def comparison_text(found: Evaluations) -> str:
    """Write the comparison for a terminal."""
    tables = [models_table(found), *group_tables(found)]
    chosen = [t for t in tables if "by element" not in t.title]
    said = [f"{model}: {fact}" for model, e in found.items() for fact in facts(e)[1:]]
    return "\n\n".join([*(t.as_text() for t in chosen), "\n".join(said)])


def comparison_document(found: Evaluations) -> Document:
    """Put the report of several models together."""
    document = Document("Evaluation of several models")
    first = next(iter(found.values()))
    document.say(facts(first)[:1])
    document.add(models_table(found), *group_tables(found))
    for i, (model, evaluation) in enumerate(found.items(), start=1):
        document.say(facts(evaluation)[1:], model)
        plots = {
            f"{i}_{name}": (f"{model}: parity plot: {AXES[name][0]}", figure)
            for name, figure in parity_plots(evaluation).items()
        }
        document.draw(**plots)
    return document


def comparison_json(found: Evaluations) -> dict[str, Any]:
    """Give all numbers: under ``models``, by name, those of a single evaluation."""
    return {"models": {model: as_json(evaluation) for model, evaluation in found.items()}}


def short_names(models: Sequence[str]) -> list[str]:
    """Name models by what tells their paths apart: ``runs/a/x, runs/b/x`` become ``a, b``.

    Args:
        models: paths or names, no two alike.
    """
    parts = [m.rstrip("/").split("/") for m in models]
    for end in (0, -1):
        while len({p[end] for p in parts}) == 1 and all(len(p) > 1 for p in parts):
            parts = [p[1:] if end == 0 else p[:-1] for p in parts]
    return ["/".join(p) for p in parts]


_KINDS = ("MAE", "RMSE")


def _words(name: str) -> str:
    return name.replace("_", " ")
