from __future__ import annotations

from dataclasses import replace
from functools import reduce

import numpy as np
import pytest

from qeqtrain.data import tally
from qeqtrain.data.labels import Conventions
from qeqtrain.data.sources import open_source, source_from_frames
from qeqtrain.data.statistics import statistics
from qeqtrain.data.sums import EnergySums, Sums, fit_references, sums_of
from qeqtrain.data.writing import write_store

TRUTH = {1: -13.6, 8: -41234.567, 11: -4412.3, 17: -12521.9, 79: -535_000.25}


def sample(n=400, seed=0, elements=(1, 8, 11, 17, 79)):
    random = np.random.default_rng(seed)
    counts = random.integers(0, 12, (n, len(elements))).astype(float)
    counts[:, 0] += 1
    energies = counts @ np.array([TRUTH[z] for z in elements])
    return elements, counts, energies + random.normal(scale=0.05, size=n)


def test_references_from_sums_are_those_of_least_squares():
    elements, counts, energies = sample()
    found = EnergySums.of(elements, counts, energies)
    direct = fit_references(counts, energies)
    assert np.allclose(found.references(), direct, rtol=0, atol=1e-8)
    rest = (energies - counts @ direct) / counts.sum(axis=1)
    assert found.rms() == pytest.approx(np.sqrt(np.mean(rest**2)), rel=1e-8)


@pytest.mark.parametrize("parts", [2, 7, 100])
def test_sums_of_parts_add_up_to_those_of_all_to_the_tenth_digit(parts):
    elements, counts, energies = sample()
    whole = EnergySums.of(elements, counts, energies)
    cut = np.array_split(np.arange(len(energies)), parts)
    merged = reduce(
        EnergySums.merge, (EnergySums.of(elements, counts[c], energies[c]) for c in cut)
    )
    assert merged.total.shape == (6, 6)
    assert np.allclose(merged.references(), whole.references(), rtol=1e-10, atol=1e-8)
    assert merged.rms() == pytest.approx(whole.rms(), rel=1e-8)


def test_parts_with_other_elements_and_open_directions_add_up():
    """The first part is one salt: its guesses are worlds away from those of the second."""
    salt = np.array([[4.0, 4.0]] * 30)
    salty = salt @ np.array([TRUTH[11], TRUTH[17]]) + 0.01 * np.arange(30)
    elements, counts, energies = sample(seed=1)
    a, b = EnergySums.of((11, 17), salt, salty), EnergySums.of(elements, counts, energies)
    wide = np.zeros((30, 5))
    wide[:, 2:4] = salt
    together = np.concatenate([wide, counts]), np.concatenate([salty, energies])
    direct = fit_references(*together)
    rest = (together[1] - together[0] @ direct) / together[0].sum(axis=1)
    for merged in (a.merge(b), b.merge(a)):
        assert np.allclose(merged.references(), direct, rtol=0, atol=1e-7)
        assert merged.rms() == pytest.approx(np.sqrt(np.mean(rest**2)), rel=1e-7)


def test_what_compositions_leave_open_has_the_smallest_norm():
    a = EnergySums.of((11, 17), np.full((5, 2), 8.0), np.full(5, -1000.0))
    b = EnergySums.of((11, 17), np.full((5, 2), 4.0), np.full(5, -500.0))
    shifted = replace(b, guess=b.guess + np.array([3000.0, -3000.0]))
    assert np.allclose(a.merge(shifted).references(), [-62.5, -62.5], atol=1e-9)
    assert np.allclose(shifted.merge(a).references(), [-62.5, -62.5], atol=1e-9)


def test_no_energies_are_no_energies():
    none = EnergySums.of((1, 8), np.zeros((0, 2)), np.zeros(0))
    assert none.references().tolist() == [0.0, 0.0]
    assert np.isnan(none.rms())
    some = EnergySums.of((1,), np.array([[2.0]]), np.array([-27.2]))
    assert none.merge(some) is some


