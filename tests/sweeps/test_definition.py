from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from qeqtrain.cli import main
from qeqtrain.errors import UserMistake
from qeqtrain.recipe.folders import shipped, sweep_names
from qeqtrain.sweeps.checking import refuse_mistakes
from qeqtrain.sweeps.definition import read_definition
from qeqtrain.sweeps.hyperband import Hyperband
from qeqtrain.sweeps.metrics import METRICS
from qeqtrain.training.module import MONITOR
from qeqtrain.training.quantities import QUANTITIES

GOOD = {
    "method": "grid",
    "metric": {"name": "val/score", "goal": "minimize"},
    "command": ["${env}", "qeqtrain", "fit", "smoke/qet", "seed=3", "${args_no_hyphens}"],
    "parameters": {"optim.lr": {"values": [1.0e-3, 1.0e-2]}},
}


@pytest.fixture
def written(tmp_path: Path):
    """Writes a sweep file that differs from a good one in some keys."""

    def write(**changes) -> str:
        path = tmp_path / "mine.yaml"
        content = {k: v for k, v in {**GOOD, **changes}.items() if v is not None}
        path.write_text(yaml.safe_dump(content))
        return str(path)

    return write


def test_a_sweep_file_is_read_as_the_server_reads_it(written) -> None:
    found = read_definition(
        written(
            early_terminate={"type": "hyperband", "min_iter": 2, "eta": 2},
            run_cap=5,
            name="a b",
        )
    )
    assert (found.name, found.recipe, found.fixed) == ("a_b", "smoke/qet", ("seed=3",))
    assert (found.method, found.metric, found.maximize) == ("grid", "val/score", False)
    assert found.hyperband is not None
    assert found.hyperband.rungs[:3] == (2, 4, 8)
    assert found.run_cap == 5


def test_rungs_below_a_largest_number_of_validations(written) -> None:
    early = {"type": "hyperband", "max_iter": 27, "s": 2}
    assert read_definition(written(early_terminate=early)).hyperband == Hyperband((3, 9), 3.0)


MISTAKES = [
    ({"methd": "grid"}, "did you mean 'method'?"),
    ({"recipe": "qet"}, "the recipe stands in the command"),
    ({"method": "baies"}, "did you mean 'bayes'?"),
    ({"command": None}, "command: met nothing; write command: [${env}, qeqtrain"),
    ({"command": ["python", "train.py"]}, "expected it to run 'qeqtrain fit'"),
    (
        {"command": ["qeqtrain", "fit", "qet", "${args}"]},
        "gives words that 'fit' does not read",
    ),
    ({"command": ["qeqtrain", "fit", "${args_no_hyphens}"]}, "expected one recipe"),
    ({"metric": {"name": "val/scor"}}, "never logs 'val/scor'; did you mean 'val/score'?"),
    ({"metric": {"name": "val/score", "gaol": "minimize"}}, "did you mean 'goal'?"),
    ({"metric": {"name": "val/score", "goal": "minimise"}}, "did you mean 'minimize'?"),
    ({"parameters": {"optim.lr": {"min": 0.1, "max": 1.0}}}, "a grid has no end"),
    ({"early_terminate": {"type": "hyperban", "min_iter": 1}}, "expected hyperband"),
    ({"early_terminate": {"type": "hyperband"}}, "expected min_iter, or max_iter and s"),
    ({"early_terminate": {"type": "hyperband", "max_iter": 9}}, "max_iter needs s"),
    ({"early_terminate": {"type": "hyperband", "min_iter": 0}}, "whole number above 0"),
    ({"early_terminate": {"type": "hyperband", "min_iter": 1, "eta": 1}}, "above 1"),
    ({"run_cap": 0}, "run_cap: met 0"),
    ({"name": "a/b"}, "expected letters"),
]


@pytest.mark.parametrize(("changes", "said"), MISTAKES)
def test_a_mistake_in_a_sweep_file_is_named_before_any_trial(
    changes: dict, said: str, written, capsys
) -> None:
    assert main(["sweep", written(**changes), "--local"]) == 2
    told = capsys.readouterr()
    assert said in told.err
    assert not told.out


def test_all_mistakes_of_a_sweep_file_come_together(written) -> None:
    with pytest.raises(UserMistake) as caught:
        read_definition(written(methd=1, method="gird", metric={"name": "loss"}))
    assert len(caught.value.problems) == 3


AGAINST_THE_RECIPE = [
    ({"optim.lrr": {"values": [1, 2]}}, [], "did you mean 'lr'?"),
    ({"optim.lr": {"values": [1.0, "fast"]}}, [], "optim.lr"),
    ({"charge": {"values": ["none", "diagnal"]}}, ["loss.charges=0"], "'diagonal'"),
    ({"backbone.channels": {"min": -3, "max": 3}}, [], "expected more than 0"),
    ({"charge": {"values": ["diagonal", "none"]}}, [], "(a trial: charge=none)"),
]


@pytest.mark.parametrize(("parameters", "more", "said"), AGAINST_THE_RECIPE)
def test_values_that_the_recipe_does_not_take_are_refused_before_any_trial(
    parameters: dict, more: list[str], said: str, written, tmp_path, monkeypatch, capsys
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a.extxyz").touch()
    words = ["sweep", written(parameters=parameters), "--local", "data.train=a.extxyz", *more]
    assert main(words) == 2
    assert said in capsys.readouterr().err
    assert not (tmp_path / "runs").exists()


def test_a_search_without_an_end_is_refused(written, capsys) -> None:
    assert main(["sweep", written(method="random"), "--local"]) == 2
    assert "say run_cap: N in the file, or --count N" in capsys.readouterr().err


def test_a_recipe_is_no_sweep_and_a_sweep_no_recipe(capsys) -> None:
    assert main(["sweep", str(shipped("recipes") / "qet.yaml")]) == 2
    assert "expected a sweep file" in capsys.readouterr().err
    assert main(["fit", "sweep/backbone_charge"]) == 2
    assert "qeqtrain sweep sweep/backbone_charge" in capsys.readouterr().err
    assert main(["sweep", "sweep/backbone_chrge"]) == 2
    assert "did you mean 'sweep/backbone_charge'?" in capsys.readouterr().err


@pytest.mark.parametrize("name", sweep_names())
def test_a_shipped_sweep_fits_its_recipe(name: str) -> None:
    if read_definition(name).method == "bayes":
        pytest.importorskip("optuna", reason="the extra `sweep` is not installed")
    refuse_mistakes(read_definition(name), check_files=False)


@pytest.mark.parametrize("name", sweep_names())
def test_a_shipped_sweep_works_under_plain_wandb(name: str) -> None:
    written = read_definition(name).written
    assert written is not None
    assert "logger=wandb" in written["command"]
    text = (shipped("recipes") / f"{name}.yaml").read_text()
    assert f"qeqtrain sweep {name}" in text
    assert "# Expect:" in text


def test_sweeps_are_listed_and_copied(tmp_path, monkeypatch, capsys) -> None:
    assert main(["list"]) == 0
    assert "sweep/backbone_charge" in capsys.readouterr().out
    monkeypatch.chdir(tmp_path)
    assert main(["copy", "sweep/backbone_charge"]) == 0
    assert "qeqtrain sweep backbone_charge.yaml" in capsys.readouterr().out
    assert read_definition("backbone_charge.yaml").method == "grid"


def test_metrics_are_those_that_runs_log() -> None:
    logged = {f"val/{name}_{kind}" for name in QUANTITIES for kind in ("rmse", "mae")}
    assert set(METRICS) == {MONITOR, "train/loss", *logged}
