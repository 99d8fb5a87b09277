"""Trials as jobs of a cluster, through submitit."""

from __future__ import annotations

import os
import runpy
import signal
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from qeqtrain.errors import UserMistake
from qeqtrain.recipe.launcher import LauncherChoice
from qeqtrain.sweeps.journal import Trial
from qeqtrain.sweeps.places import FIT

if TYPE_CHECKING:
    import submitit

WARNING = "TERM"
"""Signal before a job's time is up: ``qeqtrain fit`` saves and ends, and the sweep sends
another job. (After USR1 it would queue itself again, beside that one.)"""
_LOOK = 1.0


class Job:
    """A trial as a job.

    Args:
        job: as submitit knows it, of one task or several.
        cluster: ``slurm`` or ``local``.
        log: of the trial.
    """

    def __init__(self, job: submitit.Job[int], cluster: str, log: Path) -> None:
        self._job, self._cluster, self._log = job, cluster, log

    @property
    def name(self) -> str:
        """Its number, for ``squeue`` and ``scancel``."""
        return f"job {self._job.job_id}"

    def poll(self) -> int | None:
        """Look whether all tasks have ended.

        A job that gave no result was cancelled, lost its node or its memory: to the sweep it
        was interrupted.
        """
        from submitit.core.utils import UncompletedJobError

        if not self._job.done():
            return None
        try:
            return max(self._job.results(), key=abs)
        except UncompletedJobError as error:
            with self._log.open("a", encoding="utf-8") as out:
                out.write(f"{error}\n")
            return -signal.SIGTERM

    def terminate(self) -> None:
        """Cancel the job: its processes get SIGTERM and save their state."""
        if self._cluster == "slurm":
            self._job.cancel(check=False)
        else:
            os.kill(int(self._job.job_id), signal.SIGTERM)  # submitit itself sends SIGINT

    def wait(self, seconds: float) -> int:
        """Wait; a job that has not ended then is left to the cluster."""
        deadline = time.monotonic() + seconds
        while (code := self.poll()) is None:
            if time.monotonic() > deadline:
                return -signal.SIGTERM
            time.sleep(_LOOK)
        return code


class Jobs:
    """A cluster: a job for each trial, which goes on when the sweep's own process is gone.

    Args:
        choice: of launcher, with its settings.
        folder: of the sweep; what submitit writes goes to ``submitit`` in it.

    Raises:
        UserMistake: there is no such cluster, or a setting is refused.
    """

    def __init__(self, choice: LauncherChoice, folder: Path) -> None:
        import submitit

        self.jobs = choice.parallel
        self.description = f" as jobs of {choice.cluster}"
        if choice.cluster == "local" and choice.base["tasks_per_node"] > 1:
            raise UserMistake(
                "hydra.launcher.tasks_per_node: submitit_local runs one task; "
                "ranks of one machine are trainer.devices"
            )
        self._cluster = choice.cluster
        self._tasks = list(range(choice.base["nodes"] * choice.base["tasks_per_node"]))
        own = {f"{choice.cluster}_{name}": value for name, value in choice.own.items()}
        if choice.cluster == "slurm":
            signals = {"signal": f"{WARNING}@{choice.own['signal_delay_s']}"}
            own["slurm_additional_parameters"] = {
                **signals,
                **choice.own["additional_parameters"],
            }
        try:
            self._executor = submitit.AutoExecutor(
                folder / "submitit" / "%j", cluster=choice.cluster
            )
            self._executor.update_parameters(
                **{k: v for k, v in {**choice.base, **own}.items() if v is not None}
            )
        except (RuntimeError, NameError, ValueError) as error:
            raise UserMistake(
                f"hydra/launcher=submitit_{choice.cluster}: {str(error).splitlines()[0]}"
            ) from error

    def begin(self, trial: Trial, words: Sequence[str]) -> Job:
        """Submit a job."""
        job = self._executor.submit(run_words, [*FIT[2:], *words], str(trial.log))
        return Job(job, self._cluster, trial.log)

    def find(self, trial: Trial) -> Job | None:
        """Find the job of an earlier session, if it is in the queue still or runs."""
        kind, _, number = (trial.running_as or "").partition(" ")
        if kind != "job" or trial.state != "running":
            return None
        import submitit

        kind_of_job = submitit.SlurmJob if self._cluster == "slurm" else submitit.LocalJob
        job: submitit.Job[int] = kind_of_job(self._executor.folder, number, self._tasks)
        return None if job.done() else Job(job, self._cluster, trial.log)


def run_words(words: Sequence[str], log: str) -> int:
    """Run a module with words of a command line, in the process that the cluster started.

    In this very process, so that signals reach it once and ranks see their launcher.

    Args:
        words: module, and what follows it.
        log: file that the first rank's output goes to.

    Returns:
        Exit code.
    """
    import submitit

    if submitit.JobEnvironment().global_rank == 0:
        sys.stdout.flush()
        sys.stderr.flush()
        with Path(log).open("ab") as out:
            os.dup2(out.fileno(), 1)
            os.dup2(out.fileno(), 2)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)  # submitit would queue the job again
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    os.environ.pop("QEQTRAIN_RUN_FOLDER", None)
    before, sys.argv = sys.argv, list(words)
    try:
        runpy.run_module(words[0], run_name="__main__", alter_sys=True)
    except SystemExit as end:
        return end.code if isinstance(end.code, int) else int(end.code is not None)
    finally:
        sys.argv = before
        sys.stdout.flush()
        sys.stderr.flush()
    return 0