def test_a_tally_does_not_depend_on_how_frames_are_cut(frames, monkeypatch):
    source = source_from_frames(frames)
    whole = tally.tally_of(source.columns)
    monkeypatch.setattr(tally, "blocks_of", lambda sizes: [(i, i + 1) for i in range(16)])
    single = tally.tally_by_blocks(source.columns, source.sizes)
    assert whole.keys() == single.keys()
    for name, values in whole.items():
        assert np.array_equal(values, single[name])
        assert values.dtype == single[name].dtype


def test_a_tally_counts_what_each_frame_holds(frames):
    found = source_from_frames(frames).tally
    assert found["tally/kinds"].tolist() == [len(set(f.structure.numbers)) for f in frames]
    last = frames[11]
    assert found["tally/charge_low"][11] == last.labels["charges"].min()
    assert np.isclose(found["tally/charge_sum"][11], last.labels["charges"].sum())
    largest = np.linalg.norm(last.labels["forces"], axis=1).max()
    assert np.isclose(found["tally/force_largest"][11], largest)


def test_blocks_cover_all_frames_once():
    sizes = np.array([5, 1, 30, 2, 2, 2, 9])
    assert list(tally.blocks_of(sizes, 8)) == [(0, 2), (2, 3), (3, 6), (6, 7)]
    assert list(tally.blocks_of(sizes[:0], 8)) == []


def alike(one, other):
    a, b = vars(one), vars(other)
    assert a.keys() == b.keys()
    for name, value in a.items():
        if name == "references":
            assert value.keys() == b[name].keys()
            assert np.allclose(list(value.values()), list(b[name].values()), rtol=1e-10)
        elif name == "force_rms_by_element":
            assert value == pytest.approx(b[name], rel=1e-10)
        elif isinstance(value, float):
            assert value == pytest.approx(b[name], rel=1e-9, abs=1e-9, nan_ok=True)
        else:
            assert value == b[name]


@pytest.fixture
def shards(tmp_path, frames):
    write_store(tmp_path / "0.h5", frames[:5], pairs_cutoff=4.0)
    write_store(tmp_path / "1.h5", frames[5:14], pairs_cutoff=4.0)
    write_store(tmp_path / "2.h5", frames[14:], pairs_cutoff=4.0)
    return tmp_path


@pytest.mark.parametrize("chosen", [range(16), range(0, 16, 3), [15], [2, 13]])
def test_statistics_of_stores_are_those_of_the_frames(shards, frames, chosen):
    chosen = np.array(list(chosen))
    stored = statistics(open_source(shards), chosen)
    alike(stored, statistics(source_from_frames(frames), chosen))
    picked = source_from_frames([frames[i] for i in chosen])
    alike(stored, statistics(picked, np.arange(len(chosen))))


def test_statistics_of_a_whole_store_are_read_and_not_worked_out(shards, monkeypatch):
    source = open_source(shards)
    monkeypatch.setattr("qeqtrain.data.source.sums_of", None)
    assert statistics(source, np.arange(16)).n_frames == 16
    with pytest.raises(TypeError):
        statistics(source, np.arange(15))


def test_a_label_that_is_left_out_is_left_out_of_the_statistics(shards):
    source = open_source(shards, Conventions(aliases={"charges": None}))
    found = statistics(source, np.arange(16))
    assert found.charge_range is None
    assert found.coverage["charges"] == 0.0
    assert found.coverage["forces"] == 1.0


def test_total_charges_are_counted_under_the_conventions(tmp_path, make_molecule):
    write_store(tmp_path / "open.h5", [make_molecule(i, charge=None) for i in range(3)])
    every = np.arange(3)
    assert statistics(open_source(tmp_path / "open.h5"), every).total_charges == {}
    zero = open_source(tmp_path / "open.h5", Conventions("zero"))
    assert statistics(zero, every).total_charges == {0.0: 3}


def test_sums_go_through_arrays_unchanged(frames):
    source = source_from_frames(frames)
    sums = source.sum_up()
    again = Sums.from_arrays(sums.arrays())
    assert again.charge_range == sums.charge_range
    assert again.labelled == sums.labelled
    assert np.array_equal(again.energies.total, sums.energies.total)
    assert sums_of(source.tally, source.sizes, source.present, None).energies.frames == 0
