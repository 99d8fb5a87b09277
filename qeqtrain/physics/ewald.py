r"""Where Ewald's sum is split, how far each half reaches, and what is said of the cell.

A charge is split into a Gaussian of width :math:`\eta`, summed over wave vectors, and the rest,
summed over pairs; both sums end where :math:`e^{-s^2}` is a thousandth of the accuracy:

.. math:: r_c = \sqrt2\, s \max(\eta, \gamma_{\max}), \qquad
          k_c = \sqrt2\, s / \eta, \qquad s = \sqrt{-\ln 10^{-3}\epsilon}.

The work per atom is balanced when :math:`\eta \propto (V^2/N)^{1/6}`, which grows with the
size of the cell. Pairs reach as far as the densities are wide in any case, so a smaller
:math:`\eta` than :math:`\gamma_{\max}` is never of use.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from qeqtrain.errors import UserMistake
from qeqtrain.physics.slab import padded, slab_normal, vacuum
from qeqtrain.structures import Structure

SPLITTING = 0.3
"""Splitting width over (V^2/N)^(1/6): equal work for both sums, measured on one CPU thread."""

NEUTRAL = 1e-8
"""Largest charge, e, of a slab that counts as neutral."""

MOLECULE, SLAB, CRYSTAL = 0, 2, 3
"""Kinds of structure, by their number of periodic directions."""


GUARD = 1e-3
"""What is left out of a sum, over the accuracy: strain derivatives are three digits worse."""


def decay(accuracy: float) -> float:
    """Argument s at which exp(-s^2) is small enough for the accuracy, derivatives included."""
    return math.sqrt(-math.log(GUARD * accuracy))


@dataclass(frozen=True)
class Splitting:
    """How the interaction of one structure is summed.

    Attributes:
        kind: ``MOLECULE``, ``SLAB`` or ``CRYSTAL``.
        width: splitting width eta, A; infinite for a molecule: everything is in the pairs.
        cutoff: of the pairs, A.
        longest: wave number where the sum over waves ends, 1/A.
        open_direction: of a slab, index of the row of its cell that is not periodic.
        length: of a slab with its vacuum, A.
    """

    kind: int
    width: float
    cutoff: float
    longest: float
    open_direction: int = -1
    length: float = 0.0


def split(
    positions: Tensor, cell: Tensor, pbc: Sequence[bool], widest: float, accuracy: float
) -> Splitting:
    """Choose splitting width and cutoffs of one structure.

    Args:
        positions: A, shape ``(n, 3)``.
        cell: rows, A, shape ``(3, 3)``.
        pbc: periodic directions.
        widest: largest width of a Gaussian density, A.
        accuracy: relative error of the sums.

    Raises:
        UserMistake: one periodic direction.
    """
    kind = sum(map(bool, pbc))
    if kind == 1:
        raise UserMistake(
            "one periodic direction: Gaussian charges interact in molecules, slabs and "
            "crystals; add vacuum and set pbc to three directions, or use charge = diagonal"
        )
    if kind == MOLECULE:
        return Splitting(MOLECULE, math.inf, math.inf, 0.0)
    s = decay(accuracy)
    gamma = math.sqrt(2.0) * widest
    if kind == CRYSTAL:
        volume = abs(float(torch.linalg.det(cell)))
        width = max(_balanced(volume, len(positions)), gamma)
        cutoff = math.sqrt(2.0) * s * width
        return Splitting(CRYSTAL, width, cutoff, math.sqrt(2.0) * s / width)
    open_direction = [bool(p) for p in pbc].index(False)
    rows = torch.stack([cell[d] for d in range(3) if d != open_direction])
    height = positions @ slab_normal(rows)
    gap = vacuum(rows, widest, GUARD * accuracy)
    # Whole angstroms: a cell that grew and shrank with every motion would make energies jitter.
    length = math.ceil(float(height.max() - height.min()) + gap)
    volume = abs(float(torch.linalg.det(padded(cell, open_direction, length))))
    # No pair reaches through the vacuum: the list knows the in-plane images alone.
    width = min(max(_balanced(volume, len(positions)), gamma), gap / (math.sqrt(2.0) * s))
    cutoff = math.sqrt(2.0) * s * max(width, gamma)
    return Splitting(SLAB, width, cutoff, math.sqrt(2.0) * s / width, open_direction, length)


def _balanced(volume: float, atoms: int) -> float:
    return SPLITTING * math.pow(volume * volume / max(atoms, 1), 1.0 / 6.0)


@dataclass(frozen=True)
class CoulombReach:
    """How far the ``charge`` neighbour list of a structure reaches, A.

    Attributes:
        widths: largest width that a Gaussian density may have, A, by atomic number.
        accuracy: relative error of the sums.
    """

    widths: Mapping[int, float]
    accuracy: float = 1e-9

    def __call__(self, structure: Structure) -> float:
        """Find the cutoff: infinite for a molecule, of which all pairs are listed.

        Raises:
            UserMistake: an element without a width, one periodic direction, a charged slab.
        """
        present = np.unique(structure.numbers).tolist()
        missing = [z for z in present if z not in self.widths]
        if missing:
            raise UserMistake(
                f"no Gaussian width for the atomic numbers {missing}; "
                f"the charge model knows {sorted(self.widths)}"
            )
        periodic = int(np.sum(structure.pbc))
        if periodic == SLAB and abs(structure.total_charge or 0.0) > NEUTRAL:
            raise UserMistake(charged_slab(float(structure.total_charge or 0.0)))
        if not present or periodic == MOLECULE:
            return math.inf if periodic == MOLECULE else 1.0
        return split(
            torch.from_numpy(np.asarray(structure.positions, dtype=np.float64)),
            torch.from_numpy(np.asarray(structure.cell, dtype=np.float64)),
            structure.pbc.tolist(),
            max(self.widths[z] for z in present),
            self.accuracy,
        ).cutoff


def charged_slab(charge: float) -> str:
    """Say why a slab with a charge is refused."""
    return (
        f"a slab with total charge {charge:g} e: its energy per area is infinite without a "
        "counter charge; expected 0, or three periodic directions (uniform background)"
    )
