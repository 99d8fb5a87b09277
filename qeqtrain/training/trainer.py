"""Length, hardware and rhythm of a run, and the Lightning trainer that follows from them."""

from __future__ import annotations

import logging
import re
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pytorch_lightning as pl
import torch
from pytorch_lightning.loggers import Logger
from pytorch_lightning.plugins.io import CheckpointIO
from pytorch_lightning.profilers import Profiler
from pytorch_lightning.utilities.exceptions import MisconfigurationException

from qeqtrain.errors import UserMistake
from qeqtrain.training.budget import Budget
from qeqtrain.training.launchers import launcher
from qeqtrain.training.memory import keep_memory
from qeqtrain.training.ranks import Ranks, environment

_TIME = re.compile(r"(?:(\d+):)?(\d+):(\d\d):(\d\d)")


class TrainerSettings:
    """How long a run lasts, on what, and how often it validates and saves.

    The first limit that is reached ends the run, and the learning rate follows it. Times are
    ``"HH:MM:SS"`` or ``"DD:HH:MM:SS"``; a plain number means seconds.

    Args:
        max_epochs: passes over the training data.
        max_steps: optimiser steps.
        max_time: wall time, everything after start-up included.
        max_cpu_time: CPU time of this process in training, validation excluded.
        validate_every: epochs between validations; below 1, a share of an epoch.
        checkpoint_every: seconds between two savings of the state to resume from.
        checkpoint_every_steps: steps between them instead.
        log_every: steps between two values of the training loss sent to a logger.
        max_bad_steps: non-finite steps in a row after which the run goes back to a checkpoint.
        max_rollbacks: times it goes back, each with half the learning rate, before it counts
            as diverged; 0: never.
        spike_factor: a step is skipped whose gradient norm is beyond so many times the median
            of the last hundred steps; ``None``: none is.
        accelerator: ``auto``, ``cpu``, ``gpu``.
        devices: processes on each node, one GPU each, or ``auto``; under ``torchrun`` and
            ``srun`` as many as they started.
        nodes: machines; more than one needs ``torchrun`` or ``srun``, which know how many.
        threads: of torch on the CPU; ``None`` leaves them to the environment.
        compile: whether energy and forces are compiled as one graph; the first step then takes
            a minute or more, and so does the first batch whose size leaves the range that the
            compiler has met.
        profile: whether the run says at its end where the time of a step went.

    Raises:
        UserMistake: nothing ends the run, or a value outside its range.
    """

    def __init__(
        self,
        max_epochs: int | None = None,
        max_steps: int | None = None,
        max_time: str | float | None = None,
        max_cpu_time: str | float | None = None,
        validate_every: float = 1,
        checkpoint_every: float = 60.0,
        checkpoint_every_steps: int | None = None,
        log_every: int = 50,
        max_bad_steps: int = 5,
        max_rollbacks: int = 2,
        spike_factor: float | None = None,
        accelerator: str = "auto",
        devices: int | str = 1,
        nodes: int = 1,
        threads: int | None = None,
        compile: bool = False,
        profile: bool = False,
    ) -> None:
        problems: list[str] = []
        whole = {
            "max_epochs": max_epochs,
            "max_steps": max_steps,
            "checkpoint_every_steps": checkpoint_every_steps,
            "log_every": log_every,
            "max_bad_steps": max_bad_steps,
            "nodes": nodes,
            "threads": threads,
        }
        for name, value in whole.items():
            if value is not None and value < 1:
                problems.append(f"trainer.{name} is {value}; expected 1 or more, or null")
        if not checkpoint_every > 0:
            problems.append(f"trainer.checkpoint_every is {checkpoint_every}; expected seconds")
        if max_rollbacks < 0:
            problems.append(f"trainer.max_rollbacks is {max_rollbacks}; expected 0 or more")
        if spike_factor is not None and not spike_factor > 1.0:
            problems.append(
                f"trainer.spike_factor is {spike_factor}; expected null or a number above 1"
            )
        if validate_every <= 0 or (
            validate_every > 1 and validate_every != int(validate_every)
        ):
            problems.append(
                f"trainer.validate_every is {validate_every}; expected a number of epochs, "
                "or a share of one below 1"
            )
        self.max_epochs = max_epochs
        self.max_steps = max_steps
        self.max_time = _seconds("max_time", max_time, problems)
        self.max_cpu_time = _seconds("max_cpu_time", max_cpu_time, problems)
        self.validate_every = validate_every
        self.checkpoint_every = checkpoint_every
        self.checkpoint_every_steps = checkpoint_every_steps
        self.log_every = log_every
        self.max_bad_steps = max_bad_steps
        self.max_rollbacks = max_rollbacks
        self.spike_factor = spike_factor
        self.accelerator = accelerator
        self.devices = devices
        self.nodes = nodes
        self.threads = threads
        self.compile = compile
        self.profile = profile
        if problems:
            raise UserMistake(*problems)

    def budget(self) -> Budget:
        """Give what ends the run.

        Raises:
            UserMistake: nothing does.
        """
        return Budget(self.max_epochs, self.max_steps, self.max_time, self.max_cpu_time)

    def prepare_process(self) -> None:
        """Set threads, and keep memory if training is on the CPU."""
        if self.threads is not None:
            torch.set_num_threads(self.threads)
        if self.accelerator == "cpu" or not torch.cuda.is_available():
            keep_memory()

    def processes(self) -> tuple[int | str, int]:
        """Devices of each node, and nodes, as whatever started this process counts them.

        Raises:
            UserMistake: the recipe asks for others, or for several nodes without a launcher.
        """
        found = launcher()
        if found is None:
            if self.nodes > 1:
                raise UserMistake(
                    f"trainer.nodes={self.nodes}: this process was started on one machine; "
                    "start one for each GPU with srun (--ntasks-per-node) or torchrun"
                )
            return self.devices, 1
        started = (found.per_node, found.nodes)
        asked = (self.devices, self.nodes)
        for name, count, wish in zip(("devices", "nodes"), started, asked, strict=True):
            if wish not in (1, "auto", -1, count):
                raise UserMistake(
                    f"trainer.{name}={wish}, but {found.name} started {count}; leave it out, "
                    "the launcher decides"
                )
        return started

    def build(
        self,
        folder: Path,
        callbacks: Sequence[pl.Callback],
        logger: Logger | None,
        *,
        validates: bool,
        profiler: Profiler | None = None,
        files: CheckpointIO | None = None,
    ) -> pl.Trainer:
        """Make the Lightning trainer.

        Only ``max_epochs`` is left to Lightning: its ``max_steps`` loses count of the epochs
        when a run is resumed, so steps end with the rest of the budget.

        Raises:
            UserMistake: hardware that this machine does not have.
        """
        share = self.validate_every < 1
        devices, nodes = self.processes()
        found = launcher()
        # Left to itself, Lightning takes any batch script of SLURM for one started by srun.
        plugins = [environment(found), *([] if files is None else [files])]
        try:
            alone = found is None and self._count(devices) == 1
            return pl.Trainer(
                accelerator=self.accelerator,
                devices=devices,
                num_nodes=nodes,
                strategy="auto" if alone else Ranks(),
                plugins=plugins,
                max_epochs=-1 if self.max_epochs is None else self.max_epochs,
                check_val_every_n_epoch=1 if share else int(self.validate_every),
                val_check_interval=self.validate_every if share else 1.0,
                limit_val_batches=1.0 if validates else 0,
                num_sanity_val_steps=0,
                inference_mode=False,  # forces are derivatives, in validation too
                use_distributed_sampler=False,  # our loaders share batches out by their cost
                callbacks=list(callbacks),
                logger=logger if logger is not None else False,
                profiler=profiler,
                enable_progress_bar=False,
                enable_model_summary=False,
                default_root_dir=folder,
            )
        except (MisconfigurationException, ValueError, TypeError) as error:
            met = f"trainer.accelerator={self.accelerator}, devices={devices}, nodes={nodes}"
            reason = str(error).partition("\n")[0]
            raise UserMistake(f"{met}: not to be had on this machine: {reason}") from error

    def _count(self, devices: int | str) -> int:
        """Count devices; those that no number names are all GPUs, or the one processor."""
        words = str(devices)
        if words not in ("auto", "-1"):
            # What is no number is for Lightning to refuse.
            return int(words) if words.isdigit() else len(words.split(","))
        gpus = torch.cuda.device_count() if self.accelerator != "cpu" else 0
        return max(gpus, 1)


@contextmanager
def quiet() -> Iterator[None]:
    """Keep Lightning's adverts, tips and guesses about workers off the screen.

    So too what the potential says of elements without training data: the notes on the data
    have said it before.
    """
    loggers = [logging.getLogger(name) for name in ("pytorch_lightning", "lightning_fabric")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", module=r"pytorch_lightning(\..*)?")
        warnings.filterwarnings("ignore", message=".*absent from its training data")
        try:
            yield
        finally:
            for logger, level in zip(loggers, levels, strict=True):
                logger.setLevel(level)


def _seconds(name: str, value: str | float | None, problems: list[str]) -> float | None:
    """Read a time limit, in seconds."""
    if value is None:
        return None
    seconds = -1.0
    if isinstance(value, int | float) and not isinstance(value, bool):
        seconds = float(value)
    elif match := _TIME.fullmatch(str(value).strip()):
        days, hours, minutes, rest = (int(x or 0) for x in match.groups())
        seconds = ((days * 24.0 + hours) * 60.0 + minutes) * 60.0 + rest
    if not seconds > 0.0:
        problems.append(
            f"trainer.{name} is {value!r}; expected HH:MM:SS or DD:HH:MM:SS above zero"
        )
        return None
    return seconds
