"""A run: the loss falls, the folder holds what it promises, the best weights are kept."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

import qeqtrain.models.archive as archive
from qeqtrain.errors import UserMistake
from qeqtrain.training.loss import Loss
from qeqtrain.training.optim import Optimization

Train = Callable[..., dict[str, Any]]


def rows(folder: Path) -> list[dict[str, str]]:
    """Read metrics.csv."""
    with (folder / "metrics.csv").open(newline="") as lines:
        return list(csv.DictReader(lines))


def test_the_loss_falls_on_two_frames(train: Train, toy_data: Any, tmp_path: Path) -> None:
    train(data=toy_data(train=2, val=2), optim=Optimization(lr=0.02), max_epochs=30)
    losses = [float(row["train_loss"]) for row in rows(tmp_path / "run")]
    assert losses[-1] < 0.3 * losses[0]


def test_frozen_weights_do_not_move(train: Train, tmp_path: Path) -> None:
    weights = []
    for lr in (1e-3, 3e-2):
        optim = Optimization(lr=lr, ema=None, freeze=["backbone.*"])
        train(f"run-{lr}", optim=optim, max_epochs=2)
        weights.append(dict(archive.load(tmp_path / f"run-{lr}").named_parameters()))
    same = {name: torch.equal(first, weights[1][name]) for name, first in weights[0].items()}
    assert all(kept for name, kept in same.items() if name.startswith("backbone."))
    assert not any(kept for name, kept in same.items() if name.startswith("coupling.energy"))


def test_a_run_without_a_weight_to_train_is_a_mistake(train: Train, tmp_path: Path) -> None:
    with pytest.raises(UserMistake, match="no weight is named 'backbon'"):
        train(optim=Optimization(train=["backbon"]), max_epochs=1)


def test_a_plateau_lowers_the_rate_of_a_run(train: Train, tmp_path: Path) -> None:
    optim = Optimization(lr=1e-9, schedule="plateau", patience=0, factor=0.5, warmup=0.0)
    train(optim=optim, max_epochs=4)
    rates = [float(row["lr"]) for row in rows(tmp_path / "run")]
    assert rates[-1] < rates[0] <= 1e-9


def test_the_folder_of_a_run_holds_what_it_promises(train: Train, tmp_path: Path) -> None:
    summary = train(max_epochs=2)
    folder = tmp_path / "run"
    note = json.loads((folder / "run.json").read_text())
    assert yaml.safe_load((folder / "recipe.yaml").read_text()) == {"seed": 1}
    assert note["state"] == "finished"
    assert note["sessions"][0]["data_fingerprint"] == "toy-12-4-0"
    assert note["versions"]["torch"] == torch.__version__
    assert len(json.loads((folder / "splits.json").read_text())["train"]) == 12
    assert [row["epoch"] for row in rows(folder)] == ["1", "2"]
    assert Path(summary["best"]) == folder / "checkpoints" / "best.ckpt"
    assert not list(folder.rglob("*.part"))


def test_every_checkpoint_loads_as_plain_values(train: Train, tmp_path: Path) -> None:
    train(max_epochs=2, checkpoint_every_steps=2)
    files = sorted((tmp_path / "run" / "checkpoints").iterdir())
    assert [f.name for f in files] == ["best.ckpt", "last.ckpt", "previous.ckpt"]
    for file in files:
        content = torch.load(file, map_location="cpu", weights_only=True)
        assert content["qeqtrain"]["recipe"] == {"seed": 1}
        assert content["qeqtrain"]["data_fingerprint"] == "toy-12-4-0"


def test_the_best_checkpoint_has_the_lowest_score(train: Train, tmp_path: Path) -> None:
    summary = train(max_epochs=4, optim=Optimization(lr=0.3))
    scores = [float(row["score"]) for row in rows(tmp_path / "run")]
    assert summary["score"] == pytest.approx(min(scores), rel=1e-6)


def test_the_run_folder_loads_with_its_averaged_weights(train: Train, tmp_path: Path) -> None:
    train(max_epochs=2)
    loaded = archive.load(tmp_path / "run")
    content = torch.load(
        tmp_path / "run" / "checkpoints" / "best.ckpt", map_location="cpu", weights_only=True
    )
    for name, value in loaded.state_dict().items():
        assert torch.equal(value, content["state_dict"][f"averaged.module.{name}"])


def test_a_run_may_end_by_steps_in_the_middle_of_an_epoch(train: Train, tmp_path: Path) -> None:
    summary = train(max_steps=8)
    assert summary["steps"] == 8
    assert [int(row["step"]) for row in rows(tmp_path / "run")] == [6, 8]


def test_a_run_may_end_by_cpu_time(train: Train, tmp_path: Path) -> None:
    train(max_cpu_time=0.6, validate_every=2)
    last = rows(tmp_path / "run")[-1]
    assert 0.6 <= float(last["cpu_seconds"]) < 2.0
    assert float(last["lr"]) == pytest.approx(0.01 * 3e-3, rel=1e-4)


def test_the_end_is_validated_whatever_the_rhythm(train: Train, tmp_path: Path) -> None:
    train(max_epochs=3, validate_every=2)
    assert [row["epoch"] for row in rows(tmp_path / "run")] == ["2", "3"]


def test_a_run_may_end_by_wall_time(train: Train, tmp_path: Path) -> None:
    train(max_time=0.6)
    assert float(rows(tmp_path / "run")[-1]["lr"]) == pytest.approx(0.01 * 3e-3, rel=1e-4)


def test_validation_may_come_several_times_in_an_epoch(train: Train, tmp_path: Path) -> None:
    train(max_epochs=1, validate_every=0.5)
    assert [int(row["step"]) for row in rows(tmp_path / "run")] == [3, 6]


def test_early_stopping_follows_the_score(train: Train, tmp_path: Path) -> None:
    node = {
        "_target_": "pytorch_lightning.callbacks.EarlyStopping",
        "monitor": "val/score",
        "patience": 2,
        "min_delta": 1e6,
    }
    summary = train(max_epochs=50, callbacks={"early_stopping": node, "nothing": None})
    assert summary["epochs"] <= 4


def test_a_run_without_charges_trains_energies_and_forces(train: Train, tmp_path: Path) -> None:
    from tests.training.conftest import SPEC

    spec = {**SPEC, "charge": {"_target_": "qeqtrain.nn.charges.NoCharges"}}
    summary = train(spec=spec, loss=Loss(), max_epochs=1)
    assert "charges_rmse" not in summary["errors"]
    with pytest.raises(UserMistake, match="the model has no charges"):
        train("other", spec=spec, loss=Loss(charges=1.0), max_epochs=1)


def test_a_folder_that_is_not_empty_is_refused(train: Train, tmp_path: Path) -> None:
    train(max_epochs=1)
    with pytest.raises(UserMistake, match="not empty"):
        train(max_epochs=1)


def test_a_run_that_nothing_ends_is_refused(train: Train) -> None:
    with pytest.raises(UserMistake, match="nothing ends the run"):
        train()


def test_given_elements_must_cover_the_data(train: Train) -> None:
    from tests.training.conftest import SPEC

    with pytest.raises(UserMistake, match="lacks Cl"):
        train(spec={**SPEC, "elements": ["Na"]}, max_epochs=1)


def test_given_references_are_kept_with_the_model(train: Train, tmp_path: Path) -> None:
    from tests.training.conftest import SPEC

    references = {"Na": -1.0, "Cl": -3.0}
    train(spec={**SPEC, "references": references, "scale": 2.0}, max_epochs=1)
    loaded = archive.load(tmp_path / "run")
    assert loaded.references == {11: -1.0, 17: -3.0}
    assert loaded.scale == 2.0


def test_labels_are_asked_of_the_data_as_the_loss_needs_them(
    train: Train, toy_data: Any
) -> None:
    data = toy_data()
    train(data=data, loss=Loss(forces=0.0, charges=1.0), max_epochs=1)
    asked = {name for name, needed in data.labels_asked.items() if needed}
    assert asked == {"energy", "charges"}


def test_the_screen_shows_one_table_and_no_adverts(
    train: Train, capsys: pytest.CaptureFixture[str]
) -> None:
    train(max_epochs=3)
    shown = capsys.readouterr()
    assert shown.out.count("E meV/atom") == 1
    assert "best checkpoint:" in shown.out
    for word in ("Tip", "lit", "GPU available", "num_workers", "Trainer.fit"):
        assert word not in shown.out + shown.err


def test_a_run_without_validation_keeps_its_last_weights(
    train: Train, toy_data: Any, tmp_path: Path
) -> None:
    summary = train(data=toy_data(val=0), max_epochs=2)
    assert Path(summary["best"]).name == "last.ckpt"
    assert [row["epoch"] for row in rows(tmp_path / "run")] == ["1", "2"]
    archive.load(tmp_path / "run")


def test_a_mistake_found_in_the_data_leaves_no_folder_behind(
    train: Train, toy_data: Any, tmp_path: Path
) -> None:
    class Empty(toy_data):
        def prepare(self, cutoffs: Any, labels: Any) -> None:
            raise UserMistake("no frame has charges")

    with pytest.raises(UserMistake, match="no frame"):
        train(data=Empty(), max_epochs=1)
    assert not (tmp_path / "run").exists()


def test_an_error_in_the_middle_is_noted(train: Train, toy_data: Any, tmp_path: Path) -> None:
    data = toy_data()
    data.spoil = lambda batches: batches.__setitem__(3, None)
    with pytest.raises(AttributeError):
        train(data=data, max_epochs=1)
    note = json.loads((tmp_path / "run" / "run.json").read_text())
    assert note["state"] == "failed"


def test_a_callback_cannot_follow_what_is_not_measured(train: Train) -> None:
    node = {"_target_": "pytorch_lightning.callbacks.EarlyStopping", "monitor": "val/scor"}
    with pytest.raises(UserMistake, match="did you mean 'val/score'"):
        train(max_epochs=1, callbacks={"early_stopping": node})


@pytest.mark.parametrize("wish", [{"accelerator": "tpuu"}, {"devices": 0}, {"devices": "abc"}])
def test_hardware_that_is_not_there_is_a_mistake(train: Train, wish: dict[str, Any]) -> None:
    with pytest.raises(UserMistake, match="not to be had on this machine"):
        train(max_epochs=1, **wish)


def test_an_optimiser_with_impossible_values_is_a_mistake(train: Train) -> None:
    node = {"_target_": "torch.optim.AdamW", "weight_decay": -1.0}
    with pytest.raises(UserMistake, match="weight_decay"):
        train(max_epochs=1, optim=Optimization(optimizer=node))
