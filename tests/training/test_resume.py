"""Resumed equals uninterrupted, bit for bit, wherever the run was cut."""

from __future__ import annotations

import csv
import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning as pl
import torch

from qeqtrain.errors import Interrupted, UserMistake
from qeqtrain.training.optim import Optimization

Train = Callable[..., dict[str, Any]]


class Cut(pl.Callback):
    """Ends a run without warning after a step, as a power cut would."""

    def __init__(self, step: int, number: int | None = None) -> None:
        self.step, self.number = step, number

    def on_train_batch_start(self, trainer: pl.Trainer, *_: Any) -> None:
        """Cut, or send a signal to ourselves."""
        if trainer.global_step == self.step:
            if self.number is None:
                raise RuntimeError("power cut")
            self.step = -1
            os.kill(os.getpid(), self.number)


@pytest.fixture
def cut_callback(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """Allow this module's callback in a recipe."""
    monkeypatch.setenv("QEQTRAIN_ALLOW_TARGETS", f"{__name__}.")
    return {"_target_": f"{__name__}.Cut"}


def final_state(folder: Path) -> dict[str, Any]:
    """Read the last checkpoint of a run."""
    return torch.load(
        folder / "checkpoints" / "last.ckpt", map_location="cpu", weights_only=True
    )


def table(folder: Path) -> list[list[str]]:
    """Read metrics.csv without its columns of time."""
    with (folder / "metrics.csv").open(newline="") as lines:
        return [
            [v for k, v in row.items() if "seconds" not in k] for row in csv.DictReader(lines)
        ]


def assert_same_end(one: Path, other: Path) -> None:
    """Compare weights, averages, moments and metrics of two runs."""
    a, b = final_state(one), final_state(other)
    assert a["global_step"] == b["global_step"]
    for name, value in a["state_dict"].items():
        assert torch.equal(value, b["state_dict"][name]), name
    moments, others = a["optimizer_states"][0]["state"], b["optimizer_states"][0]["state"]
    assert all(
        torch.equal(value, others[index][key])
        for index, entries in moments.items()
        for key, value in entries.items()
    )
    assert a["qeqtrain"]["metrics"] == b["qeqtrain"]["metrics"]
    assert table(one) == table(other)


# 12 frames in batches of 2: six steps an epoch, three epochs.
QUICK = [(3, 2), (6, 1), (8, 4), (17, 3)]
ALL = [(cut, saved) for cut in (3, 5, 6, 7, 8, 13, 17) for saved in (1, 2, 3, 4)]


@pytest.mark.parametrize(
    ("cut", "saved"),
    [p if p in QUICK else pytest.param(*p, marks=pytest.mark.slow) for p in ALL],
)
def test_a_resumed_run_equals_an_uninterrupted_one(
    train: Train, cut_callback: dict[str, Any], tmp_path: Path, cut: int, saved: int
) -> None:
    train("whole", max_epochs=3, checkpoint_every_steps=saved)
    node = {**cut_callback, "step": cut}
    with pytest.raises(RuntimeError, match="power cut"):
        train("cut", max_epochs=3, checkpoint_every_steps=saved, callbacks={"cut": node})
    train("cut", max_epochs=3, checkpoint_every_steps=saved, resume=True)
    assert_same_end(tmp_path / "whole", tmp_path / "cut")


@pytest.mark.parametrize(
    "settings",
    [
        {"max_steps": 16},
        {"max_epochs": 3, "validate_every": 0.5},
        {"max_epochs": 4, "validate_every": 2},
    ],
    ids=["ended by steps", "two validations an epoch", "a validation every other epoch"],
)
@pytest.mark.parametrize(
    "cut", [7, *(pytest.param(n, marks=pytest.mark.slow) for n in (2, 6, 11))]
)
def test_resuming_is_exact_whatever_ends_or_interrupts_the_epochs(
    train: Train,
    cut_callback: dict[str, Any],
    tmp_path: Path,
    cut: int,
    settings: dict[str, Any],
) -> None:
    settings = {**settings, "checkpoint_every_steps": 1}
    train("whole", **settings)
    with pytest.raises(RuntimeError, match="power cut"):
        train("cut", **settings, callbacks={"cut": {**cut_callback, "step": cut}})
    train("cut", **settings, resume=True)
    assert_same_end(tmp_path / "whole", tmp_path / "cut")


def test_a_run_cut_before_its_first_saving_starts_from_the_beginning(
    train: Train, cut_callback: dict[str, Any], tmp_path: Path
) -> None:
    train("whole", max_epochs=2)
    with pytest.raises(RuntimeError, match="power cut"):
        train("cut", max_epochs=2, callbacks={"cut": {**cut_callback, "step": 2}})
    train("cut", max_epochs=2, resume=True)
    assert_same_end(tmp_path / "whole", tmp_path / "cut")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT], ids=["SIGTERM", "SIGINT"])
