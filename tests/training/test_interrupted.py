"""Runs cut by signals at random steps, in real processes, end as if nothing had been."""

from __future__ import annotations

import json
import os
import random
import signal
import stat
import subprocess
import time
from pathlib import Path

import pytest
import torch

from tests.training.processes import begin, command, end, last, write_clusters

SMALL = (
    *("qet", "backbone.channels=4", "backbone.layers=1", "optim.ema=0.9"),
    *("trainer.max_epochs=8", "trainer.checkpoint_every_steps=3", "data.batch_structures=4"),
)


@pytest.fixture(scope="module")
def frames(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Clusters of 3 to 7 atoms: 19 for training, in 5 batches an epoch."""
    return write_clusters(tmp_path_factory.mktemp("data"), 24)


def steps_saved(folder: Path) -> int:
    """Read how far the last checkpoint of a run is; -1 where there is none."""
    try:
        return int(last(folder)["global_step"])
    except (OSError, RuntimeError):
        return -1


def interrupt(
    process: subprocess.Popen[str], folder: Path, number: int, after: int, wait: float
) -> int:
    """Send a signal some time after a run has gone on; give its exit code, and show its end."""
    limit = time.monotonic() + 300.0
    while steps_saved(folder) < after:
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < limit
        time.sleep(0.05)
    time.sleep(wait)
    process.send_signal(number)
    process.communicate(timeout=300)
    return int(process.returncode)


def assert_same(one: Path, other: Path) -> None:
    """Compare raw and averaged weights, moments and errors of two runs, bit for bit."""
    a, b = last(one), last(other)
    assert a["global_step"] == b["global_step"]
    assert all(torch.equal(v, b["state_dict"][k]) for k, v in a["state_dict"].items())
    moments, others = a["optimizer_states"][0]["state"], b["optimizer_states"][0]["state"]
    for index, entries in moments.items():
        assert all(torch.equal(v, others[index][k]) for k, v in entries.items())
    assert a["qeqtrain"]["metrics"] == b["qeqtrain"]["metrics"]


def cut_and_compare(frames: Path, tmp_path: Path, signals: list[int], *words: str) -> None:
    """Cut a run by each signal in turn, go on each time, and compare with an uncut one."""
    draw = random.Random(len(words) + sum(signals))
    end(begin(command(frames, tmp_path / "whole", *SMALL, *words)))
    folder = tmp_path / "cut"
    line = command(frames, folder, *SMALL, *words, "resume=auto")
    codes, reached = [], -1
    for number in signals:
        process = begin(line)
        codes.append(interrupt(process, folder, number, reached + 1, 0.3 * draw.random()))
        reached = steps_saved(folder)
    assert codes == [75 if number == signal.SIGTERM else -number for number in signals]
    end(begin(line))
    assert_same(tmp_path / "whole", folder)


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL], ids=["TERM", "KILL"])
def test_five_interruptions_leave_no_trace(frames: Path, tmp_path: Path, number: int) -> None:
    cut_and_compare(frames, tmp_path, 5 * [int(number)], "data.workers=2")


@pytest.mark.slow
def test_three_interruptions_of_two_ranks_leave_no_trace(frames: Path, tmp_path: Path) -> None:
    kinds = [int(n) for n in (signal.SIGTERM, signal.SIGKILL, signal.SIGTERM)]
    two = ("trainer.devices=2", "data.batch_structures=2")
    cut_and_compare(frames, tmp_path, kinds, *two)


def test_a_requeued_job_of_slurm_goes_on_by_itself(frames: Path, tmp_path: Path) -> None:
    scontrol = tmp_path / "bin" / "scontrol"
    scontrol.parent.mkdir()
    scontrol.write_text(f'#!/bin/sh\necho "$@" > {tmp_path}/asked\n', encoding="utf-8")
    scontrol.chmod(scontrol.stat().st_mode | stat.S_IEXEC)
    folder = tmp_path / "run"
    line = command(frames, folder, *SMALL)
    job = {
        "SLURM_JOB_ID": "4711",
        "PATH": f"{scontrol.parent}{os.pathsep}{os.environ['PATH']}",
    }
    process = begin(line, **job)
    assert interrupt(process, folder, signal.SIGUSR1, 1, 0.0) == 75
    assert (tmp_path / "asked").read_text() == "requeue 4711\n"
    step = steps_saved(folder)
    assert 0 < step < 40
    # Without the count of restarts it is another command, whose folder is not empty.
    assert "is not empty" in end(begin(line, **job), code=2)
    end(begin(line, SLURM_RESTART_COUNT="1", **job))
    record = json.loads((folder / "run.json").read_text())
    assert [s["state"] for s in record["sessions"]] == ["interrupted", "finished"]
    assert record["sessions"][1]["resumed_from"] == "last.ckpt"
    assert steps_saved(folder) == 40
    # And once more, after its end: nothing is left to do.
    end(begin(line, SLURM_RESTART_COUNT="2", **job))
    assert steps_saved(folder) == 40


def test_another_number_of_ranks_begins_the_epoch_again_and_says_so(
    frames: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "run"
    line = command(frames, folder, *SMALL, "trainer.max_steps=7", "trainer.devices=2")
    end(begin(line))
    assert len(last(folder)["training"]["random"]) == 2
    more = command(frames, folder, *SMALL, "trainer.max_steps=14", "trainer.max_epochs=5")
    shown = end(begin([*more, "resume=auto"]))
    # Two ranks took 3 steps an epoch; one takes 5: from the third epoch's start, 7 + 5 + 2.
    assert "the run had 2 ranks, and has 1 rank now: epoch 3 begins again" in shown
    end_state = last(folder)
    assert end_state["global_step"] == 14
    assert end_state["epoch"] == 3
