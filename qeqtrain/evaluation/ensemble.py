r"""Several models as one: the mean of their predictions, and what their spread is worth.

The spread of a component is the standard deviation over the M members, with M - 1 below the
root. Members that were trained alike err alike, so their spread is usually too small; a factor
for each quantity mends it: the 68.27th percentile of error over spread, on frames that are not
those it is judged on. (The root of the mean square, which is the most likely factor for normal
errors, does not exist for two or three members: spreads near zero by chance then outweigh all
others; a factor of 1,121 was met where 2.8 was right.) How often errors then lie within two
spreads (95.4 % for normal errors) says whether it holds beyond the percentile that was fitted.
Few members know their own spread badly: with two of them, only half of all normal errors that
are as wide as the members' own lie within one.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from qeqtrain.errors import UserMistake
from qeqtrain.evaluation.comparison import models_table
from qeqtrain.evaluation.document import Document
from qeqtrain.evaluation.errors import Compared
from qeqtrain.evaluation.evaluate import Evaluation
from qeqtrain.evaluation.plots import AXES, COLORS, parity_plots
from qeqtrain.evaluation.report import as_json
from qeqtrain.evaluation.tables import Table, all_tables, facts, number
from qeqtrain.training.quantities import QUANTITIES

if TYPE_CHECKING:
    from matplotlib.figure import Figure

WITHIN_ONE = 0.6827
"""Share of normal errors within one standard deviation."""
BINS = 10
"""Groups of equal size, by spread, of a reliability plot."""


@dataclass(frozen=True)
class Calibration:
    """How errors of the mean compare with the spread of the members, for one quantity.

    Attributes:
        rmse: of the mean, in the printed unit.
        spread: root mean square of the spread, in the printed unit.
        correlation: Spearman's, of the size of errors with the spread.
        within_1, within_2: share of errors within one and two spreads.
        scale: factor of the spread from other frames; ``None`` without them.
        scaled_within_1, scaled_within_2: the same with it.
    """

    rmse: float
    spread: float
    correlation: float
    within_1: float
    within_2: float
    scale: float | None = None
    scaled_within_1: float | None = None
    scaled_within_2: float | None = None


@dataclass(frozen=True)
class Ensemble:
    """The members and their mean on the same frames.

    Attributes:
        members: evaluations by name.
        mean: evaluation of the mean prediction.
        spreads: standard deviation over the members by quantity, shaped as the predictions.
        scales: factors of the spreads, by quantity; none if they were not fitted.
    """

    members: dict[str, Evaluation]
    mean: Evaluation
    spreads: dict[str, np.ndarray]
    scales: dict[str, float]

    def calibration(self) -> dict[str, Calibration]:
        """Compare errors with spreads, by quantity."""
        found = {}
        for name, spread in self.spreads.items():
            error, width = _pairs(self.mean.compared[name], spread)
            if not len(error):
                continue
            factor = QUANTITIES[name].factor
            scale = self.scales.get(name)
            shares = [float((error <= k * width).mean()) for k in (1, 2)]
            scaled = [
                None if scale is None else float((error <= k * scale * width).mean())
                for k in (1, 2)
            ]
            found[name] = Calibration(
                factor * float(np.sqrt(np.square(error).mean())),
                factor * float(np.sqrt(np.square(width).mean())),
                _rank_correlation(error, width),
                *shares,
                scale,
                *scaled,
            )
        return found


def joined(
    members: Mapping[str, Evaluation], scales: Mapping[str, float] | None = None
) -> Ensemble:
    """Take the mean of models that were evaluated on the same frames.

    Args:
        members: evaluations by name, two or more.
        scales: factors of the spreads, from :func:`fitted_scales`.

    Raises:
        UserMistake: fewer than two, or they were not compared with the same labels.
    """
    if len(members) < 2:
        raise UserMistake("--ensemble: expected two or more models, met one")
    first, *others = members.values()
    compared: dict[str, Compared] = {}
    spreads: dict[str, np.ndarray] = {}
    for name, mine in first.compared.items():
        theirs = [e.compared[name] for e in others if name in e.compared]
        if len(theirs) < len(others):
            continue  # not every member predicts it
        if any(not np.array_equal(t.label, mine.label) for t in theirs):
            raise UserMistake(
                f"--ensemble: the members read other labels of {name}; say with data.key=value "
                "how the files are meant, for all of them"
            )
        predicted = np.stack([mine.predicted, *(t.predicted for t in theirs)])
        compared[name] = replace(mine, predicted=predicted.mean(axis=0))
        spreads[name] = predicted.std(axis=0, ddof=1)
    residuals = [e.charge_residual for e in members.values() if e.charge_residual is not None]
    timing = replace(
        first.timing,
        wall=sum(e.timing.wall for e in members.values()),
        cpu=sum(e.timing.cpu for e in members.values()),
    )
    mean = replace(
        first,
        compared=compared,
        missing={
            **first.missing,
            **{n: "not every member predicts it" for n in first.compared if n not in compared},
        },
        charge_residual=max(residuals, default=None),
        timing=timing,
        model={**first.model, "members": len(members)},
    )
    return Ensemble(dict(members), mean, spreads, dict(scales or {}))


def fitted_scales(ensemble: Ensemble) -> dict[str, float]:
    """Fit the factor of every quantity's spread on the frames of an ensemble."""
    found = {}
    for name, spread in ensemble.spreads.items():
        error, width = _pairs(ensemble.mean.compared[name], spread)
        if len(error):
            found[name] = float(np.quantile(error / width, WITHIN_ONE))
    return found


