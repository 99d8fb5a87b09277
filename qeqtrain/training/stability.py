"""When numbers go wrong: skip the step, then go back to a good state, then stop.

A step whose loss, charges or gradient are not finite, on any rank, moves nothing. After several
in a row the weights themselves are suspected: the last good checkpoint is taken up again with
half the learning rate, and training goes on with the batches that follow. When that has not
helped either, the run ends and names the structures.
"""

from __future__ import annotations

import statistics
from collections import deque
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytorch_lightning as pl
import torch

from qeqtrain.errors import Diverged, EquilibrationFailed, UserMistake
from qeqtrain.models.archive import read_entry
from qeqtrain.training.finetuning.adapters import ENTRY as ADAPTERS
from qeqtrain.training.finetuning.adapters import unfold
from qeqtrain.training.quantities import QUANTITIES, compare
from qeqtrain.training.ranks import collect, from_first
from qeqtrain.training.screen import say

if TYPE_CHECKING:
    from collections.abc import Iterable

    from qeqtrain.data.batching import Batch
    from qeqtrain.models.potential import Potential
    from qeqtrain.structures import Prediction
    from qeqtrain.training.loss import Loss
    from qeqtrain.training.module import TrainingModule

WINDOW = 100
"""Gradient norms that a spike is measured against."""
ENOUGH = 20
"""Norms to be seen before anything counts as a spike."""
SHRINK = 0.5
"""Learning rate after going back, as a share of that before."""
SHOWN = 20
"""Structures that a message names."""


class Spikes:
    """Tells gradients that stand out from those before them.

    Args:
        factor: multiple of the median norm of the last hundred steps that is a spike;
            ``None``: nothing is. Spikes count in the median too: a level that has risen for
            good is soon the usual one.
    """

    def __init__(self, factor: float | None = None) -> None:
        self.factor = factor
        self.norms: deque[float] = deque(maxlen=WINDOW)

    def is_spike(self, norm: float) -> bool:
        """Whether a finite gradient norm is a spike; remembers it."""
        if self.factor is None:
            return False
        usual = statistics.median(self.norms) if len(self.norms) >= ENOUGH else float("inf")
        self.norms.append(norm)
        return norm > self.factor * usual


def culprits(potential: Potential, loss: Loss, batch: Batch) -> list[str]:
    """Structures of a batch whose own errors are not finite; all of them if none stands out.

    Args:
        potential: predicts once more, with the weights in training.
        loss: knows what is compared.
        batch: whose loss or gradient was not finite.
    """
    try:
        with torch.enable_grad():
            said: Prediction = potential(
                batch.structures,
                forces=loss.needs("forces"),
                stress=None if loss.needs("stress") else False,
            ).detach()
    except (EquilibrationFailed, torch.OutOfMemoryError):
        return list(batch.ids)
    bad = torch.zeros(len(batch.ids), dtype=torch.bool, device=batch.structures.batch.device)
    for name in loss.terms:
        compared = compare(said, batch, name)
        if compared is None or not len(compared.difference):
            continue
        squares = compared.difference.square().reshape(len(compared.mask), -1)
        wrong = ~torch.isfinite(squares).all(dim=1)
        if QUANTITIES[name].per_atom:
            wrong = batch.structures.sum_over_atoms(wrong.double()) > 0.0
        bad |= wrong
    if not bool(bad.any()):
        return list(batch.ids)
    return [name for name, is_bad in zip(batch.ids, bad.tolist(), strict=True) if is_bad]


class Recovery(pl.Callback):
    """Goes back to a good checkpoint after several bad steps, and gives up in the end.

    The first time the last checkpoint is taken, which was saved after a finite step; then the
    best validated weights, with fresh moments, as the last may have been on its way already.

    Args:
        files: last, best and second newest checkpoint.
        max_bad_steps: bad steps in a row before going back.
        max_rollbacks: times of going back before the run ends.
    """

    def __init__(
        self, files: Sequence[Path], max_bad_steps: int = 5, max_rollbacks: int = 2
    ) -> None:
        self.last, self.best, self.previous = files
        self.max_bad_steps = max_bad_steps
        self.max_rollbacks = max_rollbacks
        self.rollbacks = 0

    def on_train_batch_end(
        self,
        trainer: pl.Trainer,
        pl_module: Any,
        outputs: object,
        batch: object,
        batch_idx: int,
    ) -> None:
        """Act if too many steps in a row were bad; all ranks know the same of them.

        Raises:
            Diverged: going back has not helped.
        """
        module: TrainingModule = pl_module
        if module.bad_in_a_row < self.max_bad_steps:
            return
        shown = named(module.bad_ids)
        failures = [text for text in collect(module.share.failure) if text]
        what = (
            f"loss, charges or gradient were not finite in {module.bad_in_a_row} steps in a "
            f"row, up to step {trainer.global_step}; structures of these batches: {shown}."
            f"{''.join(f' {text}.' for text in failures[:1])}"
        )
        if self.rollbacks >= self.max_rollbacks:
            times = f"; went back {self.rollbacks} times before" if self.rollbacks else ""
            raise Diverged(f"{what} Look at their labels, or lower optim.lr{times}")
        self.rollbacks += 1
        file = self._go_back(trainer, module)
        say(f"{what} Going back to {file.name}, with half the learning rate")

    def _go_back(self, trainer: pl.Trainer, module: TrainingModule) -> Path:
        """Take weights, averages and moments from a checkpoint that can be read."""
        content = None
        if trainer.is_global_zero:
            first = [self.last, self.previous, self.best]
            later = [self.best, self.previous, self.last]
            content = readable(first if self.rollbacks == 1 else later)
        content = from_first(content)
        if content is None:
            raise Diverged("loss or gradient are not finite, and no checkpoint can be read")
        file, saved = content
        unfold(saved)
        module.load_state_dict(saved["state_dict"])
        optimizer = trainer.optimizers[0]
        rates = [group["lr"] for group in optimizer.param_groups]
        if saved["optimizer_states"]:
            optimizer.load_state_dict(saved["optimizer_states"][0])
        else:
            optimizer.state.clear()
        module.lr_share *= SHRINK
        for group, rate in zip(optimizer.param_groups, rates, strict=True):
            group["lr"] = SHRINK * rate
        module.forget_bad_steps()
        module.unsettled = self.max_bad_steps
        return file

    def state_dict(self) -> dict[str, int]:
        """How often the run went back."""
        return {"rollbacks": self.rollbacks}

    def load_state_dict(self, state_dict: dict[str, int]) -> None:
        """Go on counting."""
        self.rollbacks = state_dict["rollbacks"]


def readable(files: Iterable[Path]) -> tuple[Path, dict[str, Any]] | None:
    """Find the first checkpoint that can be read: its weights, and its moments if any."""
    for file in files:
        try:
            read_entry(file)
            content = torch.load(file, map_location="cpu", weights_only=True)
        except (UserMistake, OSError):
            continue
        kept = {"optimizer_states": [], ADAPTERS: {}, **content}
        return file, {name: kept[name] for name in ("state_dict", "optimizer_states", ADAPTERS)}
    return None


def named(ids: Sequence[str]) -> str:
    """List structures, each once, the first of many."""
    different = list(dict.fromkeys(ids))
    more = f" and {len(different) - SHOWN} more" if len(different) > SHOWN else ""
    return ", ".join(different[:SHOWN]) + more
