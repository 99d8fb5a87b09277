"""The contract that any potential must keep, ours or a user's.

    import qeqtrain.testing
    qeqtrain.testing.check_potential(my_potential)

Each check raises an ``AssertionError`` that says which law is broken and by how much.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch
from ase import Atoms
from ase.build import bulk, molecule
from ase.data import chemical_symbols

from qeqtrain.models.potential import Potential
from qeqtrain.structures import Prediction

FIELD = (0.1, -0.05, 0.2)
"""Electric field in which molecules are checked, V/A."""


def check_potential(potential: Potential, structures: Sequence[Atoms] | None = None) -> None:
    """Check invariances, additivity and derivatives of a potential.

    Rotation, translation, order of atoms, batch = single, supercell, forces and stress as
    finite differences, charges that add up to the total charge; of molecules the same in an
    electric field, if the model has an answer to one.

    Args:
        potential: checked in float64 if its network is, else with float32's tolerances.
        structures: to check on; by default a molecule and a crystal of elements it knows.

    Raises:
        AssertionError: a law is broken.
    """
    double = potential.dtype == torch.float64
    exact, derivative = (1e-9, 1e-5) if double else (2e-4, 2e-2)
    for atoms in structures or default_structures(potential):
        name = atoms.get_chemical_formula()
        plain = _predict(potential, atoms)

        turn = _rotation()
        turned = atoms.copy()
        turned.set_cell(atoms.cell.array @ turn.T)
        turned.positions = atoms.positions @ turn.T + [0.3, -4.0, 1.7]
        found = _predict(potential, turned)
        _close(found.energy, plain.energy, exact, f"{name}: energy changes under rotation")
        expected = plain.forces.numpy() @ turn.T
        _close(found.forces, expected, exact, f"{name}: forces do not turn with the atoms")

        order = np.random.default_rng(0).permutation(len(atoms))
        found = _predict(potential, atoms[order])
        _close(found.energy, plain.energy, exact, f"{name}: energy depends on the atoms' order")
        _close(found.forces, plain.forces[order], exact, f"{name}: forces depend on the order")

        other = (structures or default_structures(potential))[0]
        pair = float(potential([other, atoms], forces=True).energy[1])
        pair -= _references(potential, atoms)
        _close(pair, plain.energy[0], exact, f"{name}: energy depends on the batch")

        if plain.charges is not None:
            total = float(atoms.info.get("charge", 0.0))
            _close(plain.charges.sum(), total, exact, f"{name}: charges do not add up to Q")
        _check_forces(potential, atoms, plain, derivative)
        if potential.field != "none" and not atoms.pbc.any():
            _check_field(potential, atoms, exact, derivative)
        if plain.stress is not None:
            twice = atoms.repeat((1, 2, 1))
            found = _predict(potential, twice)
            _close(
                found.energy, 2 * plain.energy, 10 * exact, f"{name}: supercell != two cells"
            )
            _check_stress(potential, atoms, plain, derivative)


def default_structures(potential: Potential) -> list[Atoms]:
    """Make a rattled molecule and a rattled crystal from elements the potential knows."""
    known = [chemical_symbols[z] for z in potential.elements]
    a, b = known[0], known[-1]
    rng = np.random.default_rng(0)
    cluster = molecule("H2O")
    cluster.symbols = [a, b, b]
    crystal = bulk(a + b if a != b else a + a, "rocksalt", a=5.2, cubic=True)
    for atoms in (cluster, crystal):
        atoms.positions *= 1.0 if atoms.pbc.any() else 1.6
        atoms.positions += 0.05 * rng.normal(size=atoms.positions.shape)
        atoms.info["charge"] = 0.0
    return [cluster, crystal]


def _predict(potential: Potential, atoms: Atoms) -> Prediction:
    """Predict; references, which may be millions of eV, are left out of the energy."""
    found = potential(atoms, forces=True).detach()
    return replace(found, energy=found.energy - _references(potential, atoms))


def _references(potential: Potential, atoms: Atoms) -> float:
    total = sum(potential.references[int(z)] for z in atoms.numbers)
    if potential.charge_references is not None:
        total += float(potential.charge_references(potential.structures_of(atoms)).detach()[0])
    return total


def _rotation() -> np.ndarray:
    """Give one proper rotation in general position."""
    q, r = np.linalg.qr(np.random.default_rng(1).normal(size=(3, 3)))
    q = q * np.sign(np.diag(r))
    return q * np.linalg.det(q)


def _close(met: object, expected: object, tolerance: float, law: str) -> None:
    met, expected = np.asarray(met, dtype=float), np.asarray(expected, dtype=float)
    worst = float(np.max(np.abs(met - expected) / (1.0 + np.abs(expected)), initial=0.0))
    if not worst <= tolerance:
        raise AssertionError(f"{law}: off by {worst:.2e}, allowed {tolerance:.0e}")


def _check_forces(potential: Potential, atoms: Atoms, at: Prediction, tolerance: float) -> None:
    direction = np.random.default_rng(2).normal(size=atoms.positions.shape)
    h = 1e-4 if potential.dtype == torch.float64 else 1e-2
    ends = []
    for sign in (-1, 1):
        moved = atoms.copy()
        moved.positions += sign * h * direction
        ends.append(float(potential(moved, forces=False, stress=False).energy[0]))
    slope = (ends[1] - ends[0]) / (2 * h)
    expected = -float((at.forces.numpy() * direction).sum())
    _close(slope, expected, tolerance, f"{atoms.get_chemical_formula()}: forces are not -dE/dr")


def _check_field(potential: Potential, atoms: Atoms, exact: float, derivative: float) -> None:
    name, turn, field = atoms.get_chemical_formula(), _rotation(), np.array(FIELD)
    pulled, turned = atoms.copy(), atoms.copy()
    pulled.info["electric_field"] = field
    turned.positions = atoms.positions @ turn.T
    turned.info["electric_field"] = turn @ field
    plain, found = _predict(potential, pulled), _predict(potential, turned)
    law = "does not turn with molecule and field"
    _close(found.energy, plain.energy, exact, f"{name}: energy {law}")
    _check_forces(potential, pulled, plain, derivative)
    net = plain.forces.sum(0).numpy()
    expected = float(atoms.info.get("charge", 0.0)) * field
    _close(net, expected, exact, f"{name}: a field does not pull at the total charge")


def _check_stress(potential: Potential, atoms: Atoms, at: Prediction, tolerance: float) -> None:
    strain = np.random.default_rng(3).normal(size=(3, 3))
    strain = 0.5 * (strain + strain.T)
    h = 1e-4 if potential.dtype == torch.float64 else 3e-3
    ends = []
    for sign in (-1, 1):
        bent = atoms.copy()
        bent.set_cell(atoms.cell.array @ (np.eye(3) + sign * h * strain), scale_atoms=True)
        ends.append(float(potential(bent, forces=False, stress=False).energy[0]))
    slope = (ends[1] - ends[0]) / (2 * h) / atoms.get_volume()
    expected = float((at.stress[0].numpy() * strain).sum())
    name = atoms.get_chemical_formula()
    _close(slope, expected, tolerance, f"{name}: stress is not (1/V) dE/dstrain")
