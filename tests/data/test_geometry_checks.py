from __future__ import annotations

import numpy as np
import pytest

from qeqtrain.data.checks import (
    CLOSEST,
    all_finite,
    closest_distance,
    closest_image,
    geometry_mistakes,
)
from qeqtrain.structures import Structure


@pytest.mark.parametrize("n", [2, 31, 199, 201])
@pytest.mark.parametrize("scale", [1.0, 1e4])
def test_the_closest_distance_is_that_of_all_pairs(n, scale):
    random = np.random.default_rng(n)
    positions = scale * random.normal(size=(n, 3)) + 7.0 * scale
    positions[1] = positions[0] + [0.03, 0.0, 0.04]
    distances = np.linalg.norm(positions[:, None] - positions, axis=-1)
    expected = distances[~np.eye(n, dtype=bool)].min()
    assert closest_distance(positions) == pytest.approx(expected, rel=1e-9)


def test_values_are_finite_however_large():
    assert all_finite(np.full((3, 3), 1e300))
    assert not all_finite(np.array([1e300, np.inf]))
    assert not all_finite(np.array([[0.0], [np.nan]]))


@pytest.mark.parametrize(
    ("cell", "sound"),
    [
        (5.0 * np.eye(3), True),
        (np.diag([3.0, 4.0, 400.0]), True),
        ([[3.0, 0, 0], [2.9, 0.01, 0], [0, 0, 50.0]], True),
        ([[3.0, 0, 0], [6.0, 0, 0], [0, 0, 5.0]], False),
        ([[3.0, 0, 0], [3.0, 1e-9, 0], [0, 0, 5.0]], False),
        (np.zeros((3, 3)), False),
    ],
)
def test_a_cell_spans_space_or_is_refused(cell, sound):
    structure = Structure(
        numbers=np.array([11]),
        positions=np.zeros((1, 3)),
        cell=np.array(cell),
        pbc=np.ones(3, dtype=bool),
    )
    assert (geometry_mistakes(structure) == []) is sound


def all_pairs(structure, cell):
    """Smallest distance through the image that is nearest by fractional coordinates."""
    fractions = structure.positions @ np.linalg.inv(cell)
    vectors = fractions[:, None] - fractions
    vectors = (vectors - np.rint(vectors) * structure.pbc) @ cell
    distances = np.sqrt((vectors**2).sum(-1))
    return distances[~np.eye(len(structure), dtype=bool)].min()


@pytest.mark.parametrize("pbc", [(True, True, True), (True, False, True), (False, True, False)])
@pytest.mark.parametrize("layered", [False, True])
def test_atoms_that_meet_through_an_image_are_found_among_many(pbc, layered):
    random = np.random.default_rng([*pbc, layered])
    for _ in range(40):
        n = int(random.integers(64, 100))
        cell = np.diag(random.uniform(4, 12, 3)) + random.normal(scale=0.5, size=(3, 3))
        fractions = random.uniform(-0.5, 1.5, (n, 3))
        if layered:
            fractions[:, random.integers(3)] = random.integers(0, 3, n) / 3
        positions = fractions @ cell
        i, j = random.choice(n, 2, replace=False)
        apart = random.normal(size=3)
        apart *= random.uniform(0.01, 0.13) / np.linalg.norm(apart)
        image = random.integers(-2, 3, 3) * pbc
        positions[i] = positions[j] + apart + image @ cell
        structure = Structure(np.full(n, 8), positions, cell, np.array(pbc))
        expected = all_pairs(structure, cell)
        found = closest_image(structure, cell)
        if expected < CLOSEST:
            assert found == pytest.approx(expected, abs=1e-9)
        else:
            assert found >= CLOSEST
