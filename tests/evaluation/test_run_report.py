"""The report that a run leaves beside its checkpoints."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest

from qeqtrain.cli import main
from qeqtrain.evaluation.citations import papers_of
from qeqtrain.evaluation.document import Document
from qeqtrain.evaluation.learning_curves import learning_curves, read_metrics
from qeqtrain.evaluation.tables import Table
from tests.test_readme import write_waters


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("run")
    write_waters(folder / "train.extxyz", 0)
    words = ["backbone.channels=4", "backbone.layers=1", f"data.train={folder}/train.extxyz"]
    words += ["data.split.val=0.25", "data.split.test=0.25", "trainer.accelerator=cpu"]
    words += ["trainer.max_time=null", "trainer.max_epochs=3", "trainer.validate_every=1"]
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        assert main(["fit", "qet", *words, f"run_folder={folder}/made"]) == 0
    return folder / "made"


def test_a_run_says_what_it_was_trained_on(run: Path) -> None:
    said = (run / "report.md").read_text()
    assert re.search(
        r"\| train \| .*train\.extxyz \| energy, forces, charges \| 0 \(12\)", said
    )
    assert "| H | 24 | 12 |" in said
    assert "| O | 12 | 12 |" in said
    assert re.search(r"fingerprint of the data: [0-9a-f]{32}", said)


def test_the_errors_in_it_are_those_of_the_best_checkpoint(run: Path) -> None:
    from qeqtrain.evaluation.tables import number
    from qeqtrain.models.archive import passport

    said = (run / "report.md").read_text()
    errors = passport(run)["metrics"]
    mae, rmse = number(errors["forces_mae"]), number(errors["forces_rmse"])
    assert f"| forces | meV/A | {mae} | {rmse} |" in said


def test_its_plots_are_there_and_inside_the_page(run: Path) -> None:
    said = (run / "report.md").read_text()
    named = re.findall(r"!\[[^]]+\]\(plots/(\w+)\.png\)", said)
    assert {"learning_curves", "energy", "forces", "charges", "charges_by_element"} == {*named}
    assert {p.stem for p in (run / "plots").iterdir()} == {*named}
    assert (run / "report.html").read_text().count("data:image/png;base64,") == len(named)


def test_it_names_the_papers_of_the_parts(run: Path) -> None:
    assert "arXiv 2306.06482" in (run / "report.md").read_text()
    spec = {
        "backbone": {"_target_": "a.NequIP"},
        "baselines": {"d": {"_target_": "b.Dispersion"}},
    }
    assert len(papers_of(spec)) == 2


def test_every_part_that_papers_are_given_for_exists() -> None:
    from qeqtrain.evaluation.citations import PAPERS
    from qeqtrain.nn import baselines, charges, dispersion, nequip, tensornet

    homes = (baselines, charges, dispersion, nequip, tensornet)
    for name in PAPERS:
        assert any(hasattr(home, name) for home in homes), name


def test_learning_curves_pass_over_rows_that_were_cut(run: Path) -> None:
    metrics = read_metrics(run / "metrics.csv")
    assert len(metrics["step"]) == 3
    with (run / "metrics.csv").open("a") as file:
        file.write("4,1")
    assert len(read_metrics(run / "metrics.csv")["step"]) == 3
    figure = learning_curves(metrics)
    assert [axes.get_xlabel() for axes in figure.axes if axes.axison] == ["step"] * 4
    assert "error (meV/A)" in [axes.get_ylabel() for axes in figure.axes]
    assert learning_curves({"step": np.array([1.0])}) is None


def test_what_stands_in_a_report_is_text_and_never_markup() -> None:
    document = Document("<b>")
    document.say(["<script>"], "a|b")
    document.add(Table("t", ["x"], [["<i>|"]]), Table("empty", ["x"], []))
    page = document.as_html()
    assert "<script>" not in page
    assert "<b>" not in page
    assert "<i>" not in page
    assert "empty" not in document.as_markdown()
    assert "<i>\\|" in document.as_markdown()
