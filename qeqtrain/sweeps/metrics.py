"""What a run has logged so far, read from its metrics.csv."""

from __future__ import annotations

import csv
import math
from dataclasses import dataclass
from pathlib import Path

SCORE = "val/score"
METRICS = (
    SCORE,
    *(
        f"val/{quantity}_{kind}"
        for quantity in ("energy", "forces", "stress", "charges", "dipole", "born_charges")
        for kind in ("rmse", "mae")
    ),
    "train/loss",
)
"""What a logger is told of every run, and a sweep can compare."""


@dataclass(frozen=True)
class History:
    """Rows of a metrics.csv.

    Attributes:
        columns: by name without unit; a cell without a number is NaN.
        units: of columns that have one.
    """

    columns: dict[str, list[float]]
    units: dict[str, str]

    def of(self, metric: str) -> list[float]:
        """Values of a metric, one for every validation; empty if it was never logged."""
        values = self.columns.get(_column(metric), [])
        return values if any(math.isfinite(value) for value in values) else []

    def kept(self, metric: str) -> float | None:
        """Value of a metric where the best checkpoint was written; else its last one."""
        values = self.of(metric)
        scores = self.of(SCORE)
        rows = [row for row, score in enumerate(scores) if math.isfinite(score)]
        if rows and len(scores) == len(values):
            value = values[min(rows, key=lambda row: scores[row])]
        else:
            value = next((v for v in reversed(values) if math.isfinite(v)), math.nan)
        return value if math.isfinite(value) else None

    def __len__(self) -> int:
        """Count the validations."""
        return len(self.columns.get("step", []))


def read_history(run: Path) -> History:
    """Read the metrics of a run's folder; empty where there are none yet."""
    file = run / "metrics.csv"
    if not file.is_file():
        return History({}, {})
    with file.open(newline="", encoding="utf-8") as lines:
        rows = list(csv.reader(lines))
    if not rows:
        return History({}, {})
    head, *body = rows
    names = [cell.partition(" (") for cell in head]
    whole = [row for row in body if len(row) == len(head)]  # the last may be half written
    columns = {
        name: [_number(row[place]) for row in whole] for place, (name, _, _) in enumerate(names)
    }
    return History(columns, {name: unit.rstrip(")") for name, _, unit in names if unit})


def _column(metric: str) -> str:
    return metric.removeprefix("val/").replace("train/", "train_")


def _number(cell: str) -> float:
    try:
        return float(cell)
    except ValueError:
        return math.nan
