"""A sweep on this machine: stand-ins for trials where only the sweep counts, real ones once."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from qeqtrain.errors import Interrupted, UserMistake
from qeqtrain.sweeps import local, places
from qeqtrain.sweeps.hyperband import Hyperband
from qeqtrain.sweeps.journal import Journal
from qeqtrain.sweeps.local import LocalSweep
from qeqtrain.sweeps.results import collect
from tests.conftest import ROOT
from tests.sweeps.stand_in import STAND_IN, sweep_over


@pytest.fixture(autouse=True)
def _stand_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Trials take a moment and no torch."""
    script = tmp_path / "stand_in.py"
    script.write_text(STAND_IN)
    monkeypatch.setattr(places, "FIT", (sys.executable, str(script)))
    monkeypatch.setattr(local, "LOOK", 0.02)


def test_trials_run_some_at_a_time_and_the_best_comes_first(tmp_path, capsys) -> None:
    results = LocalSweep(sweep_over(3.0, 1.0, 2.0), tmp_path / "s", jobs=2).run()
    assert [row.trial.parameters["x"] for row in results.rows] == [1.0, 2.0, 3.0]
    assert results.rows[0].value == pytest.approx(1 + 1 / 6)
    assert results.rows[0].errors["energy_rmse"] == 10.0
    for name in ("results.md", "results.csv", "results.json", "results.png"):
        assert (tmp_path / "s" / name).stat().st_size
    kept = json.loads((tmp_path / "s" / "results.json").read_text())
    assert kept["best"] == 2
    assert [t["parameters"]["x"] for t in kept["trials"]] == [1.0, 2.0, 3.0]
    assert "grid of 3 trials" in capsys.readouterr().out


def test_the_largest_is_best_where_the_file_says_so(tmp_path) -> None:
    results = LocalSweep(sweep_over(3.0, 5.0, maximize=True), tmp_path / "s").run()
    assert results.rows[0].trial.parameters["x"] == 5.0


def test_a_finished_sweep_repeats_nothing(tmp_path, capsys) -> None:
    LocalSweep(sweep_over(3.0, 1.0), tmp_path / "s").run()
    capsys.readouterr()
    results = LocalSweep(sweep_over(3.0, 1.0), tmp_path / "s").run()
    told = capsys.readouterr().out
    assert "2 of them done before" in told
    assert "started" not in told
    assert len(results.ranked) == 2


def test_a_poor_trial_is_ended_early(tmp_path) -> None:
    rule = Hyperband((2,), 2.0)
    sweep = sweep_over(1.0, 9.0, hyperband=rule, fixed=("pause=0.2",))
    results = LocalSweep(sweep, tmp_path / "s").run()
    assert [row.trial.state for row in results.rows] == ["finished", "stopped"]
    assert 2 <= len(results.rows[1].history) < 6
    assert "left behind" in results.rows[1].trial.reason


def test_a_target_ends_the_sweep(tmp_path) -> None:
    results = LocalSweep(sweep_over(3.0, 1.0, 2.0, target=1.5), tmp_path / "s").run()
    assert [row.trial.number for row in results.rows] == [2, 1]


def test_a_trial_that_fails_is_listed_and_the_others_go_on(tmp_path) -> None:
    results = LocalSweep(sweep_over(1.0, -3.0, -1.0, 2.0), tmp_path / "s").run()
    states = [(row.trial.number, row.trial.state) for row in results.rows]
    assert states == [(1, "finished"), (4, "finished"), (2, "diverged"), (3, "failed")]
    assert results.rows[2].trial.reason == "x is below zero"


def test_a_mistake_of_the_first_trial_ends_the_sweep(tmp_path) -> None:
    with pytest.raises(UserMistake, match=r"trial 1 ended by a mistake.*x is below zero"):
        LocalSweep(sweep_over(-2.0, 1.0), tmp_path / "s").run()


def test_a_metric_without_values_is_found_at_its_first_row(tmp_path) -> None:
    sweep = sweep_over(1.0, fixed=("silent=1", "pause=0.1"))
    with pytest.raises(UserMistake, match=r"does not log val/score; it logs val/energy_rmse"):
        LocalSweep(sweep, tmp_path / "s").run()
    begun = (tmp_path / "s" / "trials" / "001" / "metrics.csv").read_text().splitlines()
    assert len(begun) < 7


