"""Predictions for many frames: batches within a budget of atoms and pairs, results per frame.

Labels play no part here: frames need a geometry and, for models that know charge states, a
total charge.
"""

from __future__ import annotations

import sys
import time
import warnings
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any, Protocol

import numpy as np
import torch

from qeqtrain.data.elements import SYMBOLS
from qeqtrain.data.frames import Frame
from qeqtrain.data.progress import Progress
from qeqtrain.errors import UserMistake
from qeqtrain.models.potential import Potential
from qeqtrain.models.threads import respond_by_threads
from qeqtrain.neighbors import with_pairs
from qeqtrain.structures import Prediction, Structure, collate

MAX_ATOMS = 1024
"""Atoms of one batch."""
MAX_PAIRS = 16_384
"""Neighbour pairs of one batch, each counted once: what its memory grows with."""
PER_ATOM = ("forces", "charges", "born_charges")
"""What is predicted for every atom."""
_WORTH_A_LINE = 3.0  # seconds of work after which its end is worth a line


class Frames(Protocol):
    """Frames by index: a source, a list, a split."""

    def __len__(self) -> int:
        """Count the frames."""

    def __getitem__(self, i: int, /) -> Frame:
        """Read one frame."""


@dataclass(frozen=True)
class FramePrediction:
    """What a potential says of one frame.

    Attributes:
        frame: as read, with the total charge that was used.
        strange: what of its charge state the model never met, in words; only where such states
            are allowed.
        values: energy ``()``, forces ``(n, 3)``, stress ``(3, 3)``, charges ``(n,)``, dipole
            ``(3,)``, Born charges ``(n, 3, 3)`` if asked for, float64, eV, A, e; what is not
            defined or not predicted is not there.
    """

    frame: Frame
    values: dict[str, np.ndarray]
    strange: tuple[str, ...] = ()


@dataclass
class Timing:
    """Seconds spent in the potential, neighbour lists and copies to the device included.

    Attributes:
        wall, cpu: seconds.
        atoms, structures: how many were predicted.
    """

    wall: float = 0.0
    cpu: float = 0.0
    atoms: int = 0
    structures: int = 0


def predictions(
    potential: Potential,
    frames: Frames,
    *,
    title: str = "predict",
    timing: Timing | None = None,
    max_atoms: int = MAX_ATOMS,
    max_pairs: int = MAX_PAIRS,
    born_charges: bool = False,
) -> Iterator[FramePrediction]:
    """Predict frame by frame, in order, in batches.

    Args:
        potential: in eval mode.
        frames: geometry and total charge; neighbour lists are made here.
        title: shown while it lasts.
        timing: added to, if given.
        max_atoms: of a batch; a larger frame is alone.
        max_pairs: of a batch, each pair counted once; a frame with more is alone.
        born_charges: whether they are wanted of frames that have them as a label.

    Raises:
        UserMistake: an element the model does not know, a total charge it has to be told, a
            charge state it never met and has not been allowed (``unseen_charge_states``), or
            an electric field it has no answer to.
    """
    timing = timing if timing is not None else Timing()
    progress = Progress(title, len(frames), sys.stderr)
    begun = time.monotonic()
    waiting: list[Frame] = []
    atoms = pairs = 0
    for i in range(len(frames)):
        started = time.perf_counter(), time.process_time()
        frame = _ready(potential, frames[i])
        timing.wall += time.perf_counter() - started[0]
        timing.cpu += time.process_time() - started[1]
        more = len(frame), max((len(p) for p in frame.structure.pairs.values()), default=0)
        if waiting and (atoms + more[0] > max_atoms or pairs + more[1] > max_pairs):
            yield from _predict(potential, waiting, timing, born_charges)
            progress.advance(len(waiting))
            waiting, atoms, pairs = [], 0, 0
        waiting.append(frame)
        atoms, pairs = atoms + more[0], pairs + more[1]
    if waiting:
        yield from _predict(potential, waiting, timing, born_charges)
        progress.advance(len(waiting))
    if time.monotonic() - begun > _WORTH_A_LINE:
        progress.close()