def _pairs(compared: Compared, spread: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Sizes of errors and their spreads, in the package's units, where there is a spread."""
    error, width = np.abs(compared.difference).ravel(), spread.ravel()
    some = width > 0.0  # by symmetry a force may be zero for every member
    return error[some], width[some]


def _rank_correlation(a: np.ndarray, b: np.ndarray) -> float:
    if len(a) < 2:
        return float("nan")
    ranks = [np.argsort(np.argsort(x)) for x in (a, b)]
    return float(np.corrcoef(*ranks)[0, 1])


def calibration_table(ensemble: Ensemble) -> Table:
    """Make the table of errors beside spreads."""
    rows = []
    for name, c in ensemble.calibration().items():
        shares = (c.within_1, c.within_2)
        scaled = (c.scaled_within_1, c.scaled_within_2)
        rows.append(
            [
                name.replace("_", " "),
                QUANTITIES[name].unit,
                number(c.rmse),
                number(c.spread),
                f"{c.correlation:.2f}",
                *(f"{100 * x:.1f}" for x in shares),
                "-" if c.scale is None else number(c.scale),
                *("-" if x is None else f"{100 * x:.1f}" for x in scaled),
            ]
        )
    head = ["quantity", "unit", "RMSE", "spread", "rank corr."]
    head += ["in 1, %", "in 2, %", "factor", "scaled: in 1, %", "in 2, %"]
    title = "Spread of the ensemble (normal errors: 68.3 % within one, 95.4 % within two)"
    return Table(title, head, rows, names=2)


def ensemble_text(ensemble: Ensemble) -> str:
    """Write the ensemble for a terminal."""
    first = all_tables(ensemble.mean)[0]
    tables = [replace(first, title="Errors of the mean"), models_table(ensemble.members)]
    tables.append(calibration_table(ensemble))
    return "\n\n".join([*(t.as_text() for t in tables), "\n".join(ensemble_facts(ensemble))])


def ensemble_facts(ensemble: Ensemble) -> list[str]:
    """Say what the ensemble is, and whether its spread was calibrated."""
    said = [f"the mean of {len(ensemble.members)} models: {', '.join(ensemble.members)}"]
    said += facts(ensemble.mean)
    if not ensemble.scales:
        said.append("spreads are not calibrated; say --calibrate FILE")
    return said


def ensemble_document(ensemble: Ensemble) -> Document:
    """Put the report of an ensemble together."""
    document = Document("Evaluation of an ensemble")
    document.say(ensemble_facts(ensemble))
    first, *others = all_tables(ensemble.mean)
    document.add(replace(first, title="Errors of the mean"))
    document.add(models_table(ensemble.members), calibration_table(ensemble))
    plots = {
        f"spread_{name}": (f"errors over spread: {AXES[name][0]}", reliability(ensemble, name))
        for name in ensemble.calibration()
    }
    document.draw("Errors over spread", **plots)
    parity = {
        name: (f"parity plot: {AXES[name][0]}", figure)
        for name, figure in parity_plots(ensemble.mean).items()
    }
    document.draw("Parity of the mean", **parity)
    document.add(*others)
    return document


def ensemble_json(ensemble: Ensemble) -> dict[str, Any]:
    """Give all numbers: of the mean, with ``members`` and ``calibration`` by quantity."""
    return {
        **as_json(ensemble.mean),
        "members": {m: as_json(e)["errors"] for m, e in ensemble.members.items()},
        "calibration": {name: asdict(c) for name, c in ensemble.calibration().items()},
    }


def reliability(ensemble: Ensemble, quantity: str) -> Figure:
    """Draw the RMSE over the spread, in groups of equal size; on the diagonal they agree."""
    from matplotlib.figure import Figure

    error, width = _pairs(ensemble.mean.compared[quantity], ensemble.spreads[quantity])
    factor, unit = QUANTITIES[quantity].factor, QUANTITIES[quantity].unit
    figure = Figure(figsize=(4.2, 4.0), dpi=150, layout="constrained")
    axes = figure.subplots()
    scale = ensemble.scales.get(quantity)
    curves = {"as predicted": 1.0} | ({} if scale is None else {f"times {scale:.2f}": scale})
    groups = np.array_split(np.argsort(width), min(BINS, len(width)))
    ends: list[float] = []
    for color, (label, s) in zip(COLORS, curves.items(), strict=False):
        x, y = (
            np.array([factor * k * np.sqrt(np.square(v[g]).mean()) for g in groups])
            for v, k in ((width, s), (error, 1.0))
        )
        axes.loglog(x, y, "o-", color=color, ms=4, lw=1, label=label)
        ends += [*x[x > 0.0], *y[y > 0.0]]
    low, high = 0.7 * min(ends), 1.4 * max(ends)
    axes.plot([low, high], [low, high], color="0.35", lw=0.8, zorder=1)
    axes.set(xlim=(low, high), ylim=(low, high), aspect="equal")
    axes.set_xlabel(f"spread ({unit})")
    axes.set_ylabel(f"RMSE ({unit})")
    axes.set_title(AXES[quantity][0], fontsize=11)
    axes.grid(color="0.92", linewidth=0.6)
    axes.legend(fontsize=8, frameon=False)
    return figure
