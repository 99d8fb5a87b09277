"""Sums of errors against numpy by hand."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from qeqtrain.structures import Prediction
from qeqtrain.training.metrics import ErrorSums, score
from qeqtrain.units import EV_PER_A3_TO_GPA


def test_errors_of_ragged_batches_are_those_of_all_frames_at_once(
    toy_batch: Callable[..., Any],
) -> None:
    sums = ErrorSums()
    per_atom, components = [], []
    for count, seed in ((1, 0), (3, 1), (2, 2)):
        batch = toy_batch(count, seed)
        generator = torch.Generator().manual_seed(seed)
        noise = {k: torch.randn(v.shape, generator=generator) for k, v in batch.labels.items()}
        said = Prediction(
            energy=batch.labels["energy"] + noise["energy"],
            forces=batch.labels["forces"] + noise["forces"],
        )
        sums.add(said, batch)
        sizes = np.bincount(batch.structures.batch.numpy())
        per_atom.append(noise["energy"].double().numpy() / sizes)
        components.append(noise["forces"].double().numpy().ravel())
    errors = sums.summary()
    energy, forces = np.concatenate(per_atom), np.concatenate(components)
    assert errors["energy_rmse"] == pytest.approx(1e3 * np.sqrt(np.mean(energy**2)))
    assert errors["energy_mae"] == pytest.approx(1e3 * np.mean(np.abs(energy)))
    assert errors["forces_rmse"] == pytest.approx(1e3 * np.sqrt(np.mean(forces**2)))
    assert errors["forces_mae"] == pytest.approx(1e3 * np.mean(np.abs(forces)))
    assert "charges_rmse" not in errors


def test_stress_errors_are_in_gpa(toy_batch: Callable[..., Any]) -> None:
    batch = toy_batch(1)
    batch.structures.pbc[:] = True
    batch.labels["stress"] = torch.zeros(1, 3, 3, dtype=torch.float64)
    batch.present["stress"] = torch.ones(1, dtype=torch.bool)
    stress = torch.full((1, 3, 3), 0.01, dtype=torch.float64)
    sums = ErrorSums()
    sums.add(Prediction(energy=batch.labels["energy"], stress=stress), batch)
    assert sums.summary()["stress_mae"] == pytest.approx(0.01 * EV_PER_A3_TO_GPA)


def test_the_score_adds_the_errors_that_are_trained_in_plain_units() -> None:
    errors = {"energy_rmse": 10.0, "forces_rmse": 50.0, "charges_rmse": 30.0}
    assert score(errors, ["energy", "forces"]) == pytest.approx(0.060)
    assert score(errors, ["energy", "forces", "charges"]) == pytest.approx(0.090)


def test_nothing_to_compare_is_the_worst_score() -> None:
    assert score({}, ["energy"]) == math.inf
    assert score({"energy_rmse": math.nan}, ["energy"]) == math.inf
