"""The table and the figure of ``compare.py``, from its lines of results."""

from __future__ import annotations

from typing import TYPE_CHECKING

import chain
import gap
import shared

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from pathlib import Path

ERRORS = {"e_rmse": "E RMSE, meV/atom", "f_rmse": "F RMSE, meV/A", "q_rmse": "q RMSE, me"}
COLORS = {"none": "#5c677d", "diagonal": "#edae49", "gaussian": "#2a6fbb"}
OTHER = "#7a5195"
"""Colour by charge model, of the list and added ones."""
MARKERS = {"tensornet": "s", "nequip": "o"}


def error(line: Mapping[str, object], key: str) -> float | None:
    """Look a measure up, of all frames or of the set's own; ``None`` if there is none."""
    return {**line["result"]["all"], **line.get("further", {})}.get(key)


def brief(line: Mapping[str, object]) -> str:
    """Sum a run up in a few words."""
    values = {head: error(line, key) for key, head in ERRORS.items()}
    found = [f"{head} {value:.4g}" for head, value in values.items() if value is not None]
    return f"{', '.join(found)}, {line['steps']} steps, {line['fit_cpu_s']:.0f} CPU s"


def markdown(lines: Sequence[Mapping[str, object]]) -> Iterator[str]:
    """Tabulate all runs; the lowest of each error is bold."""
    further = {**chain.COLUMNS, **gap.COLUMNS}
    shown = {key for line in lines for key in line.get("further", {})}
    columns = {**ERRORS, **{key: head for key, head in further.items() if key in shown}}
    judged = [key for key in columns if "rmse" in key or "error" in key]
    best = {
        key: min(values)
        for key in judged
        if (values := [v for line in lines if (v := error(line, key)) is not None])
    }
    rows = []
    for line in lines:
        cells = []
        for key in columns:
            value = error(line, key)
            text = "-" if value is None else f"{value:.3g}" if value < 100 else f"{value:.0f}"
            lowest = value is not None and value == best.get(key)
            cells.append(f"**{text}**" if lowest else text)
        told = [str(line["steps"]), str(line["parameters"]), f"{line['fit_cpu_s']:.0f}"]
        rows.append([str(line["name"]), *cells, *told])
    head = ["combination", *columns.values(), "steps", "parameters", "fit, CPU s"]
    yield from shared.markdown(head, rows)
    labels = {
        key.removesuffix("_label"): value
        for line in lines
        for key, value in line.get("further", {}).items()
        if key.endswith("_label")
    }
    if labels:
        told = "; ".join(f"{columns[key]}: {value:.1f}" for key, value in labels.items())
        yield ""
        yield f"Labels: {told}."


def draw(lines: Sequence[Mapping[str, object]], file: Path) -> None:
    """Draw one dot per combination and error: colour by charge model, hollow if told Q."""
    from matplotlib.figure import Figure
    from matplotlib.ticker import FormatStrFormatter, LogLocator, NullLocator

    panels = [key for key in ERRORS if any(error(line, key) is not None for line in lines)]
    height = 1.0 + 0.24 * len(lines)
    figure = Figure(figsize=(3.0 + 2.4 * len(panels), height), dpi=150, layout="constrained")
    all_axes = figure.subplots(1, len(panels), sharey=True, squeeze=False)[0]
    for axes, key in zip(all_axes, panels, strict=True):
        shown = []
        for row, line in enumerate(lines):
            value = error(line, key)
            if value is None:
                continue
            backbone, charge, conditioning = line["parts"]
            color = COLORS.get(charge, OTHER)
            axes.plot(
                value,
                row,
                marker=MARKERS.get(backbone, "D"),
                color=color,
                markerfacecolor="white" if conditioning != "none" else color,
                linestyle="none",
            )
            shown.append(value)
        axes.set_xscale("log")
        axes.set_xlim(min(shown) / 1.6, 1.6 * max(shown))  # a tick of 1, 2, 5 is always there
        axes.xaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
        axes.xaxis.set_major_formatter(FormatStrFormatter("%g"))
        axes.xaxis.set_minor_locator(NullLocator())
        axes.set_xlabel(ERRORS[key])
        axes.grid(visible=True, color="0.9", linewidth=0.6)
        axes.set_axisbelow(True)
    all_axes[0].set_yticks(range(len(lines)), [str(line["name"]) for line in lines])
    all_axes[0].set_ylim(len(lines) - 0.5, -0.5)
    file.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(file)
