"""One trial: fit a recipe through the command line, let it answer frames stripped of labels.

The steps of the shared accuracy benchmark (``bench/accuracy``), for every script that compares
recipes: files are read as they are, the model is asked about geometry and total charge only,
and errors are measured by the benchmark's own functions.
"""

from __future__ import annotations

import csv
import json
import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import shared
from ase import Atoms
from ase.io import read, write

if TYPE_CHECKING:
    import argparse
    from collections.abc import Sequence

common = shared.load("bench/accuracy/common.py")

CONSTRAINTS = ("fragment", "fragment_charges", "fragment_potentials")
"""What a frame may state beside its total charge: not a label but a part of the question."""


@dataclass(frozen=True)
class Trial:
    """What came of a trial.

    Attributes:
        predictions: of every test frame: energy, eV, forces, eV/A, and charges, e, or ``None``.
        fit_cpu_s: processor time of ``fit``, start-up and validation included.
        predict_cpu_s: processor time of ``predict``.
        parameters: of the network.
        steps: of training.
    """

    predictions: list[dict[str, object]]
    fit_cpu_s: float
    predict_cpu_s: float
    parameters: int
    steps: int


def add_program(parser: argparse.ArgumentParser) -> None:
    """Offer the option that says which qeqtrain is tried."""
    beside = str(Path(sys.executable).parent / "qeqtrain")
    parser.add_argument("--qeqtrain", default=beside, help="the program (this environment's)")


def find_program(name: str) -> str:
    """Give the absolute path of the program, or say that there is none."""
    found = shutil.which(name)
    if found is None:
        raise SystemExit(f"--qeqtrain {name}: no such program")
    return str(Path(found).absolute())


def run(program: str, words: Sequence[str], folder: Path) -> float:
    """Run one qeqtrain command in ``folder``, keep its output there, give its CPU seconds.

    The seconds are those of this process and what it started, also when several run at once.
    """
    log = folder / f"{words[0]}.log"
    sys.stderr.write(f"+ {program} {' '.join(words)}\n")
    with log.open("w") as file:
        process = subprocess.Popen(
            [program, *words],
            env={**os.environ, **shared.ENVIRONMENT},
            cwd=folder,
            stdout=file,
            stderr=subprocess.STDOUT,
        )
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        tail = "\n".join(log.read_text().splitlines()[-20:])
        raise SystemExit(f"{tail}\nexit status {process.returncode}; the rest is in {log}")
    return usage.ru_utime + usage.ru_stime


def bare(atoms: Atoms) -> Atoms:
    """Copy geometry, total charge and constraints, and nothing that could be an answer."""
    copy = Atoms(atoms.numbers, atoms.positions, cell=atoms.cell, pbc=atoms.pbc)
    copy.info["charge"] = round(common.total_charge(atoms))
    for name in CONSTRAINTS:
        if name in atoms.info:
            copy.info[name] = atoms.info[name]
        if name in atoms.arrays:
            copy.set_array(name, atoms.arrays[name])
    return copy


def answers(file: Path) -> list[dict[str, object]]:
    """Read predictions in the form of the benchmark's ``metrics``."""
    out = []
    for atoms in read(file, ":"):
        found = atoms.calc.results
        charges = np.asarray(found["charges"], float) if "charges" in found else None
        forces = np.asarray(found["forces"], float)
        out.append({"energy": float(found["energy"]), "forces": forces, "charges": charges})
    return out


def duration(minutes: float) -> str:
    """Write HH:MM:SS."""
    seconds = round(60 * minutes)
    return f"{seconds // 3600:02d}:{seconds // 60 % 60:02d}:{seconds % 60:02d}"


def cpu_budget(minutes: float) -> list[str]:
    """Write the overrides that end a run by its CPU time alone."""
    return [
        "trainer.max_epochs=null",
        "trainer.max_steps=null",
        f"trainer.max_cpu_time={duration(minutes)}",
    ]


def attempt(
    program: str, recipe: str, words: Sequence[str], data: Path, work: Path, *, seed: int
) -> Trial:
    """Fit and predict.

    Args:
        program: qeqtrain's command.
        recipe: shipped name or YAML file.
        words: overrides, among them what ends the run.
        data: folder with train and val files; without a test file, val is the test.
        work: folder for the run and its logs.
        seed: of weights and order.
    """
    work = work.resolve()
    work.mkdir(parents=True, exist_ok=True)
    if Path(recipe).is_file():
        recipe = str(Path(recipe).resolve())
    run_folder = work / "run"
    given = [
        f"data.train={data / 'train.extxyz'}",
        f"data.val={data / 'val.extxyz'}",
        "data.split=null",
        "trainer.threads=1",
        f"seed={seed}",
        f"run_folder={run_folder}",
    ]
    fit_cpu = run(program, ["fit", recipe, *given, *words], work)
    write(work / "ask.extxyz", [bare(atoms) for atoms in common.load(str(data))["test"]])
    paths = [str(work / name) for name in ("run", "ask.extxyz", "answer.extxyz")]
    predict_cpu = run(program, ["predict", *paths], work)

    notes = json.loads((run_folder / "run.json").read_text())
    with (run_folder / "metrics.csv").open(newline="") as lines:
        rows = list(csv.DictReader(lines))
    return Trial(
        predictions=answers(work / "answer.extxyz"),
        fit_cpu_s=round(fit_cpu, 1),
        predict_cpu_s=round(predict_cpu, 1),
        parameters=int(notes["sessions"][-1]["parameters"]),
        steps=int(rows[-1]["step"]),
    )
