"""Two sets of clusters whose labels come from two methods, made here."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from qeqtrain.data.frames import Frame
from qeqtrain.data.writing import write_extxyz
from qeqtrain.structures import Structure

FIRST = {11: -4.0, 17: -7.0, 19: -5.5}
SECOND = {11: -104.0, 17: -57.0, 19: 12.0}
SLOPE = {11: 0.25, 17: -0.1, 19: 0.4}
OFFSET = {11: 0.05, 17: -0.02, 19: 0.0}


def cluster(seed: int, *, second: bool = False, potassium: bool = False) -> Frame:
    """A few ions: harmonic energy and forces, charges by their surroundings.

    Args:
        seed: of the geometry.
        second: labels of the second method: another scale of energies, and charges that are an
            affine map of the first one's, brought back to the total charge.
        potassium: instead of sodium.
    """
    random = np.random.default_rng([seed, 17])
    n = 4 + seed % 3
    metal = 19 if potassium else 11
    numbers = np.where((np.arange(n) + seed) % 2, 17, metal)
    positions = np.arange(n)[:, None] * [1.9, 0.4, 0.0] + 0.15 * random.normal(size=(n, 3))
    total = float(seed // 3 % 3 - 1)
    structure = Structure(
        numbers, positions, np.zeros((3, 3)), np.zeros(3, dtype=bool), total_charge=total
    )
    steps = np.diff(positions, axis=0)
    lengths = np.linalg.norm(steps, axis=1)
    pull = (lengths - 2.0)[:, None] * steps / lengths[:, None]
    forces = np.zeros((n, 3))
    forces[:-1] += pull
    forces[1:] -= pull
    energies = SECOND if second else FIRST
    energy = 0.5 * ((lengths - 2.0) ** 2).sum() + sum(energies[int(z)] for z in numbers)
    charges = np.where(numbers == 17, -0.6, 0.7)
    charges[:-1] += 0.1 * (lengths - 2.0)
    charges += (total - charges.sum()) / n
    if second:
        charges = mapped(numbers, charges)
    labels = {"energy": np.float64(energy), "forces": forces, "charges": charges}
    return Frame(structure, labels, f"{'b' if second else 'a'}{seed}")


def mapped(numbers: np.ndarray, charges: np.ndarray) -> np.ndarray:
    """Charges of the second kind from those of the first."""
    change = np.array(
        [SLOPE[int(z)] * q + OFFSET[int(z)] for z, q in zip(numbers, charges, strict=True)]
    )
    return charges + change - change.mean()


def write_pair(folder: Path, count: int = 24) -> tuple[str, str]:
    """Write both sets; the second has fewer frames, and potassium besides sodium."""
    first, second = folder / "first.extxyz", folder / "second.extxyz"
    write_extxyz(first, [cluster(i) for i in range(count)])
    write_extxyz(
        second,
        [cluster(100 + i, second=True, potassium=i % 3 == 0) for i in range(count // 2)],
    )
    return str(first), str(second)


def both(folder: Path, count: int = 24, **second: object) -> dict[str, dict[str, object]]:
    """``data.sets`` of the two; keywords are options of the second."""
    a, b = write_pair(folder, count)
    return {
        "first": {"train": a, "split": {"val": 0.2}, "charge_type": "mulliken"},
        "second": {"train": b, "split": {"val": 0.2}, "charge_type": "ddec6", **second},
    }
