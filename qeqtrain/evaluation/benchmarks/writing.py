"""A suite's rows written down: results.json, report.md, plots, and the card of the model."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from qeqtrain.data.progress import duration
from qeqtrain.evaluation.benchmarks.suite import Findings, Plan, Row, Suite, plain_settings

RESULTS = "results.json"


def write_suite(
    suite: Suite[Any], plan: Plan, rows: Sequence[Row], findings: Findings, folder: Path
) -> dict[str, Any]:
    """Write results.json, report.md and plots into the folder of a suite.

    Returns:
        What results.json holds: ``suite``, ``settings``, ``notes``, ``numbers`` (the summary),
        ``measured``, ``failed`` (reasons by task), ``seconds`` and ``cpu_seconds`` (of all
        tasks, one after the other), ``card``, ``rows`` (values by task).
    """
    results = {
        "suite": suite.name,
        "settings": plain_settings(suite.settings),
        "notes": [*plan.notes, *findings.notes],
        "numbers": findings.numbers,
        "measured": sum(not row.failed for row in rows),
        "failed": {row.task: row.failed for row in rows if row.failed},
        "seconds": round(sum(row.seconds for row in rows), 2),
        "cpu_seconds": round(sum(row.cpu for row in rows), 2),
        "card": findings.card,
        "rows": {row.task: row.values for row in rows if not row.failed},
    }
    results = finite(results)
    folder.mkdir(parents=True, exist_ok=True)
    plots = folder / "plots"
    plots.mkdir(exist_ok=True)
    for old in plots.glob("*.png"):
        old.unlink()
    for name, figure in findings.plots.items():
        figure.savefig(plots / f"{name}.png")
    _write(folder / RESULTS, json.dumps(results, indent=2) + "\n")
    _write(folder / "report.md", as_markdown(suite, plan, rows, findings))
    return results


def as_markdown(suite: Suite[Any], plan: Plan, rows: Sequence[Row], findings: Findings) -> str:
    """Write the report of a suite."""
    said = [*_facts(rows), *plan.notes, *findings.notes]
    tables = [table.as_markdown() for table in findings.tables]
    pictures = [f"![{name}](plots/{name}.png)" for name in findings.plots]
    lines = [f"# Benchmark: {suite.name}", "", *(f"- {fact}" for fact in said), ""]
    return "\n".join([*lines, *tables[:1], "", *pictures, "", "\n\n".join(tables[1:]), ""])


def as_text(suite: Suite[Any], plan: Plan, rows: Sequence[Row], findings: Findings) -> str:
    """Write what a terminal shows of a suite."""
    said = "\n".join([*_facts(rows), *plan.notes, *findings.notes])
    tables = [table.as_text() for table in findings.tables]
    return "\n\n".join([f"== {suite.name} ==", *tables, said])


def finite(value: Any) -> Any:
    """Turn numbers that JSON does not have (NaN, infinity) into nulls."""
    if isinstance(value, Mapping):
        return {str(k): finite(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [finite(v) for v in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value


def _facts(rows: Sequence[Row]) -> list[str]:
    failed = sum(bool(row.failed) for row in rows)
    seconds, cpu = sum(row.seconds for row in rows), sum(row.cpu for row in rows)
    return [
        f"{len(rows) - failed:,} measured, {failed:,} failed, {duration(seconds)} of work, "
        f"{duration(cpu)} of CPU ({cpu / len(rows):.2g} s each)"
    ]


def _write(file: Path, text: str) -> None:
    part = file.with_name(file.name + ".part")
    part.write_text(text, encoding="utf-8")
    part.replace(file)
