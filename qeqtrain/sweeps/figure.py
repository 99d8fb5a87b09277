"""A figure of a sweep: how trials went, and what each parameter was worth.

Matplotlib is imported here only, and without its global state or a display.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from qeqtrain.sweeps.parameters import Parameter
from qeqtrain.sweeps.results import Results, Row

if TYPE_CHECKING:
    from matplotlib.figure import Figure

BEST, OTHER, ENDED = "#d1495b", "#2a6fbb", "0.72"
MOST_PANELS = 8
MOST_NAMES = 12
"""Values of one parameter whose names fit below its panel."""


def draw(results: Results) -> Figure:
    """Draw the metric over the steps of every trial, and over every parameter that varies."""
    from matplotlib.figure import Figure

    varying = [p for p in results.definition.parameters if p.varies][: MOST_PANELS - 1]
    columns = min(3, 1 + len(varying))
    lines = math.ceil((1 + len(varying)) / columns)
    figure = Figure(figsize=(3.6 * columns, 3.0 * lines), dpi=150, layout="constrained")
    panels = list(figure.subplots(lines, columns, squeeze=False).ravel())
    _draw_curves(panels[0], results)
    for axes, parameter in zip(panels[1:], varying, strict=False):
        _draw_parameter(axes, results, parameter)
    for axes in panels[1 + len(varying) :]:
        axes.set_axis_off()
    return figure


def _style(row: Row, results: Results) -> dict[str, Any]:
    if row is results.ranked[0]:
        return {"color": BEST, "zorder": 3}
    return {"color": ENDED if row.trial.state == "stopped" else OTHER, "zorder": 2}


def _spans_decades(values: list[float]) -> bool:
    """Whether a logarithmic axis shows values better than a plain one."""
    finite = [value for value in values if math.isfinite(value)]
    return min(finite) > 0 and max(finite) > 10 * min(finite)


def _draw_curves(axes: Any, results: Results) -> None:
    """Draw the metric over optimiser steps."""
    metric = results.definition.metric
    for row in results.ranked:
        steps, values = row.history.columns["step"], row.history.of(metric)
        alone = "o" if len(steps) == 1 else None
        axes.plot(steps, values, linewidth=1.1, marker=alone, **_style(row, results))
    if _spans_decades([v for row in results.ranked for v in row.history.of(metric)]):
        axes.set_yscale("log")
    axes.set(xlabel="step", ylabel=metric)
    axes.set_title(f"best: trial {results.ranked[0].trial.number}", fontsize=9, color=BEST)
    axes.grid(color="0.92", linewidth=0.6)


def _draw_parameter(axes: Any, results: Results, parameter: Parameter) -> None:
    """Draw the metric over one parameter; values without an order stand side by side."""
    named = parameter.values is not None and not all(
        isinstance(v, int | float) and not isinstance(v, bool) for v in parameter.values
    )
    names = [str(v) for v in parameter.values or ()]
    for row in results.ranked:
        value = row.trial.parameters[parameter.name]
        place = names.index(str(value)) if named else value
        axes.plot([place], [row.value], "o", markersize=5, alpha=0.8, **_style(row, results))
    if named:
        axes.set_xlim(-0.5, len(names) - 0.5)
        if len(names) <= MOST_NAMES:
            axes.set_xticks(
                range(len(names)), names, fontsize=7, rotation=20 * (len(names) > 3)
            )
    elif parameter.logarithmic:
        axes.set_xscale("log")
    if _spans_decades([row.value for row in results.ranked if row.value is not None]):
        axes.set_yscale("log")
    axes.set(xlabel=parameter.name, ylabel=results.definition.metric)
    axes.grid(color="0.92", linewidth=0.6)
