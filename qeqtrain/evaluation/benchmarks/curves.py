"""Measures of a curve of energies: smoothness, wells, repulsion.

Definitions of smoothness follow MLIP Arena and matbench-discovery, so that numbers compare.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

NOTHING = 1e-3
"""eV: steps of energy below this are not counted as a change of direction."""
NO_FORCE = 1e-2
"""eV/A: forces below this have no sign."""


@dataclass(frozen=True)
class Smoothness:
    """How far a curve is from one repulsive wall and one well.

    Attributes:
        tortuosity: distance in energy along the curve over that of a curve that only falls and
            rises once; 1 is perfect.
        energy_flips: changes of direction of the energy; 1 for one well.
        energy_jump: size of the steps beside these changes, eV.
        force_flips: changes of sign of the force.
    """

    tortuosity: float
    energy_flips: int
    energy_jump: float
    force_flips: int


def smoothness(energy: np.ndarray, force: np.ndarray) -> Smoothness:
    """Measure a curve over increasing distance.

    Args:
        energy: eV, shape ``(points,)``.
        force: along the axis on one of the atoms, eV/A, shape ``(points,)``.
    """
    steps = np.diff(energy)
    span = abs(energy[0] - energy.min()) + abs(energy[-1] - energy.min())
    counted = steps[np.abs(steps) >= NOTHING]
    flips = np.sign(counted[1:]) != np.sign(counted[:-1])
    signs = np.sign(force[np.abs(force) >= NO_FORCE])
    return Smoothness(
        tortuosity=float(np.abs(steps).sum() / span) if span > 0 else float("nan"),
        energy_flips=int(flips.sum()),
        energy_jump=float(np.abs(counted[:-1][flips]).sum() + np.abs(counted[1:][flips]).sum()),
        force_flips=int((signs[1:] != signs[:-1]).sum()),
    )


@dataclass(frozen=True)
class Well:
    """The lowest point of a curve.

    Attributes:
        distance: A.
        depth: below the far end, eV.
    """

    distance: float
    depth: float


def well(distance: np.ndarray, energy: np.ndarray) -> Well:
    """Find the well, its place by a parabola through the lowest points."""
    lowest = int(np.argmin(energy))
    place = float(distance[lowest])
    first = min(max(0, lowest - 2), max(0, len(distance) - 5))
    near = slice(first, first + 5)
    if 0 < lowest < len(distance) - 1 and len(distance) >= 3:
        a, b, _ = np.polyfit(distance[near], energy[near], 2)
        if a > 0 and distance[near].min() <= -b / (2 * a) <= distance[near].max():
            place = float(-b / (2 * a))
    return Well(place, float(energy[-1] - energy[lowest]))


def wall_is_repulsive(distance: np.ndarray, energy: np.ndarray) -> bool:
    """Say whether energy rises all the way from the well to the shortest distance."""
    inward = energy[: int(np.argmin(energy)) + 1]
    return len(inward) > 1 and bool(np.all(np.diff(inward) < NOTHING))