@pytest.mark.parametrize("step", [2, 5])
def test_a_signal_saves_and_the_run_goes_on_from_there(
    train: Train, cut_callback: dict[str, Any], tmp_path: Path, number: int, step: int
) -> None:
    before = signal.getsignal(number)
    train("whole", max_epochs=2)
    node = {**cut_callback, "step": step, "number": int(number)}
    with pytest.raises(Interrupted, match=f"saved step {step + 1}"):
        train("cut", max_epochs=2, callbacks={"cut": node})
    assert signal.getsignal(number) is before
    train("cut", max_epochs=2, resume=True)
    assert_same_end(tmp_path / "whole", tmp_path / "cut")


def test_a_damaged_last_checkpoint_falls_back_to_the_one_before(
    train: Train, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    train("whole", max_epochs=3, checkpoint_every_steps=1)
    train("cut", max_epochs=3, checkpoint_every_steps=1)
    last = tmp_path / "cut" / "checkpoints" / "last.ckpt"
    last.write_bytes(last.read_bytes()[:1000])
    train("cut", max_epochs=3, checkpoint_every_steps=1, resume=True)
    assert "last.ckpt cannot be read" in capsys.readouterr().out
    assert_same_end(tmp_path / "whole", tmp_path / "cut")


def test_a_finished_run_can_be_made_longer(train: Train, tmp_path: Path) -> None:
    constant = Optimization(schedule="constant", warmup=0.0)
    for settings in ({"max_epochs": 4}, {"max_steps": 21}):
        name = next(iter(settings))
        train(f"whole {name}", optim=constant, **settings)
        train(f"longer {name}", optim=constant, **{k: v // 2 for k, v in settings.items()})
        train(f"longer {name}", optim=constant, **settings, resume=True)
        a, b = final_state(tmp_path / f"whole {name}"), final_state(tmp_path / f"longer {name}")
        for key, value in a["state_dict"].items():
            assert torch.equal(value, b["state_dict"][key]), (name, key)


def test_resuming_a_finished_run_changes_nothing(train: Train, tmp_path: Path) -> None:
    train(max_epochs=2)
    before = final_state(tmp_path / "run")["state_dict"]
    summary = train(max_epochs=2, resume=True)
    assert summary["steps"] == 12
    after = final_state(tmp_path / "run")["state_dict"]
    assert all(torch.equal(before[k], after[k]) for k in before)


def test_time_that_was_spent_stays_spent(train: Train, tmp_path: Path) -> None:
    train(max_epochs=1)
    spent = final_state(tmp_path / "run")["callbacks"]["Budget"]
    train(max_epochs=2, resume=True)
    later = final_state(tmp_path / "run")["callbacks"]["Budget"]
    assert later["cpu"] > spent["cpu"] > 0.0
    assert later["wall"] > spent["wall"] > 0.0


def test_there_must_be_something_to_resume(train: Train) -> None:
    with pytest.raises(UserMistake, match="nothing to resume"):
        train("empty", max_epochs=1, resume=True)


def test_other_data_than_before_are_refused(
    train: Train, toy_data: Any, tmp_path: Path
) -> None:
    train(max_epochs=1)
    with pytest.raises(UserMistake, match="not those the run"):
        train(max_epochs=2, resume=True, data=toy_data(seed=9))


def test_a_resumed_run_keeps_its_scale_and_references(
    train: Train, toy_data: Any, tmp_path: Path
) -> None:
    train(max_epochs=1)
    data = toy_data()
    data.statistics.force_rms = 77.0
    train(max_epochs=2, resume=True, data=data)
    assert final_state(tmp_path / "run")["qeqtrain"]["potential"]["scale"] == 1.0
