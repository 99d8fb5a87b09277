"""Labels less what is known beforehand: baselines, and charges whose parameters are fixed.

A network beneath which repulsion, dispersion or fixed polarizable charges lie learns what they
leave. Reference energies and the network's scale are therefore fitted to the labels without
them; otherwise they would describe a sum of which the network has only a part.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from qeqtrain.data.statistics import Statistics, compositions
from qeqtrain.data.sums import fit_references
from qeqtrain.errors import EquilibrationFailed
from qeqtrain.neighbors import with_pairs
from qeqtrain.physics.response import respond
from qeqtrain.structures import Prediction, collate

if TYPE_CHECKING:
    from qeqtrain.data.prepared import PreparedFrames
    from qeqtrain.data.source import Source
    from qeqtrain.models.potential import Potential

SAMPLE = 2000
"""Training frames that given energies are worked out for, where there are more."""

TOGETHER = 8
"""Frames worked out in one batch."""


@dataclass(frozen=True)
class Given:
    """Energies and forces that training does not change, of some training frames.

    Attributes:
        frames: indices in the source, shape ``(F,)``; those whose charges have no answer are
            left out.
        energies: eV, shape ``(F,)``.
        forces: eV/A, of the atoms of all these frames one after the other, shape ``(M, 3)``.
    """

    frames: np.ndarray
    energies: np.ndarray
    forces: np.ndarray


def given_labels(
    potential: Potential, data: PreparedFrames, *, every: bool = False
) -> Given | None:
    """Work out the given energies and forces of the training frames.

    Args:
        potential: its network may be of any weights.
        data: prepared.
        every: all frames, however many.

    Returns:
        ``None`` where the potential has nothing that is given.

    Raises:
        EquilibrationFailed: no frame has charges.
    """
    if not potential.adds_fixed_energy:
        return None
    source, frames = data.source_of("train")
    if len(frames) > SAMPLE and not every:
        frames = _sampled(source, frames)
    done: list[int] = []
    found: list[Prediction] = []
    failure: EquilibrationFailed | None = None
    for start in range(0, len(frames), TOGETHER):
        chosen = frames[start : start + TOGETHER].tolist()
        try:
            found.append(_fixed(potential, source, chosen))
            done += chosen
        except EquilibrationFailed:
            for i in chosen:  # all but those that have no answer
                try:
                    found.append(_fixed(potential, source, [i]))
                    done.append(i)
                except EquilibrationFailed as error:
                    failure = error
    if failure is not None and not done:
        raise failure
    return Given(
        np.array(done),
        np.concatenate([part.energy.numpy() for part in found]),
        np.concatenate([part.forces.numpy() for part in found if part.forces is not None]),
    )


def among(given: Given, source: Source, chosen: np.ndarray) -> Given:
    """Take some of the frames whose energies and forces are given.

    Args:
        given: of training frames.
        source: that the frames belong to.
        chosen: which of them, bool, shape ``(F,)``.
    """
    atoms = np.repeat(chosen, source.sizes[given.frames])
    forces = given.forces[atoms] if len(given.forces) else given.forces
    return Given(given.frames[chosen], given.energies[chosen], forces)


def _fixed(potential: Potential, source: Source, frames: list[int]) -> Prediction:
    """Energies and forces of some frames together."""
    cutoffs = potential.fixed_cutoffs
    batch = collate([with_pairs(source[i].structure, cutoffs) for i in frames])
    return respond(
        lambda structures: Prediction(energy=potential.fixed_energy(structures)),
        batch,
        forces=True,
        stress=False,
        create_graph=False,
    )


def _sampled(source: Source, frames: np.ndarray) -> np.ndarray:
    """Choose evenly spaced frames, and for each element one that has it."""
    chosen = set(frames[:: -(-len(frames) // SAMPLE)].tolist())
    _, counts = compositions(source, frames)
    chosen |= {int(frames[np.argmax(column > 0)]) for column in counts.T}
    return np.array(sorted(chosen))


def without_given(statistics: Statistics, given: Given, source: Source) -> Statistics:
    """Take given energies and forces off the labels that references and scales come from.

    Least squares are linear: references of the labels less those of the given energies are
    references of the difference, and where frames were sampled, only the latter are estimated.

    Args:
        statistics: of the labels of all training frames.
        given: of some or all of these frames.
        source: that the frames belong to.
    """
    frames = given.frames
    elements, counts = compositions(source, frames)
    known = source.present.get("energy", np.zeros(len(source), dtype=bool))[frames]
    found = statistics
    if known.any():
        beneath = fit_references(counts[known], given.energies[known])
        taken = dict(zip(elements, beneath.tolist(), strict=True))
        references = {z: e - taken.get(z, 0.0) for z, e in statistics.references.items()}
        rest = source.column("energy")[frames] - given.energies
        rest = (rest - counts @ [references[z] for z in elements])[known]
        per_atom = rest / counts[known].sum(axis=1)
        found = replace(
            found, references=references, energy_rms=float(np.sqrt(np.mean(per_atom**2)))
        )
    labelled = source.present.get("forces", np.zeros(len(source), dtype=bool))[frames]
    if labelled.any():
        sizes = source.sizes[frames]
        starts = np.cumsum(sizes) - sizes
        squares: dict[int, list[np.ndarray]] = {}
        for k in np.flatnonzero(labelled):
            frame = source[int(frames[k])]
            mine = given.forces[starts[k] : starts[k] + sizes[k]]
            left = (frame.labels["forces"] - mine) ** 2
            for z in np.unique(frame.structure.numbers):
                squares.setdefault(int(z), []).append(left[frame.structure.numbers == z])
        joined = {z: np.concatenate(parts) for z, parts in squares.items()}
        rms = {z: float(np.sqrt(np.mean(parts))) for z, parts in joined.items()}
        overall = float(np.sqrt(np.mean(np.concatenate(list(joined.values())))))
        found = replace(found, force_rms=overall, force_rms_by_element=rms)
    return found
