"""What a person sees of a run: a line that moves, and one table of validation errors.

On a terminal the line is rewritten in place; elsewhere (a log file, a cluster) a new one
appears now and then.
"""

from __future__ import annotations

import math
import sys
import time
from typing import TYPE_CHECKING, TextIO

import pytorch_lightning as pl

from qeqtrain.training.budget import Budget, Stopwatch
from qeqtrain.training.checkpoints import Checkpoints
from qeqtrain.training.module import TrainingModule
from qeqtrain.training.quantities import QUANTITIES
from qeqtrain.training.screen import say, write

if TYPE_CHECKING:
    from qeqtrain.data.batching import Batch

REDRAW = 0.5
"""Seconds between two states of the line on a terminal."""
NOW_AND_THEN = 30.0
"""Seconds between two lines elsewhere."""


class Progress(pl.Callback):
    """Prints the line and the table.

    Args:
        budget: knows how much of the run is done.
        checkpoints: knows the best score so far.
        stream: where both go.
    """

    def __init__(
        self, budget: Budget, checkpoints: Checkpoints, stream: TextIO | None = None
    ) -> None:
        self.budget = budget
        self.checkpoints = checkpoints
        self.stream = stream or sys.stdout
        self.terminal = self.stream.isatty()
        self._training = Stopwatch(time.monotonic)
        self._drawn_at = time.monotonic()
        self._structures = 0
        self._atoms = 0
        self._done_before = 0.0
        self._wall_before = 0.0
        self._columns: list[str] = []
        self._line_shown = False

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Begin to count."""
        self._done_before = self.budget.done()
        self._wall_before = self.budget.wall.seconds
        self._drawn_at = time.monotonic()
        self._training.start()

    def on_train_batch_end(
        self,
        trainer: pl.Trainer,
        pl_module: pl.LightningModule,
        outputs: object,
        batch: Batch,
        batch_idx: int,
    ) -> None:
        """Count, and draw the line if it is time."""
        self._structures += len(batch.structures)
        self._atoms += batch.structures.n_atoms
        now = time.monotonic()
        if now - self._drawn_at < (REDRAW if self.terminal else NOW_AND_THEN):
            return
        self._drawn_at = now
        assert isinstance(pl_module, TrainingModule)
        self._draw(self._line(trainer, pl_module))

    def on_validation_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Validation does not count in the rate."""
        self._training.stop()

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Add a row to the table."""
        assert isinstance(pl_module, TrainingModule)
        self._print_row(trainer, pl_module)
        self._training.start()

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Clear the line."""
        self._clear()

    def on_exception(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException
    ) -> None:
        """Clear the line."""
        self._clear()

    def _line(self, trainer: pl.Trainer, module: TrainingModule) -> str:
        done = self.budget.done()
        wall = self.budget.wall.seconds - self._wall_before
        gained = done - self._done_before
        left = f"left {duration((1.0 - done) * wall / gained)}" if gained > 0.0 else "left ?"
        seconds = max(self._training.seconds, 1e-9)
        parts = [
            f"epoch {trainer.current_epoch + 1}",
            f"step {trainer.global_step:,}",
            f"{100 * done:.0f} %",
            f"loss {module.mean_loss:.3g}",
            f"lr {learning_rate(trainer):.1e}",
            f"{self._structures / seconds:.3g} structures/s",
            f"{count(self._atoms / seconds)} atoms/s",
            left,
        ]
        if module.skipped_steps:
            parts.append(f"{module.skipped_steps} steps skipped")
        return "  ".join(parts)

    def _print_row(self, trainer: pl.Trainer, module: TrainingModule) -> None:
        if not trainer.is_global_zero:
            return
        self._clear()
        errors = module.errors
        if not self._columns:
            self._columns = [name for name in QUANTITIES if f"{name}_rmse" in errors]
            say("validation errors, RMSE (* best so far)", self.stream)
            heads = [f"{QUANTITIES[n].symbol} {QUANTITIES[n].unit}" for n in self._columns]
            say(_row("epoch", "step", "loss", heads, "lr", "time"), self.stream)
        shown = [number(errors.get(f"{name}_rmse", math.nan)) for name in self._columns]
        best = " *" if errors["score"] < self.checkpoints.best_score else ""
        say(
            _row(
                str(trainer.current_epoch + 1),
                str(trainer.global_step),
                number(module.mean_loss),
                shown,
                f"{learning_rate(trainer):.1e}",
                duration(self.budget.wall.seconds),
            )
            + best,
            self.stream,
        )
        mixture = module.potential.mixture
        for name in () if mixture is None else mixture.names:
            own = [number(errors.get(f"{q}_rmse/{name}", math.nan)) for q in self._columns]
            say(f"{name:>26}" + "".join(f"{text:>12}" for text in own), self.stream)

    def _draw(self, line: str) -> None:
        if self.terminal:
            write(f"\r\x1b[K{line}", self.stream)
            self._line_shown = True
        else:
            say(line, self.stream)

    def _clear(self) -> None:
        if self._line_shown:
            write("\r\x1b[K", self.stream)
            self._line_shown = False


def learning_rate(trainer: pl.Trainer) -> float:
    """Learning rate of the next step."""
    return float(trainer.optimizers[0].param_groups[0]["lr"])


def duration(seconds: float) -> str:
    """Write seconds as ``12 s``, ``03:12`` (minutes) or ``1:03:12``."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    minutes, rest = divmod(whole, 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes:02d}:{rest:02d}"


def count(value: float) -> str:
    """Write a large count with three digits: ``812``, ``7.02k``, ``1.3M``."""
    for factor, unit in ((1e6, "M"), (1e3, "k")):
        if value >= factor:
            return f"{value / factor:.3g}{unit}"
    return f"{value:.3g}"


def number(value: float) -> str:
    """Write an error with about three digits; in powers of ten only if it is tiny or huge."""
    if not math.isfinite(value):
        return "-"
    if value >= 1e5:
        return f"{value:.2e}"
    if 0.0 < value < 1e-3:
        return f"{value:.2e}"
    digits = 4 if value < 0.1 else 3 if value < 1 else 2 if value < 100 else 1
    return f"{value:.{digits}f}"


def _row(epoch: str, step: str, loss: str, errors: list[str], lr: str, clock: str) -> str:
    """Align one row of the table."""
    middle = "".join(f"{text:>12}" for text in errors)
    return f"{epoch:>6}{step:>9}{loss:>11}{middle}{lr:>10}{clock:>10}"
