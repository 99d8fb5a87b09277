from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from qeqtrain.data import batching
from qeqtrain.training.profile import LIGHTNING, StepProfile, _stage

Train = Callable[..., dict[str, Any]]

ACTIONS = {
    "[_TrainingEpochLoop].train_dataloader_next": "data wait",
    "[Strategy]SingleDeviceStrategy.batch_to_device": "to the device",
    "part charge": "charge solve",
    "[Strategy]SingleDeviceStrategy.training_step": "loss",
    "[Strategy]SingleDeviceStrategy.backward": "backward",
    "[LightningModule]TrainingModule.configure_gradient_clipping": "optimiser",
    "[LightningModule]TrainingModule.optimizer_step": "optimiser",
    "[Callback]Checkpoints.on_train_batch_end": "checkpoints",
    "[Callback]Progress.on_train_batch_end": "logging",
    "run_training_batch": LIGHTNING,
}


@pytest.mark.parametrize("action", ACTIONS)
def test_an_action_counts_for_the_stage_it_belongs_to(action: str) -> None:
    assert _stage(action) == ACTIONS[action]


def test_a_run_says_where_its_steps_went(
    train: Train, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    plain = batching.with_pairs
    train(profile=True, max_epochs=6)
    shown = capsys.readouterr().out
    table = shown[shown.index("where a step goes") :]
    for stage in ("backbone", "charge solve", "backward", "optimiser", LIGHTNING):
        assert re.search(rf"^  {stage} +[\d.]+ ms", table, re.MULTILINE), stage
    record = json.loads((tmp_path / "run" / "run.json").read_text())
    seconds = record["profile"]
    share = [float(s) for s in re.findall(r"([\d.]+) %$", table, re.MULTILINE)]
    assert sum(share) == pytest.approx(100.0, abs=0.1 * len(share))
    steps = int(re.search(r"\((\d+) steps after", table)[1])  # type: ignore[index]
    assert 0 < steps < record["steps"]
    assert 0.0 < steps * sum(seconds.values()) < record["seconds"]
    assert batching.with_pairs is plain


def marks(profile: StepProfile, *names: str) -> None:
    """Begin and end actions by name; the clock moves one second at each."""
    for name in names:
        (profile.stop if name.startswith("/") else profile.start)(name.removeprefix("/"))


@pytest.fixture
def profile(monkeypatch: pytest.MonkeyPatch) -> StepProfile:
    made = StepProfile.__new__(StepProfile)
    monkeypatch.setattr(StepProfile, "_wrap", lambda *_: None)
    monkeypatch.setattr(StepProfile, "_watch", lambda *_: None)
    moments = iter(range(10_000))
    monkeypatch.setattr(StepProfile, "_moment", lambda _: float(next(moments)))

    class Module:
        device = torch.device("cpu")

        class potential:  # noqa: N801 (stands for a module's attribute)
            backbone = charge = coupling = None

    made.__init__(Module())  # type: ignore[misc, arg-type]
    return made


STEP = ("x.train_dataloader_next", "/x.train_dataloader_next", "run_training_batch", "backward")
STEP += ("/backward", "/run_training_batch")


def test_time_counts_for_the_innermost_action(profile: StepProfile) -> None:
    for _ in range(26):
        marks(profile, *STEP)
    seconds = profile.plain()
    assert profile.steps == 20
    assert seconds["data wait"] == pytest.approx(1.0, rel=0.1)
    assert seconds["backward"] == pytest.approx(1.0, rel=0.1)
    assert seconds[LIGHTNING] == pytest.approx(5.0, rel=0.1)


def test_validation_is_no_part_of_a_step(profile: StepProfile) -> None:
    validation = ("m.on_validation_start", "/m.on_validation_start", *["a", "/a"] * 500)
    for _ in range(26):
        marks(profile, *STEP)
    before = profile.plain()
    marks(profile, *validation)
    for _ in range(20):
        marks(profile, *STEP)
    after = profile.plain()
    assert after[LIGHTNING] == pytest.approx(before[LIGHTNING], rel=0.1)
    assert after["backward"] == pytest.approx(before["backward"], rel=0.1)
