"""What is left for a network of the labels: less the energies that are added and not learned.

Repulsion of nuclei, dispersion, charges from a table: such an energy is known beforehand. If
reference energies and the scale of the network were fitted to the labels as they are, the
elements would take on what is added a second time later.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from qeqtrain.data.batching import FrameBatches
from qeqtrain.data.sources import Source
from qeqtrain.errors import EquilibrationFailed
from qeqtrain.models.potential import Potential

SAMPLE = 4000
"""Frames looked at, evenly spaced; a mean energy and a force's size need no more."""

TOGETHER = 8
"""Frames worked out in one batch."""


class Remainder:
    """A source whose energies and forces lack what is added to the network.

    Args:
        source: frames with labels.
        energies: to be taken off, eV, shape ``(n_frames,)``.
        forces: the same, eV/A, shape ``(N, 3)``.
    """

    def __init__(self, source: Source, energies: np.ndarray, forces: np.ndarray) -> None:
        self._source = source
        self._taken = {"energy": energies, "forces": forces}

    def __getattr__(self, name: str) -> Any:
        """Everything else is the source's."""
        return getattr(self._source, name)

    def __len__(self) -> int:
        """Count the frames."""
        return len(self._source)

    def column(self, label: str) -> np.ndarray:
        """All values of a label, as :meth:`Source.column`; absent ones stay what they are."""
        values = self._source.column(label)
        return values - self._taken[label] if label in self._taken else values


def remainder(
    potential: Potential, source: Source, frames: np.ndarray
) -> tuple[Remainder, np.ndarray] | None:
    """Take off what a potential adds without having learned it.

    Args:
        potential: any of the recipe's parts; its weights do not matter.
        source: frames with labels.
        frames: indices of those that count.

    Returns:
        The source's labels less that, and the frames it was worked out for, in which every
        element occurs that occurs at all; ``None`` if nothing is added.
    """
    if not potential.adds_fixed_energy:
        return None
    frames = _sample(source, frames)
    batches = FrameBatches(source, (), potential.cutoffs, frames)
    energies, forces = np.zeros(len(source)), np.zeros((int(source.sizes.sum()), 3))
    done = []
    for start in range(0, len(frames), TOGETHER):
        chosen = list(range(start, min(start + TOGETHER, len(frames))))
        try:
            found = [(chosen, *_fixed(potential, batches, chosen))]
        except EquilibrationFailed:
            found = []
            for i in chosen:  # all but those that have no answer
                try:
                    found.append(([i], *_fixed(potential, batches, [i])))
                except EquilibrationFailed:
                    continue
        for some, energy, force in found:
            which = frames[some]
            energies[which] = energy
            rows = [np.arange(source.offsets[i], source.offsets[i + 1]) for i in which]
            forces[np.concatenate(rows)] = force
            done += which.tolist()
    if not done:
        raise EquilibrationFailed(
            "no training frame has an energy of its charges; see charge.mode and charge.damping"
        )
    return Remainder(source, energies, forces), np.array(done)


def _fixed(
    potential: Potential, batches: FrameBatches, chosen: list[int]
) -> tuple[np.ndarray, np.ndarray]:
    """Energies, ``(B,)``, and forces, ``(N, 3)``, of some frames."""
    structures = batches.batch(chosen).structures
    with torch.enable_grad():
        positions = structures.positions.requires_grad_()
        energy = potential.fixed_energy(structures)
        (slope,) = torch.autograd.grad(energy.sum(), positions, materialize_grads=True)
    return energy.detach().numpy(), -slope.numpy()


def _sample(source: Source, frames: np.ndarray) -> np.ndarray:
    """Evenly spaced frames, and some of every element that those lack."""
    if len(frames) <= SAMPLE:
        return frames
    chosen = set(frames[:: len(frames) // SAMPLE + 1].tolist())
    owner = np.repeat(np.arange(len(source)), source.sizes)
    there = np.zeros(len(source), dtype=bool)
    there[frames] = True
    for z in np.unique(source.numbers[there[owner]]):
        having = np.unique(owner[(source.numbers == z) & there[owner]])
        if not chosen.intersection(having.tolist()):
            chosen.update(having[:20].tolist())
    return np.array(sorted(chosen))
