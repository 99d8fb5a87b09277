"""Train a recipe for a fixed CPU time through the command line, and test it as the rivals were.

The steps of the shared accuracy benchmark (``bench/accuracy``): ``fit`` on the train and val
files of a set, ``predict`` on its test frames stripped of every label, errors by the functions
of the benchmark. Files are read as they are. Prints a Markdown table; see README.md.

    python scripts/bench/accuracy.py RECIPE --minutes 6 [key=value ...]
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import shared
from ase import Atoms
from ase.io import read, write

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

common = shared.load("bench/accuracy/common.py")


def child_cpu() -> float:
    """CPU seconds of all processes that were started and have ended."""
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


def qeqtrain(executable: str, words: Sequence[str], folder: Path) -> float:
    """Run one qeqtrain command in ``folder``, keep its output there, give its CPU seconds."""
    start, log = child_cpu(), folder / f"{words[0]}.log"
    sys.stderr.write(f"+ {executable} {' '.join(words)}\n")
    with log.open("w") as file:
        done = subprocess.run(
            [executable, *words],
            env={**os.environ, **shared.ENVIRONMENT},
            cwd=folder,
            stdout=file,
            stderr=subprocess.STDOUT,
            check=False,
        )
    if done.returncode:
        tail = "\n".join(log.read_text().splitlines()[-20:])
        raise SystemExit(f"{tail}\nexit status {done.returncode}; the rest is in {log}")
    return child_cpu() - start


def bare(atoms: Atoms) -> Atoms:
    """Copy geometry and total charge, and nothing that could be an answer."""
    copy = Atoms(atoms.numbers, atoms.positions, cell=atoms.cell, pbc=atoms.pbc)
    copy.info["charge"] = round(common.total_charge(atoms))
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


def table(result: Mapping[str, Mapping[str, float]]) -> Iterator[str]:
    """Tabulate errors over all frames and per total charge."""
    columns = {
        "n": "frames",
        "e_mae": "E MAE, meV/atom",
        "e_rmse": "E RMSE",
        "e_bias": "E bias",
        "f_mae": "F MAE, meV/A",
        "f_rmse": "F RMSE",
        "q_mae": "q MAE, me",
        "q_rmse": "q RMSE",
        "q_sum_max": "worst total charge",
    }
    rows = [
        [name, *(f"{block[key]:.4g}" if key in block else "-" for key in columns)]
        for name, block in result.items()
    ]
    yield from shared.markdown(["charge state", *columns.values()], rows)


def main() -> None:
    """Fit, predict, compare."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("recipe", help="shipped name or YAML file")
    parser.add_argument(
        "overrides", nargs="*", help="key=value words, after those that are set here"
    )
    parser.add_argument(
        "--set", default="data/xtb_nacl8_multicharge", help="folder below the shared inputs"
    )
    parser.add_argument("--minutes", type=float, default=6.0, help="training CPU time")
    parser.add_argument("--batch", type=int, help="structures of a step (the recipe's own)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--qeqtrain", default=str(Path(sys.executable).parent / "qeqtrain"))
    parser.add_argument("--keep", type=Path, help="keep the working files in this folder")
    parser.add_argument("--results", type=Path, help="append the JSON line here")
    options = parser.parse_intermixed_args()
    found = shutil.which(options.qeqtrain)
    if found is None:
        raise SystemExit(f"--qeqtrain {options.qeqtrain}: no such program")
    program = str(Path(found).absolute())
    folder = shared.shared(options.set)
    data = common.load(str(folder))
    work = (options.keep or Path(tempfile.mkdtemp(prefix="accuracy_"))).resolve()
    work.mkdir(parents=True, exist_ok=True)

    recipe = options.recipe
    if Path(recipe).is_file():
        recipe = str(Path(recipe).resolve())
    words = [
        f"data.train={folder / 'train.extxyz'}",
        f"data.val={folder / 'val.extxyz'}",
        "data.split=null",
        f"trainer.max_cpu_time={duration(options.minutes)}",
        "trainer.threads=1",
        f"seed={options.seed}",
        f"run_folder={work / 'run'}",
        *([f"data.batch_structures={options.batch}"] if options.batch else []),
        *options.overrides,
    ]
    fit_cpu = qeqtrain(program, ["fit", recipe, *words], work)
    write(work / "ask.extxyz", [bare(atoms) for atoms in data["test"]])
    paths = [str(work / name) for name in ("run", "ask.extxyz", "answer.extxyz")]
    predict_cpu = qeqtrain(program, ["predict", *paths], work)
    result = common.metrics(data["test"], answers(work / "answer.extxyz"))

    line = {
        "recipe": options.recipe,
        "overrides": options.overrides,
        "set": options.set,
        "minutes": options.minutes,
        "seed": options.seed,
        "fit_cpu_s": round(fit_cpu, 1),
        "predict_cpu_s": round(predict_cpu, 1),
        "result": result,
    }
    if options.results:
        with options.results.open("a") as file:
            file.write(json.dumps(line) + "\n")
    sys.stdout.write("\n".join(table(result)) + "\n")
    sys.stdout.write(
        f"\nfit: {fit_cpu:.0f} CPU s with start-up and validation, seed {options.seed}\n"
    )
    if options.keep is None:
        shutil.rmtree(work, ignore_errors=True)


if __name__ == "__main__":
    main()
