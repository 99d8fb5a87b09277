"""Statistics of several data sets together, and what their energies of elements differ by."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping

from qeqtrain.data.labels import LABELS
from qeqtrain.data.statistics import Statistics
from qeqtrain.data.sums import Sums


def mixed_statistics(
    by_set: Mapping[str, Statistics],
    sums: Mapping[str, Sums],
    weights: Mapping[str, float],
    main: str,
    charges_alike: Iterable[str],
) -> Statistics:
    """Join statistics, those of a set as often as its frames come in an epoch.

    Means (forces, energies, neighbours, coverage) are weighted; counts of frames, atoms and
    charge states are not.

    Args:
        by_set: of every set.
        sums: the same frames added up, which say how much stands behind each mean.
        weights: how often the frames of a set come in an epoch.
        main: the set whose reference energies are given; elements that it lacks have those of
            the first set that has them.
        charges_alike: sets whose charges are of the kind that is equilibrated.
    """
    elements = tuple(sorted({z for s in by_set.values() for z in s.elements}))
    references: dict[int, float] = {}
    for found in (by_set[main], *by_set.values()):
        references = {**found.references, **references}

    def mean(values: Mapping[str, float], behind: Mapping[str, float]) -> float:
        """Mean of values with something behind them, by weight; NaN without any."""
        counted = {n: weights[n] * behind[n] for n in values if behind[n] > 0}
        total = sum(counted.values())
        parts = (count * values[n] for n, count in counted.items())
        return sum(parts) / total if total else math.nan

    frames = {name: float(s.n_frames) for name, s in by_set.items()}
    atoms = {name: float(s.n_atoms) for name, s in by_set.items()}
    forced = {name: float(sums[name].force_atoms.sum()) for name in by_set}
    squares = {name: s.force_rms**2 for name, s in by_set.items()}
    by_element = {}
    for z in elements:
        behind = {
            name: float(sums[name].force_atoms[sums[name].elements.index(z)])
            if z in sums[name].elements
            else 0.0
            for name in by_set
        }
        ours = {name: s.force_rms_by_element.get(z, 0.0) ** 2 for name, s in by_set.items()}
        square = mean(ours, behind)
        if not math.isnan(square):
            by_element[z] = math.sqrt(square)
    energies = {name: s.energy_rms**2 for name, s in by_set.items()}
    with_energy = {name: float(sums[name].energies.frames) for name in by_set}
    ranges = [by_set[n].charge_range for n in charges_alike]
    known = [r for r in ranges if r is not None]
    return Statistics(
        n_frames=sum(s.n_frames for s in by_set.values()),
        n_atoms=sum(s.n_atoms for s in by_set.values()),
        elements=elements,
        references={z: references[z] for z in elements},
        energy_rms=math.sqrt(mean(energies, with_energy)),
        force_rms=math.sqrt(mean(squares, forced)),
        force_rms_by_element=by_element,
        average_neighbors=mean({n: s.average_neighbors for n, s in by_set.items()}, atoms),
        coverage={
            label: mean({n: s.coverage.get(label, 0.0) for n, s in by_set.items()}, frames)
            for label in LABELS
        },
        charge_range=(min(r[0] for r in known), max(r[1] for r in known)) if known else None,
        total_charges=_added(s.total_charges for s in by_set.values()),
        spins=_added(s.spins for s in by_set.values()),
    )


def _added(counts: Iterable[Mapping[float, int]]) -> dict[float, int]:
    total: Counter[float] = Counter()
    for some in counts:
        total.update(some)
    return dict(sorted(total.items()))
