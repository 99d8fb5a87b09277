"""Trials as jobs, on a stand-in for SLURM's commands and on this machine."""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from pathlib import Path

import pytest

from qeqtrain.cli import main
from qeqtrain.errors import Interrupted, UserMistake
from qeqtrain.recipe.launcher import split_launcher
from qeqtrain.sweeps import local
from qeqtrain.sweeps.journal import Journal
from qeqtrain.sweeps.local import LocalSweep
from tests.sweeps.stand_in import STAND_IN, sweep_over

submitit = pytest.importorskip("submitit")
from qeqtrain.sweeps import submitted  # noqa: E402

SBATCH = """
import os, pathlib, subprocess, sys
here = pathlib.Path(__file__).parent
number = str(len(list(here.glob("*.pid"))) + 1)
script = (here / (number + ".sh"))
script.write_text("sleep 0.3\\n" + pathlib.Path(sys.argv[-1]).read_text())
job = subprocess.Popen(["bash", str(script)], start_new_session=True,
                       stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
                       env={**os.environ, "SLURM_JOB_ID": number})
(here / (number + ".pid")).write_text(str(job.pid))
print("Submitted batch job", number)
"""
SRUN = """
import os, sys
words = sys.argv[1:]
first = next(i for i, word in enumerate(words) if "python" in os.path.basename(word))
job = os.environ["SLURM_JOB_ID"]
log = words[words.index("--output") + 1].replace("%j", job).replace("%t", "0")
os.dup2(os.open(log, os.O_CREAT | os.O_APPEND | os.O_WRONLY), 1)
os.dup2(1, 2)
os.environ.update(SLURM_NTASKS="1", SLURM_JOB_NUM_NODES="1", SLURM_NODEID="0",
                  SLURM_PROCID="0", SLURM_LOCALID="0", SLURM_JOB_NODELIST="here")
os.execvp(words[first], words[first:])
"""
SACCT = """
import os, pathlib, sys
print("JobID|State|NodeList")
for file in pathlib.Path(__file__).parent.glob("*.pid"):
    try:
        words = pathlib.Path("/proc", file.read_text(), "stat").read_text().split()
    except OSError:
        words = ["", "", "Z"]
    print(f"{file.stem}|{'COMPLETED' if words[2] == 'Z' else 'RUNNING'}|here")
"""
SCANCEL = """
import os, pathlib, signal, sys
file = pathlib.Path(__file__).parent / (sys.argv[-1] + ".pid")
os.killpg(int(file.read_text()), signal.SIGTERM)
"""


@pytest.fixture(autouse=True)
def slurm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """SLURM's commands, as far as submitit uses them; jobs run at once, on this machine."""
    folder = tmp_path / "slurm"
    folder.mkdir()
    commands = {"sbatch": SBATCH, "srun": SRUN, "sacct": SACCT, "scancel": SCANCEL}
    for name, text in commands.items():
        (folder / name).write_text(f"#!{sys.executable}\n{text}")
        (folder / name).chmod(0o755)
    (tmp_path / "stand_in.py").write_text(STAND_IN)
    root = Path(__file__).resolve().parents[2]
    monkeypatch.setenv("PATH", f"{folder}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setenv("PYTHONPATH", f"{tmp_path}{os.pathsep}{root}")
    monkeypatch.setattr(submitted, "FIT", (sys.executable, "-m", "stand_in"))
    monkeypatch.setattr(local, "LOOK", 0.05)
    # Its watcher asks once a minute; the first look of a job must see its end here.
    monkeypatch.setattr(submitit.SlurmJob.watcher, "_delay_s", 0.1, raising=False)
    return folder


def jobs(folder: Path, *settings: str) -> submitted.Jobs:
    choice, rest = split_launcher(["hydra/launcher=submitit_slurm", *settings])
    assert choice is not None
    assert not rest
    return submitted.Jobs(choice, folder)


def test_trials_are_jobs_with_what_was_asked_for(tmp_path: Path, capsys) -> None:
    folder = tmp_path / "s"
    asked = ("hydra.launcher.partition=gpu", "hydra.launcher.timeout_min=90")
    place = jobs(folder, *asked, "hydra.launcher.additional_parameters={mail-user: me}")
    results = LocalSweep(sweep_over(3.0, 1.0), folder, 2, place).run()
    assert [row.value for row in results.rows] == pytest.approx([1 + 1 / 6, 3 + 1 / 6])
    assert "2 at a time as jobs of slurm" in capsys.readouterr().out
    script = next((folder / "submitit").rglob("*submission*.sh")).read_text()
    for line in ("--partition=gpu", "--time=90", "--mail-user=me", "--signal=TERM@120"):
        assert f"#SBATCH {line}" in script
    journal = Journal(folder)
    journal.close()
    assert [trial.running_as for trial in journal.trials] == ["job 1", "job 2"]


def test_a_signal_cancels_the_jobs_which_go_on_later(tmp_path: Path, slurm: Path) -> None:
    folder, sweep = tmp_path / "s", sweep_over(3.0, fixed=("pause=0.4",))
    metrics = folder / "trials" / "001" / "metrics.csv"

    def stop() -> None:
        while not metrics.exists() or metrics.read_text().count("\n") < 3:
            time.sleep(0.05)
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=stop, daemon=True).start()
    with pytest.raises(Interrupted, match="run the same command again"):
        LocalSweep(sweep, folder, 1, jobs(folder)).run()
    journal = Journal(folder)
    journal.close()
    assert [trial.state for trial in journal.trials] == ["interrupted"]
    assert 2 <= len(journal.trials[0].history()) < 6
    results = LocalSweep(sweep, folder, 1, jobs(folder)).run()
    assert [len(row.history) for row in results.rows] == [6]
    assert len(list(slurm.glob("*.pid"))) == 2


