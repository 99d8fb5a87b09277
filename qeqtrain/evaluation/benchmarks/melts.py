"""Molten salts: a start for molecular dynamics, measured densities, structure and diffusion."""

from __future__ import annotations

from collections.abc import Collection, Sequence

import numpy as np
from ase import Atoms
from ase.data import atomic_masses, atomic_numbers, covalent_radii
from ase.formula import Formula

from qeqtrain.errors import UserMistake

MEASURED = {
    "LiCl": (883, 1.502, 4.32e-4),
    "NaCl": (1074, 1.556, 5.43e-4),
    "KCl": (1044, 1.527, 5.83e-4),
    "CaCl2": (1048, 2.085, 4.22e-4),
}
"""Salt: melting point (K), density there (g/cm^3), its fall per K.

Janz, J. Phys. Chem. Ref. Data 17, Suppl. 2 (1988), as rounded in the CRC Handbook.
"""
MIXTURES = (("NaCl", "CaCl2"), ("NaCl",), ("KCl",), ("LiCl",), ("LiF",), ("NaF",), ("KF",))
"""Salts in the order in which a model is asked for them."""
ANIONS = ("F", "Cl", "Br", "I", "O")
PER_GRAM = 1.66053907
"""g/cm^3 in one atomic mass unit per A^3."""


def salts_for(symbols: Collection[str]) -> tuple[str, ...]:
    """Give the first mixture that a model has the elements of; empty if there is none."""
    for mixture in MIXTURES:
        if all(set(Formula(salt).count()) <= set(symbols) for salt in mixture):
            return mixture
    return ()


def density(atoms: Atoms) -> float:
    """Mass over volume, g/cm^3."""
    return float(PER_GRAM * atoms.get_masses().sum() / atoms.get_volume())


def measured_density(salts: Sequence[str], temperature: float) -> float | None:
    """Density of an even mixture from those of its molten salts, volumes added; g/cm^3."""
    if not set(salts) <= set(MEASURED):
        return None
    mass = volume = 0.0
    for salt in salts:
        melting, at_melting, fall = MEASURED[salt]
        molar = sum(
            atomic_masses[atomic_numbers[s]] * n for s, n in Formula(salt).count().items()
        )
        mass += molar
        volume += molar / (at_melting - fall * (temperature - melting))
    return mass / volume


def starting_melt(salts: Sequence[str], atoms: int, rng: np.random.Generator) -> Atoms:
    """Put an even mixture of salts on a cubic grid, ions of either sign alternating.

    Args:
        salts: formulas of cations and halides or oxides.
        atoms: about so many; sites that remain empty are voids.
        rng: which ion is where.

    Raises:
        UserMistake: a salt without an anion, or none at all.
    """
    counts = {salt: Formula(salt).count() for salt in salts}
    unit: dict[str, int] = {}
    for salt, count in counts.items():
        if not any(s in ANIONS for s in count) or all(s in ANIONS for s in count):
            raise UserMistake(
                f"salts={salt}: expected a salt of one of {', '.join(ANIONS)}, such as NaCl"
            )
        for symbol, n in count.items():
            unit[symbol] = unit.get(symbol, 0) + n
    many = max(1, round(atoms / sum(unit.values())))
    cations = [s for s, n in unit.items() if s not in ANIONS for _ in range(n * many)]
    anions = [s for s, n in unit.items() if s in ANIONS for _ in range(n * many)]
    edge = 2
    while edge**3 // 2 < max(len(cations), len(anions)):
        edge += 2  # even, so that signs alternate through the boundary
    radii = [covalent_radii[atomic_numbers[s]] for s in unit]
    spacing = 1.08 * (max(radii) + min(radii))
    grid = np.stack(np.unravel_index(np.arange(edge**3), (edge,) * 3), axis=1)
    even = grid.sum(axis=1) % 2 == 0
    sites = [
        rng.permutation(grid[chosen])[: len(ions)]
        for chosen, ions in ((even, cations), (~even, anions))
    ]
    melt = Atoms(
        [*cations, *anions],
        spacing * np.concatenate(sites).astype(float),
        cell=spacing * edge * np.eye(3),
        pbc=True,
    )
    melt.info["charge"] = 0.0
    # Voids are not part of a melt: the box holds the ions as closely as a full grid would.
    melt.set_cell(melt.cell.array * (len(melt) / edge**3) ** (1 / 6), scale_atoms=True)
    return melt


def pair_distribution(
    frames: Sequence[Atoms], a: str, b: str, width: float = 0.1
) -> tuple[np.ndarray, np.ndarray]:
    """Radial distribution of two kinds of atoms, averaged over frames.

    Returns:
        Distances, A, and values that approach 1 far away, each of shape ``(bins,)``.
    """
    reach = min(0.5 * f.cell.lengths().min() for f in frames)
    edges = np.arange(0.0, reach, width)
    total = np.zeros(len(edges) - 1)
    for atoms in frames:
        symbols = np.array(atoms.get_chemical_symbols())
        first, second = np.flatnonzero(symbols == a), np.flatnonzero(symbols == b)
        distance = atoms.get_all_distances(mic=True)[np.ix_(first, second)]
        counted = np.histogram(distance[distance > 1e-8], bins=edges)[0]
        same = len(first) if a == b else 0
        pairs = len(first) * len(second) - same
        shells = 4 / 3 * np.pi * np.diff(edges**3)
        total += counted * atoms.get_volume() / (pairs * shells)
    return 0.5 * (edges[1:] + edges[:-1]), total / len(frames)


def diffusivity(paths: np.ndarray, spacing_fs: float) -> tuple[np.ndarray, np.ndarray, float]:
    """Mean square displacement of one kind of atoms, and its slope over six.

    Args:
        paths: unwrapped positions without drift of the whole, A, shape ``(frames, n, 3)``.
        spacing_fs: between frames, fs.

    Returns:
        Delays, ps; displacement, A^2; diffusivity, cm^2/s, from the later half of the delays,
        which reach half of the time.
    """
    longest = max(2, len(paths) // 2)
    delays = np.arange(1, longest + 1)
    squares = np.array([np.square(paths[d:] - paths[:-d]).sum(axis=-1).mean() for d in delays])
    time = delays * spacing_fs * 1e-3
    late = slice(len(delays) // 2, None)
    slope = np.polyfit(time[late], squares[late], 1)[0] if len(delays) > 3 else np.nan
    return time, squares, float(slope / 6 * 1e-4)  # A^2/ps is 1e-4 cm^2/s
