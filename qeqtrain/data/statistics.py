"""What a set of frames says on the whole: references, scales, coverage. Float64 throughout.

All of it follows from sums (:mod:`qeqtrain.data.sums`). Those of a whole store stand in it;
those of a split are taken from the share that every frame has in them, which the store keeps
as well (:mod:`qeqtrain.data.tally`). What depends on conventions, total charges and
multiplicities, is counted anew.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from qeqtrain.data.source import Source

_SAMPLE = 2000  # frames looked at for the number of neighbours


@dataclass(frozen=True)
class Statistics:
    """Numbers a model is set up with, from the training frames.

    Attributes:
        n_frames, n_atoms: how many there are.
        elements: atomic numbers, sorted.
        references: energy of each element by least squares, eV; smallest norm where the
            compositions leave them open.
        energy_rms: what is left of the energy after references, eV per atom.
        force_rms: root mean square of force components, eV/A; NaN without forces.
        force_rms_by_element: the same over the atoms of each element; none without forces.
        average_neighbors: directed edges per atom within the backbone's cutoff.
        coverage: part of the frames that carries each label.
        charge_range: smallest and largest label charge, e; ``None`` without charges.
        total_charges: number of frames for every total charge, e.
        spins: number of frames for every multiplicity 2S+1.
    """

    n_frames: int
    n_atoms: int
    elements: tuple[int, ...]
    references: dict[int, float]
    energy_rms: float
    force_rms: float
    force_rms_by_element: dict[int, float]
    average_neighbors: float
    coverage: dict[str, float]
    charge_range: tuple[float, float] | None
    total_charges: dict[float, int]
    spins: dict[float, int]


def compositions(source: Source, frames: np.ndarray) -> tuple[tuple[int, ...], np.ndarray]:
    """Elements, and atoms of each in every frame, shape ``(n_frames, n_elements)``."""
    numbers = source.numbers
    owner = np.repeat(np.arange(len(source)), source.sizes)
    elements, kind = np.unique(numbers, return_inverse=True)
    counts = np.bincount(
        owner * len(elements) + kind, minlength=len(source) * len(elements)
    ).reshape(len(source), len(elements))[frames]
    there = counts.any(axis=0)
    return tuple(int(z) for z in elements[there]), counts[:, there].astype(np.float64)


def rows_of(source: Source, frames: np.ndarray) -> np.ndarray:
    """Atoms of these frames, as a mask over all atoms of the source, shape ``(N,)``."""
    chosen = np.zeros(len(source), dtype=bool)
    chosen[frames] = True
    return np.repeat(chosen, source.sizes)


def with_label(source: Source, frames: np.ndarray, label: str) -> np.ndarray:
    """Those of the frames that carry a label."""
    return frames[source.present[label][frames]]


def labelled_rows(source: Source, frames: np.ndarray, label: str) -> np.ndarray:
    """Values of a label per atom, for those of the frames that carry it."""
    return source.column(label)[rows_of(source, with_label(source, frames, label))]


def neighbor_average(source: Source, frames: np.ndarray, cutoff: float) -> float:
    """Directed edges per atom within ``cutoff``, from evenly spaced frames.

    Where a store holds lists of this cutoff, all frames count, and no list is read.
    """
    stored = source.pair_counts(cutoff)
    if stored is not None:
        return 2.0 * float(stored[frames].sum()) / float(source.sizes[frames].sum())
    step = max(len(frames) // _SAMPLE, 1)
    sample: Sequence[int] = frames[::step].tolist()
    pairs = sum(len(source.pairs(i, cutoff)) for i in sample)
    return 2.0 * pairs / float(source.sizes[sample].sum())


def count_states(states: np.ndarray) -> dict[float, int]:
    """How many frames have which total charge or multiplicity; unknown ones are left out."""
    values, counts = np.unique(np.round(states[~np.isnan(states)], 3), return_counts=True)
    return {float(v) + 0.0: int(c) for v, c in zip(values, counts, strict=True)}


def statistics(
    source: Source, frames: np.ndarray, average_neighbors: float = float("nan")
) -> Statistics:
    """Work out the statistics of some frames of a source.

    Args:
        source: frames with labels.
        frames: indices of those that count.
        average_neighbors: directed edges per atom, found elsewhere.
    """
    sums = source.sum_up(frames)
    energies = sums.energies
    references = dict.fromkeys(sums.elements, 0.0)
    references |= zip(energies.elements, energies.references().tolist(), strict=True)
    with_forces = sums.force_atoms > 0
    by_atom = sums.force_squares[with_forces] / (3.0 * sums.force_atoms[with_forces])
    known = [z for z, there in zip(sums.elements, with_forces, strict=True) if there]
    force_rms = float("nan")
    if known:
        force_rms = float(np.sqrt(sums.force_squares.sum() / (3.0 * sums.force_atoms.sum())))
    return Statistics(
        n_frames=sums.frames,
        n_atoms=sums.atoms,
        elements=sums.elements,
        references=references,
        energy_rms=energies.rms(),
        force_rms=force_rms,
        force_rms_by_element=dict(zip(known, np.sqrt(by_atom).tolist(), strict=True)),
        average_neighbors=average_neighbors,
        coverage={label: count / max(sums.frames, 1) for label, count in sums.labelled.items()},
        charge_range=sums.charge_range,
        total_charges=count_states(source.total_charges[frames]),
        spins=count_states(source.spins[frames]),
    )
