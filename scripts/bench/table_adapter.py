"""One program on one case under the shared speed harness: one process, one JSON line.

Beside what the harness measures, the line says what the machine gave in this very process: the
speed of a matrix product and of an addition of long vectors, and for ours what a step needs:
multiplications and additions of its matrix products, and the traffic of its messages. The table
makes shares of the roofline of these. Where ours is compared with ours, a step differentiates
in the weights alone, as `qeqtrain fit` does. On a GPU batches, model and targets are moved
there before the clock starts, and peak memory is that of torch's allocator. `table.py` starts
it.
"""

from __future__ import annotations

import functools
import json
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import shared
import table_cases
from table_cases import ALONE, NETWORKS, OWN

sys.path.insert(0, str(shared.shared("bench")))
import harness

FLOAT = 4
"""Bytes of a number of the network."""


def ceilings(torch: Any, device: str) -> tuple[float, float]:
    """Measure GFLOP/s of a matrix product in float32, and GB/s of ``c = a + b``: best of 8.

    One thread of a CPU is timed by its CPU time, as steps are.
    """
    alone = device == "cpu" and torch.get_num_threads() == 1
    clock = time.process_time if alone else time.perf_counter
    size, length = (512, 8_000_000) if device == "cpu" else (8192, 200_000_000)
    a = torch.randn(size, size, device=device, dtype=torch.float32)
    x = torch.randn(length, device=device, dtype=torch.float32)
    y, z = torch.randn_like(x), torch.empty_like(x)

    def best(work: Callable[[], object]) -> float:
        times = []
        for _ in range(8):
            start = clock()
            work()
            if device != "cpu":
                torch.cuda.synchronize()
            times.append(clock() - start)
        return min(times)

    flops = 2 * size**3 / best(lambda: a @ a)
    traffic = 3 * FLOAT * length / best(lambda: torch.add(x, y, out=z))
    return round(flops / 1e9, 1), round(traffic / 1e9, 1)


def moved(value: Any, device: str) -> Any:
    """Move a batch of any program: tensors and what has ``to``, in tuples, lists and dicts."""
    if hasattr(value, "to"):
        return value.to(device)
    if isinstance(value, Mapping):
        return {k: moved(v, device) for k, v in value.items()}
    if isinstance(value, (tuple, list)):
        return type(value)(moved(v, device) for v in value)
    return value


def on_device(made: dict[str, Any], device: str) -> dict[str, Any]:
    """Let a program's model and batches live on a device; lists are made on the CPU."""
    import torch

    made["model"].to(device)
    make = made["make"]

    def make_and_move(frames: Sequence[Any]) -> Any:
        with torch.device("cpu"):
            return moved(make(frames), device)

    torch.set_default_device(device)  # the harness makes its targets there
    return {**made, "make": make_and_move}


def needs(made: dict[str, Any], frames: Sequence[Any], network: str) -> dict[str, float]:
    """Count what a training step and energy with forces need, per atom.

    Operations are those of matrix products (``torch.utils.flop_counter``), traffic is what
    `spec/performance.md` of the shared folder counts: the message of every directed edge
    written and read once a layer, nine times for training and three times for forces.
    """
    import torch
    from torch.utils.flop_counter import FlopCounterMode

    batch = made["make"](frames)
    atoms = sum(len(f) for f in frames)
    model = made["model"]
    weights = [p for p in model.parameters() if p.requires_grad]
    found = {}
    for name, train in (("training", True), ("inference", False)):
        model.train(train)
        with FlopCounterMode(display=False) as counted:
            energy, forces = made.get("eager", made["energy_forces"])(batch, train)
            if train:
                loss = energy.square().mean() + forces.square().mean()
                torch.autograd.grad(loss, weights, allow_unused=True)
        found[f"flop_per_atom_{name}"] = counted.get_total_flops() / atoms
    forward = made["edges"](batch) * _message_width(model) * FLOAT * 2 / atoms
    found |= {
        "traffic_per_atom_training": 9 * forward,
        "traffic_per_atom_inference": 3 * forward,
    }
    return {"needs_of": network, **found}


def _message_width(potential: Any) -> int:
    """Numbers in the messages of an edge, over all layers of all networks."""
    total = 0
    for module in potential.modules():
        name = type(module).__name__
        if name == "Interaction":
            total += 9 * module.before.weight.shape[-1]
        elif name == "DenseProduct":
            total += sum(
                path.out.dim * channels
                for family, channels, _ in module.groups
                for path in module.paths
                if path.feature in family
            )
    return total


def _differentiate_in_weights(model: Any) -> None:
    """Let ``loss.backward()`` of the harness be what our training does."""
    import torch

    weights = [p for p in model.parameters() if p.requires_grad]
    torch.Tensor.backward = functools.partialmethod(torch.Tensor.backward, inputs=weights)


def build_own(args: Any, frames: Sequence[Any], species: list[int]) -> dict[str, Any]:
    """Make one of our networks as `speed_adapter.py` does."""
    import speed_adapter

    args.model = args.network
    make = functools.partial(table_cases.specification, args.network, args.program)
    speed_adapter.MODELS = {**speed_adapter.MODELS, args.network: make}
    return speed_adapter.build(args, frames, species)


def main() -> None:
    """Run one program on one case."""
    parser = harness.parser()
    parser.add_argument("--program", required=True)
    parser.add_argument("--network", required=True, choices=sorted(NETWORKS))
    parser.add_argument("--repeat", type=int, default=1, help="of cells, each way")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--model", help="of the program's own adapter")
    args = parser.parse_args()
    args.radial_functions, args.radial_basis, args.knots = 32, "gaussian", None
    import data

    data.frames = functools.partial(data.frames, scale=args.repeat)
    own = args.program in (OWN, ALONE)
    build = build_own if own else shared.load(f"bench/peers/{args.program}.py").build
    harness._calib = functools.partial(ceilings, device=args.device)
    more: dict[str, Any] = {}

    def prepared(args: Any, frames: Sequence[Any], species: list[int]) -> dict[str, Any]:
        made = build(args, frames, species)
        if NETWORKS[args.network].rival == ALONE:
            _differentiate_in_weights(made["model"])
        if own:
            more.update(needs(made, frames[: args.batch], args.network))
        return made if args.device == "cpu" else on_device(made, args.device)

    line = harness.run(args.program, prepared, args)
    if args.device != "cpu":
        import torch

        more["gpu_mb"] = round(torch.cuda.max_memory_allocated() / 2**20)
        more["gpu"] = torch.cuda.get_device_name()
    given = {"program": args.program, "network": args.network, "device": args.device}
    given |= {"batch": args.batch, "repeat": args.repeat}
    print(json.dumps({**line, **given, **more}), flush=True)


if __name__ == "__main__":
    main()
