from __future__ import annotations

from dataclasses import replace

import numpy as np

from qeqtrain.data.sources import source_from_frames
from qeqtrain.data.statistics import neighbor_average, statistics
from qeqtrain.data.sums import fit_references
from qeqtrain.neighbors import find_pairs


def every(source):
    return np.arange(len(source))


def test_references_are_recovered_from_totals_of_a_million(make_molecule):
    truth = {1: -13.6, 8: -41234.567, 11: -4412.3, 17: -12521.9}
    frames = [make_molecule(i, n=2 + i % 5) for i in range(12)]
    for frame in frames:
        frame.labels["energy"] = np.float64(sum(truth[z] for z in frame.structure.numbers))
    stats = statistics(source_from_frames(frames), np.arange(12))
    for z, energy in truth.items():
        assert abs(stats.references[z] - energy) < 1e-7
    assert stats.energy_rms < 1e-8


def test_references_that_compositions_leave_open_have_the_smallest_norm():
    counts = np.full((5, 2), 8.0)
    assert np.allclose(fit_references(counts, np.full(5, -1000.0)), [-62.5, -62.5], atol=1e-10)


def test_force_rms_counts_components_of_the_chosen_frames_only(frames):
    source = source_from_frames(frames)
    chosen = np.array([1, 4, 13])
    forces = np.concatenate([frames[i].labels["forces"] for i in chosen])
    assert np.isclose(statistics(source, chosen).force_rms, np.sqrt(np.mean(forces**2)))


def test_force_rms_by_element_counts_components_of_its_atoms(frames):
    source = source_from_frames(frames)
    chosen = np.array([1, 4, 13])
    found = statistics(source, chosen).force_rms_by_element
    assert set(found) == {1, 8, 11, 17}
    sodium = [frames[i].labels["forces"][frames[i].structure.numbers == 11] for i in chosen]
    assert np.isclose(found[11], np.sqrt(np.mean(np.concatenate(sodium) ** 2)))


def test_average_neighbours_are_directed_edges_per_atom(frames):
    source = source_from_frames(frames)
    pairs = sum(len(find_pairs(f.structure, 4.0)) for f in frames)
    atoms = sum(len(f) for f in frames)
    assert np.isclose(neighbor_average(source, every(source), 4.0), 2 * pairs / atoms)


def test_coverage_and_total_charges_are_counted(frames):
    stats = statistics(source_from_frames(frames), np.arange(len(frames)))
    assert stats.coverage["stress"] == 4 / 16
    assert stats.coverage["born_charges"] == 0.0
    assert stats.total_charges == {-1.0: 4, 0.0: 8, 1.0: 4}
    assert stats.spins == {1.0: 12}
    assert stats.elements == (1, 8, 11, 17)


def test_without_energies_references_are_zero(make_molecule):
    frame = make_molecule()
    frame = replace(frame, labels={"charges": frame.labels["charges"]})
    stats = statistics(source_from_frames([frame]), np.array([0]))
    assert set(stats.references.values()) == {0.0}
    assert np.isnan(stats.force_rms)
    assert stats.force_rms_by_element == {}
