"""Who started this process, and as which rank of how many: the shell, ``torchrun`` or ``srun``.

Read from the environment alone, so that a command line knows it before anything is imported.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from dataclasses import dataclass
from typing import Literal

from qeqtrain.errors import UserMistake


@dataclass(frozen=True)
class Launcher:
    """A programme that started several processes of one command.

    Attributes:
        name: ``torchrun`` or ``srun``.
        ranks: processes of all nodes.
        nodes: machines, each with ``ranks / nodes`` processes.
        job: name that all processes share, or ``None``.
    """

    name: Literal["torchrun", "srun"]
    ranks: int
    nodes: int
    job: str | None

    @property
    def per_node(self) -> int:
        """Processes on each machine.

        Raises:
            UserMistake: machines differ.
        """
        if self.ranks % self.nodes:
            raise UserMistake(
                f"{self.name} started {self.ranks} processes on {self.nodes} nodes; expected "
                "as many on each (srun: --ntasks-per-node)"
            )
        return self.ranks // self.nodes


def launcher() -> Launcher | None:
    """Find who started several processes; ``None`` where this process is alone.

    In a batch script of SLURM, the lines without ``srun`` run alone, whatever was asked for.
    """
    if "TORCHELASTIC_RUN_ID" in os.environ:
        ranks = _number("WORLD_SIZE", 1)
        job = os.environ["TORCHELASTIC_RUN_ID"]
        nodes = max(ranks // _number("LOCAL_WORLD_SIZE", ranks), 1)
        return Launcher("torchrun", ranks, nodes, None if job == "none" else job)
    if "SLURM_STEP_ID" in os.environ:
        ranks = _number("SLURM_STEP_NUM_TASKS", _number("SLURM_NTASKS", 1))
        nodes = _number("SLURM_STEP_NUM_NODES", _number("SLURM_NNODES", 1))
        if ranks > 1:
            return Launcher("srun", ranks, nodes, os.environ.get("SLURM_JOB_ID"))
    return None


def rank() -> int:
    """Number of this process among those of the run; 0 where there is but one."""
    for name in ("RANK", "LOCAL_RANK", "SLURM_PROCID"):
        if os.environ.get(name, "").isdigit():
            return int(os.environ[name])
    return 0


def relaunched() -> bool:
    """Whether the first rank of the run, and no other programme, started this process."""
    return rank() > 0 and launcher() is None


def job() -> str | None:
    """Name of the cluster's job, the same when it is requeued; ``None`` outside of one."""
    found = launcher()
    return os.environ.get("SLURM_JOB_ID") or (found.job if found else None)


def restarted() -> bool:
    """Whether the cluster, or ``torchrun``, runs the same command of the same job again."""
    names = ("SLURM_RESTART_COUNT", "TORCHELASTIC_RESTART_COUNT")
    return any(_number(name, 0) > 0 for name in names)


def requeue() -> str:
    """Ask SLURM to run this job again; say how that went."""
    name = os.environ.get("SLURM_JOB_ID")
    if os.environ.get("SLURM_ARRAY_JOB_ID"):
        task = os.environ.get("SLURM_ARRAY_TASK_ID", "0")
        name = f"{os.environ['SLURM_ARRAY_JOB_ID']}_{task}"
    programme = shutil.which("scontrol")
    if name is None or programme is None:
        return "this is no job of SLURM: nothing to requeue"
    done = subprocess.run(
        [programme, "requeue", name], capture_output=True, text=True, timeout=60, check=False
    )
    if done.returncode:
        return f"job {name} could not be requeued: {done.stderr.strip()}"
    return f"job {name} is requeued, and goes on by itself"


def _number(name: str, otherwise: int) -> int:
    value = os.environ.get(name, "")
    return int(value) if value.isdigit() else otherwise
