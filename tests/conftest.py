"""What every test may ask for."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]

Run = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture
def qeqtrain(tmp_path: Path) -> Run:
    """Runs the command line as a user does: a process of its own, in an empty folder."""

    def run(
        *words: str, cwd: Path = tmp_path, **environment: str
    ) -> subprocess.CompletedProcess[str]:
        given = {"OMP_NUM_THREADS": "1", "WANDB_MODE": "offline", **environment}
        code = "import sys; from qeqtrain.cli import main; sys.exit(main())"
        return subprocess.run(
            [sys.executable, "-c", code, *words],
            cwd=cwd,
            env={**os.environ, "PYTHONPATH": str(ROOT), **given},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=900,
            check=False,
        )

    return run