def test_a_signal_lets_the_trials_save_and_the_sweep_goes_on_later(tmp_path) -> None:
    sweep = sweep_over(3.0, 1.0, fixed=("pause=0.15",))
    threading.Timer(0.5, os.kill, (os.getpid(), signal.SIGTERM)).start()
    with pytest.raises(Interrupted, match="run the same command again"):
        LocalSweep(sweep, tmp_path / "s").run()
    journal = Journal(tmp_path / "s")
    assert [t.state for t in journal.trials] == ["interrupted"]
    before = len(journal.trials[0].history())
    assert before < 6
    journal.close()
    results = LocalSweep(sweep, tmp_path / "s").run()
    assert [len(row.history) for row in results.rows] == [6, 6]
    assert "resume" not in results.rows[0].trial.log.read_text()


def test_a_line_that_a_kill_cut_short_is_dropped(tmp_path) -> None:
    journal = Journal(tmp_path / "s")
    journal.ended(journal.begin({"x": 1.0}, {}), "finished")
    journal.close()
    with (tmp_path / "s" / "journal.jsonl").open("a") as out:
        out.write('{"event": "begu')
    journal = Journal(tmp_path / "s")
    assert [t.state for t in journal.trials] == ["finished"]
    journal.begin({"x": 2.0}, {})
    journal.close()
    journal = Journal(tmp_path / "s")
    journal.close()
    assert len(journal.trials) == 2


def test_one_process_works_on_a_sweep(tmp_path) -> None:
    journal = Journal(tmp_path / "s")
    with pytest.raises(UserMistake, match="another process works on this sweep"):
        Journal(tmp_path / "s")
    journal.close()
    Journal(tmp_path / "s").close()


def test_another_sweep_in_the_same_folder_is_refused(tmp_path) -> None:
    LocalSweep(sweep_over(1.0), tmp_path / "s").run()
    with pytest.raises(UserMistake, match=r"another parameters.*\n.*--folder"):
        LocalSweep(sweep_over(1.0, 2.0), tmp_path / "s")


SWEEP = """
command: [qeqtrain, fit, smoke/qet, data.train=water.extxyz, "data.split={val: 3}",
          trainer.max_epochs=12, logger=wandb, "${args_no_hyphens}"]
method: grid
parameters:
  backbone: {values: [tensornet, nequip]}
  charge: {values: [local, diagonal, gaussian]}
"""


@pytest.mark.slow
def test_a_sweep_over_backbones_and_charges_is_killed_and_goes_on(
    water: Path, qeqtrain
) -> None:
    folder = water.parent
    (folder / "cross.yaml").write_text(SWEEP)
    words = ("sweep", "cross.yaml", "--jobs", "2")
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "WANDB_MODE": "offline"}
    first = subprocess.Popen(
        [sys.executable, "-m", "qeqtrain", *words],
        cwd=folder,
        env=environment,
        stdout=subprocess.DEVNULL,
    )
    metrics = folder / "runs" / "sweeps" / "cross" / "trials" / "003" / "metrics.csv"
    deadline = time.monotonic() + 300
    while not metrics.exists() or metrics.read_text().count("\n") < 3:
        assert first.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.05)
    first.kill()
    first.wait()
    done = qeqtrain(*words)
    assert done.returncode == 0, done.stderr
    assert "trial 3 resumed" in done.stdout
    assert "trial 1 started" not in done.stdout
    table = done.stdout.partition("\n\n")[2].splitlines()
    assert table[0].split()[:4] == ["trial", "backbone", "charge", "val/score"]
    scores = [float(line.split()[3]) for line in table[1:7]]
    assert scores == sorted(scores)
    journal = Journal(folder / "runs" / "sweeps" / "cross")
    journal.close()
    assert [(t.state, len(t.history())) for t in journal.trials] == [("finished", 12)] * 6
    crosses = {tuple(t.parameters.values()) for t in journal.trials}
    assert len(crosses) == 6


@pytest.mark.slow
def test_several_values_on_the_command_line_are_one_run_each(water: Path, qeqtrain) -> None:
    words = ("fit", "smoke/qet", f"data.train={water}", "data.split={val: 3}", "-m", "seed=0,1")
    done = qeqtrain(*words, "--folder", "many", "--jobs", "2")
    assert done.returncode == 0, done.stderr
    journal = Journal(water.parent / "many")
    journal.close()
    assert [t.parameters for t in journal.trials] == [{"seed": 0}, {"seed": 1}]
    a, b = collect(sweep_over(1.0), journal.trials).rows
    assert a.value != b.value
