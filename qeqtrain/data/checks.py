"""Checks of a geometry that no training should start with."""

from __future__ import annotations

import numpy as np

from qeqtrain.data.labels import plural
from qeqtrain.neighbors import completed_cell, find_pairs
from qeqtrain.structures import Structure

CLOSEST = 0.1  # A; nuclei nearer than this are a reader's or a writer's error

_ALL_PAIRS = 64  # atoms up to which all pairs are looked at
DENSEST = 2.0  # atoms per A^3; three times what any material under pressure reaches


def closest_distance(positions: np.ndarray) -> float:
    """Smallest distance between two atoms, images left aside, A; infinite for one atom."""
    n = len(positions)
    if n < 2:
        return np.inf
    if n > _ALL_PAIRS:
        from scipy.spatial import cKDTree

        distances, _ = cKDTree(positions).query(positions, k=2)
        return float(distances[:, 1].min())
    squares = ((positions[:, None] - positions[None]) ** 2).sum(-1)
    squares[np.arange(n), np.arange(n)] = np.inf
    return float(np.sqrt(squares.min()))


def closest_image(structure: Structure, cell: np.ndarray) -> float:
    """Smallest distance between two atoms or their images, A; right where it is small.

    Args:
        structure: periodic.
        cell: three independent vectors, rows, A (:func:`qeqtrain.neighbors.completed_cell`).
    """
    n = len(structure)
    if n > _ALL_PAIRS:
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
    if numbers.min() < 1 or numbers.max() > 118:
        bad = sorted({int(z) for z in numbers if not 1 <= z <= 118})
        problems.append(f"atomic numbers {bad} are no elements; expected 1 to 118")
    if not np.isfinite(structure.positions).all():
        problems.append("positions are not numbers (NaN or infinite); remove the frame")
    if not np.isfinite(structure.cell).all():
        problems.append("the cell is not finite; remove the frame")
    if problems:
        return problems
    cell: np.ndarray | None = None
    if structure.pbc.any():
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
