"""Where the time of a training step goes.

Lightning says when each of its actions begins and ends; hooks on the parts of the potential say
the same of what lies inside a step. Each moment counts for the innermost action it falls into.
On a GPU moments are events of its stream, read now and then, so that nothing waits for it.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from pytorch_lightning.profilers import Profiler
from torch import nn

from qeqtrain.data import batching
from qeqtrain.training.module import TrainingModule

STAGES: tuple[tuple[str, tuple[str, ...]], ...] = (
    ("neighbours", ("neighbours",)),
    ("data wait", ("train_dataloader_next",)),
    ("to the device", ("batch_to_device",)),
    ("backbone", ("part backbone",)),
    ("charge solve", ("part charge",)),
    ("coupling, readout", ("part coupling", "evaluate")),
    ("forces, stress", ("part potential",)),
    ("loss", ("training_step",)),
    ("backward", ("backward",)),
    ("optimiser", ("optimizer", "gradient_clipping", "lr_scheduler", "zero_grad")),
    ("checkpoints", ("Checkpoints",)),
    ("logging", ("[Callback]", "on_train_batch_end", "on_train_epoch_end", "logg")),
)
"""Rows of the table, and words in an action's name that put it there: the first that fits."""

LIGHTNING = "Lightning"
OVERHEAD = ("neighbours", "data wait", "to the device", "checkpoints", "logging", LIGHTNING)
"""What is neither the model nor its optimiser."""

WARM_UP = 5
"""First steps, which allocate memory and find neighbours; not counted."""
READ_EVERY = 50
"""Steps between two readings of a GPU's events."""
_BATCH = "train_dataloader_next"
_VALIDATION = ("on_validation_model_eval", "on_validation_start")
"""Actions that begin what is no part of a step, until the next batch is fetched."""


class StepProfile(Profiler):
    """Times every stage of the training steps.

    Args:
        module: what is trained; hooks are put on its potential.
    """

    def __init__(self, module: TrainingModule) -> None:
        super().__init__()
        self.steps = 0
        self._seen = 0
        self._seconds: Counter[str] = Counter()
        self._open: list[str] = []
        self._marks: list[tuple[str, Any]] = []
        self._cuda = False
        self._counting = False
        self._outside = False
        self._undo: list[Callable[[], None]] = []
        self._module = module
        potential = module.potential
        for name in ("backbone", "charge", "coupling"):
            self._watch(getattr(potential, name), f"part {name}")
        self._watch(potential, "part potential")
        self._wrap(potential, "evaluate", "evaluate")
        self._wrap(batching, "with_pairs", "neighbours")

    # What Lightning calls.

    def start(self, action_name: str) -> None:
        """Begin an action."""
        if action_name.endswith(_BATCH):
            self._next_step()
        elif action_name.endswith(_VALIDATION):
            self._outside = True
        self._mark(self._open[-1] if self._open else "")
        self._open.append(action_name)

    def stop(self, action_name: str) -> None:
        """End an action, and those inside it that an exception left open."""
        if action_name not in self._open:
            return
        self._mark(self._open[-1])
        while self._open.pop() != action_name:
            pass

    def describe(self) -> None:
        """Leave the printing to the run, which shows :meth:`table` at its end."""

    def close(self) -> None:
        """Take every hook away again."""
        while self._undo:
            self._undo.pop()()

    # What comes of it.

    def table(self) -> str:
        """Lay out milliseconds per step and share of every stage."""
        stages = self.plain()
        total = sum(stages.values())
        lines = [f"where a step goes ({self.steps} steps after {WARM_UP} to warm up)"]
        lines += [
            f"  {name:<20}{1e3 * seconds:9.3f} ms{100 * seconds / total:7.1f} %"
            for name, seconds in stages.items()
        ]
        own = sum(stages.get(name, 0.0) for name in OVERHEAD)
        lines.append(f"  {'a step':<20}{1e3 * total:9.3f} ms")
        lines.append(
            f"  {'loader and loop':<20}{1e3 * own:9.3f} ms{100 * own / total:7.1f} %"
            f"   ({', '.join(name for name in OVERHEAD if name in stages)})"
        )
        return "\n".join(lines)

    def plain(self) -> dict[str, float]:
        """Seconds per step of every stage that took any."""
        self._read()
        found: Counter[str] = Counter()
        for action, seconds in self._seconds.items():
            found[_stage(action)] += seconds
        names = [*(name for name, _ in STAGES), LIGHTNING]
        return {name: found[name] / max(self.steps, 1) for name in names if found[name] > 0.0}

    # Inside.

    def _next_step(self) -> None:
        self._mark("")
        self._outside = False
        self._seen += 1
        if self._seen > WARM_UP + 1:
            self.steps += 1
        if self._seen == WARM_UP + 1:
            self._marks.clear()
            self._counting = True
            self._cuda = self._module.device.type == "cuda"
        elif self._seen % READ_EVERY == 0:
            self._read()

    def _mark(self, action: str) -> None:
        """Note that what passed since the last mark belonged to an action."""
        if not self._counting:
            return
        self._marks.append(("outside" if self._outside else action, self._moment()))

    def _moment(self) -> Any:
        if not self._cuda:
            return time.perf_counter()
        event = torch.cuda.Event(enable_timing=True)
        event.record()
        return event

    def _read(self) -> None:
        """Turn marks into seconds; the last one stays, as the beginning of what follows."""
        if len(self._marks) < 2:
            return
        if self._cuda:
            self._marks[-1][1].synchronize()
        for (_, before), (action, after) in zip(self._marks, self._marks[1:], strict=False):
            if action == "outside":
                continue
            passed = 1e-3 * before.elapsed_time(after) if self._cuda else after - before
            self._seconds[action] += passed
        del self._marks[:-1]

    def _watch(self, part: nn.Module, action: str) -> None:
        """Time the forward pass of a part, in training."""

        def begin(*_: object) -> None:
            self.start(action)

        def end(*_: object) -> None:
            self.stop(action)

        self._undo.append(part.register_forward_pre_hook(begin).remove)
        self._undo.append(part.register_forward_hook(end, always_call=True).remove)

    def _wrap(self, owner: Any, name: str, action: str) -> None:
        """Time a function that is no module."""
        inner: Callable[..., Any] = getattr(owner, name)

        def timed(*args: Any, **kwargs: Any) -> Any:
            with self._timing(action):
                return inner(*args, **kwargs)

        own = name in vars(owner)
        setattr(owner, name, timed)
        self._undo.append(lambda: setattr(owner, name, inner) if own else delattr(owner, name))

    @contextmanager
    def _timing(self, action: str) -> Iterator[None]:
        self.start(action)
        try:
            yield
        finally:
            self.stop(action)


def _stage(action: str) -> str:
    """Row of the table that an action belongs to."""
    for name, words in STAGES:
        if any(word in action for word in words):
            return name
    return LIGHTNING
