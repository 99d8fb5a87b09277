r"""How wide the densities of Ewald's sum are, and how far each half of it reaches.

The sum over waves needs smooth densities. Those that are narrower than a splitting width s
are widened for it, to :math:`w_i = \max(\sigma_i, s)`; pairs with a widened density carry the
difference, which ends where :math:`e^{-r^2 / 2\gamma'^2}`,
:math:`\gamma'^2 = w_i^2 + w_j^2`, is negligible, as the waves end where
:math:`e^{-w_{\min}^2 k^2}` is:

.. math:: r_c = \sqrt2\, t \gamma'_{\max}, \qquad k_c = t / w_{\min}, \qquad
          t = \sqrt{-\ln 10^{-3}\epsilon}.

Ewald widened points, all by the same; densities of a Gaussian width of their own need it only
as far as waves are dearer than pairs: small cells of salts have no pairs at all. The width is
the one of least work for the cell at hand. The result does not depend on it, so that a
list that is a little short costs waves, not digits.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from qeqtrain.errors import UserMistake
from qeqtrain.physics.slab import padded, slab_normal, vacuum
from qeqtrain.structures import Structure

DENSE_BELOW = 1500
"""Atoms of a structure up to which its matrix is made and factored: time on one CPU thread is
equal near 2000, memory speaks for the iterative solver before that."""

PAIR, WAVE, ELEMENT = 0.4, 0.04, 1.2e-4
"""Microseconds that a training step spends on a pair, an atom times a wave, and an atom squared
times a wave (in the matrix), measured on one CPU thread."""

WAVE_IN_PRODUCTS, PAIR_IN_PRODUCTS = 0.05, 1.0
"""The same where charges are found by products, as the iterative solver does."""

MESH_FROM = 1e-7
"""Relative error from which on a mesh sums the waves in these products."""

ON_MESH, POINT = 400.0, 45.0
"""Microseconds for an atom on a mesh, and for a cube of the splitting width in its transforms,
for some eighty products; once for every width that densities have there."""

TOO_SHORT, TOLERATED = 10.0, 1e5
"""Work with the list at hand over the least work, above which the list is refused, unless the
work is less than so many microseconds."""

LEAST = 1.0
"""Cutoff, A, of the list of a structure that needs none: it still shows coincident atoms."""

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
        width: densities narrower than this are widened to it for the sum over waves, A, so
            that it is the width of the narrowest; 0 for a molecule, which has no waves.
        cutoff: of the pairs, A; 0 where no density is widened.
        longest: wave number where the sum over waves ends, 1/A.
        equal: whether all densities are equally wide in the sum over waves.
        work: estimate, microseconds.
        open_direction: of a slab, index of the row of its cell that is not periodic.
        length: of a slab with its vacuum, A.
    """

    kind: int
    width: float
    cutoff: float
    longest: float
    equal: bool = False
    work: float = 0.0
    open_direction: int = -1
    length: float = 0.0


def split(
    positions: Tensor,
    cell: Tensor,
    pbc: Sequence[bool],
    widths: Mapping[float, int],
    accuracy: float,
    listed: float = math.inf,
) -> Splitting:
    """Choose splitting width and cutoffs of one structure.

    Args:
        positions: A, shape ``(n, 3)``.
        cell: rows, A, shape ``(3, 3)``.
        pbc: periodic directions.
        widths: how many atoms have a Gaussian density of this width, A.
        accuracy: relative error of the sums.
        listed: distance up to which pairs are known, A.

    Raises:
        UserMistake: one periodic direction.
    """
    kind = sum(map(bool, pbc))
    if kind == 1:
        raise UserMistake(
            "one periodic direction: Gaussian charges interact in molecules, slabs and "
            "crystals; add vacuum and set pbc to three directions, or use charge=diagonal"
        )
    if kind == MOLECULE or not widths:
        return Splitting(kind, 0.0, math.inf if kind == MOLECULE else 0.0, 0.0)
    if not all(math.isfinite(w) and w > 0.0 for w in widths):
        widths = {1.0: sum(widths.values())}  # the solver will tell that it is not finite
    if kind == CRYSTAL:
        volume = max(abs(float(torch.linalg.det(cell))), 1e-9)
        return _least_work(CRYSTAL, volume, widths, accuracy, listed)
    open_direction = [bool(p) for p in pbc].index(False)
    rows = torch.stack([cell[d] for d in range(3) if d != open_direction])
    height = positions @ slab_normal(rows)
    gap = vacuum(rows, max(widths), GUARD * accuracy)
    # Whole angstroms: a cell that grew and shrank with every motion would make energies jitter.
    length = math.ceil(float(height.max() - height.min()) + gap)
    volume = abs(float(torch.linalg.det(padded(cell, open_direction, length))))
    # No pair reaches through the vacuum: the list knows the in-plane images alone.
    chosen = _least_work(SLAB, volume, widths, accuracy, min(listed, gap))
    return replace(chosen, open_direction=open_direction, length=length)


