r"""Reference energies of another functional: least squares on what a model leaves.

The energies of two functionals (or codes, or pseudopotentials) differ mostly by a constant for
every element. That constant is taken into the references before the first step, where a network
would spend most of its training on it. What is fitted are differences per atom, in float64, by
sums of constant size (:class:`~qeqtrain.data.sums.EnergySums`).

Fifty frames of sixty elements can be met exactly by constants that say nothing of the next
frame. So one constant of all atoms is free, and differences between elements are held back by a
ridge, as strongly as the frames themselves ask for: by the largest evidence (MacKay, Neural
Comput. 4, 415, 1992), the ratio of noise and differences under which their energies are most
likely. Where many frames tell elements apart it is next to nothing; a combination of elements
that the compositions leave open is not changed at all.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import reduce
from typing import TYPE_CHECKING

import numpy as np
import torch

from qeqtrain.data.elements import SYMBOLS
from qeqtrain.data.statistics import compositions, with_label
from qeqtrain.data.sums import EnergySums
from qeqtrain.neighbors import with_pairs
from qeqtrain.structures import collate

if TYPE_CHECKING:
    from qeqtrain.data.sets import DataSets
    from qeqtrain.data.source import Source
    from qeqtrain.models.potential import Potential

SAMPLE = 5000
"""Training frames whose energies are worked out, where there are more."""

TOGETHER = 16
"""Frames worked out in one batch."""

OPEN = 1e-6
"""Relative singular value below which compositions do not tell elements apart."""


@dataclass(frozen=True)
class Shift:
    """What references change by.

    Attributes:
        energies: by atomic number, eV.
        open: atomic numbers of elements that the compositions do not tell apart.
        frames: how many energies it was fitted to.
    """

    energies: dict[int, float]
    open: tuple[int, ...]
    frames: int

    @property
    def warning(self) -> str:
        """Say what stays open; empty if nothing does."""
        if not self.open:
            return ""
        symbols = ", ".join(SYMBOLS[z] for z in self.open)
        return (
            f"the compositions of the training frames do not tell the energies of {symbols} "
            "apart: sums are right for such compositions, differences between them are the "
            "source's; add frames of other compositions before you compare those"
        )


def refit(potential: Potential, data: DataSets, device: str = "cpu") -> Shift:
    """Fit the change of references to what a potential leaves of the training energies.

    Args:
        potential: knows all elements of the data.
        data: prepared.
        device: where to predict.
    """
    source, frames = data.source_of("train")
    frames = with_label(source, frames, "energy") if "energy" in source.present else frames[:0]
    frames = sampled(source, frames)
    if not len(frames):
        return Shift({}, (), 0)
    elements, counts = compositions(source, frames)
    labels = source.column("energy")[frames]
    parts = [
        EnergySums.of(
            elements,
            *_per_atom(counts[k : k + TOGETHER], labels[k : k + TOGETHER] - said),
        )
        for k, said in _energies(potential, source, frames, device)
    ]
    return solve(reduce(EnergySums.merge, parts))


def solve(sums: EnergySums) -> Shift:
    """Solve for the shift, and find what stays open."""
    if not sums.frames:
        return Shift({}, (), 0)
    fractions = sums.total[:, :-1]
    labels = sums.total[:, -1] + fractions @ sums.guess
    elements = fractions.shape[1]
    # Fractions of elements add up to one: a constant of all atoms is a column like theirs.
    constant = fractions.sum(axis=1)
    along = constant / np.linalg.norm(constant)
    left, sizes, axes = np.linalg.svd(
        fractions - np.outer(along, along @ fractions), full_matrices=False
    )
    told = sizes > OPEN * np.linalg.norm(constant)
    left, sizes, axes = left[:, told], sizes[told], axes[told]
    rest = labels - along * (along @ labels)
    seen = left.T @ rest
    noise = float(rest @ rest - seen @ seen)
    ridge = _ridge(sizes**2, seen**2, max(noise, 0.0), sums.frames - 1)
    shift = axes.T @ (sizes * seen / (sizes**2 + ridge))
    shift += along @ (labels - fractions @ shift) / np.linalg.norm(constant)
    known = np.vstack([axes, np.ones(elements)])  # what compositions tell, and their sum
    _, _, every = np.linalg.svd(known, full_matrices=True)
    loose = np.abs(every[len(known) :]).max(axis=0, initial=0.0) > 1e-3
    return Shift(
        dict(zip(sums.elements, shift.tolist(), strict=True)),
        tuple(z for z, open_ in zip(sums.elements, loose, strict=True) if open_),
        sums.frames,
    )


def _ridge(squares: np.ndarray, seen: np.ndarray, noise: float, frames: int) -> float:
    """Choose the ridge of largest evidence; of equally likely ones the smallest.

    Args:
        squares: eigenvalues of the normal equations.
        seen: squared part of the labels along each of them.
        noise: squared part of the labels that no shift reaches.
        frames: dimensions that the labels have.
    """
    if not len(squares):
        return 0.0
    ridges = squares.max() * 10.0 ** np.arange(-20.0, 6.0, 0.1)[:, None]
    left = noise + (seen * ridges / (squares + ridges)).sum(axis=1)
    volume = np.log1p(squares / ridges).sum(axis=1)
    unlikely = frames * np.log(np.maximum(left, np.finfo(np.float64).tiny)) + volume
    return float(ridges[np.argmax(unlikely <= unlikely.min() + 1e-6), 0])


def _per_atom(counts: np.ndarray, energies: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    atoms = counts.sum(axis=1)
    return counts / atoms[:, None], energies / atoms


def _energies(
    potential: Potential, source: Source, frames: np.ndarray, device: str
) -> list[tuple[int, np.ndarray]]:
    """Energies of the frames, eV, batch by batch."""
    potential = potential.to(device).eval()
    found = []
    for k in range(0, len(frames), TOGETHER):
        chosen = [source[int(i)].structure for i in frames[k : k + TOGETHER]]
        batch = collate([with_pairs(s, potential.cutoffs) for s in chosen]).to(device)
        with torch.no_grad():
            said = potential(batch, forces=False, stress=False)
        found.append((k, said.energy.cpu().numpy()))
    potential.to("cpu")
    return found


def sampled(source: Source, frames: np.ndarray, most: int = SAMPLE) -> np.ndarray:
    """Choose evenly spaced frames, and for each element one that has it."""
    if len(frames) <= most:
        return frames
    chosen = set(frames[:: -(-len(frames) // most)].tolist())
    _, counts = compositions(source, frames)
    chosen |= {int(frames[np.argmax(column > 0)]) for column in counts.T}
    return np.array(sorted(chosen))
