"""A suite that other processes can import: it counts atoms, fails and dies when told to."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import torch

from qeqtrain.evaluation.benchmarks.suite import (
    Findings,
    Plan,
    Row,
    Settings,
    Suite,
    Task,
    TaskFailed,
    values_of,
)
from qeqtrain.evaluation.tables import Table
from qeqtrain.models.potential import Potential


@dataclass(frozen=True)
class ToySettings(Settings):
    """Settings.

    Attributes:
        tasks: kinds of tasks.
        power: changes what is measured.
        log: file in which every measurement leaves a line.
    """

    tasks: tuple[str, ...] = ("a", "bb", "ccc")
    power: float = 1.0
    log: str = ""
    loud: bool = False


class Toy(Suite[ToySettings]):
    """Lengths of names."""

    name: ClassVar[str] = "toy"
    settings_class = ToySettings

    def plan(self, potential: Potential) -> Plan:
        return Plan(
            [Task(name, {"name": name}) for name in self.settings.tasks[: self.settings.count]]
        )

    def measure(self, potential: Potential, content: Mapping[str, Any]) -> dict[str, Any]:
        name = content["name"]
        if self.settings.log:
            with Path(self.settings.log).open("a") as file:
                file.write(f"{name} {os.getpid()} {torch.get_num_threads()}\n")
        if name == "fails":
            raise TaskFailed("it was told to")
        if name == "singular":
            torch.linalg.inv(torch.zeros(2, 2))
        if name == "dies":
            os._exit(3)
        return {"length": len(name) ** self.settings.power, "elements": len(potential.elements)}

    def findings(self, rows: Sequence[Row]) -> Findings:
        total = sum(v["length"] for v in values_of(rows))
        return Findings(
            {"total": total, "absent": float("nan")}, [Table("Sum", ["sum"], [[str(total)]])]
        )


class Alone(Toy):
    """The same with a process for each task."""

    own_process: ClassVar[bool] = True
