"""What a potential is for that knows the total charge: one geometry, three energies."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from qeqtrain.data.generate import generate
from qeqtrain.data.sets import DataSets
from qeqtrain.models.qet import qet_spec
from qeqtrain.training.loss import Loss
from qeqtrain.training.optim import Optimization
from qeqtrain.training.run import fit
from qeqtrain.training.trainer import TrainerSettings

NO_CHARGES = {"_target_": "qeqtrain.nn.charges.NoCharges"}


def energy_rmse(file: Path, folder: Path, charge: dict[str, Any] | None) -> float:
    """Train QET, or the same network with another charge model; meV/atom on validation."""
    spec = qet_spec(channels=32, layers=2)
    if charge is not None:
        spec["charge"] = charge
    summary = fit(
        data=DataSets(str(file), split={"val": 0.2}, batch_structures=6),
        potential=spec,
        loss=Loss(energy=10.0, forces=1.0, charges=0.0 if charge else 10.0),
        optim=Optimization(lr=2e-3),
        trainer=TrainerSettings(max_cpu_time="00:01:00", threads=1),
        folder=folder,
        recipe={},
    )
    return float(summary["errors"]["energy_rmse"])


@pytest.mark.slow
def test_qet_tells_charge_states_apart_five_times_better_than_without_charges(
    tmp_path: Path,
) -> None:
    file = tmp_path / "clusters.h5"
    generate("alkali_halide_clusters", file, count=240, seed=0, workers=2)
    qet = energy_rmse(file, tmp_path / "qet", None)
    blind = energy_rmse(file, tmp_path / "blind", NO_CHARGES)

    assert qet < blind / 5.0
