"""Curves of two atoms: smoothness by hand, DFT where it is given, one model from end to end."""

from __future__ import annotations

import numpy as np
import pytest

from qeqtrain.errors import UserMistake
from qeqtrain.evaluation.benchmarks.curves import smoothness, wall_is_repulsive, well
from qeqtrain.evaluation.benchmarks.diatomics import Diatomics, DiatomicSettings, curve
from qeqtrain.evaluation.benchmarks.references import DIMERS
from qeqtrain.evaluation.benchmarks.running import measure
from tests.systems import small_qet

R = np.linspace(0.8, 6.0, 400)
MORSE = 2.0 * ((1 - np.exp(-1.7 * (R - 1.6))) ** 2 - 1)
PULL = -np.gradient(MORSE, R)


def test_one_wall_and_one_well_are_perfect() -> None:
    found = smoothness(MORSE, PULL)
    assert found.tortuosity == pytest.approx(1.0, abs=1e-3)
    assert found.energy_flips == 1
    assert found.force_flips == 1
    assert wall_is_repulsive(R, MORSE)


def test_a_well_is_found_between_points() -> None:
    found = well(R, MORSE)
    assert found.distance == pytest.approx(1.6, abs=1e-3)
    assert found.depth == pytest.approx(2.0, abs=1e-2)


def test_a_bump_and_a_hole_are_counted() -> None:
    bump = MORSE + 0.5 * np.exp(-(((R - 3.0) / 0.2) ** 2))
    found = smoothness(bump, -np.gradient(bump, R))
    assert found.energy_flips == 3
    assert found.force_flips == 3
    assert found.tortuosity > 1.03
    hole = np.where(R < 1.0, MORSE - 40.0 * (1.0 - R), MORSE)
    assert not wall_is_repulsive(R, hole)


def test_a_curve_is_what_single_evaluations_give() -> None:
    potential = small_qet()
    distance = np.array([1.2, 2.0, 3.5])
    energy, force, charge = curve(potential, "Na", "Cl", distance)
    assert charge is not None
    slope = [curve(potential, "Na", "Cl", distance + h)[0] for h in (-1e-4, 1e-4)]
    assert abs((slope[0] - slope[1]) / 2e-4 - force).max() < 1e-6
    alone = curve(potential, "Na", "Cl", distance[1:2])
    assert energy[1] == pytest.approx(alone[0][0], abs=1e-12)


@pytest.fixture
def dft(write_reference) -> str:
    """A DFT curve of two sodium atoms that is a Morse curve."""
    r = np.linspace(0.95, 6.0, 40) * 1.0
    e = 2.0 * ((1 - np.exp(-1.7 * (r - 3.0))) ** 2 - 1)
    f = -3.4 * 2.0 * (1 - np.exp(-1.7 * (r - 3.0))) * np.exp(-1.7 * (r - 3.0))
    forces = [[[-x, 0.0, 0.0], [x, 0.0, 0.0]] for x in f]
    content = {"distances": r.tolist(), "energies": e.tolist(), "forces": forces}
    return str(write_reference(DIMERS.file, {"PBE": {"Na-Na": content}}))


def test_pairs_are_measured_and_compared_with_dft(dft: str) -> None:
    potential = small_qet()
    settings = DiatomicSettings(
        elements=("Na", "O"), pairs=("Na-Cl",), points=40, references=dft
    )
    suite = Diatomics(settings)
    plan = suite.plan(potential)
    assert [task.name for task in plan.tasks] == ["Na-Na", "O-O", "Na-Cl"]
    rows = [measure(suite, potential, task) for task in plan.tasks]
    assert not [row.failed for row in rows if row.failed]
    values = rows[0].values
    r = np.array(values["dft_distance_A"])
    energy = curve(potential, "Na", "Na", r)[0]
    expected = 2.0 * ((1 - np.exp(-1.7 * (r - 3.0))) ** 2 - 1)
    error = (energy - energy[-1]) - (expected - expected[-1])
    assert values["dft_energy_mae_eV"] == pytest.approx(abs(error).mean(), rel=1e-9)
    assert "dft_energy_mae_eV" not in rows[1].values
    found = suite.findings(rows)
    assert found.numbers["dft_energy_mae_eV"] == values["dft_energy_mae_eV"]
    assert found.card["diatomics"]["status"] == "partial"
    assert set(found.plots) == {"curves-1"}


def test_without_dft_curves_are_measured_all_the_same(monkeypatch, tmp_path) -> None:
    monkeypatch.setenv("QEQTRAIN_BENCHMARKS", str(tmp_path))
    suite = Diatomics(DiatomicSettings(elements=("Na",), points=20, references="none"))
    potential = small_qet()
    rows = [measure(suite, potential, task) for task in suite.plan(potential).tasks]
    assert "pbe_energy_mae" not in suite.findings(rows).card["diatomics"]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"elements": ("Xe",)}, "Xe: not an element of the model"),
        ({"pairs": ("NaCl",)}, "two symbols with a dash"),
        ({"points": 3}, "expected 10 or more"),
    ],
)
def test_pairs_that_cannot_be_drawn_are_named(settings, message: str) -> None:
    suite = Diatomics(DiatomicSettings(references="none", **settings))
    with pytest.raises(UserMistake, match=message):
        suite.plan(small_qet())
