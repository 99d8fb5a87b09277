"""The Lightning module: a training step, a validation step, and what a checkpoint carries."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, cast

import pytorch_lightning as pl
import torch
from torch import Tensor

from qeqtrain.errors import Diverged, EquilibrationFailed, UserMistake
from qeqtrain.models.archive import FORMAT
from qeqtrain.models.threads import respond_by_threads
from qeqtrain.training.finetuning.adapters import fold, unfold
from qeqtrain.training.loss import Loss
from qeqtrain.training.metrics import ErrorSums, as_tensor, score
from qeqtrain.training.optim import Optimization
from qeqtrain.training.random_states import (
    random_states,
    restore_random_states,
    shift_random_states,
)
from qeqtrain.training.ranks import Assembly, Member, add_gradients, add_up, collect
from qeqtrain.training.share import Share
from qeqtrain.training.solves import WorstSolve
from qeqtrain.training.stability import Spikes, culprits

if TYPE_CHECKING:
    from qeqtrain.data.batching import Batch
    from qeqtrain.models.potential import Ask, Potential
    from qeqtrain.structures import Prediction

MONITOR = "val/score"
"""What the best checkpoint and early stopping follow; lower is better."""


class TrainingModule(pl.LightningModule):
    """A potential in training.

    A step whose loss, charges or gradient are not finite on any rank is skipped: weights,
    moments and averages stay as they were (:mod:`qeqtrain.training.stability` has the rest).
    A batch that does not fit in the memory of a GPU is worked on in halves, whose gradients
    add up to the same.

    Args:
        potential: what is trained.
        loss: what is minimised.
        optim: how.
        done: gives the share of the run that lies behind, for the learning rate.
        passport: plain values that every checkpoint carries beside the weights.
        log_every: steps between two values of the loss for a logger.
        spike_factor: multiple of the usual gradient norm beyond which a step is skipped;
            ``None``: none is.
        members: hear, once a step, what all ranks know.
        ask: predicts in the potential's place.
    """

    def __init__(
        self,
        potential: Potential,
        loss: Loss,
        optim: Optimization,
        *,
        done: Callable[[], float],
        passport: Mapping[str, Any] | None = None,
        log_every: int = 50,
        spike_factor: float | None = None,
        members: Sequence[Member] = (),
        ask: Ask = respond_by_threads,
    ) -> None:
        super().__init__()
        self.ask = ask
        self.potential = potential
        optim.freeze_weights(potential)
        self.averaged = optim.build_average(potential)
        self.loss = loss
        self.optim = optim
        self.done = done
        self.passport = dict(passport or {})
        self.log_every = log_every
        self.assembly = Assembly(members)
        self.errors: dict[str, float] = {}
        """Validation errors of the last pass, in printed units, with ``score``."""
        self.skipped_steps = 0
        self.skipped_ids: list[str] = []
        """Structures, of all ranks, that steps were skipped for; each once."""
        self.bad_in_a_row = 0
        self.bad_ids: list[str] = []
        """Structures, of all ranks, behind the bad steps in a row."""
        self.unsettled = 0
        """Finite steps to come before a state counts as good again."""
        self.lr_share = 1.0
        """Part of the learning rate that is left after going back to a checkpoint."""
        self.spikes = Spikes(spike_factor)
        self.solves = WorstSolve()
        self.share = Share(potential, loss, self.solves, ask)
        self._refused = ""
        self._moved = True
        self._sums: ErrorSums | None = None
        self._loss_now, self._loss_sum, self._loss_steps = 0.0, 0.0, 0
        self._rng: list[dict[str, Any]] | None = None

    @property
    def evaluated(self) -> Potential:
        """The weights that are judged and kept: the running average, or the raw ones."""
        return cast("Potential", self.averaged.module) if self.averaged else self.potential

    @property
    def healthy(self) -> bool:
        """Whether the last step was finite, and enough were since a return to a checkpoint."""
        return self.bad_in_a_row == 0 and self.unsettled == 0

    @property
    def mean_loss(self) -> float:
        """Mean training loss since the last validation; NaN before the first step."""
        return self._loss_sum / self._loss_steps if self._loss_steps else float("nan")

    # Training.

    def on_train_start(self) -> None:
        """Give every rank random numbers of its own: the restored, or shifted ones."""
        shift_random_states(self.global_rank)

    def on_train_batch_start(self, batch: Batch, batch_idx: int) -> None:
        """Take up the random numbers where the checkpoint left them."""
        if self._rng is not None:
            if self.global_rank < len(self._rng):
                restore_random_states(self._rng[self.global_rank])
            self._rng = None

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """This rank's share of the loss of a batch, float64, shape ``()``."""
        return self.share.begin(batch)

    def backward(self, loss: Tensor, *args: Any, **kwargs: Any) -> None:
        """Differentiate in the weights alone: positions, whose forces are fit, need none."""
        weights = [p for p in self.potential.parameters() if p.requires_grad]
        self.share.differentiate(loss, weights, **kwargs)

    def configure_gradient_clipping(
        self,
        optimizer: torch.optim.Optimizer,
        gradient_clip_val: float | None = None,
        gradient_clip_algorithm: str | None = None,
    ) -> None:
        """Add up and clip the gradient; drop it if this is a bad step or a spike.

        Raises:
            UserMistake: a structure does not fit in the memory of some rank.
        """
        weights = [p for group in optimizer.param_groups for p in group["params"]]
        add_gradients(weights)
        limit = self.optim.gradient_clip
        length = torch.nn.utils.clip_grad_norm_(
            weights, float("inf") if limit is None else limit
        )
        share, first = self.share, self.global_rank == 0
        once = length.to(share.loss) * float(first)  # it is the same on all
        refused = torch.full_like(share.loss, float(bool(share.refused)))
        told = torch.stack([share.loss, share.bad_charges, once, refused])
        value, bad_charges, norm, stopped = self.assembly.meet(told, first=first)
        if stopped:
            raise UserMistake(*dict.fromkeys(text for text in collect(share.refused) if text))
        finite = math.isfinite(value) and math.isfinite(norm) and not bad_charges
        self._moved = finite and not self.spikes.is_spike(norm)
        if finite:
            self._loss_now = value
            self.forget_bad_steps()
            self.unsettled = max(self.unsettled - 1, 0)
        else:
            self.bad_in_a_row += 1
        if not self._moved:
            # Optimisers leave parameters without a gradient alone, their moments too.
            optimizer.zero_grad(set_to_none=True)
            self.skipped_steps += 1

    def forget_bad_steps(self) -> None:
        """Begin to count bad steps anew."""
        self.bad_in_a_row = 0
        self.bad_ids.clear()

    def optimizer_step(self, *args: Any, **kwargs: Any) -> None:
        """Move the weights, then their running average."""
        super().optimizer_step(*args, **kwargs)
        if not self._moved:
            self._remember_structures()
            return
        self._loss_sum += self._loss_now
        self._loss_steps += 1
        if self.averaged is not None:
            self.averaged.update_parameters(self.potential)

    def _remember_structures(self) -> None:
        """Find out, on all ranks, for which structures a step was skipped."""
        batch = self.share.batch
        assert batch is not None
        spike = self.bad_in_a_row == 0
        own = list(batch.ids) if spike else culprits(self.potential, self.loss, batch)
        found = [name for ids in collect(own) for name in ids]
        self.skipped_ids = list(dict.fromkeys([*self.skipped_ids, *found]))
        if not spike:
            self.bad_ids += found

    def on_train_batch_end(self, outputs: object, batch: Batch, batch_idx: int) -> None:
        """Send the loss to a logger now and then: every value costs more than it seems."""
        self.share.batch = None
        trainer = self.trainer
        if not trainer.loggers or self.global_step % self.log_every:
            return
        values = {"train/loss": self._loss_now, "lr": self._lr(), "share": self.done()}
        values |= {f"train/{name}": value for name, value in self.solves.values().items()}
        for logger in trainer.loggers:
            logger.log_metrics(values, step=self.global_step)

    def _lr(self) -> float:
        return float(self.trainer.optimizers[0].param_groups[0]["lr"])

    def configure_optimizers(self) -> Any:
        """Optimiser of the raw weights, and the learning rate by the share of the run."""
        optimizer = self.optim.build_optimizer(self.optim.parameter_groups(self.potential))
        schedule = self.optim.build_schedule(
            optimizer, self.done, MONITOR, lambda: self.lr_share
        )
        return {
            "optimizer": optimizer,
            "lr_scheduler": schedule,
        }

    # Validation.

    def on_validation_epoch_start(self) -> None:
        """Begin the sums."""
        mixture = self.potential.mixture
        self._sums = ErrorSums(self.device, () if mixture is None else mixture.names)
        self._refused = ""

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        """Count the errors of a batch in; what goes wrong waits for the other ranks."""
        sums = self._sums
        assert sums is not None
        try:
            self.share.backoff.in_parts(batch, lambda part: sums.add(self.judge(part), part))
        except EquilibrationFailed as failure:
            self._refused = f"validation, frames {', '.join(batch.ids)}: {failure}"
        except UserMistake as mistake:
            self._refused = f"validation: {mistake}"

    def judge(self, batch: Batch) -> Prediction:
        """Predict with the weights that are kept, without a graph behind."""
        stress = batch.present.get("stress")
        with torch.enable_grad():
            prediction = self.ask(
                self.evaluated,
                batch.structures,
                forces="forces" in batch.labels,
                stress=None if stress is not None and bool(stress.any()) else False,
                born_charges=None if "born_charges" in batch.labels else False,
            )
        return prediction.detach()

    def on_validation_epoch_end(self) -> None:
        """Turn the sums of all ranks into errors and a score.

        Raises:
            Diverged: a rank could not predict its structures.
        """
        assert self._sums is not None
        refused = [text for text in collect(self._refused) if text]
        if refused:
            raise Diverged("; ".join(refused))
        add_up(self._sums.sums)
        if len(self._sums.by_set):
            add_up(self._sums.by_set)
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
        self._loss_sum, self._loss_steps = 0.0, 0

    # Batches and checkpoints.

    def transfer_batch_to_device(
        self, batch: Batch, device: torch.device, dataloader_idx: int
    ) -> Batch:
        """Move a batch; on a CPU it is there already, and a GPU is not waited for."""
        if device.type == "cuda":
            return batch.pin_memory().to(device, non_blocking=True)
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
            "random": collect(random_states()),
            "skipped_steps": self.skipped_steps,
            "skipped_ids": list(self.skipped_ids),
            "bad_in_a_row": self.bad_in_a_row,
            "unsettled": self.unsettled,
            "lr_share": self.lr_share,
            "norms": list(self.spikes.norms),
            "loss_sum": self._loss_sum,
            "loss_steps": self._loss_steps,
        }
        fold(checkpoint)

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Take back what resuming needs; weights are Lightning's part."""
        unfold(checkpoint)
        training = checkpoint["training"]
        self._rng = training["random"]
        self.skipped_steps = training["skipped_steps"]
        self.skipped_ids = list(training["skipped_ids"])
        self.bad_in_a_row = training["bad_in_a_row"]
        self.unsettled = training["unsettled"]
        self.lr_share = training["lr_share"]
        self.spikes.norms.extend(training["norms"])
        self._loss_sum = training["loss_sum"]
        self._loss_steps = training["loss_steps"]
        self.errors = dict(checkpoint["qeqtrain"]["metrics"])
