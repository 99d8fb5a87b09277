"""What suites with published crystals share: entries, errors beside those of other models."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from ase import Atoms

from qeqtrain.errors import UserMistake
from qeqtrain.evaluation.benchmarks.references import (
    PUBLISHED,
    Reference,
    atoms_of,
    published_rows,
    read_json,
)
from qeqtrain.evaluation.benchmarks.suite import Plan, Row, Settings, Task
from qeqtrain.evaluation.plots import COLORS
from qeqtrain.evaluation.tables import Table, number
from qeqtrain.models.potential import Potential

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@dataclass(frozen=True)
class CrystalSettings(Settings):
    """Settings of a suite with published crystals.

    Attributes:
        references: folder with the published files, before all other places.
        max_atoms: entries with larger cells are left out; none unless given.
    """

    references: str = ""
    max_atoms: int | None = None


def choose_entries(
    potential: Potential,
    reference: Reference,
    settings: CrystalSettings,
    content: Callable[[Mapping[str, Any], Atoms], dict[str, Any]],
    identifier: str,
) -> Plan:
    """Choose the entries a model can be asked about: all, or a seeded subset.

    Args:
        potential: whose elements count.
        reference: the published file.
        settings: of the suite.
        content: of a task, from an entry and its structure.
        identifier: key of the name of an entry.

    Raises:
        UserMistake: there is no entry left.
    """
    found = reference.find(settings.references)
    entries = read_json(found.path)
    notes = [found.note(reference.source, len(entries))]
    known = set(potential.elements)
    tasks: list[Task] = []
    strange = large = 0
    for entry in entries:
        atoms = atoms_of(entry["structure"])
        if not set(atoms.numbers.tolist()) <= known:
            strange += 1
        elif settings.max_atoms is not None and len(atoms) > settings.max_atoms:
            large += 1
        else:
            tasks.append(Task(str(entry[identifier]), content(entry, atoms)))
    if strange:
        notes.append(f"{strange:,} entries with elements that the model does not know left out")
    if large:
        notes.append(f"{large:,} entries with more than {settings.max_atoms} atoms left out")
    if not tasks:
        raise UserMistake(
            f"{found.path}: none of {len(entries):,} entries can be measured "
            f"({'; '.join(notes[1:]) or 'the file is empty'})"
        )
    if settings.count is not None and settings.count < len(tasks):
        order = np.random.default_rng(settings.seed).permutation(len(tasks))[: settings.count]
        notes.append(
            f"{settings.count} of {len(tasks):,} entries, chosen at random (seed "
            f"{settings.seed})"
        )
        tasks = [tasks[i] for i in order]
    return Plan(tasks, notes)


def mean_error(values: Sequence[Mapping[str, Any]], ours: str, theirs: str) -> float:
    """Mean absolute difference of two columns of the rows; NaN without rows."""
    errors = [abs(row[ours] - row[theirs]) for row in values if row.get(ours) is not None]
    return float(np.mean(errors)) if errors else float("nan")


def beside_published(
    title: str,
    columns: Mapping[str, str],
    ours: Mapping[str, Mapping[str, float]],
    folder: str,
) -> tuple[Table, list[str]]:
    """Make the table of our mean absolute errors above published ones of other models.

    Args:
        title: of the table.
        columns: heading by column of the published file.
        ours: name of each row of ours: errors by the same columns.
        folder: with the published files, if the user gave one.

    Returns:
        The table, and notes on it.
    """
    rows = [[name, *(number(errors[c]) for c in columns)] for name, errors in ours.items()]
    notes = []
    try:
        for row in published_rows(folder):
            if any(c in row.errors for c in columns):
                cells = (number(row.errors.get(c, float("nan"))) for c in columns)
                rows.append([row.model, *cells])
        notes.append(
            f"published rows: {PUBLISHED.source}; they are means over the whole reference set"
        )
    except UserMistake as mistake:
        notes.append(f"published rows of other models are not shown: {mistake}")
    return Table(title, ["model", *columns.values()], rows), notes


def failures_table(rows: Sequence[Row]) -> list[Table]:
    """Make the table of tasks that failed, with their reasons; none if there are none."""
    failed = [[row.task, row.failed] for row in rows if row.failed]
    return [Table("Failed", ["task", "reason"], failed, names=2)] if failed else []


def parity(
    values: Sequence[Mapping[str, Any]], ours: str, theirs: str, title: str, unit: str
) -> Figure:
    """Draw predictions over references."""
    from matplotlib.figure import Figure

    x = np.array([row[theirs] for row in values if row.get(ours) is not None])
    y = np.array([row[ours] for row in values if row.get(ours) is not None])
    figure = Figure(figsize=(4.6, 4.4), dpi=150, layout="constrained")
    axes = figure.subplots()
    both = np.concatenate([x, y])
    # A few absurd predictions must not shrink all others to a dot.
    low, high = float(np.quantile(both, 0.0)), float(max(x.max(), np.quantile(y, 0.98)))
    low = max(low, float(x.min()) - (high - float(x.min())))
    margin = 0.05 * (high - low) or 1.0
    low, high = low - margin, high + margin
    axes.plot([low, high], [low, high], color="0.35", linewidth=0.8)
    axes.scatter(x, y, s=14, color=COLORS[0], alpha=0.65, linewidths=0)
    outside = int(((y < low) | (y > high)).sum())
    shown = f"MAE {np.abs(y - x).mean():.3g} {unit}\n{len(x)} entries"
    shown += f"\n{outside} beyond the axes" if outside else ""
    axes.text(0.04, 0.96, shown, transform=axes.transAxes, va="top", fontsize=8)
    axes.set(xlim=(low, high), ylim=(low, high), aspect="equal")
    axes.set_xlabel(f"reference ({unit})")
    axes.set_ylabel(f"this model ({unit})")
    axes.set_title(title, fontsize=11)
    axes.grid(color="0.92", linewidth=0.6)
    axes.set_axisbelow(True)
    return figure
