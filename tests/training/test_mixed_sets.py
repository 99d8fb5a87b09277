"""A potential of several data sets, from its data to its errors."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from qeqtrain.data.mixed import MixedSets
from qeqtrain.data.writing import write_extxyz
from qeqtrain.errors import UserMistake
from qeqtrain.models.archive import load
from qeqtrain.models.qet import qet_spec
from qeqtrain.training.assembly import potential_for
from qeqtrain.training.loss import Loss
from qeqtrain.training.metrics import ErrorSums
from qeqtrain.training.optim import Optimization
from qeqtrain.training.run import fit
from qeqtrain.training.trainer import TrainerSettings
from tests.crosses import BACKBONES, CHARGES, CROSSES, small_cross
from tests.mixtures import FIRST, SECOND, both, cluster
from tests.training.processes import begin, end, last

NODES: dict[str, Any] = {**qet_spec(cutoff=4.0, channels=4, layers=1), "dtype": "float64"}
ASKED = {"energy": True, "forces": True, "charges": True}


def prepared(sets: dict[str, Any], **options: Any) -> MixedSets:
    data = MixedSets(sets, **{"batch_structures": 6, **options})
    data.prepare({"backbone": 4.0, "charge": 4.0}, ASKED)
    return data


def rows(potential: Any) -> dict[str, dict[int, float]]:
    """Energies of elements of every set, eV."""
    mixture = potential.mixture
    return {
        name: {z: e + mixture.differences(k)[z] for z, e in potential.references.items()}
        for k, name in enumerate(mixture.names)
    }


def test_every_set_has_its_scale_of_energies(tmp_path: Path) -> None:
    found = rows(potential_for(NODES, prepared(both(tmp_path, count=36))))
    assert found["second"] == pytest.approx(SECOND, abs=0.1)
    assert {z: found["first"][z] for z in (11, 17)} == pytest.approx(
        {z: FIRST[z] for z in (11, 17)}, abs=0.1
    )


def test_the_main_set_is_the_one_that_the_recipe_names(tmp_path: Path) -> None:
    potential = potential_for(NODES, prepared(both(tmp_path), main="second"))
    assert potential.references == pytest.approx(SECOND, abs=0.1)
    assert potential.mixture.chosen == "second"
    assert potential.mixture.mapped == ("mulliken",)


def test_a_set_may_share_the_main_scale_or_be_given_one(tmp_path: Path) -> None:
    shared = potential_for(NODES, prepared(both(tmp_path, references="main")))
    assert rows(shared)["first"] == rows(shared)["second"]
    given = {"Na": -100.0, "Cl": -50.0, "K": 10.0}
    found = rows(potential_for(NODES, prepared(both(tmp_path, references=given))))
    assert found["second"] == pytest.approx({11: -100.0, 17: -50.0, 19: 10.0})
    with pytest.raises(UserMistake, match=r"data\.sets\.second\.references lacks Cl, K"):
        potential_for(NODES, prepared(both(tmp_path, references={"Na": -100.0})))


def test_given_references_are_those_of_the_main_set(tmp_path: Path) -> None:
    data = prepared(both(tmp_path))
    fitted = rows(potential_for(NODES, data))
    given = {"Na": -3.0, "Cl": -6.0, "K": -1.0}
    found = rows(potential_for({**NODES, "references": given}, data))
    assert found["first"] == {11: -3.0, 17: -6.0, 19: -1.0}
    for z in (11, 17, 19):
        apart = fitted["second"][z] - fitted["first"][z]
        assert found["second"][z] - found["first"][z] == pytest.approx(apart)


def test_no_references_means_none_in_any_set(tmp_path: Path) -> None:
    found = rows(potential_for({**NODES, "references": "none"}, prepared(both(tmp_path))))
    assert set(found["first"].values()) == set(found["second"].values()) == {0.0}


def test_what_lies_beneath_the_network_is_taken_off_every_set(tmp_path: Path) -> None:
    from qeqtrain.training.given import given_labels

    data = prepared(both(tmp_path))
    nodes = {
        **NODES,
        "baselines": {"zbl": {"_target_": "qeqtrain.nn.baselines.ScreenedNuclei"}},
    }
    potential = potential_for(nodes, data)
    given = given_labels(potential, data)
    source, frames = data.source_of("train")
    assert np.array_equal(given.frames, frames)
    found = rows(potential)
    for name in ("first", "second"):
        mine = data.frames_of(name, "train")
        numbers = [source[int(i)].structure.numbers for i in mine]
        counts = np.array([[(n == z).sum() for z in (11, 17, 19)] for n in numbers], float)
        beneath = given.energies[np.isin(frames, mine)]
        labels = source.column("energy")[mine] - beneath
        rest = labels - counts @ [found[name][z] for z in (11, 17, 19)]
        assert np.abs(counts.T @ rest).max() < 1e-8  # the normal equations of least squares


def test_energies_of_charges_are_fitted_on_one_scale(tmp_path: Path) -> None:
    offsets = {-1.0: -2.0, 0.0: 0.0, 1.0: 6.0}
    files = {}
    for name, second in (("a", False), ("b", True)):
        frames = [cluster(i, second=second) for i in range(30)]
        for f in frames:
            f.labels["energy"] = f.labels["energy"] + offsets[f.structure.total_charge]
        files[name] = {"train": str(tmp_path / f"{name}.extxyz"), "charge_type": name}
        write_extxyz(tmp_path / f"{name}.extxyz", frames)
    potential = potential_for({**NODES, "charge_references": "per_charge"}, prepared(files))
    found = dict(potential.charge_references.plain()["energies"])
    assert found[1.0] - found[0.0] == pytest.approx(6.0, abs=0.15)
    assert found[-1.0] - found[0.0] == pytest.approx(-2.0, abs=0.15)


def test_errors_by_set_are_those_of_its_structures_alone(tmp_path: Path) -> None:
    data = prepared(both(tmp_path))
    potential = potential_for(NODES, data).eval()
    sums = ErrorSums(sets=potential.mixture.names)
    apart = {name: ErrorSums() for name in data.sets}
    batches = data.batches("val")
    for batch in data.val_loader():
        sums.add(potential(batch.structures, stress=False).detach(), batch)
    _, frames = data.source_of("val")
    for name, own in apart.items():
        mine = np.flatnonzero(np.isin(frames, data.frames_of(name, "val")))
        batch = batches.batch(mine)
        own.add(potential(batch.structures, stress=False).detach(), batch)
    found = sums.summary()
    for name, own in apart.items():
        for key, value in own.summary().items():
            assert found[f"{key}/{name}"] == pytest.approx(value, rel=1e-12)
    assert "energy_rmse" in found


@pytest.mark.parametrize("backbone", BACKBONES)
@pytest.mark.parametrize("charge", CHARGES)
def test_every_cross_trains_on_a_mixture(tmp_path: Path, backbone: str, charge: str) -> None:
    coupling = next(c for b, k, c in CROSSES if (b, k) == (backbone, charge))
    nodes = {**small_cross(backbone, charge, coupling).spec}
    learned = charge not in ("none", "pqeq")
    data = MixedSets(both(tmp_path, count=12, weight=1.5), batch_structures=6)
    done = fit(
        data=data,
        potential=nodes,
        loss=Loss(charges=1.0 if learned else 0.0),
        optim=Optimization(lr=1e-3),
        trainer=TrainerSettings(max_steps=2, accelerator="cpu"),
        folder=tmp_path / "run",
        recipe={"seed": 0},
    )
    assert {"energy_rmse/first", "forces_rmse/second"} <= set(done["errors"])
    assert ("charges_rmse/second" in done["errors"]) == (charge != "none")
    potential = load(tmp_path / "run")
    assert potential.mixture.names == ("first", "second")
    moved = potential.mixture.slope.detach().abs().max() > 0
    assert bool(moved) == learned


def recipe(folder: Path, **second: Any) -> Path:
    """Write a recipe of the two sets."""
    sets = both(folder, **second)
    lines = [
        "defaults: [base, override /data: mixed, override /model: qet, _self_]",
        "seed: 3",
        "data:",
        "  sets:",
        *(f"    {name}: {one}".replace("'", '"') for name, one in sets.items()),
        "backbone: {cutoff: 4.0, channels: 4, layers: 1}",
        "potential: {dtype: float64}",
        "loss: {charges: 1.0}",
        "optim: {lr: 1.0e-2, gradient_clip: null}",
    ]
    file = folder / "mixed.yaml"
    file.write_text("\n".join(lines) + "\n")
    return file


def run(file: Path, folder: Path, *words: str) -> dict[str, Any]:
    """Train in a process of its own, and read the last checkpoint."""
    whole = [sys.executable, "-m", "qeqtrain", "fit", str(file), f"run_folder={folder}", *words]
    end(begin(whole))
    return last(folder)


def test_two_ranks_train_a_mixture_as_one_does(tmp_path: Path) -> None:
    file = recipe(tmp_path, weight=1.5)
    ends = [
        run(
            file,
            tmp_path / str(ranks),
            f"trainer.devices={ranks}",
            f"data.batch_structures={4 // ranks}",
            "trainer.max_steps=12",
        )
        for ranks in (1, 2)
    ]
    one, two = (e["state_dict"] for e in ends)
    assert max(float((one[n] - two[n]).abs().max()) for n in one) < 1e-8
    errors = [e["qeqtrain"]["metrics"] for e in ends]
    assert errors[0] == pytest.approx(errors[1], rel=1e-9)
    assert "charges_rmse/second" in errors[0]


def test_a_resumed_mixture_ends_as_an_uninterrupted_one(tmp_path: Path) -> None:
    file = recipe(tmp_path, weight=0.5)
    whole = run(file, tmp_path / "whole", "trainer.max_steps=14", "optim.schedule=constant")
    words = ("trainer.max_steps=8", "optim.schedule=constant")  # in mid-epoch: 3.25 batches
    run(file, tmp_path / "cut", *words)
    again = [sys.executable, "-m", "qeqtrain", "fit", f"resume={tmp_path / 'cut'}"]
    end(begin([*again, "trainer.max_steps=14"]))
    resumed = last(tmp_path / "cut")
    assert resumed["global_step"] == whole["global_step"] == 14
    for name, value in whole["state_dict"].items():
        assert torch.equal(value, resumed["state_dict"][name]), name


def test_early_stopping_may_follow_the_errors_of_one_set(tmp_path: Path) -> None:
    def train(monitor: str) -> dict[str, Any]:
        node = {
            "_target_": "pytorch_lightning.callbacks.EarlyStopping",
            "monitor": monitor,
            "patience": 1,
            "min_delta": 1e9,  # nothing is an improvement
        }
        return fit(
            data=MixedSets(both(tmp_path, count=12), batch_structures=6),
            potential=NODES,
            loss=Loss(charges=1.0),
            optim=Optimization(lr=1e-3),
            trainer=TrainerSettings(max_epochs=9, accelerator="cpu"),
            callbacks={"stop": node},
            folder=tmp_path / monitor.replace("/", "-"),
            recipe={"seed": 0},
        )

    assert train("val/energy_rmse/second")["epochs"] == 2
    with pytest.raises(UserMistake, match="did you mean 'val/energy_rmse/second'"):
        train("val/energy_rmse/secnd")
