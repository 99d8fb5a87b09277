"""Time and memory of one evaluation by size.

Each size has a process of its own, so that its peak of memory is its own. What is timed is what
molecular dynamics does at each step: neighbour lists, energy, forces and stress.
"""

from __future__ import annotations

import platform
import resource
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import torch
from ase import Atoms
from ase.data import chemical_symbols

from qeqtrain.errors import UserMistake
from qeqtrain.evaluation.benchmarks.crystals import failures_table
from qeqtrain.evaluation.benchmarks.eos import read_crystals
from qeqtrain.evaluation.benchmarks.prototypes import first_ionic
from qeqtrain.evaluation.benchmarks.suite import (
    Findings,
    Plan,
    Row,
    Settings,
    Suite,
    Task,
    values_of,
)
from qeqtrain.evaluation.plots import COLORS
from qeqtrain.evaluation.tables import Table, number
from qeqtrain.models.potential import Potential

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@dataclass(frozen=True)
class SpeedSettings(Settings):
    """Settings.

    Attributes:
        structures: file whose first structure is repeated; a crystal of the model's elements
            unless given.
        sizes: atoms, about; the nearest even repetition of the cell is taken.
        calls: timed at each size; the middle one counts.
    """

    structures: str = ""
    sizes: tuple[str, ...] = ("8", "64", "216", "512", "1000", "1728")
    calls: int = 5


class Speed(Suite[SpeedSettings]):
    """Seconds and bytes over atoms."""

    name: ClassVar[str] = "speed"
    settings_class = SpeedSettings
    own_process: ClassVar[bool] = True

    def plan(self, potential: Potential) -> Plan:
        """Choose a crystal, and how often it is repeated."""
        sizes = self._sizes()
        if self.settings.calls < 1:
            raise UserMistake(f"calls={self.settings.calls}: expected 1 or more")
        name, cell = self._crystal([chemical_symbols[z] for z in potential.elements])
        repeats = {max(1, round((size / len(cell)) ** (1 / 3))) for size in sizes}
        tasks = [
            Task(f"{len(cell) * n**3} atoms", {"atoms": cell, "repeat": n})
            for n in sorted(repeats)
        ]
        tasks = tasks[: self.settings.count]
        threads = torch.get_num_threads()
        where = _device_name(potential.device)
        notes = [
            f"{name}, rattled; {potential.dtype} on {where}"
            + (f", {threads} threads" if potential.device.type == "cpu" else "")
        ]
        return Plan(tasks, [x.replace("torch.", "") for x in notes])

    def _sizes(self) -> list[int]:
        try:
            sizes = [int(text) for text in self.settings.sizes]
        except ValueError:
            sizes = []
        if not sizes or min(sizes) < 1:
            raise UserMistake(
                f"sizes={','.join(self.settings.sizes)}: expected numbers of atoms, such as "
                "8,64,512"
            )
        return sizes

    def _crystal(self, symbols: Sequence[str]) -> tuple[str, Atoms]:
        if self.settings.structures:
            return next(iter(read_crystals(self.settings.structures).items()))
        chosen = first_ionic(symbols)
        if chosen is None:
            raise UserMistake(
                "no prototype crystal is made of the model's elements; give one in "
                "structures=FILE"
            )
        return chosen

    def measure(self, potential: Potential, content: Mapping[str, Any]) -> dict[str, Any]:
        """Time one size."""
        atoms = content["atoms"].repeat(content["repeat"])
        atoms.info = dict(content["atoms"].info)
        atoms.info.setdefault("charge", 0.0)
        rng = np.random.default_rng(self.settings.seed)
        cuda = potential.device.type == "cuda"
        before = _memory(cuda, potential.device)
        walls, cpus = [], []
        for call in range(self.settings.calls + 1):
            moved = atoms.copy()
            moved.positions += 0.05 * rng.normal(size=atoms.positions.shape)
            start = time.perf_counter(), time.process_time()
            potential(moved, forces=True, stress=True).energy.item()
            if call:  # the first warms up
                walls.append(time.perf_counter() - start[0])
                cpus.append(time.process_time() - start[1])
        wall = float(np.median(walls))
        return {
            "atoms": len(atoms),
            "seconds": wall,
            "fastest_seconds": min(walls),
            "cpu_seconds": float(np.median(cpus)),
            "atoms_per_second": len(atoms) / wall,
            "memory_MB": max(0.0, _memory(cuda, potential.device) - before) / 1e6,
        }

    def findings(self, rows: Sequence[Row]) -> Findings:
        """Rates, memory, and how time grows with size."""
        values = sorted(values_of(rows), key=lambda v: v["atoms"])
        largest = values[-1]
        table = [
            [
                f"{v['atoms']:,}",
                number(1e3 * v["seconds"]),
                number(1e3 * v["fastest_seconds"]),
                f"{v['atoms_per_second']:,.0f}",
                number(1e6 * v["cpu_seconds"] / v["atoms"]),
                number(v["memory_MB"]),
            ]
            for v in values
        ]
        numbers: dict[str, Any] = {
            "atoms_per_second_at_largest": largest["atoms_per_second"],
            "largest_atoms": largest["atoms"],
            "memory_kB_per_atom_at_largest": 1e3 * largest["memory_MB"] / largest["atoms"],
        }
        notes = [
            "memory: peak of the process above what it held before the first call; other work "
            "on the machine slows the clock, less so the CPU seconds"
        ]
        if len(values) > 2:
            upper = values[len(values) // 2 :]
            if len(upper) > 1:
                n = np.log([v["atoms"] for v in upper])
                numbers["exponent_of_time"] = float(
                    np.polyfit(n, np.log([v["cpu_seconds"] for v in upper]), 1)[0]
                )
                notes.append(
                    f"CPU time grows as atoms to the power {numbers['exponent_of_time']:.2f} "
                    f"from {upper[0]['atoms']:,} atoms on"
                )
        head = ["atoms", "ms/call", "fastest (ms)", "atoms/s", "CPU us/atom", "memory (MB)"]
        return Findings(
            numbers=numbers,
            tables=[Table("Energy, forces and stress", head, table, 0), *failures_table(rows)],
            notes=notes,
            plots={"speed": _plot(values)},
        )


BENCHMARK = Speed


def _memory(cuda: bool, device: torch.device) -> float:
    """Peak of memory until now, bytes."""
    if cuda:
        return float(torch.cuda.max_memory_allocated(device))
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return float(peak if sys.platform == "darwin" else 1024 * peak)


def _device_name(device: torch.device) -> str:
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"{device.type} ({platform.machine()})"


def _plot(values: Sequence[Mapping[str, Any]]) -> Figure:
    from matplotlib.figure import Figure

    atoms = [v["atoms"] for v in values]
    figure = Figure(figsize=(8.2, 3.4), dpi=140, layout="constrained")
    left, right = figure.subplots(1, 2)
    left.plot(atoms, [1e3 * v["seconds"] for v in values], "o-", color=COLORS[0], ms=4)
    left.set_ylabel("time of one call (ms)")
    right.plot(atoms, [v["memory_MB"] for v in values], "o-", color=COLORS[1], ms=4)
    right.set_ylabel("memory above the model's own (MB)")
    left.set_yscale("log")
    if all(v["memory_MB"] > 0.0 for v in values):
        right.set_yscale("log")
    for axes in (left, right):
        axes.set_xscale("log")
        axes.set_xlabel("atoms")
        axes.grid(color="0.92", linewidth=0.6, which="both")
        axes.set_axisbelow(True)
    return figure
