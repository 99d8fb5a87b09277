"""One rank's share of a step: loss and gradient of its batch, whatever goes wrong."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from qeqtrain.errors import EquilibrationFailed, UserMistake
from qeqtrain.models.threads import respond_by_threads
from qeqtrain.physics.stationary import efforts
from qeqtrain.training.halves import Backoff

if TYPE_CHECKING:
    from qeqtrain.data.batching import Batch
    from qeqtrain.models.potential import Ask, Potential
    from qeqtrain.training.loss import Loss
    from qeqtrain.training.solves import WorstSolve


class Share:
    """Predicts, compares and differentiates, and keeps what other ranks must know of it.

    Nothing is raised that would leave other ranks waiting: charges that cannot be found make
    the loss NaN, and a structure that does not fit in memory is remembered. A batch that does
    not fit is worked on in parts; their gradients add up to the same.

    Args:
        potential: in training.
        loss: what is minimised.
        solves: told of every charge solve.
        ask: predicts in the potential's place.

    Attributes:
        batch: of this step; ``None`` between steps.
        loss: of this step, without graph, float64, shape ``()``.
        bad_charges: how many charges were not finite, float64, shape ``()``.
        failure: why charges could not be found; empty if they were.
        refused: what does not fit in memory; empty if all does.
    """

    def __init__(
        self,
        potential: Potential,
        loss: Loss,
        solves: WorstSolve,
        ask: Ask = respond_by_threads,
    ) -> None:
        self._potential, self._loss, self._solves = potential, loss, solves
        self._ask = ask
        self.backoff = Backoff()
        self.batch: Batch | None = None
        self.loss = self.bad_charges = torch.zeros((), dtype=torch.float64)
        self.failure = self.refused = ""
        self._counts = torch.ones(0)
        self._in_parts = False

    def begin(self, batch: Batch) -> Tensor:
        """Predict and compare a batch.

        Returns:
            What to differentiate, float64, shape ``()``; a constant where that must wait.
        """
        self.batch = batch
        self._counts = self._loss.counts(batch, flowing=self._potential.field != "every")
        self.failure = self.refused = ""
        self.loss = self.bad_charges = torch.zeros_like(batch.structures.total_charge.sum())
        self._in_parts = self.backoff.too_large(batch)
        if not self._in_parts:
            try:
                loss = self._compare(batch)
            except EquilibrationFailed as failure:
                self._loss.sit_out(self.loss)
                self._fail(failure)
            except torch.OutOfMemoryError:
                self._in_parts = True
            else:
                self.loss = loss.detach()
                return loss
        if self._in_parts and self._loss.roots:
            self._loss.sit_out(self.loss)
            self._in_parts = False
            self.refused = (
                f"the batch with {', '.join(batch.ids[:5])} does not fit in memory, and a loss "
                "of kind rmse needs all of it at once; lower the budget of a batch, or say "
                "loss.kind=mse"
            )
        return self.loss

    def differentiate(
        self, loss: Tensor, weights: list[torch.nn.Parameter], **how: Any
    ) -> None:
        """Differentiate in some weights, whose gradients are empty before.

        Args:
            loss: from :meth:`begin`.
            weights: those in training.
            **how: passed to :meth:`torch.Tensor.backward`.
        """
        if not self._in_parts and loss.requires_grad:
            try:
                loss.backward(inputs=weights, **how)
            except EquilibrationFailed as failure:  # an iterative solve of the adjoint
                self._fail(failure)
            except torch.OutOfMemoryError:
                self._in_parts = True
        if self._in_parts:  # outside of the handler, which keeps what had been allocated
            self._work_in_parts(weights)

    def _compare(self, batch: Batch) -> Tensor:
        """Loss of the batch of this step, or of a part of it."""
        with efforts() as found:
            prediction = self._ask(
                self._potential,
                batch.structures,
                forces=self._loss.needs("forces"),
                stress=None if self._loss.needs("stress") else False,
                born_charges=None if self._loss.needs("born_charges") else False,
            )
        for effort in found:
            self._solves.add(effort)
        if prediction.charges is not None:
            bad = ~torch.isfinite(prediction.charges.detach())
            self.bad_charges = self.bad_charges + bad.sum()
        return self._loss(prediction, batch, self._counts)

    def _fail(self, failure: EquilibrationFailed) -> None:
        self.failure = str(failure)
        self.loss = torch.full_like(self.loss, torch.nan)

    def _work_in_parts(self, weights: list[torch.nn.Parameter]) -> None:
        batch = self.batch
        assert batch is not None
        for weight in weights:
            weight.grad = None
        self.loss = self.bad_charges = torch.zeros_like(self.loss)

        def work(part: Batch) -> None:
            loss = self._compare(part)
            found = torch.autograd.grad(loss, weights, allow_unused=True)
            for weight, gradient in zip(weights, found, strict=True):
                if gradient is not None:
                    weight.grad = gradient if weight.grad is None else weight.grad + gradient
            self.loss = self.loss + loss.detach()

        try:
            if not self.backoff.too_large(batch):
                self.backoff.did_not_fit(batch)
            self.backoff.in_parts(batch, work)
        except EquilibrationFailed as failure:
            self._fail(failure)
        except UserMistake as mistake:
            self.refused = str(mistake)
