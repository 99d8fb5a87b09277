"""Learning curves of a run, from its metrics.csv: loss, and errors of the validation split."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from qeqtrain.evaluation.plots import COLORS
from qeqtrain.training.quantities import QUANTITIES

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def read_metrics(file: Path) -> dict[str, np.ndarray]:
    """Read metrics.csv: numbers by column, NaN where a row has none, shape ``(rows,)``."""
    with file.open(newline="", encoding="utf-8") as lines:
        head, *rows = list(csv.reader(lines)) or [[]]
    whole = [row for row in rows if len(row) == len(head)]
    return {
        name: np.array([float(row[i]) if row[i] else np.nan for row in whole])
        for i, name in enumerate(head)
    }


def learning_curves(metrics: dict[str, np.ndarray]) -> Figure | None:
    """Draw the training loss and the errors of every quantity over the steps.

    Args:
        metrics: of :func:`read_metrics`.

    Returns:
        A figure with one panel each, RMSE solid and MAE dashed; ``None`` with fewer than two
        rows, of which no curve can be drawn.
    """
    from matplotlib.figure import Figure
    from matplotlib.ticker import LogLocator, MaxNLocator, NullLocator, StrMethodFormatter

    steps = metrics.get("step", np.empty(0))
    if len(steps) < 2:
        return None
    panels: list[tuple[str, str, dict[str, np.ndarray]]] = [
        ("training loss", "loss", {"": metrics["train_loss"]})
    ]
    for name, quantity in QUANTITIES.items():
        kinds = {
            k: metrics.get(f"{name}_{k.lower()} ({quantity.unit})") for k in ("RMSE", "MAE")
        }
        known = {k: v for k, v in kinds.items() if v is not None and np.isfinite(v).any()}
        if known:
            panels.append((f"{name.replace('_', ' ')}, validation", quantity.unit, known))
    columns = min(3, len(panels))
    lines = -(-len(panels) // columns)
    figure = Figure(figsize=(3.3 * columns, 2.5 * lines), dpi=150, layout="constrained")
    drawn = figure.subplots(lines, columns, squeeze=False).ravel()
    for axes, (title, unit, curves) in zip(drawn, panels, strict=False):
        for color, style, (label, values) in zip(
            COLORS, ("-", "--"), curves.items(), strict=False
        ):
            shown = np.isfinite(values) & (values > 0.0)
            axes.plot(
                steps[shown],
                values[shown],
                style,
                color=color,
                lw=1.2,
                marker=".",
                ms=3,
                label=label or None,
            )
        axes.set_yscale("log")
        low, high = axes.get_ylim()
        # Less than a decade has hardly a power of ten, or a round multiple of one, to show.
        few = high < 10.0 * low
        axes.yaxis.set_major_locator(
            MaxNLocator(6) if few else LogLocator(subs=(1.0, 2.0, 5.0))
        )
        axes.yaxis.set_minor_locator(NullLocator())
        axes.yaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
        axes.set_title(title, fontsize=9)
        axes.set_xlabel("step", fontsize=8)
        axes.set_ylabel(unit if unit == "loss" else f"error ({unit})", fontsize=8)
        axes.tick_params(labelsize=7, which="both")
        axes.grid(color="0.92", linewidth=0.6, which="both")
        if len(curves) > 1:
            axes.legend(fontsize=7, frameon=False)
    for axes in drawn[len(panels) :]:
        axes.set_axis_off()
    return figure
