"""What training will cost, from a batch or two: seconds a step, memory, time for an epoch."""

from __future__ import annotations

import resource
import sys
import time
from dataclasses import dataclass

import numpy as np
import torch

from qeqtrain.data.prepared import PreparedFrames
from qeqtrain.errors import EquilibrationFailed
from qeqtrain.models.potential import Potential
from qeqtrain.training.loss import Loss

_LONG = 10.0  # s; a first step that takes longer is not repeated


@dataclass(frozen=True)
class Probe:
    """What was measured.

    Attributes:
        device: ``cpu`` or ``cuda``.
        seconds: of one training step, data included, optimiser left aside.
        batches: of an epoch.
        atoms: of the batch that was timed, the largest of those of the first epoch.
        peak_bytes: memory of the process (CPU), or of the device, at most.
    """

    device: str
    seconds: float
    batches: int
    atoms: int
    peak_bytes: int

    @property
    def epoch_seconds(self) -> float:
        """Time of one pass over the training frames."""
        return self.seconds * self.batches


def probe(potential: Potential, data: PreparedFrames, loss: Loss) -> Probe | str:
    """Run the step of the largest batch, twice if that is quick; weights stay as they are.

    The first run is there to load libraries, and counts only if it is the only one.

    Args:
        potential: built for the data.
        data: prepared, with the potential's cutoffs.
        loss: of the recipe.

    Returns:
        What was measured, or why it could not be.
    """
    device = "cuda" if torch.cuda.is_available() else "cpu"
    plan, batches = data.plan("train"), data.batches("train")
    source, frames = data.source_of("train")
    sizes = source.sizes[frames]
    epoch = plan.epoch(0)
    largest = int(np.argmax([sizes[chosen].sum() for chosen in epoch]))
    potential = potential.to(device)
    weights = [p for p in potential.parameters() if p.requires_grad]
    spent = 0.0
    try:
        for _ in range(2):
            start = time.perf_counter()
            batch = batches.batch(epoch[largest]).to(device)
            prediction = potential(
                batch.structures,
                forces=loss.needs("forces"),
                stress=None if loss.needs("stress") else False,
            )
            torch.autograd.grad(loss(prediction, batch), weights, allow_unused=True)
            if device == "cuda":
                torch.cuda.synchronize()
            spent = time.perf_counter() - start
            if spent > _LONG:
                break
    except EquilibrationFailed as failure:
        return f"charges of the first weights could not be found ({failure})"
    except torch.OutOfMemoryError:
        return "the device has too little memory for the largest batch; lower data.batch_*"
    finally:
        potential.to("cpu")
    return Probe(device, spent, len(plan), int(sizes[epoch[largest]].sum()), _peak(device))


def _peak(device: str) -> int:
    if device == "cuda":
        return int(torch.cuda.max_memory_allocated())
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
