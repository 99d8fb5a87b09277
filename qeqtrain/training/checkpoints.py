"""Checkpoints: the last, the one before it, and the best; and stopping when a signal asks to.

Lightning's ``ModelCheckpoint`` keeps no predecessor of the last file and ties the best score to
the folder's old place, so this is a ``Checkpoint`` of our own on ``Trainer.save_checkpoint``.
Moments of saving are chosen so that resuming repeats nothing and skips nothing: after a step,
unless a validation follows it; then after that validation.
"""

from __future__ import annotations

import io
import math
import os
import signal
import time
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from lightning_fabric.plugins import TorchCheckpointIO

from qeqtrain.errors import Interrupted, UserMistake
from qeqtrain.training.launchers import requeue
from qeqtrain.training.module import TrainingModule
from qeqtrain.training.ranks import from_first
from qeqtrain.training.screen import say
from qeqtrain.training.signals import StopSignals

LAST, PREVIOUS, BEST = "last.ckpt", "previous.ckpt", "best.ckpt"


class Files(TorchCheckpointIO):
    """Writes a checkpoint whole or not at all, and remembers why it could not.

    The error is raised later, when the other ranks, who wait for the end of writing, have
    heard of it.
    """

    def __init__(self) -> None:
        self.failure: OSError | None = None

    def save_checkpoint(
        self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any = None
    ) -> None:
        """Write beside the file, have the disk confirm it, then take the file's place."""
        buffer = io.BytesIO()
        torch.save(checkpoint, buffer)
        file = Path(path)
        part = file.with_name(f"{file.name}.part")
        try:
            with part.open("wb") as stream:
                stream.write(buffer.getbuffer())
                stream.flush()
                os.fsync(stream.fileno())
            part.replace(file)
            self.failure = None
        except OSError as error:
            part.unlink(missing_ok=True)
            self.failure = error


class Checkpoints(pl.callbacks.Checkpoint):
    """Saves, and stops cleanly when a signal asks to.

    Args:
        folder: of the checkpoints.
        every_seconds: time between two savings of the last state.
        every_steps: steps between them; ``None`` leaves it to the clock.
        signals: that may ask to stop.
    """

    def __init__(
        self,
        folder: Path,
        every_seconds: float = 60.0,
        every_steps: int | None = None,
        signals: StopSignals | None = None,
    ) -> None:
        self.folder = folder
        self.every_seconds = every_seconds
        self.every_steps = every_steps
        self.files = Files()
        self.signals = signals or StopSignals()
        self.best_score = float("inf")
        self._saved_at = time.monotonic()
        self._time_is_up = False

    def tell(self, first: bool) -> list[float]:
        """Let the first rank's clock say when to save."""
        return [float(first and time.monotonic() - self._saved_at >= self.every_seconds)]

    def hear(self, values: list[float]) -> None:
        """Learn whether it is time to save."""
        self._time_is_up = values[0] > 0.0

    @property
    def previous(self) -> Path:
        """File of the state before the last."""
        return self.folder / PREVIOUS

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
        self.signals.training = True
        self.signals.listen()  # after Lightning, which puts handlers of its own
        if from_first(not self.last.exists()):
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
        value, first = pl_module.errors["score"], trainer.is_global_zero
        if value < self.best_score:
            self.best_score = value
            self._write(trainer, self.best, weights_only=True)
        pl_module.assembly.meet(torch.zeros(0, device=pl_module.device), first=first)
        self._save_if_due(trainer, good=pl_module.healthy and math.isfinite(value))

    def state_dict(self) -> dict[str, float]:
        """The score to beat."""
        return {"best_score": self.best_score}

    def load_state_dict(self, state_dict: dict[str, float]) -> None:
        """Take the score to beat from a checkpoint."""
        self.best_score = state_dict["best_score"]

    def _save_if_due(self, trainer: pl.Trainer, *, good: bool) -> None:
        """Save or stop, as all ranks have heard."""
        stop = self.signals.asked
        if stop is not None or self._ending(trainer) or (self._due(trainer) and good):
            self._save_last(trainer)
        if stop is None:
            return
        if stop == getattr(signal, "SIGUSR1", None) and trainer.is_global_zero:
            say(requeue())
        name = signal.Signals(stop).name
        raise Interrupted(f"{name}: saved step {trainer.global_step} in {self.last}")

    def _due(self, trainer: pl.Trainer) -> bool:
        if self.every_steps is not None:
            return bool(trainer.global_step % self.every_steps == 0)
        return self._time_is_up

    @staticmethod
    def _ending(trainer: pl.Trainer) -> bool:
        last_epoch = trainer.max_epochs is not None and (
            trainer.current_epoch + 1 == trainer.max_epochs
        )
        return trainer.should_stop or (last_epoch and trainer.is_last_batch)

    def _save_last(self, trainer: pl.Trainer) -> None:
        fresh = self.folder / "next.ckpt"
        self._write(trainer, fresh)
        if trainer.is_global_zero:
            if self.last.exists():
                self.last.replace(self.previous)
            fresh.replace(self.last)
        self._saved_at = time.monotonic()

    def _write(self, trainer: pl.Trainer, file: Path, *, weights_only: bool = False) -> None:
        """Write a checkpoint.

        Raises:
            UserMistake: on all ranks, if the disk refused it.
        """
        trainer.save_checkpoint(file, weights_only=weights_only)
        failure = self.files.failure
        why = from_first("" if failure is None else failure.strerror or str(failure))
        if why:
            raise UserMistake(
                f"{file.parent}: no checkpoint could be written at step {trainer.global_step} "
                f"({why}); the one before is whole. Make room, then: "
                f"qeqtrain fit resume={self.folder.parent}"
            )


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
