"""What a training step costs, in figures that mean the same on every machine.

* operations: how many calls of torch's kernels; on a GPU each is a launch;
* multiplications: of matrix products, in MFLOP;
* written: MB that operations return, which grows with copies and forgotten blocks;
* time: CPU time over that of a fixed piece of work, which is done before and after each step.

The first three are exact counts. The last has a wide margin; the least of several repetitions
is taken, with a collection of garbage before each. To write the present figures down:

    python -m tests.performance.baseline
"""

from __future__ import annotations

import gc
import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode

from qeqtrain.structures import Structures
from tests.performance.networks import network, train_once
from tests.systems import batch_of, rattled, triclinic, water

FILE = Path(__file__).with_name("baseline.json")
NETWORKS = ("qet", "nequip", "nequip_lr", "reaxnet")
MARGIN = {"operations": 1.15, "multiplications": 1.15, "written": 1.15, "time": 2.0}
"""How much larger than the baseline a figure may be. Time has the widest: what the fixed work
costs beside a step differs between processors, and with what else they do."""

REPEATS = 7


class _Count(TorchDispatchMode):
    """Counts operations and the bytes they return anew."""

    def __init__(self) -> None:
        super().__init__()
        self.operations = self.bytes = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        self.operations += 1
        if not func.is_view:
            leaves = [t for t in tree_leaves(out) if isinstance(t, Tensor)]
            self.bytes += sum(t.numel() * t.element_size() for t in leaves)
        return out


def structures(potential: Any) -> Structures:
    """Four crystals of 64 atoms and four molecules."""
    crystal = triclinic() * (2, 2, 2)
    return batch_of(
        [rattled(crystal, 0.05, seed) for seed in range(4)] + [water() for _ in range(4)],
        potential,
    )


def reference() -> Callable[[], None]:
    """Make the fixed piece of work: matrix products, sums, gathers and sums onto rows."""
    generator = torch.Generator().manual_seed(0)
    a = torch.randn(256, 256, generator=generator)
    x = torch.randn(4000, 9, 32, generator=generator)
    small = torch.randn(4000, 9, 9, generator=generator)
    index = torch.randint(0, 500, (4000,), generator=generator)

    def work() -> None:
        for _ in range(6):
            torch.tanh(a @ a)
            y = torch.bmm(small, x) * x + 1.0
            y.new_zeros(500, 9, 32).index_add_(0, index, y).index_select(0, index)
        for _ in range(2000):
            a[0, :8] + 1.0

    return work


def cpu_time(work: Callable[[], object]) -> float:
    """CPU time of a call, s."""
    gc.collect()
    start = time.process_time()
    work()
    return time.process_time() - start


def relative_time(step: Callable[[], object], repeats: int = REPEATS) -> float:
    """CPU time of a step over that of the fixed work, both the least of several in turns."""
    work = reference()
    step(), work()
    steps, works = [], [cpu_time(work)]
    for _ in range(repeats):
        steps.append(cpu_time(step))
        works.append(cpu_time(work))
    return min(steps) / min(works)


def measure(name: str, *, timed: bool = True) -> dict[str, float]:
    """Measure one network.

    Args:
        name: one of :data:`NETWORKS`.
        timed: whether the time is measured, or the counts alone.
    """
    potential = network(name).train()
    batch = structures(potential)

    def step() -> None:
        train_once(potential, batch)

    step()
    with _Count() as count:
        step()
    with FlopCounterMode(display=False) as flops:
        step()
    found: dict[str, float] = {
        "operations": count.operations,
        "multiplications": round(flops.get_total_flops() / 1e6, 1),
        "written": round(count.bytes / 1e6, 1),
    }
    if timed:
        found["time"] = round(relative_time(step), 2)
    return found


def known() -> dict[str, dict[str, float]]:
    """Read the baseline."""
    read: dict[str, dict[str, float]] = json.loads(FILE.read_text(encoding="utf-8"))
    return read


def growths(name: str, now: dict[str, float]) -> list[str]:
    """Say what grew beyond its margin."""
    before = known()[name]
    return [
        f"{name}: {what} of a training step grew from {before[what]:g} to {value:g}, "
        f"{value / before[what]:.2f} times; allowed is {MARGIN[what]}. If that is meant: "
        "python -m tests.performance.baseline"
        for what, value in now.items()
        if value > MARGIN[what] * before[what]
    ]


def main() -> None:
    """Write the baseline anew and say what changed."""
    torch.set_num_threads(1)
    old = known() if FILE.exists() else {}
    new = {name: measure(name) for name in NETWORKS}
    for name, figures in new.items():
        changes = [f"{k} {old.get(name, {}).get(k, '-')} -> {v}" for k, v in figures.items()]
        sys.stdout.write(f"{name}: {', '.join(changes)}\n")
    FILE.write_text(json.dumps(new, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
