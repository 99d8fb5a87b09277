"""Predictions written to a file that ASE, or this package, reads back."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

from qeqtrain.data.frames import Frame
from qeqtrain.data.writing import write_extxyz, write_store
from qeqtrain.errors import UserMistake
from qeqtrain.evaluation.inference import Frames, Timing, predictions, untrained_elements
from qeqtrain.models.potential import Potential

WRITERS = {
    ".extxyz": write_extxyz,
    ".xyz": write_extxyz,
    ".h5": write_store,
    ".hdf5": write_store,
}


def predict(potential: Potential, frames: Frames, out: Path) -> Timing:
    """Write energies, forces, stress, charges and dipoles of frames to a file.

    Args:
        potential: put into eval mode.
        frames: geometry and total charge; their labels, if any, are left behind.
        out: ``.extxyz``, where ASE finds the numbers as calculator results and the total
            charge as ``charge`` in ``info``, or ``.h5`` for a store.

    Returns:
        What it took.

    Raises:
        UserMistake: a name of another kind, or frames the model cannot take.
    """
    writer = WRITERS.get(out.suffix)
    if writer is None:
        raise UserMistake(f"{out}: expected a name that ends in {', '.join(WRITERS)}")
    potential.eval()
    timing = Timing()
    met: set[int] = set()
    strange: dict[str, None] = {}

    def labelled() -> Iterator[Frame]:
        for said in predictions(potential, frames, timing=timing):
            frame = said.frame
            met.update(frame.structure.numbers.tolist())
            strange.update(dict.fromkeys(said.strange))
            yield Frame(frame.structure, said.values, frame.source_id, frame.group)

    writer(out, labelled())
    if untrained := untrained_elements(potential, met):
        sys.stderr.write(f"without training data, do not trust: {' '.join(untrained)}\n")
    for text in strange:
        sys.stderr.write(f"an extrapolation, do not trust: {text}\n")
    return timing
