"""Charged systems and how tests of the charge equilibration put them into batches."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from ase import Atoms
from ase.build import bulk, molecule
from torch import Tensor

from qeqtrain.neighbors import with_pairs
from qeqtrain.physics.ewald import CoulombReach
from qeqtrain.structures import Structure, Structures, collate
from tests.systems import rattled

WIDTHS = {1: 0.31, 8: 0.66, 11: 1.66, 12: 1.41, 17: 1.02}


def batch(*systems: Atoms, accuracy: float = 1e-9, **given: Any) -> Structures:
    """Join systems, with the lists that equilibration needs; charge from ``info``."""
    reach = CoulombReach(WIDTHS, accuracy)
    ready = [
        with_pairs(
            Structure.from_atoms(a, total_charge=a.info.get("charge", 0.0), **given),
            {"charge": reach},
        )
        for a in systems
    ]
    return collate(ready)


def parameters(structures: Structures) -> tuple[Tensor, Tensor, Tensor]:
    """Electronegativity, hardness and width that depend on an atom's place in its structure."""
    first = torch.searchsorted(structures.batch, structures.batch)
    place = torch.arange(structures.n_atoms) - first
    numbers = structures.numbers.double()
    chi = torch.sin(0.7 * numbers + 1.3 * place)
    hardness = 2.0 + torch.cos(0.3 * numbers + place)
    width = torch.tensor([WIDTHS[z] for z in structures.numbers.tolist()], dtype=torch.float64)
    return chi, hardness, width


def salt(amount: float = 0.1) -> Atoms:
    """Sheared rock salt, eight atoms."""
    atoms = rattled(bulk("NaCl", "rocksalt", a=5.64, cubic=True), amount)
    shear = np.array([[1.02, 0.05, -0.03], [0.0, 0.96, 0.06], [0.02, 0.0, 1.03]])
    atoms.set_cell(atoms.cell.array @ shear, scale_atoms=True)
    return atoms


def small_cell() -> Atoms:
    """Three atoms in a skewed cell."""
    return Atoms(
        "NaClO",
        [[0.1, 0.0, 0.2], [2.4, 0.3, 0.4], [0.9, 2.1, 2.2]],
        cell=[[4.1, 0.3, 0.1], [-0.4, 4.4, 0.2], [0.6, 0.5, 4.9]],
        pbc=True,
    )


def small_slab() -> Atoms:
    """Two layers of MgO on a skewed lattice, tilted against the axes, periodic in two."""
    atoms = rattled(bulk("MgO", "rocksalt", a=4.21, cubic=True), 0.1, seed=2)
    atoms.set_cell(atoms.cell.array @ np.array([[1, 0.1, 0], [0.1, 1, 0], [0, 0, 1]]), True)
    atoms.rotate(20.0, (1.0, 0.4, 0.2), rotate_cell=True)
    atoms.pbc = (True, True, False)
    return atoms


def water(charge: float = 0.0) -> Atoms:
    """One molecule."""
    atoms = rattled(molecule("H2O"), 0.05, seed=1)
    atoms.info["charge"] = charge
    return atoms
