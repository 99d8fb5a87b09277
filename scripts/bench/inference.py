"""Time energy and forces of one crystal: eager against machine code, in turns in one process.

An untrained model in the shape of the speed benchmark, exported with machine code into FOLDER
(made once, in minutes), on rattled rock salt of several sizes. Neighbour lists are made before
the clock runs, or, with ``--ase``, in it, as in a step of molecular dynamics.

    OMP_NUM_THREADS=1 python scripts/bench/inference.py FOLDER --model qet --atoms 64 512
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import shared
import torch
from ase.build import bulk

from qeqtrain import QeqCalculator
from qeqtrain.models.archive import FORMAT, export, load
from qeqtrain.models.exported import write_exported
from qeqtrain.models.potential import Potential, build_potential
from qeqtrain.models.qet import qet_spec

if TYPE_CHECKING:
    from collections.abc import Callable

    from ase import Atoms

SPECS = {
    "qet": qet_spec(cutoff=5.0, channels=64, layers=3, radial_functions=32, hardness="species"),
    "nequip": {
        "backbone": {
            "_target_": "qeqtrain.nn.nequip.NequIP",
            "channels": 32,
            "l_max": 2,
            "parity": False,
            "train_bessel": False,
        },
        "charge": {"_target_": "qeqtrain.nn.charges.NoCharges"},
        "coupling": {"_target_": "qeqtrain.nn.couplings.FeatureCoupling", "hidden": []},
    },
}
SHAPES = {64: (2, 2, 2), 216: (3, 3, 3), 512: (4, 4, 4), 1000: (5, 5, 5)}
"""Conventional cells of eight atoms along each axis, by number of atoms."""


def untrained(model: str, knots: int | None, path: Path) -> None:
    """Write a model with random weights."""
    torch.manual_seed(0)
    spec = SPECS[model]
    potential: Potential = build_potential(
        {**spec, "backbone": {**spec["backbone"], "radial_knots": knots}},
        elements=[11, 17],
        references={11: 0.0, 17: 0.0},
        scale=1.0,
        average_neighbors=30.0,
    )
    entry = {"format": FORMAT, "potential": potential.header()}
    write_exported(path, entry, potential.state_dict())


def crystal(atoms: int, seed: int) -> Atoms:
    """Rock salt, every atom moved at random."""
    made = bulk("NaCl", "rocksalt", a=5.64, cubic=True).repeat(SHAPES[atoms])
    made.positions += 0.08 * np.random.default_rng(seed).normal(size=made.positions.shape)
    return made


def cpu_ms(work: Callable[[], object]) -> float:
    """Give the CPU time of one call, ms."""
    start = time.process_time()
    work()
    return 1e3 * (time.process_time() - start)


def ways(
    eager: Potential, coded: Potential, atoms: Atoms, *, ase: bool
) -> dict[str, Callable[[], object]]:
    """Give what is timed, by name."""
    if not ase:
        batch = eager.structures_of(atoms, 0.0, None)
        return {
            name: lambda p=p: p(batch, forces=True, stress=True)
            for name, p in (("eager", eager), ("compiled", coded))
        }
    found = {}
    for name, potential in (("eager", eager), ("compiled", coded)):
        calculator = QeqCalculator(potential, total_charge=0.0)

        def step(calculator: QeqCalculator = calculator) -> None:
            atoms.rattle(1e-3, seed=int(time.process_time_ns() % 2**31))
            calculator.calculate(atoms)

        found[name] = step
    return found


def main() -> None:
    """Measure and print a table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("folder", type=Path, help="where the exported model lies, or will")
    parser.add_argument("--model", choices=sorted(SPECS), default="qet")
    parser.add_argument(
        "--atoms", type=int, nargs="+", choices=sorted(SHAPES), default=list(SHAPES)
    )
    parser.add_argument("--knots", type=int, help="of the radial networks (none)")
    parser.add_argument("--turns", type=int, default=7, help="of each way, per size")
    parser.add_argument("--ase", action="store_true", help="neighbour lists in the clock")
    options = parser.parse_args()
    torch.set_num_threads(1)
    options.folder.mkdir(parents=True, exist_ok=True)
    name = f"{options.model}_knots{options.knots}" if options.knots else options.model
    plain = options.folder / f"{name}_plain.safetensors"
    model = options.folder / f"{name}.safetensors"
    if not model.exists():
        untrained(options.model, options.knots, plain)
        start = time.process_time(), time.perf_counter()
        export(plain, model, compiled=True)
        sys.stdout.write(
            f"exported with machine code: {time.process_time() - start[0]:.0f} CPU s without "
            f"the C++ compiler, {time.perf_counter() - start[1]:.0f} s by the clock\n\n"
        )
    eager = load(model)
    seconds = cpu_ms(lambda: load(model, compiled=True)) / 1e3
    coded = load(model, compiled=True)
    rows = []
    for count in options.atoms:
        atoms = crystal(count, seed=0)
        times: dict[str, list[float]] = {"eager": [], "compiled": []}
        timed = ways(eager, coded, atoms, ase=options.ase)
        with torch.no_grad():
            for turn in range(options.turns + 2):
                for name, work in timed.items():
                    spent = cpu_ms(work)
                    if turn > 1:  # the first two warm up
                        times[name].append(spent)
        a, b = (statistics.median(times[name]) for name in ("eager", "compiled"))
        rows.append([f"{count}", f"{a:.1f}", f"{b:.1f}", f"{a / b:.2f}"])
    header = ["atoms", "eager, CPU ms", "compiled, CPU ms", "eager / compiled"]
    sys.stdout.write("\n".join(shared.markdown(header, rows)) + "\n")
    sys.stdout.write(f"\nloading the machine code: {seconds:.2f} CPU s\n")


if __name__ == "__main__":
    main()