def _least_work(
    kind: int, volume: float, widths: Mapping[float, int], accuracy: float, listed: float
) -> Splitting:
    """Find the splitting width of least work among those whose pairs are all listed."""
    t = decay(accuracy)
    narrowest, widest = min(widths), max(widths)
    candidates = [narrowest, *_GRID, *sorted(widths)[1:MOST_KINDS]]
    if listed < math.inf:
        candidates.append(_splitting_of(listed, widest, t))
    kinds = _few(widths)
    best: tuple[float, float, float] | None = None
    for s in candidates:
        if s < narrowest:
            continue
        # Nothing is widened to the width that the narrowest has already.
        cutoff = math.sqrt(2.0) * t * math.hypot(s, max(s, widest)) if s > narrowest else 0.0
        if cutoff > listed * (1.0 + 1e-6):
            continue
        work = _work(s, kinds, volume, t, mesh=accuracy >= MESH_FROM)
        if best is None or work < best[0]:
            best = (work, s, cutoff)
    assert best is not None  # the narrowest needs no pairs
    work, s, cutoff = best
    equal = widest <= s or widest == narrowest
    return Splitting(kind, s, cutoff, t / s, equal, work)


_GRID = tuple(0.35 * 1.08**i for i in range(36))
"""Splitting widths to choose from, A."""

MOST_KINDS = 12
"""Different widths that the estimate of the work tells apart."""


def _few(widths: Mapping[float, int]) -> list[tuple[float, int]]:
    """Round widths up so that there are few of them: enough for an estimate."""
    if len(widths) <= MOST_KINDS:
        return list(widths.items())
    step = (max(widths) - min(widths)) / MOST_KINDS
    few: dict[float, int] = {}
    for width, count in widths.items():
        rounded = step * math.ceil(width / step)
        few[rounded] = few.get(rounded, 0) + count
    return list(few.items())


def _splitting_of(cutoff: float, widest: float, t: float) -> float:
    """Width to which densities may be widened if pairs are known up to a cutoff, A."""
    square = 0.5 * (cutoff / t) ** 2
    if square >= 2.0 * widest**2:
        return math.sqrt(0.5 * square)
    return math.sqrt(max(square - widest**2, 0.0))


def _work(
    s: float, kinds: Sequence[tuple[float, int]], volume: float, t: float, *, mesh: bool
) -> float:
    """Time of one training step's solve, microseconds."""
    n = sum(count for _, count in kinds)
    waves = volume * (t / s) ** 3 / (12.0 * math.pi**2)  # half of them
    pairs = 0.0
    for width, count in kinds:
        if width < s:  # widened: it needs all others, and those that are widened need it
            for other, others in kinds:
                reach = math.sqrt(2.0) * t * math.hypot(s, max(s, other))
                listed = count * others * (4.0 * math.pi / 3.0) * reach**3 / volume
                pairs += 0.5 * listed if other < s else listed
    if n > DENSE_BELOW and mesh:
        # The transforms grow with the volume alone, so that the best width is that of any size.
        sums = len({max(s, width) for width, _ in kinds})
        return PAIR_IN_PRODUCTS * pairs + sums * (ON_MESH * n + POINT * volume / s**3)
    if n > DENSE_BELOW:
        return PAIR_IN_PRODUCTS * pairs + WAVE_IN_PRODUCTS * n * waves
    return PAIR * pairs + (WAVE + ELEMENT * n) * n * waves


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
        widths = Counter(self.widths[z] for z in structure.numbers.tolist())
        chosen = split(
            torch.from_numpy(np.asarray(structure.positions, dtype=np.float64)),
            torch.from_numpy(np.asarray(structure.cell, dtype=np.float64)),
            structure.pbc.tolist(),
            widths,
            self.accuracy,
        )
        return max(chosen.cutoff, LEAST)


def charged_slab(charge: float) -> str:
    """Say why a slab with a charge is refused."""
    return (
        f"a slab with total charge {charge:g} e: its energy per area is infinite without a "
        "counter charge; expected 0, or three periodic directions (uniform background)"
    )
