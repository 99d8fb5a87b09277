"""Checks of a geometry that no training should start with."""

from __future__ import annotations

import math

import numpy as np

from qeqtrain.data.labels import plural
from qeqtrain.neighbors import completed_cell, find_pairs
from qeqtrain.structures import Structure

_DENSE = 200  # atoms; for more a tree is faster than a matrix
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
    with np.errstate(over="ignore", invalid="ignore"):
        squares = float(flat @ flat)
    return math.isfinite(squares) or bool(np.isfinite(flat).all())


def _spans(cell: np.ndarray) -> bool:
    """Whether three vectors surely span a cell; when in doubt they do not.

    The smallest singular value is at least the determinant over the squared norm.
    """
    (a, b, c), (d, e, f), (g, h, i) = cell.tolist()
    volume = abs(a * (e * i - f * h) - b * (d * i - f * g) + c * (d * h - e * g))
    square = a * a + b * b + c * c + d * d + e * e + f * f + g * g + h * h + i * i
    return volume > 2e-6 * max(square**0.5, 1.0) * square


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
        fractions = structure.positions @ np.linalg.inv(cell)
        a, b = np.triu_indices(n, k=1)
        vectors = fractions[b] - fractions[a]
        # Atoms closer than half a cell in every direction are so through this image.
        vectors = (vectors - np.rint(vectors) * structure.pbc) @ cell
    return float(np.sqrt((vectors**2).sum(-1).min(initial=np.inf)))


def geometry_mistakes(structure: Structure) -> list[str]:
    """Say what is wrong with a geometry, in words; nothing if it is sound."""
    if len(structure) == 0:
        return ["there are no atoms; remove the frame"]
    problems = []
    numbers = structure.numbers
    smallest, largest = int(numbers.min()), int(numbers.max())
    if smallest < 1 or largest > 118:
        bad = sorted({int(z) for z in numbers if not 1 <= z <= 118})
        problems.append(f"atomic numbers {bad} are no elements; expected 1 to 118")
    if not all_finite(structure.positions):
        problems.append("positions are not numbers (NaN or infinite); remove the frame")
    if not all_finite(structure.cell):
        problems.append("the cell is not finite; remove the frame")
    if problems:
        return problems
    cell: np.ndarray | None = None
    if structure.pbc.all() and _spans(structure.cell):
        cell = structure.cell
    elif structure.pbc.any():
        try:
            cell = completed_cell(structure.cell, structure.pbc)
        except ValueError as error:
            problems.append(f"periodic, but {error}")
    if cell is not None and structure.pbc.all():
        volume = abs(float(np.linalg.det(cell)))
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
