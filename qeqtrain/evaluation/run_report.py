"""The report of a run, and the card of its model: written into the run folder when it ends.

What is drawn comes from at most :data:`MOST_FRAMES` frames and :data:`MOST_ATOMS` atoms of the
validation split, so that it costs seconds; the errors in its table are those of the whole
split, as they were when the best checkpoint was written.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from qeqtrain.data.elements import SYMBOLS
from qeqtrain.errors import EquilibrationFailed, UserMistake
from qeqtrain.evaluation.citations import papers_of
from qeqtrain.evaluation.document import Document, write_document
from qeqtrain.evaluation.evaluate import evaluate
from qeqtrain.evaluation.learning_curves import learning_curves, read_metrics
from qeqtrain.evaluation.pictures import MOST_FRAMES, charges_by_element
from qeqtrain.evaluation.plots import AXES, charge_histogram, parity_plots
from qeqtrain.evaluation.source import source_facts, source_tables
from qeqtrain.evaluation.tables import Table, facts, number
from qeqtrain.models.archive import best_checkpoint, load, passport
from qeqtrain.training.progress import duration
from qeqtrain.training.quantities import QUANTITIES
from qeqtrain.training.screen import say
from qeqtrain.training.solves import COLUMNS

if TYPE_CHECKING:
    from qeqtrain.data.frames import Frame
    from qeqtrain.data.prepared import PreparedFrames
    from qeqtrain.models.potential import Potential

MOST_ATOMS = 20_000
"""Atoms of the frames that are drawn."""


def write_run_report(folder: Path, data: PreparedFrames) -> Path:
    """Write report.html, and report.md with its plots, into the folder of a run.

    Args:
        folder: of the run, with a checkpoint.
        data: of the run, prepared.

    Returns:
        The HTML file, which stands alone.
    """
    checkpoint = best_checkpoint(folder)
    potential = load(checkpoint)
    known = passport(checkpoint)
    metrics = {}
    if (folder / "metrics.csv").is_file():
        metrics = read_metrics(folder / "metrics.csv")
    document = Document(f"Run {folder.name}")
    document.say(_model(potential, known))
    document.add(_data(data, known), _elements(data))
    run = _run(folder)
    document.say(source_facts(known, run), "Source")
    document.say(_time(run, metrics), "Training")
    document.add(*(source_tables(run) or [_errors(known)]))
    curves = learning_curves(metrics)
    if curves is not None:
        document.draw("Learning curves", learning_curves=("learning curves", curves))
    frames = _chosen(data)
    if frames:
        _add_predictions(document, potential, frames, metrics)
    document.say(papers_of(potential.spec), "How to cite")
    return write_document(document, folder)


def _add_predictions(
    document: Document,
    potential: Potential,
    frames: Sequence[Frame],
    metrics: Mapping[str, np.ndarray],
) -> None:
    """Draw what the weights make of frames, and describe their charges."""
    found = evaluate(potential, {"val": list(frames)})
    figures = {
        name: (f"parity plot: {AXES[name][0]}", figure)
        for name, figure in parity_plots(found).items()
    }
    document.draw(f"Parity, {len(frames):,} frames of the validation split", **figures)
    if potential.has_charges:
        predicted, labelled = charges_by_element(potential, frames)
        document.add(_charges(predicted, labelled))
        shown = ("charges by element", charge_histogram(predicted, labelled))
        document.draw(charges_by_element=shown)
        solves = [
            f"worst {name.replace('_', ' ')} of a charge solve in training: {worst:.3g}"
            for name in COLUMNS
            if np.isfinite(worst := _largest(metrics.get(name)))
        ]
        document.say(solves)
    document.say(facts(found)[2:], "Prediction")


def _largest(values: np.ndarray | None) -> float:
    if values is None or not np.isfinite(values).any():
        return float("nan")
    return float(np.nanmax(values))


def _chosen(data: PreparedFrames) -> list[Frame]:
    """Take frames of the validation split at equal distances, within the bounds above."""
    source, indices = data.source_of("val")
    if not len(indices):
        return []
    chosen = indices[:: max(1, len(indices) // MOST_FRAMES)][:MOST_FRAMES]
    within = np.cumsum(source.sizes[chosen]) <= MOST_ATOMS
    return [source[int(i)] for i in chosen[: max(1, int(within.sum()))]]


def _model(potential: Potential, known: Mapping[str, Any]) -> list[str]:
    """Say what was trained."""
    spec = potential.spec
    parts = [
        str(spec[name]["_target_"]).rpartition(".")[2]
        for name in ("backbone", "charge", "coupling")
    ]
    reach = [
        f"{name} by structure" if callable(value) else f"{name} {value:g} A"
        for name, value in potential.cutoffs.items()
    ]
    said = [
        f"model: {parts[0]}, {parts[1]}, {parts[2]}"
        + "".join(f", {name}" for name in spec.get("baselines") or {}),
        f"{sum(p.numel() for p in potential.parameters()):,} parameters, "
        f"{str(potential.dtype).removeprefix('torch.')}; cutoffs: {', '.join(reach)}",
    ]
    if versions := known.get("versions"):
        names = ("qeqtrain", "torch", "python")
        said.append(", ".join(f"{n} {versions[n]}" for n in names if n in versions))
    if known.get("data_fingerprint"):
        said.append(f"fingerprint of the data: {known['data_fingerprint']}")
    return said


def _files(known: Mapping[str, Any], split: str) -> str:
    """Name the files of a split as its recipe does."""
    data = known.get("recipe", {}).get("data", {})
    if "sets" in data:
        return ", ".join(data["sets"])
    given = data.get(split)
    if not given:
        return "a part of train"
    return ", ".join(str(file) for file in ([given] if isinstance(given, str) else given))


def _data(data: PreparedFrames, known: Mapping[str, Any]) -> Table:
    """Say what every split holds."""
    rows = []
    for split in ("train", "val", "test"):
        source, frames = data.source_of(split)
        charges, counts = np.unique(source.total_charges[frames], return_counts=True)
        states = [
            f"{'not stated' if np.isnan(q) else f'{q:+g}' if q else '0'} ({count:,})"
            for q, count in zip(charges, counts, strict=True)
        ]
        labels = [name for name, there in source.present.items() if there[frames].any()]
        rows.append(
            [
                split,
                _files(known, split) if len(frames) else "-",
                ", ".join(labels) or "-",
                ", ".join(states) or "-",
                f"{len(frames):,}",
                f"{int(source.sizes[frames].sum()):,}",
            ]
        )
    head = ["split", "from", "labels", "Q (e), with frames", "frames", "atoms"]
    return Table("Data", head, rows, names=4)


def _elements(data: PreparedFrames) -> Table:
    """Count atoms and frames of every element in the training split."""
    source, frames = data.source_of("train")
    sums = source.sum_up(frames)
    rows = [
        [SYMBOLS[z], f"{int(atoms):,}", f"{int(count):,}"]
        for z, atoms, count in zip(
            sums.elements, sums.element_atoms, sums.element_frames, strict=True
        )
    ]
    return Table("Elements of the training split", ["element", "atoms", "frames"], rows)


def _errors(known: Mapping[str, Any]) -> Table:
    """Repeat the errors that the best checkpoint carries."""
    metrics = known.get("metrics") or {}
    rows = [
        [
            name.replace("_", " "),
            q.unit,
            *(number(metrics[f"{name}_{k}"]) for k in ("mae", "rmse")),
        ]
        for name, q in QUANTITIES.items()
        if f"{name}_rmse" in metrics
    ]
    for key, rmse in metrics.items():  # by data set, where there are several
        kind, _, data_set = key.partition("/")
        name, _, error = kind.rpartition("_")
        if data_set and error == "rmse":
            mae = number(metrics[f"{name}_mae/{data_set}"])
            words = f"{name.replace('_', ' ')}, {data_set}"
            rows.append([words, QUANTITIES[name].unit, mae, number(rmse)])
    title = "Errors of these weights on the validation split"
    return Table(title, ["quantity", "unit", "MAE", "RMSE"], rows, names=2)


def _charges(predicted: Mapping[str, np.ndarray], labelled: Mapping[str, np.ndarray]) -> Table:
    """Say how far charges of every element reach."""
    rows = []
    for symbol, values in sorted(predicted.items()):
        label = labelled.get(symbol, np.empty(0))
        label = label[np.isfinite(label)]
        cells = [f"{x:+.3f}" for x in (values.min(), values.mean(), values.max())]
        cells += (
            [f"{x:+.3f}" for x in (label.min(), label.mean(), label.max())]
            if label.size
            else []
        )
        rows.append([symbol, *cells, *["-"] * (6 - len(cells))])
    head = ["element", "lowest", "mean", "highest", "label: lowest", "mean", "highest"]
    return Table("Charges (e)", head, rows)


def _run(folder: Path) -> dict[str, Any]:
    """Read run.json, if it is there."""
    file = folder / "run.json"
    return dict(json.loads(file.read_text(encoding="utf-8"))) if file.is_file() else {}


def _time(run: Mapping[str, Any], metrics: Mapping[str, np.ndarray]) -> list[str]:
    """Say how training was started and how long it took."""
    said = [
        f"{session['started']}: qeqtrain {' '.join(session['argv'][1:])}"
        for session in run.get("sessions", ())
    ]
    if "seconds" in run and run.get("steps"):
        said.append(
            f"{run['steps']:,} steps, {run['epochs']:,} epochs in {duration(run['seconds'])}: "
            f"{1e3 * run['seconds'] / run['steps']:.3g} ms a step"
        )
    cpu = metrics.get("cpu_seconds", np.empty(0))
    if len(cpu):
        said.append(f"{duration(float(cpu[-1]))} of CPU until the last validation")
    if run.get("skipped_steps"):
        said.append(f"{run['skipped_steps']:,} steps were skipped: they were not finite")
    return said


def report_on(folder: Path, data: PreparedFrames) -> None:
    """Write the report at the end of a run and say where; no run is lost to it."""
    try:
        say(f"report: {write_run_report(folder, data)}")
    except (UserMistake, EquilibrationFailed, OSError) as error:
        say(f"report: not written: {error}")
