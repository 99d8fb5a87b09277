"""A report holds what it promises, in every form."""

from __future__ import annotations

import base64
import json
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from qeqtrain.data.frames import Frame
from qeqtrain.evaluation.evaluate import Evaluation, evaluate
from qeqtrain.evaluation.plots import MANY, parity_plot
from qeqtrain.evaluation.report import as_json, table, write_report
from qeqtrain.evaluation.tables import Table, number
from qeqtrain.models.potential import Potential

Make = Callable[..., list[Frame]]


@pytest.fixture
def evaluation(potential: Potential, frames: Make) -> Evaluation:
    """Six frames in two parts."""
    given = frames(6)
    return evaluate(potential, {"first": given[:3], "second": given[3:]})


def test_a_report_is_one_page_with_its_plots_inside(
    evaluation: Evaluation, tmp_path: Path
) -> None:
    page = write_report(evaluation, tmp_path / "new" / "report").read_text()
    pictures = re.findall(r'src="data:image/png;base64,([^"]+)"', page)
    assert len(pictures) == len(evaluation.compared) == 5
    assert all(base64.b64decode(p).startswith(b"\x89PNG") for p in pictures)
    assert "http" not in page
    for word in (
        "meV/atom",
        "by total charge",
        "by data source",
        "Worst structures",
        "frame-0",
    ):
        assert word in page


def test_markdown_refers_to_plots_that_are_there(
    evaluation: Evaluation, tmp_path: Path
) -> None:
    write_report(evaluation, tmp_path)
    text = (tmp_path / "report.md").read_text()
    pictures = re.findall(r"\]\((plots/.+?)\)", text)
    assert len(pictures) == 5
    assert all((tmp_path / p).stat().st_size > 1000 for p in pictures)
    assert "| energy | meV/atom |" in text


def test_json_holds_the_numbers_of_the_table(evaluation: Evaluation, tmp_path: Path) -> None:
    write_report(evaluation, tmp_path)
    read = json.loads((tmp_path / "report.json").read_text())
    assert read == json.loads(json.dumps(as_json(evaluation)))
    errors = evaluation.errors()["forces"]
    assert read["errors"]["forces"]["rmse"] == pytest.approx(errors.rmse)
    assert read["units"]["charges"] == "me"
    assert read["n_structures"] == 6
    assert read["by_source"]["first"]["energy"]["count"] == 3


def test_the_terminal_table_is_aligned(evaluation: Evaluation) -> None:
    lines = table(evaluation).splitlines()
    assert lines[0] == "Errors"
    head, *rows = lines[1:7]
    assert [row.split()[0] for row in rows] == [
        "energy",
        "forces",
        "stress",
        "charges",
        "dipole",
    ]
    assert len({len(line) for line in (head, *rows)}) == 1


def test_many_points_are_drawn_as_density(potential: Potential, frames: Make) -> None:
    given = frames(6)
    found = evaluate(potential, {"all": given * (1 + MANY // 50)})
    figure = parity_plot(found, "forces")
    names = [type(c).__name__ for c in figure.axes[0].collections]
    assert "PolyCollection" in names


def test_axes_carry_their_units(evaluation: Evaluation) -> None:
    units = {
        "energy": "eV/atom",
        "forces": "eV/A",
        "stress": "GPa",
        "charges": "e",
        "dipole": "e A",
    }
    for name, unit in units.items():
        axes = parity_plot(evaluation, name).axes[0]
        assert axes.get_xlabel() == f"label ({unit})"


def test_names_from_files_cannot_break_a_page() -> None:
    shown = Table("<b>", ["a", "b"], [["<script>", "1 | 2"]])
    assert "<script>" not in shown.as_html()
    assert "1 \\| 2" in shown.as_markdown()


def test_numbers_have_three_digits() -> None:
    shown = [number(x) for x in (0.0, 1.23456, 12.3456, 1234.56, 0.0123456, -3e-7, np.nan)]
    assert shown == ["0", "1.23", "12.3", "1,235", "0.0123", "-3.00e-07", "-"]


def test_evaluation_needs_neither_lightning_nor_hydra_nor_a_plot_library() -> None:
    code = (
        "import sys; import qeqtrain.evaluation.evaluate, qeqtrain.evaluation.report; "
        "import qeqtrain.evaluation.predict; "
        "print([m for m in ('pytorch_lightning', 'hydra', 'wandb', 'matplotlib') "
        "if m in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "[]"
