"""The Lightning module: a training step, a validation step, and what a checkpoint carries."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import pytorch_lightning as pl
import torch
from torch import Tensor

from qeqtrain.errors import Diverged, EquilibrationFailed
from qeqtrain.models.archive import FORMAT
from qeqtrain.training.loss import Loss
from qeqtrain.training.metrics import ErrorSums, as_tensor, score
from qeqtrain.training.optim import Optimization
from qeqtrain.training.solves import WorstSolve

if TYPE_CHECKING:
    from qeqtrain.data.batching import Batch
    from qeqtrain.models.potential import Potential
    from qeqtrain.structures import Prediction

MONITOR = "val/score"
"""What the best checkpoint and early stopping follow; lower is better."""


class TrainingModule(pl.LightningModule):
    """A potential in training.

    A step whose loss or gradient is not finite is skipped: weights, moments and averages stay
    as they were. Several in a row mean that the run has diverged.

    Args:
        potential: what is trained.
        loss: what is minimised.
        optim: how.
        done: gives the share of the run that lies behind, for the learning rate.
        passport: plain values that every checkpoint carries beside the weights.
        max_bad_steps: non-finite steps in a row after which the run stops.
        log_every: steps between two values of the loss for a logger.
    """

    def __init__(
        self,
        potential: Potential,
        loss: Loss,
        optim: Optimization,
        *,
        done: Callable[[], float],
        passport: Mapping[str, Any] | None = None,
        max_bad_steps: int = 5,
        log_every: int = 50,
    ) -> None:
        super().__init__()
        self.potential = potential
        optim.freeze_weights(potential)
        self.averaged = optim.build_average(potential)
        self.loss = loss
        self.optim = optim
        self.done = done
        self.passport = dict(passport or {})
        self.max_bad_steps = max_bad_steps
        self.log_every = log_every
        self.errors: dict[str, float] = {}
        """Validation errors of the last pass, in printed units, with ``score``."""
        self.skipped_steps = 0
        self.solves = WorstSolve()
        self._bad_in_a_row = 0
        self._bad_ids: list[str] = []
        self._failure = ""
        self._ids: tuple[str, ...] = ()
        self._sums: ErrorSums | None = None
        self._last_loss = torch.zeros((), dtype=torch.float64)
        self._loss_sum = torch.zeros((), dtype=torch.float64)
        self._loss_steps = 0
        self._rng: dict[str, Any] | None = None

    @property
    def evaluated(self) -> Potential:
        """The weights that are judged and kept: the running average, or the raw ones."""
        return cast("Potential", self.averaged.module) if self.averaged else self.potential

    @property
    def healthy(self) -> bool:
        """Whether the last step was finite."""
        return self._bad_in_a_row == 0

    @property
    def mean_loss(self) -> float:
        """Mean training loss since the last validation; NaN before the first step."""
        return float(self._loss_sum) / self._loss_steps if self._loss_steps else float("nan")

    # Training.

    def on_train_batch_start(self, batch: Batch, batch_idx: int) -> None:
        """Take up the random numbers where the checkpoint left them."""
        if self._rng is not None:
            _restore_random_states(self._rng)
            self._rng = None

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """Loss of a batch, float64, shape ``()``."""
        self._ids = batch.ids
        try:
            prediction = self.potential(
                batch.structures,
                forces=self.loss.needs("forces"),
                stress=None if self.loss.needs("stress") else False,
                born_charges=None if self.loss.needs("born_charges") else False,
            )
        except EquilibrationFailed as failure:
            # A loss that is not finite, in every weight: this step is skipped on all ranks,
            # and they wait for the counts of this one.
            self._failure = f" {failure}."
            self.loss.sit_out(batch.structures.total_charge)
            loss = torch.nan * self._every_weight()
        else:
            loss = self.loss(prediction, batch)
            if self.trainer.world_size > 1:
                # DDP waits for every weight, also for one that no term of this loss reads.
                loss = loss + 0.0 * self._every_weight()
        self.solves.add(getattr(self.potential.charge, "effort", None))
        self._last_loss = loss.detach()
        return loss

    def _every_weight(self) -> Tensor:
        """Add up all weights, float64, shape ``()``."""
        return torch.stack([p.double().sum() for p in self.potential.parameters()]).sum()

    def backward(self, loss: Tensor, *args: Any, **kwargs: Any) -> None:
        """Differentiate in the weights alone: positions, whose forces are fit, need none."""
        weights = [p for p in self.potential.parameters() if p.requires_grad]
        try:
            loss.backward(*args, inputs=weights, **kwargs)
        except EquilibrationFailed as failure:  # an iterative solve of the adjoint
            self._failure = f" {failure}."
            self._last_loss = torch.full_like(self._last_loss, torch.nan)

    def configure_gradient_clipping(
        self,
        optimizer: torch.optim.Optimizer,
        gradient_clip_val: float | None = None,
        gradient_clip_algorithm: str | None = None,
    ) -> None:
        """Clip the gradient, or drop it if anything in it is not finite.

        Raises:
            Diverged: too many such steps in a row.
        """
        limit = self.optim.gradient_clip
        norm = torch.nn.utils.clip_grad_norm_(
            optimizer.param_groups[0]["params"], float("inf") if limit is None else limit
        )
        finite = bool(torch.isfinite(norm) & torch.isfinite(self._last_loss))
        if self.trainer.world_size > 1:
            finite = self.trainer.strategy.reduce_boolean_decision(finite, all=True)
        if finite:
            self._bad_in_a_row = 0
            self._bad_ids.clear()
            self._failure = ""
            return
        # Optimisers leave parameters without a gradient alone, their moments too.
        optimizer.zero_grad(set_to_none=True)
        self.skipped_steps += 1
        self._bad_in_a_row += 1
        self._bad_ids.extend(self._ids)
        if self._bad_in_a_row >= self.max_bad_steps:
            shown = ", ".join(dict.fromkeys(self._bad_ids[-20:]))
            raise Diverged(
                f"loss or gradient was not finite in {self._bad_in_a_row} steps in a row, up "
                f"to step {self.global_step + 1}; structures of these batches: {shown}."
                f"{self._failure} "
                "Look at their labels, or lower optim.lr"
            )

    def optimizer_step(self, *args: Any, **kwargs: Any) -> None:
        """Move the weights, then their running average."""
        super().optimizer_step(*args, **kwargs)
        if self._bad_in_a_row:
            return
        self._loss_sum = self._loss_sum + self._last_loss.to(self._loss_sum.device)
        self._loss_steps += 1
        if self.averaged is not None:
            self.averaged.update_parameters(self.potential)

    def on_train_batch_end(self, outputs: object, batch: Batch, batch_idx: int) -> None:
        """Send the loss to a logger now and then: every value costs more than it seems."""
        trainer = self.trainer
        if not trainer.loggers or self.global_step % self.log_every:
            return
        values = {"train/loss": float(self._last_loss), "lr": self._lr(), "share": self.done()}
        values |= {f"train/{name}": value for name, value in self.solves.values().items()}
        for logger in trainer.loggers:
            logger.log_metrics(values, step=self.global_step)

    def _lr(self) -> float:
        return float(self.trainer.optimizers[0].param_groups[0]["lr"])

    def configure_optimizers(self) -> Any:
        """Optimiser of the raw weights, and the learning rate by the share of the run."""
        optimizer = self.optim.build_optimizer(
            weight for weight in self.potential.parameters() if weight.requires_grad
        )
        schedule = self.optim.build_schedule(optimizer, self.done, MONITOR)
        return {
            "optimizer": optimizer,
            "lr_scheduler": schedule,
        }

    # Validation.

    def on_validation_epoch_start(self) -> None:
        """Begin the sums."""
        self._sums = ErrorSums(self.device)

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        """Count the errors of a batch in."""
        assert self._sums is not None
        self._sums.add(self.judge(batch), batch)

    def judge(self, batch: Batch) -> Prediction:
        """Predict with the weights that are kept, without a graph behind."""
        stress = batch.present.get("stress")
        try:
            with torch.enable_grad():
                prediction: Prediction = self.evaluated(
                    batch.structures,
                    forces="forces" in batch.labels,
                    stress=None if stress is not None and bool(stress.any()) else False,
                    born_charges=None if "born_charges" in batch.labels else False,
                )
        except EquilibrationFailed as failure:
            raise Diverged(f"validation, frames {', '.join(batch.ids)}: {failure}") from failure
        return prediction.detach()

    def on_validation_epoch_end(self) -> None:
        """Turn the sums of all ranks into errors and a score."""
        assert self._sums is not None
        self._sums.sums = self.trainer.strategy.reduce(self._sums.sums, reduce_op="sum")
        errors = self._sums.summary()
        self.errors = {"score": score(errors, self.loss.terms), **errors}
        self.log_dict(as_tensor({f"val/{k}": v for k, v in self.errors.items()}))

    def on_validation_model_eval(self) -> None:
        """Raw weights without average are judged in eval mode too."""
        self.potential.eval()

    def on_validation_model_train(self) -> None:
        """Back to training."""
        self.potential.train()

    def start_new_mean(self) -> None:
        """Forget the training losses so far, after they were written down."""
        self._loss_sum = torch.zeros_like(self._loss_sum)
        self._loss_steps = 0

    # Batches and checkpoints.

    def transfer_batch_to_device(
        self, batch: Batch, device: torch.device, dataloader_idx: int
    ) -> Batch:
        """Move a batch; on a CPU it is there already."""
        return batch if device.type == "cpu" else batch.to(device)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Add what makes the file a model of its own, and what resuming needs; plain values."""
        checkpoint["qeqtrain"] = {
            "format": FORMAT,
            "potential": self.potential.header(),
            **self.passport,
            "metrics": dict(self.errors),
        }
        checkpoint["training"] = {
            "random": _random_states(),
            "skipped_steps": self.skipped_steps,
            "loss_sum": self._loss_sum.cpu(),
            "loss_steps": self._loss_steps,
        }

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Take back what resuming needs; weights are Lightning's part."""
        training = checkpoint["training"]
        self._rng = training["random"]
        self.skipped_steps = training["skipped_steps"]
        self._loss_sum = training["loss_sum"]
        self._loss_steps = training["loss_steps"]
        self.errors = dict(checkpoint["qeqtrain"]["metrics"])


