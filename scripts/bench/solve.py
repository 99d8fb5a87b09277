"""What charge equilibration costs, by size of the cell, and its share of a training step.

Rattled rock salt, Gaussian widths of covalent radii, float64, one thread, CPU milliseconds:
median of the repetitions after one that warms up. See README.md.

    python scripts/bench/solve.py                       the solve alone
    python scripts/bench/solve.py --step 64 512         and beside a NequIP
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING

import shared

if any(os.environ.get(key) != value for key, value in shared.ENVIRONMENT.items()):
    os.environ.update(shared.ENVIRONMENT)  # read when a process starts, hence once more
    os.execv(sys.executable, [sys.executable, *sys.argv])

import torch
from ase.build import bulk
from ase.data import covalent_radii
from torch import Tensor

from qeqtrain.models.potential import Potential, build_potential
from qeqtrain.neighbors import with_pairs
from qeqtrain.physics.ewald import CoulombReach
from qeqtrain.physics.interaction import GaussianCoulomb
from qeqtrain.physics.qeq import Equilibrium, equilibrate
from qeqtrain.structures import Structure, Structures, collate

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

CELLS = {
    16: (2, 1, 1),
    64: (2, 2, 2),
    216: (3, 3, 3),
    512: (4, 4, 4),
    1000: (5, 5, 5),
    2000: (10, 5, 5),
}
"""Multiples of the cubic cell of 8 atoms, by number of atoms."""
LATTICE, RATTLE = 5.64, 0.1  # A
HARDNESS = 8.0  # eV/e^2, about that of the elements
SOLVERS: dict[str, dict[str, object]] = {
    "dense": {"solver": "dense"},
    "iterative": {"solver": "iterative", "mesh": False},
    "mesh": {"solver": "iterative", "mesh": True, "accuracy": 1e-5},
}
"""Options of ``equilibrate``; accuracy 1e-9 where none is said."""


def rock_salt(atoms: int) -> Structure:
    """Make a rattled cell of NaCl, neutral."""
    if atoms not in CELLS:
        raise SystemExit(f"{atoms} atoms: expected one of {', '.join(map(str, CELLS))}")
    made = bulk("NaCl", "rocksalt", a=LATTICE, cubic=True).repeat(CELLS[atoms])
    made.rattle(RATTLE, seed=atoms)
    return Structure.from_atoms(made, total_charge=0.0)


def once(work: Callable[[], object]) -> float:
    """CPU time of one call, ms."""
    start = time.process_time()
    work()
    return 1e3 * (time.process_time() - start)


def cpu_ms(work: Callable[[], object], repeats: int) -> float:
    """Median CPU time of a call after one that warms up, ms."""
    return statistics.median([once(work) for _ in range(repeats + 1)][1:])


class Solve:
    """One cell, ready to be equilibrated.

    Args:
        atoms: how many.
        options: of ``equilibrate``.
    """

    def __init__(self, atoms: int, options: dict[str, object]) -> None:
        self.options = options
        self.bare = rock_salt(atoms)
        widths = {z: float(covalent_radii[z]) for z in (11, 17)}
        self.reach = CoulombReach(widths, float(options.get("accuracy", 1e-9)))
        self.batch = collate([self.listed()])
        generator = torch.Generator().manual_seed(0)
        self.chi = torch.where(self.batch.numbers == 11, -2.0, 2.0).double()
        self.chi += 0.1 * torch.randn(atoms, generator=generator, dtype=torch.float64)
        self.hardness = torch.full((atoms,), HARDNESS, dtype=torch.float64)
        self.width = torch.from_numpy(covalent_radii)[self.batch.numbers]

    def listed(self) -> Structure:
        """List the pairs."""
        return with_pairs(self.bare, {"charge": self.reach})

    def rest(self, chi: Tensor, hardness: Tensor, batch: Structures) -> Equilibrium:
        """Equilibrate."""
        return equilibrate(chi, hardness, self.width, batch, **self.options)

    def matrix(self) -> Tensor:
        """Make H, its lower triangle."""
        with torch.no_grad():
            (made,) = GaussianCoulomb(self.batch, self.width).matrices()
            return made.squeeze(0) + torch.diag(self.hardness)

    def charges(self) -> Tensor:
        """Solve, and nothing else."""
        with torch.no_grad():
            return self.rest(self.chi, self.hardness, self.batch).charges

    def forces(self, train: bool) -> None:
        """Take forces of an energy that reads charges too; for training, backwards again."""
        leaves = [x.clone().requires_grad_() for x in (self.chi, self.hardness)]
        positions = self.batch.positions.clone().requires_grad_()
        rest = self.rest(*leaves, replace(self.batch, positions=positions))
        energy = rest.energy.sum() + rest.charges.square().sum()
        (gradient,) = torch.autograd.grad(energy, positions, create_graph=train)
        if train:
            loss = gradient.square().mean() + rest.charges.square().mean()
            loss.backward(inputs=leaves)


def solve_rows(
    sizes: Sequence[int], solvers: dict[str, dict[str, object]], repeats: int
) -> Iterator[list[str]]:
    """Time all parts for every size and solver."""
    for atoms in sizes:
        for name, options in solvers.items():
            solve = Solve(atoms, options)
            times = [cpu_ms(solve.listed, repeats)]
            if name == "dense":
                matrix = solve.matrix()
                times += [
                    cpu_ms(solve.matrix, repeats),
                    cpu_ms(partial(torch.linalg.cholesky, matrix), repeats),
                ]
            else:
                times += [float("nan")] * 2
            times += [
                cpu_ms(solve.charges, repeats),
                cpu_ms(partial(solve.forces, train=False), repeats),
                cpu_ms(partial(solve.forces, train=True), repeats),
            ]
            shown = ["-" if t != t else f"{t:.3g}" if t < 100 else f"{t:.0f}" for t in times]
            yield [f"{atoms}, {name}", *shown]


def nequip(charge: dict[str, object], coupling: dict[str, object]) -> Potential:
    """Build the NequIP of the speed benchmark (l 2, 32 channels, 3 layers)."""
    torch.manual_seed(0)
    spec = {
        "backbone": {
            "_target_": "qeqtrain.nn.nequip.NequIP",
            "l_max": 2,
            "channels": 32,
            "layers": 3,
            "parity": False,
        },
        "charge": charge,
        "coupling": coupling,
    }
    zero = dict.fromkeys((11, 17), 0.0)
    return build_potential(
        spec, elements=[11, 17], references=zero, scale=1.0, average_neighbors=18.0
    ).train()


def step(potential: Potential, batch: Structures) -> None:
    """Do the work of one training step on energy, forces and, where there are any, charges."""
    potential.zero_grad(set_to_none=True)
    found = potential(batch, forces=True, stress=False)
    loss = found.energy.square().mean() + found.forces.square().mean()
    if found.charges is not None:
        loss = loss + found.charges.square().mean()
    loss.backward(inputs=list(potential.parameters()))  # as training does


def in_turns(
    first: Callable[[], object], second: Callable[[], object], repeats: int
) -> tuple[list[float], list[float]]:
    """CPU times of two calls, ms, taken in turns: both see the same state of the machine."""
    times = [(once(first), once(second)) for _ in range(repeats + 1)][1:]
    return [a for a, _ in times], [b for _, b in times]


def step_rows(sizes: Sequence[int], repeats: int) -> Iterator[list[str]]:
    """Time a step without charges and with them, in turns."""
    couplings = "qeqtrain.nn.couplings."
    none = nequip(
        {"_target_": "qeqtrain.nn.charges.NoCharges"},
        {"_target_": f"{couplings}FeatureCoupling", "readout": "linear"},
    )
    gaussian = {"_target_": "qeqtrain.nn.charges.GaussianCharges"}
    for atoms in sizes:
        bare = rock_salt(atoms)
        copies = max(1, 256 // atoms)
        for name in ("FeatureCoupling", "AdditiveCoupling"):
            coupling = {"_target_": couplings + name, "readout": "linear"}
            charged = nequip(gaussian, coupling)
            batch = collate([with_pairs(bare, charged.cutoffs)] * copies)
            plain, more = in_turns(
                partial(step, none, batch), partial(step, charged, batch), repeats
            )
            label = f"{copies} x {atoms}, {name.removesuffix('Coupling').lower()}"
            middle = [statistics.median(times) for times in (plain, more)]
            least = [min(times) for times in (plain, more)]
            shares = [f"{100 * (b / a - 1):.0f} %" for a, b in (middle, least)]
            yield [label, *(f"{t:.0f}" for t in middle), *shares]


def main() -> None:
    """Time and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--sizes", nargs="*", type=int, default=list(CELLS), help="of cells")
    parser.add_argument("--solvers", nargs="+", choices=list(SOLVERS), default=list(SOLVERS))
    parser.add_argument(
        "--step", nargs="*", type=int, default=[], help="cells of a NequIP step"
    )
    parser.add_argument("--repeats", type=int, default=5)
    options = parser.parse_args()
    torch.set_num_threads(1)
    if options.sizes:
        chosen = {name: SOLVERS[name] for name in options.solvers}
        head = ["atoms, solver", "pairs", "matrix", "factor", "charges"]
        rows = list(solve_rows(options.sizes, chosen, options.repeats))
        head += ["with forces", "with double backward"]
        sys.stdout.write("\n".join(shared.markdown(head, rows)) + "\n")
    if options.step:
        rows = list(step_rows(options.step, options.repeats))
        head = ["cells, coupling", "none", "gaussian", "charges add", "by least times"]
        sys.stdout.write("\n" + "\n".join(shared.markdown(head, rows)) + "\n")


if __name__ == "__main__":
    main()
