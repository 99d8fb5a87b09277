"""Runs in processes of their own, on small data, for tests of training."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch

from qeqtrain.data.frames import Frame
from qeqtrain.data.writing import write_extxyz
from tests.training.conftest import morse_frame

ROOT = Path(__file__).resolve().parents[2]


def write_clusters(folder: Path, count: int) -> Path:
    """Write clusters of 3 to 7 atoms, a quarter of them without charges."""
    rng = np.random.default_rng(0)
    made = []
    for i in range(count):
        structure, labels = morse_frame(rng, n=3 + i % 5)
        labels.pop("dipole")
        if i % 4 == 0:
            labels.pop("charges")
        made.append(Frame(structure, labels, f"frame-{i}"))
    file = folder / "frames.extxyz"
    write_extxyz(file, made)
    return file


def command(data: Path, folder: Path, *words: str) -> list[str]:
    """Words of a command line that trains; five frames are kept for validation."""
    return [
        *(sys.executable, "-m", "qeqtrain", "fit", *words),
        *(f"data.train={data}", "data.split.val=5", "data.split_by=random"),
        f"run_folder={folder}",
    ]


def begin(words: list[str], also: Path | None = None, **given: str) -> subprocess.Popen[str]:
    """Start a process as a user does, with the modules of a folder allowed in recipes.

    Args:
        words: of the command line.
        also: folder of modules; only the one named ``recorder`` is allowed.
        **given: environment.
    """
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
    """Wait for a process and give what it said; its exit code is checked."""
    out, err = process.communicate(timeout=600)
    assert process.returncode == code, out + err
    return out + err


def last(folder: Path) -> dict[str, Any]:
    """Read the last checkpoint of a run."""
    found: dict[str, Any] = torch.load(folder / "checkpoints" / "last.ckpt", weights_only=True)
    return found
