"""Simple crystals and molecules of known compounds and elements, as starting points.

Lattice constants are rounded and only where a curve starts; nothing is compared with them.
"""

from __future__ import annotations

from collections.abc import Collection

from ase import Atoms
from ase.build import bulk, molecule

_CUBIC = {
    "LiF": ("rocksalt", 4.03),
    "LiCl": ("rocksalt", 5.13),
    "NaF": ("rocksalt", 4.63),
    "NaCl": ("rocksalt", 5.64),
    "KF": ("rocksalt", 5.35),
    "KCl": ("rocksalt", 6.29),
    "MgO": ("rocksalt", 4.21),
    "CaO": ("rocksalt", 4.81),
    "SrO": ("rocksalt", 5.16),
    "CsCl": ("cesiumchloride", 4.12),
    "CaF2": ("fluorite", 5.46),
    "ZnS": ("zincblende", 5.41),
    "GaAs": ("zincblende", 5.65),
    "SiC": ("zincblende", 4.36),
    "Na": ("bcc", 4.23),
    "Li": ("bcc", 3.49),
    "Fe": ("bcc", 2.87),
    "W": ("bcc", 3.16),
    "Al": ("fcc", 4.05),
    "Cu": ("fcc", 3.61),
    "Au": ("fcc", 4.08),
    "Pt": ("fcc", 3.92),
    "C": ("diamond", 3.57),
    "Si": ("diamond", 5.43),
}


def prototypes(symbols: Collection[str]) -> dict[str, Atoms]:
    """Give the primitive cells of all crystals that are made of these elements, by formula."""
    found = {}
    for formula, (kind, a) in _CUBIC.items():
        atoms = bulk(formula, kind, a=a)
        if set(atoms.get_chemical_symbols()) <= set(symbols):
            atoms.info["charge"] = 0.0
            found[formula] = atoms
    return found


def first_ionic(symbols: Collection[str]) -> tuple[str, Atoms] | None:
    """Give formula and conventional cell of the first that suits probes of ions, or nothing."""
    known = prototypes(symbols)
    for formula in ("NaCl", "MgO", "LiF", "KCl", *known):
        if formula in known:
            kind, a = _CUBIC[formula]
            atoms = bulk(formula, kind, a=a, cubic=True)
            atoms.info["charge"] = 0.0
            return formula, atoms
    return None


def molecules(symbols: Collection[str]) -> dict[str, Atoms]:
    """Give small neutral molecules and clusters that are made of these elements, by formula."""
    found = {}
    for name in ("H2O", "NH3", "CO2", "HF", "NaCl", "LiF"):
        atoms = molecule(name)
        if set(atoms.get_chemical_symbols()) <= set(symbols):
            found[name] = atoms
    for metal, side in (("Na", 3.0), ("Li", 2.8), ("K", 3.9)):
        if metal in symbols:
            found[f"{metal}4"] = _square(metal, side)
    for atoms in found.values():
        atoms.info["charge"] = 0.0
    return found


def _square(symbol: str, side: float) -> Atoms:
    return Atoms(f"{symbol}4", [[side * i, side * j, 0.0] for i in (0, 1) for j in (0, 1)])
