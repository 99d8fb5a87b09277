"""How weights move: optimiser, learning rate over the run, running average, clipping.

The learning rate is a function of the share of the run that is done, whatever ends the run:
steps, epochs, wall time or CPU time. A cosine that is cut off half-way is not a cosine. The one
exception is ``plateau``, which falls when validation no longer improves and knows no end.
"""

from __future__ import annotations

import fnmatch
import math
import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

from qeqtrain.errors import UserMistake, nearest
from qeqtrain.training.finetuning.adapters import is_original, plain_name
from qeqtrain.training.parts import build

ParameterGroup = dict[str, Any]
Schedule = Literal["cosine", "linear", "constant", "plateau"]
FIRST_STEP = 0.02
"""Share of the full rate that the very first steps have: zero would waste them."""
FUSED = ("torch.optim.Adam", "torch.optim.AdamW", "torch.optim.SGD")
"""Optimisers that can do a step in one kernel, also on a CPU: a sixth of a loop's time."""

_LAYER = re.compile(r"backbone\.(?:interactions|layers)\.(\d+)\.")
_BEFORE = (
    "backbone.embedding",
    "backbone.basis",
    "backbone.conditioning",
    "backbone.attributes",
)


class Optimization:
    """Optimiser, schedule and averaging.

    Args:
        lr: highest learning rate.
        optimizer: node of a torch optimiser, without ``lr``; ``None`` means AdamW with amsgrad
            and without weight decay.
        schedule: shape of the decay after the warm-up; ``plateau`` has no warm-up, and lowers
            the rate when the validation score has not improved for ``patience`` epochs.
        warmup: share of the run over which the rate rises linearly.
        final_lr: rate at the end, as a share of ``lr``; of a ``plateau``, the lowest.
        patience: epochs, for ``plateau``.
        factor: that ``plateau`` multiplies the rate by.
        ema: decay of the running average of the weights, which validation and the best
            checkpoint use; ``None`` for none.
        gradient_clip: largest norm of the gradient; ``None`` for no limit.
        train: patterns of names of the weights that move, such as ``coupling.*``; ``None``:
            all. Weights are named as in a checkpoint.
        freeze: patterns of those of them that do not.

    Raises:
        UserMistake: a value outside its range.
    """

    def __init__(
        self,
        lr: float = 1e-3,
        optimizer: Mapping[str, object] | None = None,
        schedule: Schedule = "cosine",
        warmup: float = 0.02,
        final_lr: float = 0.01,
        patience: int = 50,
        factor: float = 0.5,
        ema: float | None = 0.99,
        gradient_clip: float | None = 10.0,
        train: list[str] | None = None,
        freeze: list[str] | None = None,
    ) -> None:
        problems = []
        if not lr > 0.0:
            problems.append(f"optim.lr is {lr!r}; expected a number above 0")
        if schedule not in get_args(Schedule):
            known = get_args(Schedule)
            problems.append(
                f"optim.schedule is {schedule!r}; expected {' | '.join(known)}"
                f"{nearest(str(schedule), known)}"
            )
        if not 0.0 <= warmup < 1.0:
            problems.append(f"optim.warmup is {warmup!r}; expected a share of the run, 0 to 1")
        if not 0.0 <= final_lr <= 1.0:
            problems.append(f"optim.final_lr is {final_lr!r}; expected a share of lr, 0 to 1")
        if patience < 0:
            problems.append(f"optim.patience is {patience!r}; expected epochs, 0 or more")
        if not 0.0 < factor < 1.0:
            problems.append(f"optim.factor is {factor!r}; expected a number between 0 and 1")
        if ema is not None and not 0.0 <= ema < 1.0:
            problems.append(f"optim.ema is {ema!r}; expected null or a decay, 0 to below 1")
        if gradient_clip is not None and not gradient_clip > 0.0:
            problems.append(
                f"optim.gradient_clip is {gradient_clip!r}; expected null or a norm above 0"
            )
        if problems:
            raise UserMistake(*problems)
        self.lr = float(lr)
        self.optimizer = dict(optimizer or default_optimizer())
        self.schedule = schedule
        self.warmup = float(warmup)
        self.final_lr = float(final_lr)
        self.patience = patience
        self.factor = float(factor)
        self.ema = ema
        self.gradient_clip = gradient_clip
        self.train = train
        self.freeze = list(freeze or [])
        self.lr_decay = 1.0
        """Rate of a layer of the backbone as a part of that of the next one."""

    def freeze_weights(self, model: nn.Module) -> None:
        """Hold the weights that the recipe does not train.

        Raises:
            UserMistake: a pattern that matches no weight, or nothing left to train.
        """
        names = [plain_name(name) for name, _ in model.named_parameters()]
        kept = set(_matches("optim.train", self.train, names))
        if self.train is None:
            kept = set(names)
        kept -= _matches("optim.freeze", self.freeze, names)
        if not kept:
            raise UserMistake(
                f"optim.train={self.train} and optim.freeze={self.freeze} leave no weight to "
                "train; leave one of them out"
            )
        for name, weight in model.named_parameters():
            weight.requires_grad_(plain_name(name) in kept and not is_original(name))

    def parameter_groups(
        self, model: nn.Module
    ) -> Iterable[nn.Parameter] | list[ParameterGroup]:
        """Weights of a model that move; by layers where these have rates of their own."""
        moving = {name: w for name, w in model.named_parameters() if w.requires_grad}
        if self.lr_decay == 1.0:
            return list(moving.values())
        depths = depths_of(list(moving))
        return [
            {
                "params": [weight for name, weight in moving.items() if depths[name] == depth],
                "lr": self.lr * self.lr_decay**depth,
            }
            for depth in sorted(set(depths.values()))
        ]

    def lr_factor(self, done: float) -> float:
        """Learning rate as a share of its highest, after a share ``done`` of the run."""
        if done < self.warmup:
            return max(done / self.warmup, FIRST_STEP)
        x = min((done - self.warmup) / (1.0 - self.warmup), 1.0)
        if self.schedule == "constant":
            return 1.0
        fall = 1.0 - x if self.schedule == "linear" else 0.5 * (1.0 + math.cos(math.pi * x))
        return self.final_lr + (1.0 - self.final_lr) * fall

    def build_optimizer(
        self, parameters: Iterable[nn.Parameter] | list[ParameterGroup]
    ) -> torch.optim.Optimizer:
        """Make the optimiser of the recipe for some parameters, or groups of them."""
        node = dict(self.optimizer)
        if node.get("_target_") in FUSED and "foreach" not in node:
            node.setdefault("fused", True)
        built = build(node, "optim.optimizer", parameters, lr=self.lr)
        assert isinstance(built, torch.optim.Optimizer)
        return built

    def build_schedule(
        self,
        optimizer: torch.optim.Optimizer,
        done: Callable[[], float],
        score: str,
        share: Callable[[], float] = lambda: 1.0,
    ) -> dict[str, object]:
        """Make the learning rate follow the run, in the form Lightning asks for.

        Args:
            optimizer: whose rate it is.
            done: gives the share of the run that lies behind.
            score: name of the logged quantity that a ``plateau`` looks at.
            share: gives the part of the rate that is left after going back to a checkpoint; of
                a ``plateau``, the rate itself is changed then.
        """
        if self.schedule == "plateau":
            falling = torch.optim.lr_scheduler.ReduceLROnPlateau(
                optimizer,
                factor=self.factor,
                patience=self.patience,
                min_lr=[self.final_lr * group["lr"] for group in optimizer.param_groups],
                eps=0.0,
            )
            # Not strict: where validation is rarer than epochs, early ones have no score yet.
            return {
                "scheduler": falling,
                "interval": "epoch",
                "monitor": score,
                "strict": False,
                "name": "lr",
            }

        # A plain function: LambdaLR leaves those out of its state, so the state stays plain.
        def factor(_: int) -> float:
            return self.lr_factor(done()) * share()

        following = torch.optim.lr_scheduler.LambdaLR(optimizer, factor)
        return {"scheduler": following, "interval": "step", "name": "lr"}

    def build_average(self, model: nn.Module) -> RunningAverage | None:
        """Make the running average of a model, in eval mode and without gradients."""
        if self.ema is None:
            return None
        averaged = RunningAverage(model, self.ema)
        averaged.requires_grad_(False)
        averaged.eval()
        return averaged


