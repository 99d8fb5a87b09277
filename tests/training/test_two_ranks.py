"""Two real processes (gloo) train what one with twice the budget trains."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from qeqtrain.data.frames import Frame
from qeqtrain.data.writing import write_extxyz
from tests.training.conftest import morse_frame

ROOT = Path(__file__).resolve().parents[2]
SMALL = ("backbone.channels=4", "backbone.layers=1", "potential.dtype=float64")
SYSTEMS = {
    "QET": ("qet", *SMALL),
    "NequIP-LR": ("qet", "model=nequip_lr", *SMALL, "backbone.l_max=1"),
    "gaussian, additive": ("qet", *SMALL, "charge=gaussian", "coupling=additive"),
    "no charges": ("qet", *SMALL, "charge=none", "loss.charges=0"),
}


RECORDER = """
import pytorch_lightning as pl
import torch


class FirstStep(pl.Callback):
    'Writes down what the first step and the first validation gave.'

    def __init__(self, file: str) -> None:
        self.file = file

    def on_train_batch_end(self, trainer, *_):
        if trainer.global_step == 1 and trainer.is_global_zero:
            moments = trainer.optimizers[0].state_dict()["state"]
            gradients = {i: m["exp_avg"] / 0.1 for i, m in moments.items()}
            torch.save({"gradients": gradients}, self.file)

    def on_validation_end(self, trainer, module):
        if trainer.is_global_zero and trainer.current_epoch == 0:
            known = torch.load(self.file, weights_only=True)
            torch.save({**known, "errors": module.errors}, self.file)
"""


@pytest.fixture(scope="module")
def frames(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Clusters of 3 to 7 atoms, some without charges; an odd number is left for training."""
    rng = np.random.default_rng(0)
    made = []
    for i in range(24):
        structure, labels = morse_frame(rng, n=3 + i % 5)
        labels.pop("dipole")
        if i % 4 == 0:
            labels.pop("charges")
        made.append(Frame(structure, labels, f"frame-{i}"))
    file = tmp_path_factory.mktemp("data") / "frames.extxyz"
    (file.parent / "recorder.py").write_text(RECORDER, encoding="utf-8")
    write_extxyz(file, made)
    return file


def command(data: Path, folder: Path, *words: str) -> list[str]:
    """Words of a command line that trains."""
    return [
        *(sys.executable, "-m", "qeqtrain", "fit", *words),
        *(f"data.train={data}", "data.split.val=5", "data.split_by=random"),
        *("optim.gradient_clip=null", f"run_folder={folder}"),
    ]


def begin(words: list[str], also: Path | None = None, **given: str) -> subprocess.Popen[str]:
    """Start a process as a user does, with modules of a folder ``also`` allowed."""
    path = f"{ROOT}{os.pathsep}{also or ROOT}"
    base = {"PYTHONPATH": path, "OMP_NUM_THREADS": "1", "QEQTRAIN_ALLOW_TARGETS": "recorder."}
    return subprocess.Popen(
        words,
        env={**os.environ, **base, **given},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=ROOT,
    )


def end(process: subprocess.Popen[str], code: int = 0) -> str:
    """Wait for a process; give what it said."""
    out, err = process.communicate(timeout=600)
    assert process.returncode == code, out + err
    return out + err


def recording(file: Path) -> tuple[str, ...]:
    """Words that write the first step down."""
    return (
        "+callbacks.first._target_=recorder.FirstStep",
        f"+callbacks.first.file={file}",
    )


def last(folder: Path) -> dict[str, Any]:
    """Read the last checkpoint of a run."""
    return torch.load(folder / "checkpoints" / "last.ckpt", weights_only=True)


def largest_difference(one: dict[Any, Any], other: dict[Any, Any]) -> float:
    """Largest difference between tensors of the same names."""
    assert one.keys() == other.keys()
    return max(float((one[name] - other[name]).abs().max()) for name in one)


@pytest.mark.parametrize(
    "system",
    [s if s == "QET" else pytest.param(s, marks=pytest.mark.slow) for s in SYSTEMS],
)
def test_two_ranks_equal_one_with_twice_the_budget(
    frames: Path, tmp_path: Path, system: str
) -> None:
    # 19 frames, two at a time: once an epoch the second rank has nothing to do.
    words = (*SYSTEMS[system], "trainer.max_steps=50")
    for ranks in (1, 2):
        own = (f"trainer.devices={ranks}", f"data.batch_structures={2 // ranks}")
        record = recording(tmp_path / f"first-{ranks}.pt")
        end(begin(command(frames, tmp_path / str(ranks), *words, *own, *record), frames.parent))
    first = [torch.load(tmp_path / f"first-{n}.pt", weights_only=True) for n in (1, 2)]
    assert largest_difference(first[0]["gradients"], first[1]["gradients"]) < 1e-10
    assert first[0]["errors"] == pytest.approx(first[1]["errors"], rel=1e-12, abs=1e-12)
    one, two = (last(tmp_path / str(n)) for n in (1, 2))
    assert one["global_step"] == two["global_step"] == 50
    assert largest_difference(one["state_dict"], two["state_dict"]) < 1e-8
