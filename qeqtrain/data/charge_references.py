"""Reference energies by total charge, and by composition and total charge, from frames.

Elements and total charges are fitted together, in float64. Compositions leave their energies
open as often as not (all frames of one composition; or the charge follows from the numbers of
ions), and then elements take all they can: of the least-squares solutions the one is chosen
whose energies of charges have the smallest norm, and among these the one whose energies of
elements have. So the sum over what was not determined is as near to elements alone as can be.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from qeqtrain.data.source import Source
from qeqtrain.data.statistics import compositions
from qeqtrain.data.sums import fit_references

_UNDETERMINED = 1e-8  # of the largest singular value; rounding is far below


@dataclass(frozen=True)
class ChargeEnergies:
    """Reference energies that know the total charge, eV.

    Attributes:
        elements: energy of each element, by atomic number.
        charges: energy of each total charge, e.
        states: composition (atoms by atomic number), total charge, and the mean of the energies
            less those of the elements: stands in place of ``charges``, not beside it.
    """

    elements: dict[int, float]
    charges: dict[float, float]
    states: list[tuple[dict[int, int], float, float]]

    @property
    def spread(self) -> float:
        """Root mean square of the energies of charges about their mean, eV."""
        return float(np.std(list(self.charges.values()) or [0.0]))


def charge_energies(
    source: Source,
    frames: np.ndarray,
    elements: Mapping[int, float] | None = None,
    given: np.ndarray | None = None,
) -> ChargeEnergies:
    """Fit reference energies to the frames that have an energy and a total charge.

    Args:
        source: frames with labels.
        frames: indices of those that count.
        elements: energies of elements that are given, eV; fitted as well without.
        given: energy of every frame that is taken off its label, eV, shape ``(n_frames,)``.
    """
    beneath = np.zeros(len(frames)) if given is None else given
    known = ~np.isnan(source.total_charges[frames])
    known &= source.present.get("energy", np.zeros(len(source), dtype=bool))[frames]
    frames, beneath = frames[known], beneath[known]
    if len(frames) == 0:
        return ChargeEnergies(dict(elements or {}), {}, [])
    numbers, counts = compositions(source, frames)
    energies = source.column("energy")[frames] - beneath
    states, state = np.unique(np.round(source.total_charges[frames], 3), return_inverse=True)
    states = states + 0.0  # -0.0 becomes 0.0
    if elements is None:
        fitted, by_charge = fit_with_charges(counts, state, energies)
    else:
        fitted = np.array([float(elements.get(z, 0.0)) for z in numbers])
        rest = energies - counts @ fitted
        by_charge = np.bincount(state, rest) / np.bincount(state)
    rest = energies - counts @ fitted
    kinds, kind, how_many = _kinds(counts, states[state])
    means = np.bincount(kind, rest) / how_many
    return ChargeEnergies(
        elements=dict(zip(numbers, fitted.tolist(), strict=True)),
        charges=dict(zip(states.tolist(), by_charge.tolist(), strict=True)),
        states=[
            (
                {z: int(n) for z, n in zip(numbers, row, strict=False) if n},
                float(row[-1]),
                float(mean),
            )
            for row, mean in zip(kinds, means, strict=True)
        ],
    )


def count_compositions(
    source: Source, frames: np.ndarray
) -> list[tuple[np.ndarray, float, int]]:
    """Compositions and total charges that occur: atomic numbers, charge, e, and frames."""
    frames = frames[~np.isnan(source.total_charges[frames])]
    if len(frames) == 0:
        return []
    numbers, counts = compositions(source, frames)
    kinds, _, how_many = _kinds(counts, np.round(source.total_charges[frames], 3))
    return [
        (np.repeat(numbers, row[:-1].astype(int)), float(row[-1]) + 0.0, int(n))
        for row, n in zip(kinds, how_many, strict=True)
    ]


def _kinds(
    counts: np.ndarray, charges: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Distinct rows of composition and charge, which of them each frame is, and how often."""
    rows = np.concatenate([counts, charges[:, None]], axis=1)
    kinds, kind, how_many = np.unique(rows, axis=0, return_inverse=True, return_counts=True)
    return kinds, kind.reshape(-1), how_many


def fit_with_charges(
    counts: np.ndarray, state: np.ndarray, energies: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Fit energies of elements and of charge states together, eV.

    What elements explain is projected out first (Frisch and Waugh): the charges are fitted to
    the rest, the elements to what the charges leave.

    Args:
        counts: atoms of each element in every frame, shape ``(n_frames, n_elements)``.
        state: charge state of every frame, 0 to K - 1, shape ``(n_frames,)``.
        energies: total energies, eV, float64, shape ``(n_frames,)``.

    Returns:
        Energies of elements ``(n_elements,)`` and of charge states ``(K,)``.
    """
    states = np.eye(int(state.max()) + 1)[state]
    both = np.concatenate([states, energies[:, None]], axis=1)
    for _ in range(2):  # twice: rounding where totals are a million eV
        both = both - counts @ np.linalg.lstsq(counts, both, rcond=1e-10)[0]
    apart, rest = both[:, :-1], both[:, -1]
    u, size, vt = np.linalg.svd(apart, full_matrices=False)
    open_ = size > _UNDETERMINED * np.linalg.norm(states, ord=2)
    inverse = np.divide(1.0, size, out=np.zeros_like(size), where=open_)
    by_charge = vt.T @ (inverse * (u.T @ rest))
    return fit_references(counts, energies - states @ by_charge), by_charge
