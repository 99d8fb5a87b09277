"""An evaluation written down: for a terminal, as Markdown, as one HTML file, and as JSON."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from qeqtrain.evaluation.document import Document, write_document, write_text
from qeqtrain.evaluation.evaluate import Evaluation
from qeqtrain.evaluation.plots import AXES, parity_plots
from qeqtrain.evaluation.tables import all_tables, facts
from qeqtrain.training.quantities import QUANTITIES


def table(evaluation: Evaluation) -> str:
    """Write the errors as plain text for a terminal: over everything, by charge, by source."""
    chosen = [t for t in all_tables(evaluation) if t.title.startswith(("Errors", "RMSE by"))]
    return "\n\n".join([*(t.as_text() for t in chosen), "\n".join(facts(evaluation))])


def as_json(evaluation: Evaluation) -> dict[str, Any]:
    """Give all numbers as plain values.

    Keys:
        ``n_structures``, ``n_atoms``: what was evaluated.
        ``units``: unit of the errors by quantity (``energy`` is per atom).
        ``errors``: by quantity: ``mae``, ``rmse``, ``bias`` (mean of prediction minus label),
        ``largest``, ``count``.
        ``by_element``: the same by quantity and chemical symbol.
        ``by_source``: the same by file or split and quantity.
        ``by_total_charge``: the same by total charge (``"-1"``, ``"0"``) and quantity.
        ``worst``: by quantity, the frames with the largest errors: ``source_id``, ``part``,
        ``formula``, ``n_atoms``, ``total_charge``, and their RMSE by quantity.
        ``missing``: by quantity, why it was not compared.
        ``largest_total_charge_violation``: e; null without charges.
        ``timing``: ``wall_s``, ``cpu_s``, ``structures_per_s``, ``cpu_us_per_atom``.
        ``model``: ``parameters``, ``elements``, ``cutoffs``, ``dtype``, ``charges``,
        ``untrained_elements_met``, ``unseen_charge_states_met`` (in words).
    """
    timing = evaluation.timing
    return {
        "n_structures": len(evaluation.frames),
        "n_atoms": int(evaluation.frames.n_atoms.sum()),
        "units": {name: QUANTITIES[name].unit for name in evaluation.compared},
        "errors": {k: e.as_dict() for k, e in evaluation.errors().items()},
        "by_element": _nested(evaluation.by_element()),
        "by_source": _nested(evaluation.by_part()),
        "by_total_charge": _nested(evaluation.by_total_charge()),
        "worst": {name: evaluation.worst(name) for name in evaluation.compared},
        "missing": evaluation.missing,
        "largest_total_charge_violation": evaluation.charge_residual,
        "timing": {
            "wall_s": timing.wall,
            "cpu_s": timing.cpu,
            "structures_per_s": timing.structures / timing.wall if timing.wall else None,
            "cpu_us_per_atom": 1e6 * timing.cpu / timing.atoms if timing.atoms else None,
        },
        "model": evaluation.model,
    }


def write_report(evaluation: Evaluation, folder: Path) -> Path:
    """Write report.html, report.md with its plots, and report.json.

    Args:
        evaluation: what to write.
        folder: made if it is missing; an older report in it is replaced.

    Returns:
        The HTML file, which stands alone.
    """
    target = write_document(document_of(evaluation), folder)
    write_json_report(as_json(evaluation), folder)
    return target


def write_json_report(numbers: dict[str, Any], folder: Path) -> None:
    """Write report.json."""
    write_text(folder / "report.json", json.dumps(numbers, indent=2) + "\n")


def document_of(evaluation: Evaluation) -> Document:
    """Put the report together."""
    document = Document("Evaluation")
    document.say(facts(evaluation))
    first, *others = all_tables(evaluation)
    document.add(first)
    plots = {
        name: (f"parity plot: {AXES[name][0]}", figure)
        for name, figure in parity_plots(evaluation).items()
    }
    document.draw("Parity", **plots)
    document.add(*others)
    return document


def _nested(groups: dict[str, dict[str, Any]]) -> dict[str, dict[str, dict[str, float]]]:
    return {k: {n: e.as_dict() for n, e in inner.items()} for k, inner in groups.items()}
