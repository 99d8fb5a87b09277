"""What ends a run, and how much of it is done: steps, epochs, wall time, CPU time.

Lightning ends runs by epochs, steps or wall time, each on its own; here one object knows all
four, because the learning rate and the time that is left follow whichever comes first. What was
spent travels with the checkpoint, so a resumed run has no second youth.
"""

from __future__ import annotations

import time
from collections.abc import Callable

import pytorch_lightning as pl

from qeqtrain.errors import UserMistake
from qeqtrain.training.ranks import from_first, several


class Stopwatch:
    """Seconds of one clock, pausable.

    Args:
        clock: ``time.monotonic`` or ``time.process_time``.
    """

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._before = 0.0
        self._since: float | None = None

    @property
    def seconds(self) -> float:
        """Seconds counted so far."""
        running = 0.0 if self._since is None else self._clock() - self._since
        return self._before + running

    def set(self, seconds: float) -> None:
        """Take up time that was counted before, paused."""
        self._before, self._since = seconds, None

    def start(self) -> None:
        """Go on counting."""
        if self._since is None:
            self._since = self._clock()

    def stop(self) -> None:
        """Pause."""
        self._before, self._since = self.seconds, None


class Budget(pl.Callback):
    """Ends the run when its first limit is reached, and says how far it is.

    CPU time is that of this process in training: data and checkpoints included, validation and
    start-up excluded, which is how programs are compared at equal cost. Wall time counts
    everything from the first step on. Of several ranks the first one's clocks count for all.

    Args:
        max_epochs, max_steps: numbers, or ``None``.
        max_time, max_cpu_time: seconds, or ``None``.
    """

    def __init__(
        self,
        max_epochs: int | None = None,
        max_steps: int | None = None,
        max_time: float | None = None,
        max_cpu_time: float | None = None,
    ) -> None:
        self.max_epochs = max_epochs
        self.max_steps = max_steps
        self.max_time = max_time
        self.max_cpu_time = max_cpu_time
        if all(x is None for x in (max_epochs, max_steps, max_time, max_cpu_time)):
            raise UserMistake(
                "nothing ends the run; set trainer.max_epochs, trainer.max_steps, "
                "trainer.max_time or trainer.max_cpu_time"
            )
        self.wall = Stopwatch(time.monotonic)
        self.cpu = Stopwatch(time.process_time)
        self._trainer: pl.Trainer | None = None
        self._heard: tuple[float, float] | None = None
        self._epochs_before, self._steps_before = 0, 0

    def tell(self, first: bool) -> list[float]:
        """Give the first rank's clocks, wall and CPU, in seconds."""
        return [self.wall.seconds, self.cpu.seconds] if first else [0.0, 0.0]

    def hear(self, values: list[float]) -> None:
        """Take the first rank's clocks."""
        self._heard = (values[0], values[1])

    def begin_epoch_again(self, epoch: int, step: int) -> None:
        """Count epochs from here: those before had another number of steps.

        Args:
            epoch: that begins again, from 0.
            step: optimiser steps before it.
        """
        self._epochs_before, self._steps_before = epoch, step

    def done(self) -> float:
        """Share of the run that lies behind, 0 to 1, by the limit that is nearest."""
        trainer = self._trainer
        if trainer is None:
            return 0.0
        step = trainer.global_step
        shares = [0.0]
        if self.max_steps is not None:
            shares.append(step / self.max_steps)
        if self.max_epochs is not None:
            batches = trainer.num_training_batches
            passed = self._epochs_before * batches + step - self._steps_before
            shares.append(passed / (self.max_epochs * batches))
        wall, cpu = self.wall.seconds, self.cpu.seconds
        if several() and self._heard is not None:
            wall, cpu = self._heard
        if self.max_time is not None:
            shares.append(wall / self.max_time)
        if self.max_cpu_time is not None:
            shares.append(cpu / self.max_cpu_time)
        return min(max(shares), 1.0)

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Start both clocks."""
        self._trainer = trainer
        self._heard = from_first((self.wall.seconds, self.cpu.seconds))
        self.wall.start()
        self.cpu.start()
        self._stop_if_spent(trainer)

    def on_train_batch_end(
        self,
        trainer: pl.Trainer,
        pl_module: pl.LightningModule,
        outputs: object,
        batch: object,
        batch_idx: int,
    ) -> None:
        """Stop after this step if the budget is spent."""
        self._stop_if_spent(trainer)

    def on_validation_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Validation is not training."""
        self.cpu.stop()

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Back to training."""
        self.cpu.start()

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Stop both clocks."""
        self.wall.stop()
        self.cpu.stop()

    def state_dict(self) -> dict[str, float]:
        """Seconds spent, and where epochs are counted from."""
        return {
            "wall": self.wall.seconds,
            "cpu": self.cpu.seconds,
            "epochs_before": self._epochs_before,
            "steps_before": self._steps_before,
        }

    def load_state_dict(self, state_dict: dict[str, float]) -> None:
        """Go on from the seconds spent before."""
        self.wall.set(state_dict["wall"])
        self.cpu.set(state_dict["cpu"])
        self._epochs_before = int(state_dict.get("epochs_before", 0))
        self._steps_before = int(state_dict.get("steps_before", 0))

    def _stop_if_spent(self, trainer: pl.Trainer) -> None:
        if self.done() >= 1.0:
            trainer.should_stop = True
            trainer.check_val_every_n_epoch = 1  # the end is validated, whatever the rhythm
