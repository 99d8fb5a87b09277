"""A run killed with SIGKILL goes on as if nothing had been: real data sets, real processes."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch

from qeqtrain.data.frames import Frame
from qeqtrain.data.writing import write_extxyz
from qeqtrain.models import archive
from tests.training.conftest import SPEC, morse_frame

ROOT = Path(__file__).resolve().parents[2]
EPOCHS = 12
FIT = f"""
import sys
from pathlib import Path
from qeqtrain.data.sets import DataSets
from qeqtrain.training.loss import Loss
from qeqtrain.training.optim import Optimization
from qeqtrain.training.run import fit
from qeqtrain.training.trainer import TrainerSettings

data, folder, resume = sys.argv[1], Path(sys.argv[2]), sys.argv[3] == "resume"
fit(
    data=DataSets(data, split={{"val": 0.2}}, batch_structures=3, seed=5),
    potential={SPEC!r},
    loss=Loss(charges=1.0),
    optim=Optimization(lr=3e-3, ema=0.9),
    trainer=TrainerSettings(max_epochs={EPOCHS}, checkpoint_every_steps=3, accelerator="cpu"),
    seed=3,
    folder=folder,
    recipe={{"seed": 3}},
    resume=resume,
)
"""


def start(data: Path, folder: Path, mode: str) -> subprocess.Popen[str]:
    """Start a training process."""
    return subprocess.Popen(
        [sys.executable, "-c", FIT, str(data), str(folder), mode],
        env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def finish(data: Path, folder: Path, mode: str) -> dict[str, torch.Tensor]:
    """Run to the end and read the weights, raw and averaged."""
    process = start(data, folder, mode)
    shown, _ = process.communicate(timeout=300)
    assert process.returncode == 0, shown
    content = torch.load(
        folder / "checkpoints" / "last.ckpt", map_location="cpu", weights_only=True
    )
    return content["state_dict"]


@pytest.mark.slow
def test_a_killed_run_ends_with_the_weights_of_an_uninterrupted_one(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    frames = []
    for i in range(40):
        structure, labels = morse_frame(rng, n=4 + i % 4)
        labels.pop("dipole")
        frames.append(Frame(structure, labels, f"frame-{i}"))
    data = tmp_path / "frames.extxyz"
    write_extxyz(data, frames)

    whole = finish(data, tmp_path / "whole", "new")
    folder = tmp_path / "killed"
    last = folder / "checkpoints" / "last.ckpt"
    mode, kills = "new", 0
    for wait in (0.3, 0.7):
        process = start(data, folder, mode)
        began = last.stat().st_mtime if last.exists() else 0.0
        limit = time.monotonic() + 120
        while not (last.exists() and last.stat().st_mtime > began):
            assert process.poll() is None, process.communicate()[0]
            assert time.monotonic() < limit
            time.sleep(0.01)
        time.sleep(wait)
        kills += process.poll() is None
        process.send_signal(signal.SIGKILL)
        process.communicate()
        archive.load(folder)
        mode = "resume"
    assert kills == 2
    resumed = finish(data, folder, "resume")
    assert all(torch.equal(value, resumed[name]) for name, value in whole.items())
