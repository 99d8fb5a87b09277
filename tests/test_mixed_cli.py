"""A mixture from its recipe to predictions by set, as a user types it."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from ase.io import read

from qeqtrain.cli import main
from qeqtrain.recipe import load_recipe
from tests.mixtures import write_pair

RECIPE = """\
defaults:
  - base
  - override /data: mixed
  - override /model: qet
  - _self_
seed: 3
data:
  sets:
    first: {train: first.extxyz, charge_type: mulliken}
    second: {train: second.extxyz, weight: 2, charge_type: ddec6}
backbone: {cutoff: 4.0, channels: 8, layers: 1}
loss: {charges: 10.0}
optim: {lr: 2.0e-2}
trainer: {max_epochs: 40, validate_every: 20}
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two sets, a recipe, and a run on them."""
    here = tmp_path_factory.mktemp("mixed")
    write_pair(here, 30)
    (here / "my.yaml").write_text(RECIPE)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(here)
        assert main(["fit", "my.yaml", "run_folder=run"]) == 0
    return here


@pytest.fixture(autouse=True)
def here(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Run every command in that folder."""
    monkeypatch.chdir(folder)
    return folder


def run(*words: str) -> int:
    return main(list(words))


def test_check_shows_what_an_epoch_has_of_every_set(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("check", "my.yaml", "--json", "check.json") == 0
    told = capsys.readouterr().out
    assert "set first        24 frames, 24 in an epoch (weight 1)" in told
    assert "set second       11 frames, 22 in an epoch (weight 2)" in told
    assert "charges 100 %; charges are ddec6" in told
    assert "energies second" in told
    assert "ddec6, each learned as a map of mulliken" in told
    found = json.loads(Path("check.json").read_text())
    assert found["sets"]["second"]["n_frames"] == 11
    assert found["sets"]["second"]["coverage"]["charges"] == 1.0


def test_info_describes_the_sets_of_a_recipe(capsys: pytest.CaptureFixture[str]) -> None:
    assert (
        run("data", "info", "my.yaml", "data.sets.second.weight=0.5", "--json", "i.json") == 0
    )
    told = capsys.readouterr().out
    assert "an epoch has 30 frames" in told
    assert "second: 11 frames, 6 in an epoch (weight 0.5)" in told
    found = json.loads(Path("i.json").read_text())
    assert found["epoch"] == {"first": 24, "second": 6}
    assert found["sets"]["second"]["elements"] == {"Na": 10, "Cl": 15, "K": 5}


def test_errors_of_a_run_are_told_by_set(capsys: pytest.CaptureFixture[str]) -> None:
    header = Path("run/metrics.csv").read_text().splitlines()[0]
    assert "energy_rmse/first (meV/atom)" in header
    assert "charges_rmse/second (me)" in header
    assert run("evaluate", "run", "--split", "train", "--json", "own.json") == 0
    told = capsys.readouterr().out
    assert "RMSE by data source" in told
    found = json.loads(Path("own.json").read_text())
    assert set(found["by_source"]) == {"first", "second"}


def test_the_map_of_charges_is_learnt_in_a_run() -> None:
    for name in ("first", "second"):
        words = (f"data.set={name}", "--json", f"{name}.json", "--out", f"out-{name}")
        assert run("evaluate", "run", "second.extxyz", *words) == 0
    own, other = (
        json.loads(Path(f"{n}.json").read_text())["errors"]["charges"]["mae"]
        for n in ("second", "first")
    )
    assert own < 30.0 < other  # me


def test_predictions_are_those_of_the_set_that_is_asked_for() -> None:
    assert run("predict", "run", "second.extxyz", "main.extxyz") == 0
    assert run("predict", "run", "second.extxyz", "second-p.extxyz", "data.set=second") == 0
    assert run("export", "run", "second.safetensors", "data.set=second") == 0
    assert run("predict", "second.safetensors", "second.extxyz", "exported.extxyz") == 0
    main_, second, exported, labels = (
        read(f"{n}.extxyz", ":") for n in ("main", "second-p", "exported", "second")
    )
    for m, s, e, label in zip(main_, second, exported, labels, strict=True):
        assert s.get_potential_energy() == pytest.approx(label.get_potential_energy(), abs=3.0)
        assert abs(m.get_potential_energy() - label.get_potential_energy()) > 20.0
        assert e.get_potential_energy() == pytest.approx(s.get_potential_energy(), abs=1e-9)
        assert np.allclose(s.get_forces(), m.get_forces())
        for said in (m, s):
            assert said.get_charges().sum() == pytest.approx(label.info["charge"], abs=1e-6)


def test_benchmarks_are_those_of_the_set_that_is_asked_for() -> None:
    errors = {}
    for words, folder in (((), "benchmark"), (("data.set=second",), "benchmark-second")):
        asked = ("charges", "--data", "second.extxyz", "repeat=2")
        assert run("benchmark", "run", *asked, *words) == 0
        lines = Path("run", folder, "charges/rows.jsonl").read_text().splitlines()
        rows = [json.loads(line) for line in lines]
        of_labels = next(row for row in rows if "errors" in row.get("values", {}))
        errors[folder] = of_labels["values"]["errors"]["charges"]["mae"]
    assert errors["benchmark-second"] < 30.0 < errors["benchmark"]  # me


@pytest.mark.parametrize("verb", ["evaluate", "predict", "export", "benchmark"])
def test_an_unknown_set_is_one_clear_message(
    verb: str, capsys: pytest.CaptureFixture[str]
) -> None:
    words = {
        "evaluate": ("run", "second.extxyz"),
        "predict": ("run", "second.extxyz", "x.extxyz"),
        "export": ("run", "x.safetensors"),
        "benchmark": ("run", "eos"),
    }[verb]
    assert run(verb, *words, "data.set=secnd") == 2
    told = capsys.readouterr().err
    assert "the model was trained on first, second; did you mean 'second'?" in told


def test_all_mistakes_of_a_mixed_recipe_come_at_once(
    capsys: pytest.CaptureFixture[str],
) -> None:
    wrong = (
        "data.sets.first.wieght=2",
        "data.sets.second.weight=much",
        "data.sets.first.nan=no",
    )
    assert run("check", "my.yaml", *wrong, "data.sets.second.train=secnd.extxyz") == 2
    told = capsys.readouterr().err
    assert "data.sets.first takes no 'wieght'; did you mean 'weight'?" in told
    assert 'data.sets.second.weight: met "much", expected a number' in told
    assert "data.sets.first.nan" in told
    assert "data.sets.second.train: secnd.extxyz: no such file; did you mean" in told
    assert "4 mistakes" in told


def test_a_set_cannot_be_left_out_by_a_weight_of_zero(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert run("check", "my.yaml", "data.sets.second.weight=0") == 2
    assert "data.sets.second.weight is 0; expected a number above 0" in capsys.readouterr().err
    assert run("check", "my.yaml", "~data.sets.second") == 0


def test_paths_of_all_sets_are_kept_absolute(here: Path) -> None:
    sets = load_recipe("my.yaml").with_absolute_paths().settings["data"]["sets"]
    assert sets["second"]["train"] == str(here / "second.extxyz")


def test_fine_tuning_takes_one_set(capsys: pytest.CaptureFixture[str]) -> None:
    words = ("finetune.model=run", "trainer.max_steps=1", "loss.charges=1")
    sets = "data.sets={first: {train: first.extxyz}}"
    assert run("finetune", "finetune/own_system", "data=mixed", sets, *words) == 2
    assert "fine-tuned on one data set" in capsys.readouterr().err
    assert run("finetune", "finetune/own_system", "data.train=first.extxyz", *words) == 0


def test_info_describes_the_files_of_a_recipe_of_one_set(
    capsys: pytest.CaptureFixture[str],
) -> None:
    Path("one.yaml").write_text(
        "defaults: [base, override /data: files, _self_]\n"
        "data: {train: first.extxyz, aliases: {charges: null}}\n"
    )
    assert run("data", "info", "one.yaml", "--json", "one.json") == 0
    assert "30 frames" in capsys.readouterr().out
    found = json.loads(Path("one.json").read_text())["sets"][""]
    assert found["labels"]["energy"] == 30
    assert found["labels"]["charges"] == 0
