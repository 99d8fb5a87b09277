"""What charge solves took is written down."""

from __future__ import annotations

import csv
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from qeqtrain.physics.stationary import Effort
from qeqtrain.training.solves import WorstSolve
from tests.training.conftest import SPEC


def effort(residual: float, iterations: int, condition: float) -> Effort:
    """Give the effort of one solve."""
    tensors = (torch.tensor([x]) for x in (residual, float(iterations), condition))
    return Effort("dense", *tensors)


def test_the_worst_of_many_solves_is_kept() -> None:
    worst = WorstSolve()
    assert worst.values() == {}
    worst.add(effort(1e-9, 7, 30.0))
    worst.add(effort(1e-11, 9, 20.0))
    assert worst.values() == pytest.approx(
        {"solve_residual": 1e-9, "solve_iterations": 9, "solve_condition": 30.0}
    )
    worst.forget()
    assert worst.values() == {}


def test_an_unknown_condition_number_is_left_out() -> None:
    worst = WorstSolve()
    worst.add(effort(1e-9, 7, float("nan")))
    assert set(worst.values()) == {"solve_residual", "solve_iterations"}


@pytest.mark.parametrize("charge", ["GaussianCharges", "DiagonalCharges"])
def test_metrics_tell_the_effort_where_something_is_solved(
    train: Callable[..., dict[str, Any]], tmp_path: Path, charge: str
) -> None:
    node = {"_target_": f"qeqtrain.nn.charges.{charge}"}
    train(max_epochs=1, spec={**SPEC, "charge": node})
    with (tmp_path / "run" / "metrics.csv").open(newline="") as lines:
        (row,) = csv.DictReader(lines)
    told = [row[name] for name in ("solve_residual", "solve_iterations", "solve_condition")]
    if charge == "DiagonalCharges":
        assert told == ["", "", ""]
    else:
        assert float(told[0]) < 1e-9
        assert float(told[1]) == 1
        assert float(told[2]) > 1
