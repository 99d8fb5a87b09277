"""``qeqtrain benchmark``: physical benchmarks of a model, one after the other."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from qeqtrain.cli.arguments import Parser, split_overrides, take
from qeqtrain.cli.data import write_json
from qeqtrain.cli.models import add_policy, model_mistakes, path_mistakes, policy_mistakes
from qeqtrain.cli.outputs import refuse_unwritable
from qeqtrain.errors import UserMistake
from qeqtrain.evaluation.benchmarks.registry import SUITES, missing_packages, unknown_suites
from qeqtrain.recipe.node import override_data

if TYPE_CHECKING:
    from qeqtrain.evaluation.benchmarks.suite import Plan, Suite
    from qeqtrain.models.potential import Potential

EPILOG = """\
suites: {suites}  (`qeqtrain list suites` says what they measure)

examples:
  qeqtrain benchmark runs/qet/latest charges eos
  qeqtrain benchmark qet-matq elasticity phonon --count 60 --jobs 8 --out matq
  qeqtrain benchmark qet-matq diatomics elements=Na,Cl pairs=Na-Cl
  qeqtrain benchmark runs/qet/latest charges --data test.extxyz
  qeqtrain benchmark runs/mixed/latest eos data.set=matpes     as one of its data sets

key=value is a setting of every suite that has it, suite.key=value of one; device= and dtype=
are the model's, and so is data.set=NAME, where it was trained on several; data.key=value says
how to read --data, as for `qeqtrain evaluate`. A benchmark that was interrupted goes on where
it stopped when it is started again with the same --out. Published references are downloaded
once, or found in references=FOLDER or $QEQTRAIN_BENCHMARKS.
"""


def configure(parser: Parser, verb: str) -> Callable[[argparse.Namespace], int]:
    """Describe the arguments."""
    del verb
    parser.description = "Physical benchmarks of a model: tables, plots, JSON and a model card."
    parser.epilog = EPILOG.format(suites=", ".join(SUITES))
    parser.add_argument(
        "model", metavar="MODEL", help="run folder, checkpoint or published model"
    )
    parser.add_argument(
        "words", nargs="*", metavar="SUITE | key=value", help="suites, and their settings"
    )
    parser.add_argument("--out", type=Path, metavar="DIR", help="where results go")
    parser.add_argument("--json", type=Path, metavar="FILE", help="the numbers for machines")
    parser.add_argument(
        "--jobs", type=int, default=1, metavar="N", help="processes, of one thread each"
    )
    parser.add_argument(
        "--count", type=int, metavar="N", help="structures per suite, chosen at random"
    )
    parser.add_argument(
        "--data", metavar="FILE", help="for 'charges': structures with charges or dipoles"
    )
    parser.add_argument(
        "--retry", action="store_true", help="measure again what failed in an earlier run"
    )
    add_policy(parser)
    return run


@dataclass(frozen=True)
class _Request:
    """What the command line asks for, checked as far as can be without torch."""

    suites: list[str]
    overrides: list[str]
    overrides_of_data: list[str]
    device: str
    dtype: Any
    data_set: str | None
    out: Path


def run(arguments: argparse.Namespace) -> int:
    """Benchmark."""
    asked = _checked(arguments)

    from qeqtrain.evaluation.benchmarks.card import write_card
    from qeqtrain.evaluation.benchmarks.model import Model
    from qeqtrain.evaluation.benchmarks.registry import suite_class
    from qeqtrain.evaluation.benchmarks.running import run_suite
    from qeqtrain.evaluation.benchmarks.suite import parse_settings
    from qeqtrain.evaluation.benchmarks.writing import as_text, write_suite

    classes = {name: suite_class(name) for name in asked.suites}
    common = {} if arguments.count is None else {"count": arguments.count}
    words = [*asked.overrides, *_about_data(arguments.data, asked.overrides_of_data)]
    settings = parse_settings(
        {name: chosen.settings_class for name, chosen in classes.items()}, words, common
    )
    policy = arguments.unseen_charge_states
    model = Model(arguments.model, asked.device, asked.dtype, policy, asked.data_set)
    potential = model.load()
    everything: dict[str, Any] = {}
    empty = []
    suites = {name: chosen(settings[name]) for name, chosen in classes.items()}
    plans = _planned(suites, potential)
    for name, suite in suites.items():
        plan, folder = plans[name], asked.out / name
        rows = run_suite(
            suite, plan, model, potential, folder, jobs=arguments.jobs, retry=arguments.retry
        )
        if all(row.failed for row in rows):
            reasons = dict.fromkeys(row.failed for row in rows)
            empty.append(f"{name}: nothing could be measured: {'; '.join(list(reasons)[:3])}")
            continue
        findings = suite.findings(rows)
        everything[name] = write_suite(suite, plan, rows, findings, folder)
        sys.stdout.write(as_text(suite, plan, rows, findings).rstrip() + "\n")
        sys.stdout.write(f"report: {folder / 'report.md'}\n\n")
        sys.stdout.flush()
    if everything:
        card = write_card(potential, arguments.model, asked.out)
        sys.stdout.write(f"card: {card}\n")
    write_json(arguments.json, everything)
    if empty:
        raise UserMistake(*empty)
    return 0


def _planned(suites: Mapping[str, Suite[Any]], potential: Potential) -> dict[str, Plan]:
    """Plan every suite before any of them takes its time.

    Raises:
        UserMistake: what the settings of all suites ask for in vain, together.
    """
    plans = {}
    problems: list[str] = []
    for name, suite in suites.items():
        try:
            plans[name] = suite.plan(potential)
        except UserMistake as mistake:
            problems += [f"{name}: {text}" for text in mistake.problems]
    if problems:
        raise UserMistake(*problems)
    return plans


def _checked(arguments: argparse.Namespace) -> _Request:
    """Say all that can be wrong before torch is imported.

    Raises:
        UserMistake: all of it together.
    """
    suites, overrides = split_overrides(arguments.words)
    device, overrides = take(overrides, "device")
    dtype, overrides = take(overrides, "dtype")
    data_set, overrides = take(overrides, "data.set")
    suites = list(dict.fromkeys(suites))
    of_data = [word for word in overrides if word.startswith("data.")]
    overrides = [word for word in overrides if word not in of_data]
    problems = [*model_mistakes(arguments.model), *unknown_suites(suites)]
    problems += policy_mistakes(arguments.unseen_charge_states)
    problems += missing_packages(suites)
    if not suites:
        problems.append(f"no suite named; expected some of {', '.join(SUITES)}")
    if dtype not in (None, "float32", "float64"):
        problems.append(f"dtype={dtype}: expected float32 or float64")
    for option in ("jobs", "count"):
        value = getattr(arguments, option)
        if value is not None and value < 1:
            problems.append(f"--{option} {value}: expected 1 or more")
    if arguments.data is not None:
        problems += path_mistakes([arguments.data])
        if "charges" not in suites:
            problems.append("--data is for the suite 'charges', which is not named")
    elif of_data:
        problems.append(f"{of_data[0]}: says how to read --data FILE, which is not given")
    if problems:
        raise UserMistake(*problems)
    out = arguments.out or _default_folder(arguments.model, data_set)
    refuse_unwritable(arguments.json, folders=[out])
    return _Request(suites, overrides, of_data, device or "cpu", dtype, data_set, out)


def _about_data(file: str | None, overrides: list[str]) -> list[str]:
    """Write ``--data FILE data.key=value`` as settings of the suite 'charges'.

    Raises:
        UserMistake: a key or a value that files are not read by.
    """
    if file is None:
        return []
    words = [f"charges.data={file}"]
    if overrides:
        said = override_data({}, overrides)
        words.append(f"charges.conventions={json.dumps(said, sort_keys=True)}")
    return words


def _default_folder(model: str, data_set: str | None) -> Path:
    """Folder of the results: in the run, or beside a checkpoint, or here; one for each set."""
    path = Path(model)
    name = "benchmark" if data_set is None else f"benchmark-{data_set}"
    if path.is_dir():
        return path / name
    if path.is_file() and path.parent.name == "checkpoints":
        return path.parent.parent / name
    return Path(f"{path.stem}-{name}")
