"""Checkpoints: the last, the one before it, and the best; and stopping when a signal asks to.

Lightning's ``ModelCheckpoint`` keeps no predecessor of the last file and ties the best score to
the folder's old place, so this is a ``Checkpoint`` of our own on ``Trainer.save_checkpoint``,
which writes atomically. Moments of saving are chosen so that resuming repeats nothing and skips
nothing: after a step, unless a validation follows it; then after that validation.
"""

from __future__ import annotations

import math
import signal
import sys
import threading
import time
from pathlib import Path
from types import FrameType

import pytorch_lightning as pl

from qeqtrain.errors import Interrupted
from qeqtrain.training.module import TrainingModule
from qeqtrain.training.screen import say

LAST, PREVIOUS, BEST = "last.ckpt", "previous.ckpt", "best.ckpt"


class Checkpoints(pl.callbacks.Checkpoint):
    """Saves, and stops cleanly on SIGTERM and SIGINT.

    Args:
        folder: of the checkpoints.
        every_seconds: time between two savings of the last state.
        every_steps: steps between them; ``None`` leaves it to the clock.
    """

    def __init__(
        self, folder: Path, every_seconds: float = 60.0, every_steps: int | None = None
    ) -> None:
        self.folder = folder
        self.every_seconds = every_seconds
        self.every_steps = every_steps
        self.best_score = float("inf")
        self._saved_at = time.monotonic()
        self._asked_to_stop: int | None = None

    @property
    def last(self) -> Path:
        """File of the last state."""
        return self.folder / LAST

    @property
    def best(self) -> Path:
        """File of the best weights."""
        return self.folder / BEST

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Listen to signals; leave a first file, so that there always is one to load."""
        if threading.current_thread() is threading.main_thread():
            # After Lightning's own handlers, which it puts back itself at the end.
            for number in (signal.SIGTERM, signal.SIGINT):
                signal.signal(number, self._remember)
        if not self.last.exists():
            self._save_last(trainer)

    def on_train_batch_end(
        self,
        trainer: pl.Trainer,
        pl_module: pl.LightningModule,
        outputs: object,
        batch: object,
        batch_idx: int,
    ) -> None:
        """Save if it is time, and if this step was a good one."""
        assert isinstance(pl_module, TrainingModule)
        if not validation_follows(trainer, batch_idx):
            self._save_if_due(trainer, good=pl_module.healthy)

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Keep the best weights; save if it is time."""
        assert isinstance(pl_module, TrainingModule)
        value = pl_module.errors["score"]
        if value < self.best_score:
            self.best_score = value
            trainer.save_checkpoint(self.best, weights_only=True)
        self._save_if_due(trainer, good=pl_module.healthy and math.isfinite(value))

    def state_dict(self) -> dict[str, float]:
        """The score to beat."""
        return {"best_score": self.best_score}

    def load_state_dict(self, state_dict: dict[str, float]) -> None:
        """Take the score to beat from a checkpoint."""
        self.best_score = state_dict["best_score"]

    def _save_if_due(self, trainer: pl.Trainer, *, good: bool) -> None:
        stop = _any_rank(trainer, self._asked_to_stop is not None)
        due = _any_rank(trainer, self._due(trainer)) and good
        if stop or self._ending(trainer) or due:
            self._save_last(trainer)
        if stop:
            name = signal.Signals(self._asked_to_stop or signal.SIGTERM).name
            raise Interrupted(f"{name}: saved step {trainer.global_step} in {self.last}")

    def _due(self, trainer: pl.Trainer) -> bool:
        if self.every_steps is not None:
            return bool(trainer.global_step % self.every_steps == 0)
        return time.monotonic() - self._saved_at >= self.every_seconds

    @staticmethod
    def _ending(trainer: pl.Trainer) -> bool:
        last_epoch = trainer.max_epochs is not None and (
            trainer.current_epoch + 1 == trainer.max_epochs
        )
        return trainer.should_stop or (last_epoch and trainer.is_last_batch)

    def _save_last(self, trainer: pl.Trainer) -> None:
        fresh = self.folder / "next.ckpt"
        trainer.save_checkpoint(fresh)
        if trainer.is_global_zero:
            if self.last.exists():
                self.last.replace(self.folder / PREVIOUS)
            fresh.replace(self.last)
        self._saved_at = time.monotonic()

    def _remember(self, number: int, frame: FrameType | None) -> None:
        """Handle a signal: the first ends the run after saving, a second one at once."""
        if self._asked_to_stop is not None:
            raise Interrupted(f"stopped at once; the last saved state is in {self.last}")
        self._asked_to_stop = number
        name = signal.Signals(number).name
        say(f"\n{name}: saving, then stopping; again to stop at once", sys.stderr)


def validation_follows(trainer: pl.Trainer, batch_idx: int) -> bool:
    """Whether Lightning validates right after this batch."""
    if not trainer.enable_validation:
        return False
    every = trainer.check_val_every_n_epoch
    if every is not None and (trainer.current_epoch + 1) % every:
        return False
    if trainer.should_stop:
        return True
    return bool((batch_idx + 1) % (trainer.val_check_batch or 1) == 0)


def _any_rank(trainer: pl.Trainer, flag: bool) -> bool:
    """Agree over ranks, so that all save and stop at the same step."""
    if trainer.world_size == 1:
        return flag
    return bool(trainer.strategy.reduce_boolean_decision(flag, all=False))
