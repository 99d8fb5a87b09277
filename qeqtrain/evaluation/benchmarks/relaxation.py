"""Relaxed crystals: cell and ions by ASE's FIRE, and ions of many cells at once in batches."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from ase import Atoms
from ase.filters import FrechetCellFilter
from ase.optimize import FIRE

from qeqtrain.calculator import QeqCalculator
from qeqtrain.evaluation.benchmarks.suite import TaskFailed
from qeqtrain.models.potential import Potential

MAX_ATOMS = 512
"""Atoms of one batch."""
_LARGEST = 4.0  # growth or shrinkage of a volume beyond which a relaxation has run away


def relax(
    potential: Potential, atoms: Atoms, *, fmax: float, steps: int, cell: bool = True
) -> Atoms:
    """Relax one structure.

    Args:
        potential: that gives forces and stress.
        atoms: left alone.
        fmax: largest force, eV/A, on an ion or on the cell.
        steps: at most.
        cell: whether the cell relaxes as well.

    Returns:
        A copy at rest, with a calculator that holds its results.

    Raises:
        TaskFailed: it did not come to rest, or ran away.
    """
    atoms = atoms.copy()
    atoms.calc = QeqCalculator(potential)
    before = atoms.get_volume() if cell else 1.0
    moving = FrechetCellFilter(atoms) if cell else atoms
    optimizer = FIRE(moving, logfile=None)
    for _ in optimizer.irun(fmax=fmax, steps=steps):
        grown = atoms.get_volume() / before if cell else 1.0
        if not 1 / _LARGEST < grown < _LARGEST or not np.isfinite(atoms.positions).all():
            raise TaskFailed(f"ran away in relaxation: volume {grown:.2g} times the first")
    left = _largest_force(moving.get_forces())
    if not left <= fmax:
        raise TaskFailed(f"not relaxed after {steps} steps: largest force {left:.2g} eV/A")
    return atoms


@dataclass(frozen=True)
class Said:
    """What a potential says of one structure.

    Attributes:
        energy: eV.
        forces: eV/A, shape ``(n, 3)``.
        stress: eV/A^3, shape ``(3, 3)``, where it was wanted.
        charges: e, shape ``(n,)``, where the model has any.
        dipole: e A, about the centre of mass, shape ``(3,)``; of molecules.
        chemical_potential: dE/dQ that the charge model states, eV/e, where it does.
    """

    energy: float
    forces: np.ndarray
    stress: np.ndarray | None = None
    charges: np.ndarray | None = None
    dipole: np.ndarray | None = None
    chemical_potential: float | None = None


def predict_in_batches(
    potential: Potential, many: Sequence[Atoms], *, stress: bool = False
) -> list[Said]:
    """Predict many structures, several at once."""
    found: list[Said] = []
    for group in _groups(many):
        said = potential(list(group), forces=True, stress=stress).detach()
        names = ("energy", "forces", "stress", "charges", "dipole", "chemical_potential")
        arrays = {
            name: value.cpu().double().numpy()
            for name in names
            if (value := getattr(said, name)) is not None
        }
        first = 0
        for row, atoms in enumerate(group):
            inside = slice(first, first + len(atoms))
            first = inside.stop
            own = {
                k: v[inside] if k in ("forces", "charges") else v[row]
                for k, v in arrays.items()
            }
            own["energy"] = float(own["energy"])
            found.append(Said(**own))
    return found


def relax_ions(
    potential: Potential, many: Sequence[Atoms], *, fmax: float, steps: int
) -> list[Atoms]:
    """Relax the ions of many structures in fixed cells, several structures per evaluation.

    FIRE (Bitzek et al., Phys. Rev. Lett. 97, 170201 (2006)), each structure with a clock of its
    own; structures at rest are not evaluated again.

    Args:
        potential: that gives forces.
        many: left alone.
        fmax: largest force on an ion, eV/A.
        steps: at most.

    Returns:
        Copies at rest.

    Raises:
        TaskFailed: one of them did not come to rest.
    """
    many = [atoms.copy() for atoms in many]
    fires = [_Fire(atoms) for atoms in many]
    active = list(range(len(many)))
    for _ in range(steps + 1):
        said = predict_in_batches(potential, [many[i] for i in active])
        forces = {i: one.forces for i, one in zip(active, said, strict=True)}
        active = [i for i in active if not _largest_force(forces[i]) <= fmax]
        if not active:
            return many
        for i in active:
            fires[i].move(forces[i])
    raise TaskFailed(
        f"{len(active)} of {len(many)} strained cells not relaxed after {steps} steps: largest "
        f"force {max(_largest_force(forces[i]) for i in active):.2g} eV/A"
    )


class _Fire:
    """One structure on its way down, with the constants of the paper."""

    def __init__(self, atoms: Atoms) -> None:
        self._atoms = atoms
        self._velocity = np.zeros_like(atoms.positions)
        self._dt, self._mixing, self._downhill = 0.1, 0.1, 0

    def move(self, forces: np.ndarray) -> None:
        """Take one step along the forces, eV/A."""
        if np.vdot(forces, self._velocity) > 0.0:
            speed, pull = np.linalg.norm(self._velocity), np.linalg.norm(forces)
            self._velocity *= 1.0 - self._mixing
            self._velocity += self._mixing * speed / pull * forces
            self._downhill += 1
            if self._downhill > 5:
                self._dt, self._mixing = min(1.1 * self._dt, 1.0), 0.99 * self._mixing
        else:
            self._velocity[:] = 0.0
            self._dt, self._mixing, self._downhill = 0.5 * self._dt, 0.1, 0
        self._velocity += self._dt * forces
        step = self._dt * self._velocity
        longest = np.linalg.norm(step)
        self._atoms.positions += step * min(1.0, 0.2 / longest) if longest else 0.0


def _largest_force(forces: np.ndarray) -> float:
    return float(np.sqrt(np.square(forces).sum(axis=1).max()))


def _groups(many: Sequence[Atoms]) -> list[list[Atoms]]:
    """Cut a list into batches of at most so many atoms."""
    groups: list[list[Atoms]] = []
    atoms = MAX_ATOMS + 1
    for one in many:
        if atoms + len(one) > MAX_ATOMS:
            groups.append([])
            atoms = 0
        groups[-1].append(one)
        atoms += len(one)
    return groups
