"""Fields as data, and Born charges as a label, in a run."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from qeqtrain.data.frames import Frame
from qeqtrain.data.sets import DataSets
from qeqtrain.data.writing import write_extxyz
from qeqtrain.errors import UserMistake
from qeqtrain.evaluation.inference import predictions
from qeqtrain.structures import Structure
from qeqtrain.training.loss import Loss
from qeqtrain.training.optim import Optimization
from qeqtrain.training.run import fit
from qeqtrain.training.trainer import TrainerSettings
from tests.crosses import BACKBONES, CHARGES, COUPLINGS, small_cross
from tests.systems import rattled, slab, triclinic, water


def labelled(atoms: list[Any], fields: list[Any]) -> list[Frame]:
    """Label structures in fields with a model of the kind that is trained."""
    teacher = small_cross("tensornet", "gaussian", "full", seed=5)
    bare = [
        Frame(
            Structure.from_atoms(
                a, total_charge=0.0, spin=1.0, electric_field=None if f is None else np.array(f)
            ),
            {},
            f"frame-{i}",
        )
        for i, (a, f) in enumerate(zip(atoms, fields, strict=True))
    ]
    asked = [replace(f, labels={"born_charges": np.zeros((len(f), 3, 3))}) for f in bare]
    said = list(predictions(teacher, asked, born_charges=True))
    return [Frame(s.frame.structure, s.values, s.frame.source_id) for s in said]


def run(
    path: Path,
    folder: Path,
    charge: str = "gaussian",
    *,
    atomic_dipoles: bool = False,
    epochs: int = 25,
    **loss: float,
) -> dict[str, Any]:
    coupling = "feature" if charge == "none" else "full"
    return fit(
        data=DataSets(str(path), val=str(path), batch_structures=4),
        potential={
            "backbone": BACKBONES["tensornet"],
            "charge": CHARGES[charge],
            "coupling": COUPLINGS[coupling],
            "atomic_dipoles": atomic_dipoles,
            "dtype": "float64",
        },
        loss=Loss(**loss),
        optim=Optimization(lr=5e-3, ema=None),
        trainer=TrainerSettings(max_epochs=epochs, accelerator="cpu", threads=1),
        folder=folder,
        recipe={},
    )["errors"]


@pytest.fixture(name="path")
def _path(tmp_path: Path) -> Path:
    fields = [None, (0.0, 0.0, 0.3), (0.2, 0.0, 0.0), (0.0, -0.3, 0.1)]
    path = tmp_path / "train.extxyz"
    write_extxyz(path, labelled([rattled(water(), 0.1, seed=i) for i in range(4)], fields))
    return path


def test_born_charges_and_forces_in_a_field_are_learnt(path: Path, tmp_path: Path) -> None:
    energy = {"energy": 0.1, "forces": 0.1, "charges": 0.0}
    hardly = run(path, tmp_path / "hardly", epochs=100, **energy, born_charges=1e-12)
    trained = run(path, tmp_path / "trained", epochs=100, **energy, born_charges=10.0)
    assert trained["born_charges_rmse"] < 0.1 * hardly["born_charges_rmse"]
    assert trained["dipole_rmse"] < 0.1 * hardly["dipole_rmse"]


def test_dipoles_that_are_no_sums_of_charges_are_learnt_beside_the_charges(
    tmp_path: Path,
) -> None:
    frames = labelled([rattled(water(), 0.1, seed=i) for i in range(4)], [None] * 4)
    for frame in frames:
        positions = frame.structure.positions
        polarized = 0.4 * (positions[1:] - positions[0]).sum(axis=0)
        frame.labels["dipole"] = frame.labels["dipole"] + polarized
    path = tmp_path / "train.extxyz"
    write_extxyz(path, frames)
    weights = {"energy": 0.0, "forces": 0.0, "charges": 10.0, "dipole": 10.0}
    sums = run(path, tmp_path / "sums", epochs=80, **weights)
    found = run(path, tmp_path / "found", atomic_dipoles=True, epochs=80, **weights)
    assert found["dipole_rmse"] < 0.2 * sums["dipole_rmse"]
    assert found["charges_rmse"] < 0.5 * sums["charges_rmse"]


def test_a_field_is_refused_before_training_where_nothing_follows_it(
    path: Path, tmp_path: Path
) -> None:
    with pytest.raises(
        UserMistake, match=r"train: frame-1 \(and 2 frames more\): .*no charges"
    ):
        run(path, tmp_path / "run", "none", charges=0.0)


def test_born_charges_asked_of_a_model_without_charges_are_a_mistake() -> None:
    with pytest.raises(UserMistake, match=r"loss\.born_charges=0"):
        Loss(born_charges=1.0).refuse_impossible(has_charges=False)


def test_born_charges_of_crystals_alone_are_a_mistake_where_charge_flows(
    tmp_path: Path,
) -> None:
    frames = labelled([triclinic(), slab()], [None, None])
    for frame in frames:
        frame.labels["born_charges"] = np.zeros((len(frame), 3, 3))
    path = tmp_path / "train.extxyz"
    write_extxyz(path, frames)
    with pytest.raises(UserMistake, match="needs frames without periodic directions"):
        run(path, tmp_path / "run", charges=0.0, born_charges=1.0)
