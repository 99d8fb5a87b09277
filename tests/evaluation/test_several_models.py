"""Several models on the same frames: side by side, and as one with a spread."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from qeqtrain.cli import main
from qeqtrain.cli.models import is_model
from qeqtrain.data.frames import Frame
from qeqtrain.errors import UserMistake
from qeqtrain.evaluation.comparison import (
    comparison_document,
    group_tables,
    models_table,
    short_names,
)
from qeqtrain.evaluation.ensemble import (
    ensemble_document,
    ensemble_json,
    fitted_scales,
    joined,
)
from qeqtrain.evaluation.evaluate import Evaluation, evaluate
from qeqtrain.models import archive
from qeqtrain.models.potential import Potential
from tests.models.test_archive import write_checkpoint

Make = Callable[..., list[Frame]]


@pytest.fixture
def evaluation(potential: Potential, frames: Make) -> Evaluation:
    given = frames(9)
    return evaluate(potential, {"first": given[:4], "second": given[4:]})


def member(of: Evaluation, seed: int, spread: float, shared: float = 0.0) -> Evaluation:
    """An evaluation whose errors are normal, with a part that all members have in common."""
    own, common = np.random.default_rng(seed), np.random.default_rng(99)
    compared = {
        name: replace(
            c,
            predicted=c.label
            + spread * own.normal(size=c.label.shape)
            + shared * common.normal(size=c.label.shape),
        )
        for name, c in of.compared.items()
    }
    return replace(of, compared=compared)


def test_every_model_has_a_column_with_its_own_errors(evaluation: Evaluation) -> None:
    found = {"a": evaluation, "b": member(evaluation, 1, 0.5)}
    made = models_table(found)
    assert made.head[3:] == ["a", "b"]
    from qeqtrain.evaluation.tables import number

    row = next(r for r in made.rows if r[0] == "forces" and r[2] == "RMSE")
    assert row[3:] == [number(e.errors()["forces"].rmse) for e in found.values()]
    titles = [t.title for t in group_tables(found)]
    for what in ("total charge", "data source", "element"):
        assert any(f"RMSE of charges by {what}" in t for t in titles), what
    assert "RMSE of energy by element (meV/atom)" not in titles


def test_a_quantity_that_one_model_lacks_is_a_dash(evaluation: Evaluation) -> None:
    less = replace(evaluation, compared={"energy": evaluation.compared["energy"]})
    rows = models_table({"a": less, "b": evaluation}).rows
    assert next(r for r in rows if r[0] == "charges")[3] == "-"


def test_the_mean_and_its_spread_are_those_of_the_members(evaluation: Evaluation) -> None:
    members = {str(i): member(evaluation, i, 0.2) for i in range(4)}
    ensemble = joined(members)
    stack = np.stack([m.compared["forces"].predicted for m in members.values()])
    np.testing.assert_allclose(ensemble.mean.compared["forces"].predicted, stack.mean(axis=0))
    np.testing.assert_allclose(ensemble.spreads["forces"], stack.std(axis=0, ddof=1))
    best = min(m.errors()["forces"].rmse for m in members.values())
    assert ensemble.mean.errors()["forces"].rmse < best


def test_a_factor_fitted_on_other_frames_mends_a_spread_that_is_too_small(
    potential: Potential, frames: Make
) -> None:
    """Errors that all members share do not show in their spread."""
    before = evaluate(potential, {"val": frames(40, seed=3)})
    after = evaluate(potential, {"test": frames(40, seed=4)})
    made = [
        {str(i): member(e, 10 * j + i, 0.1, shared=0.3) for i in range(8)}
        for j, e in enumerate((before, after), start=1)
    ]
    scales = fitted_scales(joined(made[0]))
    found = joined(made[1], scales).calibration()["forces"]
    # Error of the mean over the spread: the root of (0.3^2 + 0.1^2 / 8) / 0.1^2, and 1.077
    # because the spread of 8 members is uncertain (Student's t with 7 degrees of freedom).
    assert abs(found.scale - 3.02 * 1.077) < 0.2
    assert found.within_1 < 0.35
    assert abs(found.scaled_within_1 - 0.683) < 0.05
    assert 0.9 < found.scaled_within_2 < 0.97


def test_components_without_a_spread_are_left_out(evaluation: Evaluation) -> None:
    same = joined({"a": evaluation, "b": evaluation})
    assert same.calibration() == {}
    assert fitted_scales(same) == {}


def test_members_that_read_other_labels_are_refused(evaluation: Evaluation) -> None:
    c = evaluation.compared["energy"]
    other = replace(
        evaluation, compared={**evaluation.compared, "energy": replace(c, label=c.label + 1)}
    )
    with pytest.raises(UserMistake, match="other labels of energy"):
        joined({"a": evaluation, "b": other})


def test_reports_have_a_plot_for_every_quantity_and_axes_with_units(
    evaluation: Evaluation,
) -> None:
    members = {"a": evaluation, "b": member(evaluation, 1, 0.1)}
    ensemble = joined(members, {"forces": 2.0})
    pictures = ensemble_document(ensemble).pictures
    assert {*pictures} == {*evaluation.compared, *(f"spread_{n}" for n in evaluation.compared)}
    assert len(comparison_document(members).pictures) == 2 * len(evaluation.compared)
    from qeqtrain.evaluation.ensemble import reliability

    (axes,) = reliability(ensemble, "forces").axes
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("spread (meV/A)", "RMSE (meV/A)")
    numbers = json.loads(json.dumps(ensemble_json(ensemble)))
    assert numbers["calibration"]["forces"]["scale"] == 2.0
    assert numbers["calibration"]["energy"]["scale"] is None


def test_names_are_what_tells_paths_apart() -> None:
    assert short_names(["runs/a/latest", "runs/b/latest/"]) == ["a", "b"]
    assert short_names(["runs/a/1", "runs/a/2", "qet-matq"]) == [
        "runs/a/1",
        "runs/a/2",
        "qet-matq",
    ]


@pytest.fixture
def models(potential: Potential, frames: Make, tmp_path: Path, monkeypatch) -> Path:
    """A folder with two checkpoints and labelled frames."""
    monkeypatch.chdir(tmp_path)
    write_checkpoint(tmp_path / "a.ckpt", potential)
    with torch.no_grad():
        for parameter in potential.parameters():
            parameter.mul_(1.01)
    write_checkpoint(tmp_path / "b.ckpt", potential)
    import ase.io
    from ase import Atoms
    from ase.calculators.singlepoint import SinglePointCalculator

    for name, given in (("test", frames(6)), ("val", frames(6, seed=7))):
        written = []
        for frame in given:
            s = frame.structure
            atoms = Atoms(s.numbers, s.positions, cell=s.cell, pbc=s.pbc)
            atoms.info["charge"] = s.total_charge
            atoms.calc = SinglePointCalculator(
                atoms,
                energy=float(frame.labels["energy"]),
                forces=frame.labels["forces"],
                charges=frame.labels["charges"],
            )
            written.append(atoms)
        ase.io.write(tmp_path / f"{name}.extxyz", written)
    return tmp_path


def test_models_come_first_and_data_follow(models: Path, capsys) -> None:
    archive.export("b.ckpt", Path("b.safetensors"))
    words = ["a.ckpt", "b.safetensors", "test.extxyz", "val.extxyz", "--json", "all.json"]
    assert main(["evaluate", *words, "--out", "both"]) == 0
    said = capsys.readouterr().out
    assert "a.ckpt  b.safetensors" in said
    assert "RMSE of energy by total charge" in said
    assert "RMSE of forces by data source" in said
    numbers = json.loads(Path("all.json").read_text())["models"]
    assert numbers["a.ckpt"]["n_structures"] == 12
    assert "png" in Path("both/report.html").read_text()


def test_an_ensemble_is_calibrated_on_other_frames(models: Path, capsys) -> None:
    words = ["a.ckpt", "b.ckpt", "--ensemble", "test.extxyz"]
    assert main(["evaluate", *words, "--out", "x"]) == 0
    assert "spreads are not calibrated; say --calibrate FILE" in capsys.readouterr().out
    assert main(["evaluate", *words, "--out", "x", "--calibrate", "val.extxyz"]) == 0
    assert "not calibrated" not in capsys.readouterr().out
    assert json.loads(Path("x/report.json").read_text())["calibration"]["forces"]["scale"] > 0.0


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["a.ckpt", "test.extxyz", "b.ckpt"], "b.ckpt: is a model, and models come before"),
        (["a.ckpt", "a.ckpt", "test.extxyz"], "the same model twice"),
        (["a.ckpt", "test.extxyz", "--ensemble"], "expected two or more models"),
        (["a.ckpt", "b.ckpt", "--calibrate", "val.extxyz", "test.extxyz"], "is for --ensemble"),
        (["a.ckpt", "b.ckpt"], "expected files to evaluate them on"),
    ],
)
def test_mistakes_with_several_models(models: Path, capsys, words, message: str) -> None:
    assert main(["evaluate", *words]) == 2
    assert message in capsys.readouterr().err


def test_data_are_not_taken_for_models(models: Path) -> None:
    import h5py

    h5py.File("a.h5", "w").close()
    Path("a.json").write_text('{"a": {"b": 1}}')
    Path("[[[[[[[[{").mkdir()
    np.savez("a.npz", x=np.zeros(3))
    for name in ("a.h5", "a.json", "test.extxyz", "a.npz", "absent.extxyz", "[[[[[[[[{"):
        assert not is_model(name), name
    archive.export("a.ckpt", Path("a.any"))
    for name in ("a.ckpt", "a.any", "qet-matq"):
        assert is_model(name), name