def _ready(potential: Potential, frame: Frame) -> Frame:
    """Give a frame its neighbour lists, and the total charge that is assumed of it."""
    structure = frame.structure
    if structure.total_charge is None:
        remedy = "write charge=... in the comment line, or say data.total_charge=zero"
        assumed = potential.charge_where_absent(frame.source_id, remedy)
        structure = replace(structure, total_charge=assumed)
    potential.refuse_unseen_states(structure, frame.source_id)
    potential.refuse_field(structure, frame.source_id)
    try:
        potential.refuse_unknown_elements(torch.from_numpy(np.unique(structure.numbers)))
        return replace(frame, structure=with_pairs(structure, potential.cutoffs))
    except UserMistake as mistake:
        problems = [f"{frame.source_id}: {text}" for text in mistake.problems]
        raise UserMistake(*problems) from None


def _predict(
    potential: Potential, frames: list[Frame], timing: Timing, born_charges: bool
) -> Iterator[FramePrediction]:
    """Predict one batch and take it apart again."""
    started = time.perf_counter(), time.process_time()
    batch = collate([f.structure for f in frames])
    with warnings.catch_warnings():  # what it warns of is told once, with the results
        warnings.filterwarnings("ignore", message=".*absent from its training data")
        labelled = born_charges and any("born_charges" in f.labels for f in frames)
        said = respond_by_threads(
            potential,
            batch.to(potential.device),
            born_charges=None if labelled else False,
        ).detach()
    arrays = _arrays(said)
    timing.wall += time.perf_counter() - started[0]
    timing.cpu += time.process_time() - started[1]
    timing.atoms += batch.n_atoms
    timing.structures += len(frames)
    first = 0
    for row, frame in enumerate(frames):
        atoms = slice(first, first + len(frame))
        first += len(frame)
        values = {
            name: array[atoms] if name in PER_ATOM else array[row]
            for name, array in arrays.items()
        }
        bare = replace(frame, structure=_without_pairs(frame.structure))
        strange = potential.states_seen.strange(bare.structure)
        yield FramePrediction(bare, _defined(values, frame, potential), tuple(strange))


def _defined(
    values: Mapping[str, np.ndarray], frame: Frame, potential: Potential
) -> dict[str, np.ndarray]:
    """Leave out what is not defined for a frame, as its stress; all else has to be finite."""
    undefined = set()
    if not frame.structure.pbc.all():
        undefined.add("stress")
    if frame.structure.pbc.any():
        undefined.add("dipole")
        if potential.field != "every":
            undefined.add("born_charges")
    kept = {k: v for k, v in values.items() if k not in undefined}
    wrong = [k for k, v in kept.items() if not np.isfinite(v).all()]
    if wrong:
        raise UserMistake(
            f"the model gives {', '.join(wrong)} that are not finite for {frame.source_id}; "
            "look at its geometry and total charge, and at how the model was trained"
        )
    return kept


def untrained_elements(potential: Potential, numbers: Iterable[int]) -> list[str]:
    """Symbols of elements that the model lists but never saw in training."""
    unseen = set(potential.conventions.get("untrained_elements", ()))
    return [SYMBOLS[z] for z in sorted(unseen & {int(z) for z in numbers})]


def _arrays(said: Prediction) -> dict[str, np.ndarray]:
    """Copy what was predicted to numpy."""
    names = ("energy", "forces", "stress", "charges", "dipole", "born_charges")
    tensors: Mapping[str, Any] = {name: getattr(said, name) for name in names}
    return {k: v.cpu().double().numpy() for k, v in tensors.items() if v is not None}


def _without_pairs(structure: Structure) -> Structure:
    return replace(structure, pairs={})
