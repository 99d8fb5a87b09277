"""``qeqtrain benchmark``: as a user types it."""

from __future__ import annotations

import json
from importlib.util import find_spec
from pathlib import Path

import pytest
import yaml

from qeqtrain.cli import main
from qeqtrain.evaluation.benchmarks.model import Model
from qeqtrain.evaluation.benchmarks.registry import SUITES, suite_class
from tests.systems import shared_file


def test_a_benchmark_writes_all_it_promises(
    model: Model, tmp_path: Path, capsys, monkeypatch
) -> None:
    monkeypatch.chdir(tmp_path)
    words = ["benchmark", model.path, "diatomics", "charges", "--out", "out"]
    words += ["--json", "all.json", "elements=Na,Cl", "references=none", "points=30"]
    words += ["charges.repeat=2"]
    assert main(words) == 0
    said = capsys.readouterr()
    assert "== diatomics ==" in said.out
    assert "Conservation of the total charge" in said.out
    assert "card: out/card.yaml" in said.out
    for suite in ("diatomics", "charges"):
        assert (tmp_path / "out" / suite / "report.md").is_file()
        plots = list((tmp_path / "out" / suite / "plots").glob("*.png"))
        assert plots
        results = json.loads((tmp_path / "out" / suite / "results.json").read_text())
        assert json.loads((tmp_path / "all.json").read_text())[suite] == results
    card = yaml.safe_load((tmp_path / "out" / "card.yaml").read_text())
    assert card["model_key"] == "small"
    assert card["metrics"]["diatomics"]["tortuosity"] > 0
    assert set(card["notes"]["benchmarks"]) == {"diatomics", "charges"}
    again = main(words)  # nothing is left to be measured
    assert again == 0
    assert "2/2" not in capsys.readouterr().err


def test_every_mistake_is_said_together(model: Model, tmp_path: Path, capsys) -> None:
    code = main(["benchmark", model.path, "elastic", "charges", "--jobs", "0", "dtype=half"])
    said = capsys.readouterr().err
    assert code == 2
    assert "did you mean 'elasticity'" in said
    assert "--jobs 0: expected 1 or more" in said
    assert "dtype=half: expected float32 or float64" in said


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "no suite named; expected some of elasticity"),
        (["eos", "--data", "x.xyz"], "--data is for the suite 'charges'"),
        (["charges", "data.total_charge=zero"], "says how to read --data FILE"),
        (["eos", "point=3"], "did you mean 'points'"),
        (["eos", "--count", "0"], "--count 0: expected 1 or more"),
    ],
)
def test_what_makes_no_sense_is_refused(
    model: Model, words: list[str], message: str, capsys
) -> None:
    assert main(["benchmark", model.path, *words]) == 2
    assert message in capsys.readouterr().err


def test_a_mistake_for_a_later_suite_is_said_before_any_is_measured(
    model: Model, tmp_path: Path, capsys
) -> None:
    words = ["eos", "charges", "charges.pairs=Na-Xx", "--out", str(tmp_path / "out")]
    assert main(["benchmark", model.path, *words]) == 2
    assert "charges: pairs=Na-Xx: expected pairs of" in capsys.readouterr().err
    assert not (tmp_path / "out" / "eos").exists()


@pytest.mark.skipif(find_spec("phonopy") is not None, reason="phonopy is installed")
def test_without_phonopy_the_extra_is_named(model: Model, capsys) -> None:
    assert main(["benchmark", model.path, "phonon"]) == 2
    assert "pip install 'qeqtrain[phonon]'" in capsys.readouterr().err


def test_a_suite_of_which_nothing_could_be_measured_says_why(
    model: Model, tmp_path: Path, capsys, monkeypatch
) -> None:
    def fail(*_: object) -> None:
        raise RuntimeError("this crystal has no energy")

    monkeypatch.setattr(suite_class("eos"), "measure", fail)
    words = ["benchmark", model.path, "eos", "--count", "1", "--jobs", "1"]
    assert main([*words, "--out", str(tmp_path / "out")]) == 2
    assert "eos: nothing could be measured" in capsys.readouterr().err


def test_suites_are_listed_and_each_has_settings_that_are_described(capsys) -> None:
    assert main(["list", "suites"]) == 0
    listed = capsys.readouterr().out
    for name in SUITES:
        assert name in listed
        suite = suite_class(name)
        assert suite.name == name
        text = " ".join(c.__doc__ or "" for c in suite.settings_class.__mro__[:-1])
        for setting in suite.settings_class.__dataclass_fields__:
            assert setting in text, f"{name}.{setting} is not described"


@pytest.mark.parametrize(
    ("suite", "error"),
    [
        ("elasticity", "bulk_modulus_mae_GPa"),
        ("equilibrium", "formation_energy_mae_eV_per_atom"),
    ],
)
def test_published_crystals_are_measured_beside_published_models(
    suite: str, error: str, tmp_path: Path, monkeypatch, capsys
) -> None:
    references = shared_file("data", "eval_refs", "matcalc-benchmark-pbe.csv").parent
    weights = shared_file("foundation", "qet-matq", "state.pt").parents[1]
    monkeypatch.setenv("QEQTRAIN_MODELS", str(weights))
    words = ["benchmark", "qet-matq", suite, "--count", "2", "max_atoms=4", "seed=3"]
    words += [f"references={references}", "--out", str(tmp_path / "out")]
    assert main(words) == 0
    results = json.loads((tmp_path / "out" / suite / "results.json").read_text())
    assert not results["failed"]
    assert 0.0 < results["numbers"][error] < 60.0
    assert "TensorNet (OMat24)" in capsys.readouterr().out