def depths_of(names: list[str]) -> dict[str, int]:
    """Count the layers between every weight and the readout.

    Heads, and what the backbone does after its layers, are at 0, the last layer at 1, the first
    at the number of layers, and what comes before it, as the embedding of species, beyond.
    """
    layers = {name: int(found[1]) for name in names if (found := _LAYER.match(name))}
    count = 1 + max(layers.values(), default=-1)
    depths = {name: count - k for name, k in layers.items()}
    first = {n for n in names if n.startswith(_BEFORE)}
    return {n: depths.get(n, count + 1 if n in first else 0) for n in names}


def _matches(key: str, patterns: list[str] | None, names: list[str]) -> set[str]:
    """Find the names that shell patterns match, each at least one."""
    found: set[str] = set()
    problems = []
    for pattern in patterns or []:
        matched = fnmatch.filter(names, pattern)
        if not matched:
            parts = sorted({name.partition(".")[0] for name in names})
            hint = nearest(pattern, names) or f"; the model has {', '.join(parts)}"
            problems.append(f"{key}: no weight is named {pattern!r}{hint}")
        found.update(matched)
    if problems:
        raise UserMistake(*problems)
    return found


def default_optimizer() -> dict[str, object]:
    """Node of the optimiser that a recipe without one gets."""
    return {"_target_": "torch.optim.AdamW", "amsgrad": True, "weight_decay": 0.0}


class RunningAverage(AveragedModel):
    """Exponential average of a model's weights whose memory grows with the run.

    The decay after n updates is min(decay, (1+n)/(10+n)): without the growth, the average of a
    short run is still full of its random start. torch's own update sorts all tensors by device
    and type every time, which costs several times the averaging itself.

    Args:
        model: copied; its weights are the first average.
        decay: after many updates.
    """

    def __init__(self, model: nn.Module, decay: float) -> None:
        super().__init__(model)
        self.decay = decay
        self._pairs: tuple[list[Tensor], list[Tensor]] | None = None
        self._updates: int | None = None  # on the host: reading n_averaged waits for a GPU
        self.register_load_state_dict_post_hook(RunningAverage._forget_updates)

    @torch.no_grad()
    def update_parameters(self, model: nn.Module) -> None:
        """Take the weights of a model into the average; buffers are copied."""
        if self._pairs is None:
            mine, theirs = self.module.parameters(), model.parameters()
            self._pairs = list(mine), list(theirs)
        averaged, current = self._pairs
        n = int(self.n_averaged) if self._updates is None else self._updates
        share = 1.0 - min(self.decay, (1.0 + n) / (10.0 + n)) if n else 1.0
        torch._foreach_lerp_(averaged, current, share)
        for buffer, original in zip(self.module.buffers(), model.buffers(), strict=True):
            buffer.copy_(original)
        self.n_averaged += 1
        self._updates = n + 1

    def _forget_updates(self, _keys: object) -> None:
        self._updates = None
