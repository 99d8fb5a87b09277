"""Pictures of a run for its logger: parity plots and charges of its best weights."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from qeqtrain.data.elements import SYMBOLS
from qeqtrain.data.frames import Frame
from qeqtrain.evaluation.evaluate import evaluate
from qeqtrain.evaluation.inference import Timing, predictions
from qeqtrain.evaluation.plots import charge_histogram, parity_plots
from qeqtrain.models.archive import load

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from qeqtrain.data.prepared import PreparedFrames
    from qeqtrain.models.potential import Potential

MOST_FRAMES = 500
"""Frames of the validation split that are drawn; more of them change no picture."""


def pictures_of(checkpoint: Path, data: PreparedFrames) -> dict[str, Figure]:
    """Draw what the weights of a checkpoint make of the validation split.

    Args:
        checkpoint: of the run.
        data: of the run, prepared.

    Returns:
        Figures by name: ``parity/<quantity>`` and ``charges``; none without such a split.
    """
    source, indices = data.source_of("val")
    if not len(indices):
        return {}
    chosen = indices[:: max(1, len(indices) // MOST_FRAMES)][:MOST_FRAMES]
    frames = [source[int(i)] for i in chosen]
    potential = load(checkpoint)
    found = evaluate(potential, {"val": frames})
    figures = {f"parity/{name}": figure for name, figure in parity_plots(found).items()}
    if potential.has_charges:
        figures["charges"] = charge_histogram(*charges_by_element(potential, frames))
    return figures


def charges_by_element(
    potential: Potential, frames: Sequence[Frame]
) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    """Gather charges of all atoms by chemical symbol, predicted and labelled ones, e."""
    predicted: dict[str, list[np.ndarray]] = {}
    labelled: dict[str, list[np.ndarray]] = {}
    for said in predictions(potential, frames, title="charges", timing=Timing()):
        numbers = said.frame.structure.numbers
        label = said.frame.labels.get("charges")
        for z in np.unique(numbers):
            mine = numbers == z
            predicted.setdefault(SYMBOLS[int(z)], []).append(said.values["charges"][mine])
            if label is not None:
                labelled.setdefault(SYMBOLS[int(z)], []).append(np.asarray(label)[mine])
    return (
        {name: np.concatenate(values) for name, values in predicted.items()},
        {name: np.concatenate(values) for name, values in labelled.items()},
    )
