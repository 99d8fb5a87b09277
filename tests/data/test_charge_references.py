"""Reference energies by total charge, fitted to frames made for it."""

from __future__ import annotations

import numpy as np
import pytest

from qeqtrain.data.charge_references import (
    charge_energies,
    count_compositions,
    fit_with_charges,
)
from qeqtrain.data.sources import source_from_frames

ELEMENTS = {1: -13.6, 8: -41234.567, 11: -4412.3, 17: -12521.9}
CHARGES = {-1.0: -2.5, 0.0: 0.5, 1.0: 6.0}


@pytest.fixture
def source(make_molecule):
    """Several compositions, each at three total charges."""
    frames = []
    for i in range(30):
        charge = float(i % 3 - 1)
        frame = make_molecule(i, charge=charge, n=2 + (i // 3) % 5)
        energy = sum(ELEMENTS[z] for z in frame.structure.numbers) + CHARGES[charge]
        frame.labels["energy"] = np.float64(energy)
        frames.append(frame)
    return source_from_frames(frames)


def test_elements_and_charges_explain_energies_that_are_made_of_them(source):
    found = charge_energies(source, np.arange(30))
    for i in range(30):
        s = source[i].structure
        energy = sum(found.elements[z] for z in s.numbers) + found.charges[s.total_charge]
        assert abs(energy - source[i].labels["energy"]) < 1e-7


def test_differences_between_charges_are_what_was_put_in(source):
    found = charge_energies(source, np.arange(30)).charges
    assert found[1.0] - found[-1.0] == pytest.approx(8.5, abs=1e-7)
    assert found[0.0] - found[-1.0] == pytest.approx(3.0, abs=1e-7)


def test_with_one_composition_elements_take_the_mean():
    counts, state = np.full((6, 2), 8.0), np.array([0, 1, 2, 0, 1, 2])
    elements, charges = fit_with_charges(counts, state, -1000.0 + np.array([-2, 0, 5.0] * 2))
    np.testing.assert_allclose(charges, [-3.0, -1.0, 4.0], atol=1e-10)
    np.testing.assert_allclose(elements, np.full(2, -999.0 / 16.0), atol=1e-10)


def test_a_charge_that_follows_from_the_composition_is_left_to_the_elements():
    counts = np.array([[8.0, 8.0], [9.0, 8.0], [8.0, 9.0]] * 2)
    state = np.array([1, 2, 0] * 2)
    elements, charges = fit_with_charges(counts, state, counts @ [-3.0, -7.0])
    np.testing.assert_allclose(charges, 0.0, atol=1e-9)
    np.testing.assert_allclose(elements, [-3.0, -7.0], atol=1e-9)


def test_given_elements_stay_and_charges_take_the_mean_of_the_rest(source):
    found = charge_energies(source, np.arange(30), ELEMENTS)
    assert found.elements == pytest.approx(ELEMENTS)
    assert found.charges == pytest.approx(CHARGES, abs=1e-7)


def test_a_composition_with_its_charge_has_the_mean_above_the_elements(source):
    found = charge_energies(source, np.arange(30), ELEMENTS)
    assert len(found.states) == 15
    for _, charge, energy in found.states:
        assert energy == pytest.approx(CHARGES[charge], abs=1e-7)
    assert ({1: 1, 8: 1}, -1.0) in [(c, q) for c, q, _ in found.states]


def test_compositions_are_counted_with_their_charge(source):
    found = count_compositions(source, np.arange(9))
    assert sum(n for *_, n in found) == 9
    numbers, charge, count = found[0]
    assert (sorted(numbers), charge, count) == ([1, 8], -1.0, 1)


def test_without_energies_there_is_nothing_to_fit(make_molecule):
    frame = make_molecule()
    del frame.labels["energy"]
    found = charge_energies(source_from_frames([frame]), np.array([0]))
    assert (found.charges, found.states, found.spread) == ({}, [], 0.0)
