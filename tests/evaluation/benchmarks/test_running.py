"""Rows: kept as they are measured, gone on with, and what goes wrong with one of them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from qeqtrain.errors import UserMistake
from qeqtrain.evaluation.benchmarks.card import write_card
from qeqtrain.evaluation.benchmarks.model import Model, fingerprint
from qeqtrain.evaluation.benchmarks.running import DIED, run_suite
from qeqtrain.evaluation.benchmarks.suite import parse_settings
from qeqtrain.evaluation.benchmarks.writing import write_suite
from tests.evaluation.benchmarks.toy import Alone, Toy, ToySettings
from tests.systems import small_qet


def run(model: Model, folder: Path, kind: type[Toy] = Toy, jobs: int = 1, **settings: Any):
    retry = settings.pop("retry", False)
    suite = kind(ToySettings(**settings))
    potential = model.load()
    plan = suite.plan(potential)
    return run_suite(suite, plan, model, potential, folder, jobs=jobs, retry=retry)


def logged(file: Path) -> list[str]:
    return [line.split()[0] for line in file.read_text().splitlines()] if file.exists() else []


def test_what_has_a_row_is_not_measured_again(model: Model, tmp_path: Path) -> None:
    log = tmp_path / "log"
    first = run(model, tmp_path / "out", tasks=("a", "bb", "ccc"), log=str(log), count=2)
    again = run(model, tmp_path / "out", tasks=("a", "bb", "ccc"), log=str(log))
    assert logged(log) == ["a", "bb", "ccc"]
    assert again[:2] == first
    assert again[2].values["length"] == 3


def test_a_line_that_was_cut_off_is_measured_again(model: Model, tmp_path: Path) -> None:
    log = tmp_path / "log"
    whole = run(model, tmp_path / "out", log=str(log))
    file = tmp_path / "out" / "rows.jsonl"
    file.write_bytes(file.read_bytes()[:-9])
    assert [r.values for r in run(model, tmp_path / "out", log=str(log))] == [
        r.values for r in whole
    ]
    assert logged(log) == ["a", "bb", "ccc", "ccc"]
    assert len(file.read_text().splitlines()) == 4


def test_rows_of_another_model_or_other_settings_are_refused(
    model: Model, tmp_path: Path
) -> None:
    run(model, tmp_path / "out")
    with pytest.raises(UserMistake, match=r"power=1\.0 there and 2\.0 now"):
        run(model, tmp_path / "out", power=2.0)
    suite, other = Toy(ToySettings()), small_qet(seed=9)
    with pytest.raises(UserMistake, match="another model"):
        run_suite(suite, suite.plan(other), model, other, tmp_path / "out")
    (tmp_path / "out" / "rows.jsonl").write_text("no rows\n")
    with pytest.raises(UserMistake, match="not rows of 'toy'"):
        run(model, tmp_path / "out")


def test_a_model_is_known_by_its_weights_not_by_its_file() -> None:
    assert fingerprint(small_qet(seed=1)) == fingerprint(small_qet(seed=1))
    assert fingerprint(small_qet(seed=1)) != fingerprint(small_qet(seed=2))


def test_a_failed_task_is_a_row_with_its_reason(model: Model, tmp_path: Path) -> None:
    log = tmp_path / "log"
    tasks = ("a", "fails", "singular", "bb")
    rows = {r.task: r for r in run(model, tmp_path / "out", tasks=tasks, log=str(log))}
    assert rows["fails"].failed == "it was told to"
    assert "singular" in rows["singular"].failed
    assert rows["a"].values["length"] == 1
    assert not rows["bb"].failed
    run(model, tmp_path / "out", tasks=tasks, log=str(log))
    assert logged(log) == list(tasks)
    run(model, tmp_path / "out", tasks=tasks, log=str(log), retry=True)
    assert logged(log) == [*tasks, "fails", "singular"]


def test_several_processes_measure_what_one_does(model: Model, tmp_path: Path) -> None:
    log = tmp_path / "log"
    tasks = ("a", "bb", "fails", "dddd", "eeeee")
    one = run(model, tmp_path / "one", tasks=tasks)
    two = run(model, tmp_path / "two", tasks=tasks, jobs=2, log=str(log))
    assert [(r.task, r.values, r.failed) for r in two] == [
        (r.task, r.values, r.failed) for r in one
    ]
    assert all(line.endswith(" 1") for line in log.read_text().splitlines())  # one thread each


@pytest.mark.slow
def test_a_process_that_dies_costs_its_task_only(model: Model, tmp_path: Path) -> None:
    tasks = ("a", "dies", "ccc", "dddd")
    rows = {r.task: r for r in run(model, tmp_path / "out", tasks=tasks, jobs=2)}
    assert rows["dies"].failed == DIED
    assert [rows[t].values["length"] for t in ("a", "ccc", "dddd")] == [1, 3, 4]


@pytest.mark.slow
def test_a_suite_that_times_has_a_process_for_each_task(model: Model, tmp_path: Path) -> None:
    log = tmp_path / "log"
    run(model, tmp_path / "out", Alone, tasks=("a", "bb"), log=str(log))
    processes = {line.split()[1] for line in log.read_text().splitlines()}
    assert len(processes) == 2


def test_settings_are_read_by_their_types() -> None:
    classes = {"toy": ToySettings, "other": ToySettings}
    words = ["power=2", "other.power=3.5", "toy.tasks=[x, y]", "loud=true", "seed=4"]
    found = parse_settings(classes, words, {"count": 7})
    assert found["toy"] == ToySettings(count=7, seed=4, tasks=("x", "y"), power=2.0, loud=True)
    assert found["other"].power == 3.5


@pytest.mark.parametrize(
    ("word", "message"),
    [
        ("pwer=2", r"pwer: no setting of toy; .*did you mean 'power'"),
        ("toy.pwer=2", r"did you mean 'toy\.power'"),
        ("elasticity.power=2", r"elasticity\.power: no setting of toy"),
        ("power=two", r"power=two: expected a number"),
        ("seed=1.5", r"seed=1\.5: expected a whole number"),
        ("loud=yes", r"loud=yes: expected true or false"),
    ],
)
def test_settings_that_are_wrong_are_named(word: str, message: str) -> None:
    with pytest.raises(UserMistake, match=message):
        parse_settings({"toy": ToySettings}, [word], {})


def test_results_are_json_and_the_card_gathers_them(model: Model, tmp_path: Path) -> None:
    suite = Toy(ToySettings(tasks=("a", "fails")))
    potential = model.load()
    plan = suite.plan(potential)
    rows = run_suite(suite, plan, model, potential, tmp_path / "out" / "toy")
    found = write_suite(suite, plan, rows, suite.findings(rows), tmp_path / "out" / "toy")
    written = json.loads((tmp_path / "out" / "toy" / "results.json").read_text())
    assert written == found
    assert written["numbers"] == {"total": 1.0, "absent": None}
    assert written["failed"] == {"fails": "it was told to"}
    report = (tmp_path / "out" / "toy" / "report.md").read_text()
    assert "1 measured, 1 failed" in report
    card = write_card(model.load(), model.path, tmp_path / "out").read_text()
    assert "model_name: small" in card
    assert "total: 1.0" in card
