"""Parity plots: predictions over labels, one figure per quantity, with a histogram of errors.

Matplotlib is imported here only, and without its global state or a display.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from qeqtrain.data.elements import SYMBOLS
from qeqtrain.evaluation.evaluate import Evaluation
from qeqtrain.evaluation.tables import number
from qeqtrain.training.quantities import QUANTITIES

if TYPE_CHECKING:
    from matplotlib.figure import Figure

MANY = 4000
"""Points beyond which density is drawn instead of points."""
MAX_GROUPS = 8
"""Colours that can be told apart."""
COLORS = (
    *("#2a6fbb", "#d1495b", "#3a9d5d", "#edae49"),
    *("#7a5195", "#00798c", "#8d6e63", "#5c677d"),
)
AXES = {
    "energy": ("energy above references", "eV/atom", 1.0),
    "forces": ("force components", "eV/A", 1.0),
    "stress": ("stress components", "GPa", QUANTITIES["stress"].factor),
    "charges": ("charges", "e", 1.0),
    "dipole": ("dipole components", "e A", 1.0),
    "born_charges": ("Born charge components", "e", 1.0),
}
"""Title, unit and factor of every quantity's axes; errors are in the unit of the tables."""
COUNTED = {"energy": "structures", "charges": "atoms"}
"""What a point is; of everything else a component."""


def parity_plots(evaluation: Evaluation) -> dict[str, Figure]:
    """Draw a parity plot for every quantity that was compared."""
    return {name: parity_plot(evaluation, name) for name in evaluation.compared}


def parity_plot(evaluation: Evaluation, quantity: str) -> Figure:
    """Draw predictions over labels of one quantity.

    Few points are coloured by element (quantities per atom) or total charge; many are drawn as
    density on a logarithmic scale.
    """
    from matplotlib.figure import Figure

    compared = evaluation.compared[quantity]
    title, unit, factor = AXES[quantity]
    zero = evaluation.references[:, None] if quantity == "energy" else 0.0
    label = factor * (compared.label - zero)
    predicted = factor * (compared.predicted - zero)
    figure = Figure(figsize=(4.6, 4.4), dpi=150, layout="constrained")
    axes = figure.subplots()
    low, high = _limits(label, predicted)
    axes.plot([low, high], [low, high], color="0.35", linewidth=0.8, zorder=1)
    if label.size > MANY:
        drawn = axes.hexbin(
            label.ravel(),
            predicted.ravel(),
            gridsize=90,
            bins="log",
            mincnt=1,
            extent=(low, high, low, high),
            cmap="viridis",
            linewidths=0.1,
            rasterized=True,
            zorder=2,
        )
        beside = axes.inset_axes((1.03, 0.0, 0.045, 1.0))  # as high as the square
        figure.colorbar(drawn, cax=beside, label=_counted(quantity))
    else:
        _draw_points(axes, evaluation, quantity, label, predicted)
    axes.set(xlim=(low, high), ylim=(low, high), aspect="equal")
    axes.set_xlabel(f"label ({unit})")
    axes.set_ylabel(f"prediction ({unit})")
    axes.set_title(title, fontsize=11)
    axes.grid(color="0.92", linewidth=0.6, zorder=0)
    axes.set_axisbelow(True)
    _write_errors(axes, evaluation, quantity)
    _draw_histogram(axes, evaluation, quantity)
    return figure


def _limits(label: np.ndarray, predicted: np.ndarray) -> tuple[float, float]:
    """Common limits of both axes, with a margin."""
    both = np.concatenate([label.ravel(), predicted.ravel()])
    low, high = float(both.min()), float(both.max())
    margin = 0.06 * (high - low) or 0.05 * abs(high) or 1.0
    return low - margin, high + margin


def _groups(evaluation: Evaluation, quantity: str) -> dict[str, np.ndarray]:
    """Rows by what tells them apart: element, or total charge if there are several."""
    compared = evaluation.compared[quantity]
    if compared.numbers is not None:
        kinds = np.unique(compared.numbers)
        found = {SYMBOLS[int(z)]: compared.numbers == z for z in kinds}
    else:
        charges = evaluation.frames.total_charge[compared.frame]
        found = {f"Q = {q:+g}" if q else "Q = 0": charges == q for q in np.unique(charges)}
    if not 1 < len(found) <= MAX_GROUPS:
        return {"": np.ones(len(compared.frame), dtype=bool)}
    return found