def test_a_job_that_outlived_its_sweep_is_watched_again(
    tmp_path: Path, slurm: Path, capsys
) -> None:
    folder, sweep = tmp_path / "s", sweep_over(3.0, fixed=("pause=0.4",))
    journal = Journal(folder)
    trial = journal.begin({"x": 3.0}, {"x": 0.0})
    words = ["qet", "pause=0.4", "x=3.0", f"run_folder={trial.folder}"]
    journal.started(trial, jobs(folder).begin(trial, words).name)
    journal.close()  # and that is all its process did
    results = LocalSweep(sweep, folder, 1, jobs(folder)).run()
    assert "trial 1 still runs as job 1" in capsys.readouterr().out
    assert [len(row.history) for row in results.rows] == [6]
    assert len(list(slurm.glob("*.pid"))) == 1


def test_a_trial_that_fails_says_why(tmp_path: Path) -> None:
    folder = tmp_path / "s"
    results = LocalSweep(sweep_over(1.0, -3.0), folder, 1, jobs(folder)).run()
    assert [row.trial.state for row in results.rows] == ["finished", "diverged"]
    assert results.rows[1].trial.reason == "x is below zero"


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["hydra/launcher=submitit_slrm"], "did you mean 'submitit_slurm'"),
        (
            ["hydra.launcher.nodes=2"],
            "hydra.launcher.nodes is for hydra/launcher=submitit_slurm",
        ),
        (["hydra/launcher=submitit_slurm", "hydra.launcher.partitions=a"], "mean 'partition'"),
        (["hydra/launcher=submitit_slurm", "hydra.launcher.nodes=two"], "launcher.nodes: "),
        (["hydra/launcher=submitit_local", "hydra.launcher.partition=a"], "unknown setting"),
        (["hydra/launcher=submitit_slurm", "hydra.launcher.nodes"], "KEY=VALUE"),
    ],
)
def test_a_mistake_in_the_launcher_is_named(words: list[str], said: str) -> None:
    with pytest.raises(UserMistake, match=said):
        split_launcher([*words, "seed=0"])


def test_one_run_takes_no_launcher(capsys) -> None:
    assert main(["fit", "qet", "hydra/launcher=submitit_slurm"]) == 2
    assert "is for sweep and fit -m" in capsys.readouterr().err


def test_without_the_plugin_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "hydra_plugins.hydra_submitit_launcher", None)
    with pytest.raises(UserMistake, match=r"pip install 'qeqtrain\[cluster\]'"):
        split_launcher(["hydra/launcher=submitit_slurm"])


def test_without_slurm_it_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(UserMistake, match=r"submitit_slurm: .*srun"):
        jobs(tmp_path / "s")


@pytest.mark.slow
def test_several_values_run_as_jobs_of_this_machine(water: Path, qeqtrain) -> None:
    words = ("fit", "smoke/qet", f"data.train={water}", "data.split={val: 3}", "-m", "seed=0,1")
    done = qeqtrain(*words, "--folder", "many", "hydra/launcher=submitit_local")
    assert done.returncode == 0, done.stderr
    journal = Journal(water.parent / "many")
    journal.close()
    assert [trial.state for trial in journal.trials] == ["finished", "finished"]
    assert "best validation" in journal.trials[0].log.read_text()
