"""Where the trials of a sweep run: as processes of this machine, or elsewhere."""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

from qeqtrain.errors import UserMistake
from qeqtrain.sweeps.journal import Trial

FIT = (sys.executable, "-m", "qeqtrain", "fit")
"""What runs a trial."""

PATIENCE = 120.0
"""Seconds a trial has to save itself when it is told to stop."""
_LOOK = 0.3


class Running(Protocol):
    """A trial that was started."""

    @property
    def name(self) -> str:
        """What to call it, for whoever looks for it: ``process 4711``, ``job 4711``."""

    def poll(self) -> int | None:
        """Give the exit code of ``qeqtrain fit``, or ``None`` as long as it runs."""

    def terminate(self) -> None:
        """Let it save its state and end."""

    def wait(self, seconds: float) -> int:
        """Give the exit code; after so many seconds it is ended in any case."""


class Place(Protocol):
    """Where trials run."""

    @property
    def jobs(self) -> int:
        """Trials at a time, where the user does not say."""

    @property
    def description(self) -> str:
        """How the sweep's first line ends."""

    def begin(self, trial: Trial, words: Sequence[str]) -> Running:
        """Start ``qeqtrain fit`` with these words; what it prints goes to the trial's log."""

    def find(self, trial: Trial) -> Running | None:
        """Find a trial that an earlier session started and that may still run.

        Raises:
            UserMistake: it runs, but can be neither watched nor waited for.
        """


class Process:
    """A trial as a process of this machine."""

    def __init__(self, process: subprocess.Popen[bytes]) -> None:
        self._process = process

    @property
    def name(self) -> str:
        """Its number, for ``ps`` and ``kill``."""
        return f"process {self._process.pid}"

    def poll(self) -> int | None:
        """Look whether it has ended."""
        return self._process.poll()

    def terminate(self) -> None:
        """Send SIGTERM."""
        self._process.terminate()

    def wait(self, seconds: float) -> int:
        """Wait, then kill."""
        try:
            return self._process.wait(seconds)
        except subprocess.TimeoutExpired:
            self._process.kill()
            return self._process.wait()


class Here:
    """This machine: a process for each trial, which ends when the sweep's own process does."""

    jobs = 1
    description = ""

    def begin(self, trial: Trial, words: Sequence[str]) -> Process:
        """Start a process."""
        environment = {"OMP_NUM_THREADS": "1", **os.environ, "PYTHONUNBUFFERED": "1"}
        environment.pop("QEQTRAIN_RUN_FOLDER", None)
        with trial.log.open("ab") as log:
            return Process(
                subprocess.Popen(
                    [*FIT, *words],
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=subprocess.STDOUT,
                    env=environment,
                    # A Ctrl-C reaches the sweep alone, which then stops its trials in order.
                    start_new_session=True,
                    preexec_fn=_end_with_parent if sys.platform == "linux" else None,
                )
            )

    def find(self, trial: Trial) -> None:
        """Wait for a process of an earlier session, told to stop by its parent's end."""
        kind, _, number = (trial.running_as or "").partition(" ")
        deadline = time.monotonic() + PATIENCE
        while kind == "process" and _runs(int(number), trial.folder):
            if time.monotonic() > deadline:
                raise UserMistake(
                    f"trial {trial.number} still runs as {trial.running_as} of an earlier "
                    "session; end that process first"
                )
            time.sleep(_LOOK)


def _end_with_parent() -> None:
    """Have Linux send SIGTERM when the sweep's own process is gone, however it went."""
    ctypes.CDLL(None).prctl(1, signal.SIGTERM)  # PR_SET_PDEATHSIG


def _runs(pid: int, folder: Path) -> bool:
    """Whether a process is there and works in a folder: numbers are used again."""
    try:
        words = Path(f"/proc/{pid}/cmdline").read_bytes().decode(errors="replace")
    except OSError:
        return False
    return str(folder) in words