def _draw_points(
    axes: Any,
    evaluation: Evaluation,
    quantity: str,
    label: np.ndarray,
    predicted: np.ndarray,
) -> None:
    groups = _groups(evaluation, quantity)
    for color, (name, rows) in zip(COLORS, groups.items(), strict=False):
        axes.scatter(
            label[rows].ravel(),
            predicted[rows].ravel(),
            s=9,
            color=color,
            alpha=0.6,
            linewidths=0,
            label=name or None,
            rasterized=True,
            zorder=2,
        )
    if len(groups) > 1:
        axes.legend(
            loc="lower center",
            bbox_to_anchor=(0.38, 0.0),  # left of the inset
            ncols=4,
            fontsize=7,
            frameon=False,
            handletextpad=0.1,
            columnspacing=0.8,
        )


def _counted(quantity: str) -> str:
    return COUNTED.get(quantity, "components")


def _write_errors(axes: Any, evaluation: Evaluation, quantity: str) -> None:
    errors = evaluation.compared[quantity].errors()
    assert errors is not None
    unit = QUANTITIES[quantity].unit
    shown = f"MAE {number(errors.mae)} {unit}\nRMSE {number(errors.rmse)} {unit}"
    axes.text(
        0.03,
        0.97,
        f"{shown}\n{errors.count:,} {_counted(quantity)}",
        transform=axes.transAxes,
        va="top",
        fontsize=8,
        bbox={"facecolor": "white", "alpha": 0.8, "edgecolor": "none", "pad": 2},
    )


def _draw_histogram(axes: Any, evaluation: Evaluation, quantity: str) -> None:
    """Draw the errors as a small histogram, over 99 % of them."""
    difference = evaluation.compared[quantity].difference.ravel()
    scaled = QUANTITIES[quantity].factor * difference
    reach = float(np.quantile(np.abs(scaled), 0.99)) or float(np.abs(scaled).max()) or 1.0
    inset = axes.inset_axes((0.70, 0.09, 0.27, 0.20))
    inset.hist(scaled, bins=31, range=(-reach, reach), color=COLORS[0], alpha=0.8)
    inset.axvline(0.0, color="0.3", linewidth=0.6)
    inset.set_yticks([])
    inset.tick_params(labelsize=6, length=2, pad=1)
    inset.set_title(f"error ({QUANTITIES[quantity].unit})", fontsize=6.5, pad=2)
    for side in ("top", "left", "right"):
        inset.spines[side].set_visible(False)
    inset.patch.set_alpha(0.85)


def charge_histogram(
    predicted: Mapping[str, np.ndarray], labelled: Mapping[str, np.ndarray]
) -> Figure:
    """Draw how charges are distributed, one panel per element.

    Args:
        predicted: charges of all atoms by chemical symbol, e; drawn filled.
        labelled: the same of labels, where there are any; drawn as a line.
    """
    from matplotlib.figure import Figure

    count = len(predicted)
    columns = min(4, count)
    lines = -(-count // columns)
    figure = Figure(figsize=(2.6 * columns, 2.0 * lines), dpi=150, layout="constrained")
    panels = figure.subplots(lines, columns, squeeze=False).ravel()
    for axes, (name, charges) in zip(panels, sorted(predicted.items()), strict=False):
        label = labelled.get(name, np.empty(0))
        both = np.concatenate([charges, label[np.isfinite(label)]])
        edges = np.histogram_bin_edges(both, bins=40)
        axes.hist(charges, bins=edges, color=COLORS[0], alpha=0.6, label="predicted")
        if label.size:
            axes.hist(label, bins=edges, histtype="step", color=COLORS[1], label="label")
        axes.set_title(name, fontsize=9)
        axes.set_yticks([])
        axes.tick_params(labelsize=7)
        axes.set_xlabel("charge (e)", fontsize=7)
    if count:
        panels[0].legend(fontsize=6, frameon=False)
    for axes in panels[count:]:
        axes.set_axis_off()
    return figure
