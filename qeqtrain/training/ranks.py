"""Several ranks: each works on its share of a batch, and one exchange makes them one.

Lightning starts the processes, gives each its device and runs the loop. Gradients are added up
here, once, after the backward pass, instead of by torch's ``DistributedDataParallel``: its
hooks count on every rank running exactly one backward pass through every weight. A rank without
structures, one whose charges could not be found, one that ran out of memory and works in
halves, and weights that a loss does not read would each leave the others waiting. Losses are
sums over one rank's structures divided by counts over all, so that gradients just add up.
"""

from __future__ import annotations

import signal
from collections.abc import Sequence
from typing import Protocol, TypeVar

import pytorch_lightning as pl
import torch
from pytorch_lightning.plugins.environments import (
    ClusterEnvironment,
    LightningEnvironment,
    SLURMEnvironment,
    TorchElasticEnvironment,
)
from pytorch_lightning.strategies import DDPStrategy
from torch import Tensor, distributed, nn

from qeqtrain.physics.placing import place
from qeqtrain.training.launchers import Launcher

Value = TypeVar("Value")


class Ranks(DDPStrategy):
    """Lightning's processes and devices, with gradients added up by :func:`add_gradients`."""

    def configure_ddp(self) -> None:
        """Give every rank the first one's weights and constants; wrap nothing."""
        assert self.model is not None
        for tensor in self.model.state_dict().values():
            plain = tensor.detach()
            distributed.broadcast(
                plain.view(torch.uint8) if plain.dtype == torch.bool else plain, 0
            )


class Srun(SLURMEnvironment):
    """Processes started by ``srun``, counted as its step counts them.

    Args:
        found: what started them.
    """

    def __init__(self, found: Launcher) -> None:
        super().__init__(auto_requeue=False)  # signals are ours: see signals.py
        self.found = found

    def world_size(self) -> int:
        """Count the ranks."""
        return self.found.ranks

    def validate_settings(self, num_devices: int, num_nodes: int) -> None:
        """Nothing to compare: both numbers were taken from the step."""

    @staticmethod
    def _validate_srun_variables() -> None:
        """Take any way of saying how many tasks there are."""


def environment(found: Launcher | None) -> ClusterEnvironment:
    """How ranks find each other.

    Args:
        found: what started them; ``None`` where the first one starts the others.
    """
    if found is None:
        return LightningEnvironment()
    return Srun(found) if found.name == "srun" else TorchElasticEnvironment()


def end_other_ranks(trainer: pl.Trainer) -> None:
    """End the processes that this one started, as it ends without them knowing."""
    found = trainer.strategy.launcher
    if found is not None:
        found.kill(signal.SIGKILL)


def several() -> bool:
    """Whether there are other ranks, and they have met."""
    return bool(distributed.is_available() and distributed.is_initialized())


def add_up(values: Tensor) -> Tensor:
    """Add up a tensor over all ranks, in place."""
    if several():
        distributed.all_reduce(values)
    return values


def collect(value: Value) -> list[Value]:
    """Gather one plain value of every rank, in the order of ranks."""
    if not several():
        return [value]
    values: list[Value | None] = [None] * distributed.get_world_size()
    distributed.all_gather_object(values, value)
    return values  # type: ignore[return-value]  # all are filled in


def from_first(value: Value) -> Value:
    """Take a plain value from the first rank."""
    if not several():
        return value
    values = [value]
    distributed.broadcast_object_list(values, 0)
    return values[0]


def any_of(flag: bool, device: torch.device | str = "cpu") -> bool:
    """Whether a flag is set on any rank."""
    if not several():
        return flag
    return bool(add_up(torch.tensor([float(flag)], device=device)).item() > 0.0)


def add_gradients(weights: Sequence[nn.Parameter]) -> None:
    """Add up the gradients of all ranks, in one message for each precision.

    A weight that no rank's loss reads keeps no gradient at all, as on one rank: optimisers
    leave it and its moments alone then.

    Args:
        weights: those that are trained, in the same order on every rank.
    """
    if not several():
        return
    for dtype in dict.fromkeys(w.dtype for w in weights):
        group = [w for w in weights if w.dtype == dtype]
        has = group[0].new_tensor([float(w.grad is not None) for w in group])
        parts = [torch.zeros_like(w) if w.grad is None else w.grad for w in group]
        flat = torch.cat([has, *(p.reshape(-1) for p in parts)])
        distributed.all_reduce(flat)
        has, *sums = flat.split([len(group), *(w.numel() for w in group)])
        for weight, total, owners in zip(group, sums, has.tolist(), strict=True):
            weight.grad = total.view_as(weight) if owners else None


class Member(Protocol):
    """Somebody whose decisions all ranks must share."""

    def tell(self, first: bool) -> list[float]:
        """Values to be added up over ranks; ``first``: whether this is the first rank."""

    def hear(self, values: list[float]) -> None:
        """Take the sums."""


class Assembly:
    """Tells every member, once a step, what all ranks together know: one small message.

    Signals reach one rank before another and clocks differ; what follows from them (to stop,
    to save, the learning rate of a run that ends by time) must be the same on all.

    Args:
        members: the same ones on every rank.
    """

    def __init__(self, members: Sequence[Member] = ()) -> None:
        self.members = tuple(members)

    def meet(self, values: Tensor, *, first: bool) -> list[float]:
        """Exchange what members tell, and some values besides.

        Args:
            values: to be added up, float64, shape ``(n,)``; its device carries the message.
            first: whether this is the first rank.

        Returns:
            Sums of ``values``.
        """
        told = [member.tell(first) for member in self.members]
        flat = [x for part in told for x in part]
        own = place(torch.tensor(flat, dtype=torch.float64), values.device)
        sums = add_up(torch.cat([own, values])).tolist()
        start = 0
        for member, part in zip(self.members, told, strict=True):
            member.hear(sums[start : start + len(part)])
            start += len(part)
        return sums[start:]
