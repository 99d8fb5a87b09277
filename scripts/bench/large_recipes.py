"""What the recipes of the large sets do in 100 steps on samples: losses, memory, time.

Each runs at its full width with small batches, in a process of its own. Printed are the
training loss (means of the first and the last ten steps), the largest resident memory of the
process, and atoms trained per second of CPU time, from which follows what an epoch takes.
Samples are read from the folder that ``QEQTRAIN_SHARED`` names.

    python scripts/bench/large_recipes.py                       all of them
    python scripts/bench/large_recipes.py mptrj/nequip --steps 20
"""

from __future__ import annotations

import argparse
import json
import resource
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from shared import REPOSITORY, last_json, run, shared

if TYPE_CHECKING:
    from qeqtrain.data.batching import Batch
    from qeqtrain.training.module import TrainingModule

SAMPLES = {
    "mptrj": ("data/mptrj_sample/train.extxyz", "data/mptrj_sample/val.extxyz", 64),
    "omat": ("data/native/aselmdb", None, 32),
    "matpes": ("data/native/matpes_json/MatPES-PBE-Element-Refs-as-list.json.gz", None, 32),
    "hdf5": ("data/native/hdf5/aimnet_small.h5", None, 32),
}
"""Of each set: files to train and validate on, and atoms in a batch."""


def words(name: str, steps: int) -> list[str]:
    """Give the command that a recipe's header states."""
    train, val, atoms = SAMPLES[name.partition("/")[0]]
    return [
        *("fit", name, "trainer=cpu", f"trainer.max_steps={steps}", "trainer.max_epochs=100"),
        *(f"data.batch_atoms={atoms}", f"data.train={shared(train)}"),
        f"data.val={shared(val) if val else 'null'}",
    ]


def one(name: str, steps: int) -> None:
    """Train in this process, and print what was seen as JSON."""
    from qeqtrain.cli import main
    from qeqtrain.training.module import TrainingModule

    losses: list[float] = []
    spent: list[float] = []
    atoms: list[int] = []
    begun = [0.0]
    start, end = TrainingModule.on_train_batch_start, TrainingModule.on_train_batch_end

    def before(module: TrainingModule, batch: Batch, batch_idx: int) -> None:
        begun[0] = time.process_time()
        start(module, batch, batch_idx)

    def after(module: TrainingModule, outputs: object, batch: Batch, batch_idx: int) -> None:
        spent.append(time.process_time() - begun[0])
        losses.append(module._loss_now)
        atoms.append(batch.structures.n_atoms)
        end(module, outputs, batch, batch_idx)

    TrainingModule.on_train_batch_start = before  # type: ignore[method-assign]
    TrainingModule.on_train_batch_end = after  # type: ignore[method-assign]
    with tempfile.TemporaryDirectory() as folder:
        code = main([*words(name, steps), f"run_folder={folder}/run"])
        if code:
            raise SystemExit(code)
        about = json.loads((Path(folder) / "run" / "run.json").read_text())
    settled = slice(len(spent) // 10, None)
    found = {
        "recipe": name,
        "parameters": about["sessions"][-1]["parameters"],
        "steps": len(losses),
        "first": float(np.mean(losses[:10])),
        "last": float(np.mean(losses[-10:])),
        "atoms": float(np.mean(atoms)),
        "MiB": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
        "CPU s per atom": sum(spent[settled]) / sum(atoms[settled]),
    }
    sys.stdout.write("\n" + json.dumps(found) + "\n")


def main() -> None:
    """Run recipes one after the other and print a table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("recipes", nargs="*")
    parser.add_argument("--steps", type=int, default=100)
    parser.add_argument("--here", action="store_true", help="in this process, as JSON")
    given = parser.parse_args()
    names = given.recipes or [
        f"{folder}/{path.stem}"
        for folder in SAMPLES
        for path in sorted((REPOSITORY / "recipes" / folder).glob("*.yaml"))
    ]
    if given.here:
        one(names[0], given.steps)
        return
    print("| recipe | parameters | loss, steps 1-10 | last 10 | peak MiB | atoms/CPU-s |")
    print("| --- | ---: | ---: | ---: | ---: | ---: |")
    for name in names:
        command = [sys.executable, __file__, name, "--here", "--steps", str(given.steps)]
        found = last_json(run(command))
        print(
            f"| {name} | {found['parameters']:,} | {found['first']:.3g} | {found['last']:.3g} "
            f"| {found['MiB']:,.0f} | {1 / found['CPU s per atom']:,.0f} |",
            flush=True,
        )


if __name__ == "__main__":
    main()
