"""Structures and small models that tests of several folders share."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.build import bulk, molecule

from qeqtrain.models.potential import Potential, build_potential
from qeqtrain.models.qet import qet_spec
from qeqtrain.neighbors import with_pairs
from qeqtrain.structures import Structure, Structures, collate

ELEMENTS = (1, 8, 11, 12, 17, 29)

TOLERANCE = {
    # Agreement of two ways to the same number, relative to order one.
    torch.float64: 1e-12,
    torch.float32: 2e-5,
}


def shared_file(*parts: str) -> Path:
    """Find a file of the reference data, or skip the test with the reason."""
    root = Path(__file__).resolve().parents[1]
    folder = Path(os.environ.get("QEQTRAIN_SHARED", root.parent / "shared"))
    path = folder.joinpath(*parts)
    if not path.exists():
        pytest.skip(f"reference data {Path(*parts)} not found; set QEQTRAIN_SHARED")
    return path


def small_qet(seed: int = 0, **options: Any) -> Potential:
    """Build an untrained QET, small enough for derivatives by finite differences."""
    torch.manual_seed(seed)
    settings: dict[str, Any] = {"channels": 8, "layers": 2, "cutoff": 4.0, "dtype": "float64"}
    conditioning = options.pop("conditioning", "none")
    charge = options.pop("charge", None)
    basis = options.pop("radial_basis", "smooth_bessel")
    spec = qet_spec(**{**settings, **options})
    spec["backbone"] |= {"conditioning": conditioning, "radial_basis": basis}
    if charge is not None:
        spec["charge"] = charge
    return build_potential(
        spec,
        elements=ELEMENTS,
        references={z: -0.5 * z for z in ELEMENTS},
        scale=1.7,
        conventions={"charge_states": [0.0]},
    ).eval()


def rattled(atoms: Atoms, amount: float = 0.08, seed: int = 0) -> Atoms:
    """Move every atom at random."""
    atoms = atoms.copy()
    atoms.positions += amount * np.random.default_rng(seed).normal(size=(len(atoms), 3))
    return atoms


def triclinic() -> Atoms:
    """Sheared, rattled rock salt with eight atoms."""
    atoms = rattled(bulk("NaCl", "rocksalt", a=5.4, cubic=True))
    shear = np.array([[1.02, 0.05, -0.03], [0.0, 0.96, 0.06], [0.0, 0.0, 1.03]])
    atoms.set_cell(atoms.cell.array @ shear, scale_atoms=True)
    return atoms


def water(charge: float = 0.0) -> Atoms:
    """One water molecule, a little bent out of symmetry."""
    atoms = rattled(molecule("H2O"), 0.05, seed=1)
    atoms.info["charge"] = charge
    return atoms


def slab() -> Atoms:
    """Two layers of MgO, periodic in the plane only."""
    atoms = rattled(bulk("MgO", "rocksalt", a=4.21, cubic=True), 0.05, seed=2)
    atoms.pbc = (True, True, False)
    return atoms


def wire() -> Atoms:
    """A chain of NaCl, periodic in one direction, without vectors along the others."""
    return Atoms(
        "NaCl",
        [[0, 0, 0], [2.6, 0.1, 0]],
        cell=[[5.0, 0.4, 0], [0] * 3, [0] * 3],
        pbc=(1, 0, 0),
    )


def one_atom_cell() -> Atoms:
    """Copper's primitive cell."""
    return bulk("Cu", "fcc", a=3.6)


def all_systems() -> list[Atoms]:
    """One of every kind of periodicity, one of them charged."""
    return [triclinic(), water(), water(1.0), slab(), wire(), one_atom_cell()]


def batch_of(atoms: list[Atoms], potential: Potential) -> Structures:
    """Make a batch with the neighbour lists of a potential."""
    ready = [
        with_pairs(
            Structure.from_atoms(a, total_charge=a.info.get("charge", 0.0), spin=1.0),
            potential.cutoffs,
        )
        for a in atoms
    ]
    return collate(ready)
