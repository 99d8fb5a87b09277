"""The one training loop that both programs of ``quality.py`` go through.

Runs in the environment of either program, so it needs torch, numpy and ASE only. What could
favour one side is fixed here: order of frames, schedule, optimiser, EMA, loss, energy zero, and
which weights are judged (those of the last epoch, averaged; validation chooses nothing).
"""

from __future__ import annotations

import argparse
import copy
import json
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Protocol

import numpy as np
import shared
import torch
from ase.neighborlist import neighbor_list
from quality import Task
from torch import Tensor, nn

if TYPE_CHECKING:
    from ase import Atoms

common = shared.load("bench/accuracy/common.py")


class Program(Protocol):
    """What a worker provides: a model and how it reads frames."""

    version: str
    model: nn.Module

    def prepare(self, atoms: Atoms) -> object:
        """Make an input of one frame, neighbour list included."""

    def collate(self, inputs: Sequence[object]) -> object:
        """Join inputs into a batch."""

    def predict(self, model: nn.Module, batch: object) -> tuple[Tensor, Tensor]:
        """Give energies without references ``(B,)``, eV, and forces ``(N, 3)``, eV/A."""


@dataclass(frozen=True)
class Statistics:
    """What both programs are told of the training frames.

    Attributes:
        elements: atomic numbers, ascending.
        force_rms: of force components, eV/A.
        average_neighbors: of an atom within the cutoff.
    """

    elements: list[int]
    force_rms: float
    average_neighbors: float

    @classmethod
    def of(cls, frames: Sequence[Atoms], cutoff: float) -> Statistics:
        """Gather them."""
        edges = sum(len(neighbor_list("i", atoms, cutoff)) for atoms in frames)
        return cls(
            sorted({int(z) for atoms in frames for z in atoms.numbers}),
            common.forces_rms(frames),
            edges / sum(len(atoms) for atoms in frames),
        )


Builder = Callable[[Task, Statistics], Program]
"""Makes a program of a task and the statistics of its training frames."""


@dataclass(frozen=True)
class Example:
    """One frame as the loop keeps it: the program's input, and the labels."""

    given: object
    n_atoms: int
    energy: float
    forces: Tensor


@dataclass(frozen=True)
class Errors:
    """Errors of a set: meV/atom and meV/A per component."""

    e_rmse: float
    e_mae: float
    f_rmse: float
    f_mae: float


def read(program: Program, frames: list[Atoms], references: dict[int, float]) -> list[Example]:
    """Turn frames into examples; references are taken off in float64."""
    out = []
    for atoms in frames:
        label = common.labels(atoms)
        energy = label["energy"] - common.ref_energy(atoms, references)
        forces = torch.as_tensor(label["forces"], dtype=torch.float32)
        out.append(Example(program.prepare(atoms), len(atoms), energy, forces))
    return out


def residuals(
    program: Program, model: nn.Module, examples: Sequence[Example]
) -> tuple[Tensor, Tensor]:
    """Give errors of the energy per atom ``(B,)`` and of forces ``(N, 3)``, graph and all."""
    batch = program.collate([x.given for x in examples])
    energy, forces = program.predict(model, batch)
    wanted = torch.tensor([x.energy for x in examples], dtype=torch.float64)
    counts = torch.tensor([x.n_atoms for x in examples], dtype=torch.float64)
    return (energy.double() - wanted) / counts, forces - torch.cat([x.forces for x in examples])


def measure(
    program: Program, model: nn.Module, examples: Sequence[Example], batch: int
) -> Errors:
    """Evaluate on a set of examples."""
    model.eval()
    energies, forces = [], []
    for i in range(0, len(examples), batch):
        e, f = residuals(program, model, examples[i : i + batch])
        energies.append(1e3 * e.detach().double())
        forces.append(1e3 * f.detach().double().flatten())
    e, f = torch.cat(energies), torch.cat(forces)
    return Errors(
        *(
            float(x)
            for x in (
                e.square().mean().sqrt(),
                e.abs().mean(),
                f.square().mean().sqrt(),
                f.abs().mean(),
            )
        )
    )


def train(build: Builder, task: Task) -> dict[str, object]:
    """Train one program on one task and report validation errors after every epoch."""
    frames = common.load(str(shared.shared(task.data)))
    references = common.element_refs(frames["train"])
    torch.manual_seed(task.seed)
    order = np.random.default_rng(task.seed)
    program = build(task, Statistics.of(frames["train"], task.cutoff))
    examples = read(program, frames["train"], references)
    held_out = read(program, frames["val"], references)

    model = program.model
    averaged = copy.deepcopy(model)
    weights = [p for p in model.parameters() if p.requires_grad]
    copies = [p for p in averaged.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(weights, lr=task.lr, weight_decay=0.0, amsgrad=True)
    steps = task.epochs * -(-len(examples) // task.batch)
    done, cpu, curve = 0, 0.0, []
    for epoch in range(task.epochs):
        model.train()
        start = time.process_time()
        shuffled = order.permutation(len(examples))
        for i in range(0, len(shuffled), task.batch):
            for group in optimizer.param_groups:
                group["lr"] = task.lr * common.lr_factor(done / steps)
            e, f = residuals(
                program, model, [examples[j] for j in shuffled[i : i + task.batch]]
            )
            loss = (
                task.energy_weight * e.square().mean() + task.force_weight * f.square().mean()
            )
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            nn.utils.clip_grad_norm_(weights, 10.0)
            optimizer.step()
            done += 1
            keep = min(0.99, (1 + done) / (10 + done))
            with torch.no_grad():
                torch._foreach_lerp_(copies, weights, 1.0 - keep)
        cpu += time.process_time() - start
        errors = measure(program, averaged, held_out, task.batch)
        curve.append({"epoch": epoch + 1, "cpu_s": round(cpu, 1), **asdict(errors)})
        sys.stderr.write(json.dumps(curve[-1]) + "\n")
    return {
        "version": program.version,
        "torch": torch.__version__,
        "params": sum(p.numel() for p in weights),
        "steps": done,
        "train_cpu_s": round(cpu, 1),
        "errors": asdict(errors),
        "curve": curve,
    }


def main(name: str, build: Builder) -> None:
    """Read the task off the command line, train, print one JSON line."""
    parser = argparse.ArgumentParser(description=f"train {name} on one task of quality.py")
    Task.add_arguments(parser)
    task = Task.from_options(vars(parser.parse_args()))
    torch.set_num_threads(1)
    line = {"program": name, "task": asdict(task), **train(build, task)}
    sys.stdout.write(json.dumps(line) + "\n")
