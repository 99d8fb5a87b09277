"""Which trial was best: a table for people, CSV and JSON for machines, and a figure."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from qeqtrain.data.progress import duration
from qeqtrain.sweeps.definition import GOALS, Definition
from qeqtrain.sweeps.journal import Journal, Trial
from qeqtrain.sweeps.metrics import METRICS, History

MOST_ERRORS = 5
"""Columns of further errors on the screen."""


@dataclass(frozen=True)
class Row:
    """A trial and what came of it.

    Attributes:
        trial: it.
        history: all that it logged.
        value: of the metric, where the best checkpoint was written.
    """

    trial: Trial
    history: History
    value: float | None

    @property
    def errors(self) -> dict[str, float]:
        """All errors where the best checkpoint was written, by column."""
        found = {}
        for metric in METRICS:
            value = self.history.kept(metric)
            if value is not None and metric.startswith("val/"):
                found[metric.removeprefix("val/")] = value
        return found


@dataclass(frozen=True)
class Results:
    """Trials of a sweep, best first; then those without a value.

    Attributes:
        definition: of the sweep.
        rows: of all trials.
    """

    definition: Definition
    rows: tuple[Row, ...]

    @property
    def ranked(self) -> list[Row]:
        """Trials with a value, best first."""
        return [row for row in self.rows if row.value is not None]

    @property
    def names(self) -> list[str]:
        """Parameters that vary."""
        return [p.name for p in self.definition.parameters if p.varies]

    def table(self) -> str:
        """Lay the table out in columns."""
        head, body = self._cells()
        widths = [max(len(row[i]) for row in (head, *body)) for i in range(len(head))]
        lines = (
            "  ".join(
                cell.ljust(width) for cell, width in zip(row, widths, strict=True)
            ).rstrip()
            for row in (head, *body)
        )
        return "\n".join(lines)

    def markdown(self) -> str:
        """Write the table, and what was swept, in Markdown."""
        definition = self.definition
        head, body = self._cells()
        lines = [
            f"# Sweep {definition.name}",
            "",
            f"Recipe `{definition.recipe}`"
            + "".join(f" `{text}`" for text in definition.fixed)
            + f", {definition.method} over {', '.join(f'`{n}`' for n in self.names)}; best is "
            f"the {'largest' if definition.maximize else 'smallest'} `{definition.metric}` at "
            "the best checkpoint. Errors in meV per atom, meV/A, GPa, me and e A.",
            "",
            "![results](results.png)",
            "",
            "| " + " | ".join(head) + " |",
            "|" + "---|" * len(head),
            *("| " + " | ".join(row) + " |" for row in body),
        ]
        return "\n".join(lines) + "\n"

    def csv(self) -> str:
        """Write one line per trial."""
        errors = list(dict.fromkeys(name for row in self.rows for name in row.errors))
        out = io.StringIO()
        writer = csv.writer(out, lineterminator="\n")
        writer.writerow(
            [
                "trial",
                "state",
                *self.names,
                self.definition.metric,
                *errors,
                "seconds",
                "folder",
            ]
        )
        for row in self.rows:
            writer.writerow(
                [
                    row.trial.number,
                    row.trial.state,
                    *(row.trial.parameters[name] for name in self.names),
                    "" if row.value is None else row.value,
                    *(row.errors.get(name, "") for name in errors),
                    row.trial.seconds,
                    row.trial.folder,
                ]
            )
        return out.getvalue()

    def plain(self) -> dict[str, Any]:
        """Give everything in plain values, for JSON."""
        definition = self.definition
        return {
            "sweep": definition.name,
            "recipe": definition.recipe,
            "fixed": list(definition.fixed),
            "method": definition.method,
            "metric": {"name": definition.metric, "goal": GOALS[definition.maximize]},
            "best": self.ranked[0].trial.number if self.ranked else None,
            "trials": [
                {
                    "trial": row.trial.number,
                    "state": row.trial.state,
                    "reason": row.trial.reason,
                    "parameters": row.trial.parameters,
                    "value": row.value,
                    "errors": row.errors,
                    "validations": len(row.history),
                    "seconds": row.trial.seconds,
                    "folder": str(row.trial.folder),
                }
                for row in self.rows
            ],
        }

    def _cells(self) -> tuple[list[str], list[list[str]]]:
        metric = self.definition.metric
        found = dict.fromkeys(name for row in self.rows for name in row.errors)
        further = [n for n in found if n.endswith("_rmse") and f"val/{n}" != metric][
            :MOST_ERRORS
        ]
        head = ["trial", *self.names, metric, *further, "validations", "time", "state"]
        body = [
            [
                str(row.trial.number),
                *(_text(row.trial.parameters[name]) for name in self.names),
                _text(row.value),
                *(_text(row.errors.get(name)) for name in further),
                str(len(row.history)),
                duration(row.trial.seconds),
                row.trial.state,
            ]
            for row in self.rows
        ]
        return head, body


def collect(definition: Definition, trials: Sequence[Trial]) -> Results:
    """Read what trials have logged and put the best first."""
    rows = []
    for trial in trials:
        history = trial.history()
        counts = trial.state in ("finished", "stopped")
        rows.append(Row(trial, history, history.kept(definition.metric) if counts else None))
    sign = -1.0 if definition.maximize else 1.0
    rows.sort(key=lambda row: (row.value is None, sign * (row.value or 0.0), row.trial.number))
    return Results(definition, tuple(rows))


def write_results(definition: Definition, journal: Journal) -> Results:
    """Write results.md, .csv, .json and .png into the folder of a sweep."""
    results = collect(definition, journal.trials)
    folder = journal.folder
    (folder / "results.md").write_text(results.markdown(), encoding="utf-8")
    (folder / "results.csv").write_text(results.csv(), encoding="utf-8")
    text = json.dumps(results.plain(), indent=2, default=str)
    (folder / "results.json").write_text(text + "\n", encoding="utf-8")
    if results.ranked:
        from qeqtrain.sweeps.figure import draw

        draw(results).savefig(folder / "results.png")
    return results


def shown_values(trial: Trial) -> str:
    """Write a trial's values in one line."""
    return " ".join(f"{name}={_text(value)}" for name, value in trial.parameters.items())


def _text(value: Any) -> str:
    if value is None:
        return "-"
    return f"{value:.4g}" if isinstance(value, float) else str(value)
