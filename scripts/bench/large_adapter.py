"""One measurement of ``large.py`` in a process of its own; prints one JSON line.

    python scripts/bench/large_adapter.py qet 8000          energy and forces, time and memory
    python scripts/bench/large_adapter.py md 1000           steps of dynamics, ours
    PYTHON_OF_MATGL scripts/bench/large_adapter.py md 1000 --program matgl

Rattled rock salt, float32 networks; glibc keeps what is freed, for both programs. matgl's QET
has the size of the published one and its weights, which mean something else to it (another
message convention): its time counts here.
"""

from __future__ import annotations

import argparse
import json
import resource
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import shared
import torch
from ase import units
from ase.build import bulk
from ase.md.verlet import VelocityVerlet

if TYPE_CHECKING:
    from ase import Atoms

NEIGHBORS = 23.0
"""Directed edges of an atom within 5 A."""


def crystal(atoms: int) -> Atoms:
    """Rock salt of about so many atoms, rattled by 0.1 A."""
    repeat = max(1, round((atoms / 8) ** (1 / 3)))
    cell = bulk("NaCl", "rocksalt", a=5.64, cubic=True).repeat(repeat)
    cell.positions += 0.1 * np.random.default_rng(0).normal(size=cell.positions.shape)
    cell.info["charge"] = 0.0
    return cell


def ours(model: str) -> Any:  # a potential, of a package that may be absent
    """Build a model: published weights of QET, drawn ones of the others."""
    import qeqtrain
    from qeqtrain.models.nequip_lr import nequip_lr_spec
    from qeqtrain.models.potential import build_potential
    from qeqtrain.models.reaxnet import reaxnet_spec

    torch.manual_seed(0)
    known = {"elements": [11, 17], "references": {}, "average_neighbors": NEIGHBORS}
    if model == "qet":
        return qeqtrain.load("qet-matq").requires_grad_(False)
    if model == "reaxnet":
        charges = {"_target_": "qeqtrain.nn.charges.PQEqCharges"}
        spec = reaxnet_spec(charges, dtype="float32")
    else:
        spec = nequip_lr_spec(dtype="float32")
        spec["charge"]["hardness_floor"] = 1.0
    built = build_potential(spec, scale=1.0, charge_range=[-1, 1], **known)
    return built.eval().requires_grad_(False)


def matgl_calculator(folder: Path) -> Any:  # of a package that may be absent
    """Build matgl's calculator around a QET of the published size."""
    import inspect

    from matgl.apps.pes import Potential
    from matgl.ext.ase import PESCalculator
    from matgl.models import QET

    given = json.loads((folder / "model.json").read_text())["kwargs"]["model"]["init_args"]
    known = set(inspect.signature(QET.__init__).parameters) - {"dtype"}
    network = QET(**{k: v for k, v in given.items() if k in known})
    state = torch.load(folder / "state.pt", map_location="cpu", weights_only=True)
    own = {k.removeprefix("model."): v for k, v in state.items() if k.startswith("model.")}
    network.load_state_dict(own, strict=False)
    potential = Potential(
        network,
        data_std=state["data_std"],
        element_refs=state["element_refs.property_offset"].numpy(),
        calc_stresses=False,
        calc_charge=True,
    )
    return PESCalculator(potential, stress_unit="eV/A3")


def peak() -> float:
    """Peak of resident memory until now, MB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def dynamics(program: str, atoms: Atoms, steps: int, folder: Path) -> dict[str, float]:
    """Time steps at constant energy, 900 K, 1 fs."""
    if program == "matgl":
        atoms.calc = matgl_calculator(folder)
    else:
        from qeqtrain import QeqCalculator

        atoms.calc = QeqCalculator(ours("qet"))
    masses = atoms.get_masses()[:, None]
    noise = np.random.default_rng(1).normal(size=(len(atoms), 3))
    atoms.set_momenta(noise * np.sqrt(masses * units.kB * 900))
    run = VelocityVerlet(atoms, 1.0 * units.fs)
    run.run(2)
    seconds = []
    for _ in range(steps):
        start = time.process_time()
        run.run(1)
        seconds.append(time.process_time() - start)
    return {"cpu_s": float(np.median(seconds)), "least_cpu_s": min(seconds)}


def evaluation(model: str, atoms: Atoms, calls: int) -> dict[str, Any]:
    """Time energy and forces, neighbour lists included."""
    potential = ours(model)
    before = peak()
    seconds = []
    for _ in range(calls):
        start = time.process_time()
        found = potential(atoms, forces=True, stress=False)
        seconds.append(time.process_time() - start)
    assert bool(found.forces.isfinite().all())
    effort = getattr(potential.charge, "effort", None)
    return {
        "cpu_s": float(np.median(seconds[1:] or seconds)),  # the first of several warms up
        "before_mb": before,
        "solver": "closed form" if effort is None else effort.solver,
        "iterations": 0 if effort is None else int(effort.iterations.max()),
    }


def main() -> None:
    """Measure once."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("task", choices=["md", "qet", "reaxnet", "nequip_lr"])
    parser.add_argument("atoms", type=int)
    parser.add_argument("--program", choices=["qeqtrain", "matgl"], default="qeqtrain")
    parser.add_argument("--steps", type=int, default=10, help="of dynamics")
    parser.add_argument("--calls", type=int, default=1, help="of the model")
    parser.add_argument("--weights", type=Path, help="folder of the published QET")
    options = parser.parse_args()
    shared.load("bench/harness.py").tune_malloc()
    torch.set_num_threads(1)
    atoms = crystal(options.atoms)
    if options.task == "md":
        found = dynamics(options.program, atoms, options.steps, options.weights)
    else:
        found = evaluation(options.task, atoms, options.calls)
    line = {"task": options.task, "program": options.program, "atoms": len(atoms), **found}
    sys.stdout.write(json.dumps({**line, "peak_mb": peak()}) + "\n")


if __name__ == "__main__":
    main()