def _random_states() -> dict[str, Any]:
    """States of all generators, as tensors and plain values that load with weights_only."""
    state: Any = np.random.get_state()  # noqa: NPY002 (the state that others draw from)
    name, keys, position, has_gauss, gauss = state
    version, internal, gauss_next = random.getstate()
    states: dict[str, Any] = {
        "torch": torch.get_rng_state(),
        "numpy": [name, torch.from_numpy(keys.astype(np.int64)), position, has_gauss, gauss],
        "python": [version, list(internal), gauss_next],
    }
    if torch.cuda.is_available():
        states["cuda"] = torch.cuda.get_rng_state_all()
    return states


def _restore_random_states(states: dict[str, Any]) -> None:
    """Undo :func:`_random_states`."""
    torch.set_rng_state(states["torch"].cpu())
    name, keys, position, has_gauss, gauss = states["numpy"]
    np.random.set_state(  # noqa: NPY002 (the state that others draw from)
        (name, keys.numpy().astype(np.uint32), position, has_gauss, gauss)
    )
    version, internal, gauss_next = states["python"]
    random.setstate((version, tuple(internal), gauss_next))
    if "cuda" in states and torch.cuda.device_count() == len(states["cuda"]):
        torch.cuda.set_rng_state_all([s.cpu() for s in states["cuda"]])
