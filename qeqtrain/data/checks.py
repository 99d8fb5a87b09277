"""Checks of a geometry that no training should start with."""

from __future__ import annotations

import math
from functools import lru_cache

import numpy as np

from qeqtrain.data.labels import plural
from qeqtrain.neighbors import completed_cell, find_pairs
from qeqtrain.structures import Structure

_DENSE = 200  # atoms; for more a tree is faster than a matrix
_FEW = 64  # atoms; for fewer all pairs are faster than those in doubt
CLOSEST = 0.1  # A; nuclei nearer than this are a reader's or a writer's error

DENSEST = 2.0  # atoms per A^3; three times what any material under pressure reaches


def closest_distance(positions: np.ndarray) -> float:
    """Smallest distance between two atoms, images left aside, A; infinite for one atom."""
    n = len(positions)
    if n < 2:
        return np.inf
    if n > _DENSE:
        from scipy.spatial import cKDTree

        distances, _ = cKDTree(positions).query(positions, k=2)
        return float(distances[:, 1].min())
    # One matrix product finds the pair; what it loses to rounding is computed anew.
    arms = positions - positions[0]
    gram = arms @ arms.T
    lengths = gram.diagonal()
    squares = lengths[:, None] - (gram + gram)
    squares += lengths
    squares.flat[:: n + 1] = np.inf
    i, j = divmod(int(squares.argmin()), n)
    return float(np.linalg.norm(positions[i] - positions[j]))


def all_finite(values: np.ndarray) -> bool:
    """Whether all values are numbers; a sum of squares that is one settles it."""
    flat = values.ravel()
    return math.isfinite(np.vdot(flat, flat)) or bool(np.isfinite(flat).all())


def _volume(cell: np.ndarray) -> float | None:
    """Volume of three vectors that surely span a cell; ``None`` when in doubt.

    The smallest singular value is at least the determinant over the squared norm.
    """
    (a, b, c), (d, e, f), (g, h, i) = cell.tolist()
    volume: float = abs(a * (e * i - f * h) - b * (d * i - f * g) + c * (d * h - e * g))
    square = a * a + b * b + c * c + d * d + e * e + f * f + g * g + h * h + i * i
    return volume if volume > 2e-6 * max(square**0.5, 1.0) * square else None


def closest_image(structure: Structure, cell: np.ndarray) -> float:
    """Smallest distance between two atoms or their images, A; right where it is small.

    Args:
        structure: periodic.
        cell: three independent vectors, rows, A (:func:`qeqtrain.neighbors.completed_cell`).
    """
    n = len(structure)
    if n > _DENSE:
        pairs = find_pairs(structure, 1.0)  # a shorter cutoff costs more: it makes more bins
        vectors = structure.positions[pairs.receiver] - structure.positions[pairs.sender]
        vectors = vectors + pairs.shift.astype(np.float64) @ structure.cell
    else:
        inverse = _inverse(cell)
        fractions = structure.positions @ inverse
        a, b = _two_of(n) if n < _FEW else _near_planes(fractions, inverse, structure.pbc)
        vectors = fractions.take(b, axis=0)
        vectors -= fractions.take(a, axis=0)
        # Atoms closer than half a cell in every direction are so through this image.
        vectors -= np.rint(vectors) * structure.pbc
        vectors = vectors @ cell
    return math.sqrt(np.einsum("pa,pa->p", vectors, vectors).min(initial=np.inf))


def _inverse(cell: np.ndarray) -> np.ndarray:
    """Inverse of three vectors that span a cell; a third of the time of a general one."""
    (a, b, c), (d, e, f), (g, h, i) = cell.tolist()
    x, y, z = e * i - f * h, f * g - d * i, d * h - e * g
    scale = 1.0 / (a * x + b * y + c * z)
    rows = (
        (x, c * h - b * i, b * f - c * e),
        (y, a * i - c * g, c * d - a * f),
        (z, b * g - a * h, a * e - b * d),
    )
    return np.array(rows) * scale


@lru_cache(maxsize=_FEW)
def _two_of(n: int) -> tuple[np.ndarray, np.ndarray]:
    """All pairs of n atoms."""
    a, b = np.triu_indices(n, k=1)
    return a, b


def _near_planes(
    fractions: np.ndarray, inverse: np.ndarray, pbc: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Pairs that may be nearer than :data:`CLOSEST`, from one of their coordinates.

    It is the one along which the cell is longest; images are looked at as well.
    """
    n = len(fractions)
    along = int((inverse**2).sum(axis=0).argmin())
    width = CLOSEST * float(np.linalg.norm(inverse[:, along])) * (1 + 1e-9)
    places = fractions[:, along]
    if pbc[along]:
        places = places - np.floor(places)
    order = np.argsort(places)
    places = places[order]
    ends = np.concatenate([places, places + 1.0]) if pbc[along] else places
    counts = np.searchsorted(ends, places + width, side="right") - np.arange(1, n + 1)
    counts = np.clip(counts, 0, n - 1)
    first = np.repeat(np.arange(n), counts)
    begins = np.cumsum(counts) - counts
    second = (first + 1 + np.arange(len(first)) - np.repeat(begins, counts)) % n
    return order[first], order[second]


def geometry_mistakes(structure: Structure) -> list[str]:
    """Say what is wrong with a geometry, in words; nothing if it is sound."""
    if len(structure) == 0:
        return ["there are no atoms; remove the frame"]
    problems = []
    numbers = structure.numbers.tolist()
    if min(numbers) < 1 or max(numbers) > 118:
        bad = sorted({int(z) for z in numbers if not 1 <= z <= 118})
        problems.append(f"atomic numbers {bad} are no elements; expected 1 to 118")
    if not all_finite(structure.positions):
        problems.append("positions are not numbers (NaN or infinite); remove the frame")
    if not all_finite(structure.cell):
        problems.append("the cell is not finite; remove the frame")
    if problems:
        return problems
    cell: np.ndarray | None = None
    whole = bool(structure.pbc.all())
    volume = _volume(structure.cell) if whole else None
    if volume is not None:
        cell = structure.cell
    elif whole or structure.pbc.any():
        try:
            cell = completed_cell(structure.cell, structure.pbc)
        except ValueError as error:
            problems.append(f"periodic, but {error}")
    if cell is not None and whole:
        volume = abs(float(np.linalg.det(cell))) if volume is None else volume
        if len(structure) > DENSEST * volume:
            problems.append(
                f"the cell of {volume:.3g} A^3 holds {plural(len(structure), 'atom')}; "
                "check the units of the cell (A)"
            )
            cell = None  # its images are beyond counting
    # Images are no further away than the atoms themselves: those need a look only if images do.
    if cell is None or closest_image(structure, cell) < CLOSEST:
        near = closest_distance(structure.positions)
        if near < CLOSEST:
            problems.append(
                f"two atoms are {near:.3g} A apart, nearer than {CLOSEST} A; check the units "
                "(positions in A) and the frame"
            )
        elif cell is not None:
            near = closest_image(structure, cell)
            problems.append(
                f"two atoms are {near:.3g} A apart through a cell boundary; check the cell"
            )
    if structure.electric_field is not None and not np.isfinite(structure.electric_field).all():
        problems.append("electric_field is not a number; expected three, in V/A")
    return problems
