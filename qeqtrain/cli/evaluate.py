"""``qeqtrain evaluate``: how good a model is on labelled data."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from qeqtrain.cli.arguments import Parser, split_overrides, take
from qeqtrain.cli.data import write_json
from qeqtrain.cli.models import (
    add_compiled,
    add_policy,
    model_mistakes,
    path_mistakes,
    policy_mistakes,
    take_models,
)
from qeqtrain.cli.outputs import refuse_unwritable
from qeqtrain.errors import UserMistake, nearest

if TYPE_CHECKING:
    from qeqtrain.evaluation.evaluate import Evaluation
    from qeqtrain.evaluation.inference import Frames
    from qeqtrain.models.potential import Potential
    from qeqtrain.neighbors import Reach

SPLITS = ("test", "val", "train")
EPILOG = """\
examples:
  qeqtrain evaluate runs/quickstart/latest                 the run's own test split
  qeqtrain evaluate runs/qet/latest test.extxyz --out report
  qeqtrain evaluate qet-matq crystals.extxyz data.total_charge=zero --json errors.json
  qeqtrain evaluate runs/mixed/latest test.h5 data.set=matpes     as one of its data sets
  qeqtrain evaluate runs/a runs/b qet-matq test.extxyz     three models in one table
  qeqtrain evaluate runs/a runs/b runs/c --ensemble test.extxyz --calibrate val.extxyz

With --ensemble the models are one: its prediction is their mean, and the report says how errors
compare with their spread. A factor for the spread is fitted on --calibrate, or, where all are
runs on the same data, on their validation split. Models come before data; files are read as the
first model was trained to read them.

data.key=value says what the files do not say themselves; what the model was trained with holds
where nothing is given. A model of several data sets speaks for its main one unless
data.set=NAME says otherwise; on its own split it is judged set by set.
"""


def configure(parser: Parser, verb: str) -> Callable[[argparse.Namespace], int]:
    """Describe the arguments."""
    del verb
    parser.description = (
        "Errors of a model per quantity, parity plots, worst structures, timing."
    )
    parser.epilog = EPILOG
    parser.add_argument(
        "model", metavar="MODEL", help="run folder, checkpoint or published model"
    )
    parser.add_argument(
        "words",
        nargs="*",
        metavar="MODEL | DATA | data.key=value",
        help="more models, then files to read",
    )
    parser.add_argument("--out", type=Path, metavar="DIR", help="where the report goes")
    parser.add_argument("--json", type=Path, metavar="FILE", help="the numbers for machines")
    parser.add_argument(
        "--split", metavar="S", help="without DATA: test (default), val or train"
    )
    parser.add_argument(
        "--ensemble", action="store_true", help="take the models as one, and judge their spread"
    )
    parser.add_argument(
        "--calibrate",
        metavar="FILE",
        help="with --ensemble: data to fit a factor on",
    )
    add_policy(parser)
    add_compiled(parser)
    return run


def run(arguments: argparse.Namespace) -> int:
    """Evaluate."""
    plain, overrides = split_overrides(arguments.words)
    data_set, overrides = take(overrides, "data.set")
    models, paths = take_models(arguments.model, plain)
    problems = [text for model in models for text in model_mistakes(model)]
    problems += path_mistakes([*paths, *([arguments.calibrate] if arguments.calibrate else [])])
    problems += policy_mistakes(arguments.unseen_charge_states)
    split = arguments.split or "test"
    if split not in SPLITS:
        problems.append(
            f"--split {split}: expected {', '.join(SPLITS)}{nearest(split, SPLITS)}"
        )
    if arguments.split and paths:
        problems.append("--split is for the data of the run itself; leave out the files, or it")
    if arguments.ensemble and len(models) < 2:
        problems.append("--ensemble: expected two or more models, met one")
    if arguments.calibrate and not arguments.ensemble:
        problems.append("--calibrate is for --ensemble; leave it out, or say both")
    if problems:
        raise UserMistake(*problems)
    out = arguments.out or _default_folder(models)
    refuse_unwritable(arguments.json, folders=[out])
    if len(models) > 1:
        return _run_several(arguments, models, paths, overrides, out, data_set)

    potential = _load(models[0], arguments, data_set)
    parts = _data_for(models[0], potential, paths, overrides, split, data_set)

    from qeqtrain.evaluation.evaluate import evaluate
    from qeqtrain.evaluation.report import as_json, table, write_report

    found = evaluate(potential, parts)
    report = write_report(found, out)
    sys.stdout.write(f"{table(found).rstrip()}\nreport: {report}\n")
    write_json(arguments.json, as_json(found))
    return 0


def _run_several(
    arguments: argparse.Namespace,
    models: Sequence[str],
    paths: Sequence[str],
    overrides: Sequence[str],
    out: Path,
    data_set: str | None,
) -> int:
    """Evaluate several models on the same frames, one after the other."""
    same = _same_runs(models)
    if not paths and not same:
        raise UserMistake(
            "several models that were not trained on the same data and splits: expected files "
            "to evaluate them on"
        )

    def evaluations(paths: Sequence[str], split: str) -> dict[str, Evaluation]:
        """Judge all of them by the same labels: as the first was trained to read them."""
        loaded = [_load(model, arguments, data_set) for model in models]
        parts = _data_for(models[0], loaded[0], paths, overrides, split, data_set)
        names = short_names(models)
        return {n: evaluate(p, parts) for n, p in zip(names, loaded, strict=True)}

    from qeqtrain.evaluation.comparison import (
        comparison_document,
        comparison_json,
        comparison_text,
        short_names,
    )
    from qeqtrain.evaluation.document import write_document
    from qeqtrain.evaluation.evaluate import evaluate
    from qeqtrain.evaluation.report import write_json_report

    found = evaluations(paths, arguments.split or "test")
    if arguments.ensemble:
        from qeqtrain.evaluation import ensemble

        scales = {}
        if arguments.calibrate or (same and arguments.split in (None, "test")):
            known = evaluations([arguments.calibrate] if arguments.calibrate else [], "val")
            scales = ensemble.fitted_scales(ensemble.joined(known))
        one = ensemble.joined(found, scales)
        text, document = ensemble.ensemble_text(one), ensemble.ensemble_document(one)
        numbers = ensemble.ensemble_json(one)
    else:
        text, document = comparison_text(found), comparison_document(found)
        numbers = comparison_json(found)
    report = write_document(document, out)
    write_json_report(numbers, out)
    sys.stdout.write(f"{text.rstrip()}\nreport: {report}\n")
    write_json(arguments.json, numbers)
    return 0


def _load(model: str, arguments: argparse.Namespace, data_set: str | None) -> Potential:
    """Load a model, with what the command line allows of it."""
    from qeqtrain.models.archive import load

    potential = load(model, data_set=data_set, compiled=arguments.compiled)
    if arguments.unseen_charge_states is not None:
        potential.unseen_charge_states = arguments.unseen_charge_states
    return potential


def _data_for(
    model: str,
    potential: Potential,
    paths: Sequence[str],
    overrides: Sequence[str],
    split: str,
    data_set: str | None,
) -> dict[str, Frames]:
    """Open files as a model was trained to read them, or a split of its own run."""
    if paths:
        return open_files(paths, conventions_for(potential.conventions, overrides))
    return _own_split(model, split, overrides, potential.cutoffs, data_set)


def _same_runs(models: Sequence[str]) -> bool:
    """Whether all models were trained on the same frames, split in the same way."""
    from qeqtrain.models.archive import passport

    prints = {passport(model).get("data_fingerprint") for model in models}
    return len(prints) == 1 and None not in prints


def conventions_for(
    trained_with: Mapping[str, Any], overrides: Sequence[str]
) -> dict[str, Any]:
    """Conventions to read files with: the model's own, and what the command line changes."""
    known = (
        *("total_charge", "nan", "aliases", "dipole_origin", "born_charges_order"),
        *("valences", "hdf5"),
    )
    own = {key: trained_with[key] for key in known if key in trained_with}
    if not overrides:
        return own
    # Here: a model is evaluated without Hydra as well, where nothing is overridden.
    from qeqtrain.recipe.node import override_data

    return override_data(own, overrides)


def open_files(paths: Sequence[str], conventions: Mapping[str, Any]) -> dict[str, Frames]:
    """Open files by their names; the mistakes of all of them come together."""
    from qeqtrain.data.labels import Conventions
    from qeqtrain.data.sources import open_source

    agreed = Conventions(**conventions)
    parts: dict[str, Frames] = {}
    problems: list[str] = []
    for path in paths:
        try:
            parts[path] = open_source(path, agreed)
        except UserMistake as mistake:
            problems += mistake.problems
    if problems:
        raise UserMistake(*problems)
    return parts


def _own_split(
    model: str,
    split: str,
    overrides: Sequence[str],
    cutoffs: Mapping[str, Reach],
    data_set: str | None,
) -> dict[str, Frames]:
    """Read the frames that a run kept apart, by data set where there are several."""
    from qeqtrain.cli.frames import Chosen
    from qeqtrain.data.mixed import MixedSets
    from qeqtrain.models.archive import best_checkpoint, read_entry
    from qeqtrain.recipe.building import make
    from qeqtrain.recipe.files import file_mistakes
    from qeqtrain.recipe.node import override_data

    if not Path(model).exists():
        raise UserMistake(f"evaluate {model}: expected files to evaluate it on")
    recipe = read_entry(best_checkpoint(Path(model)))[0].get("recipe") or {}
    if "data" not in recipe:
        raise UserMistake(f"{model} does not say what it was trained on; give files")
    node = dict(recipe["data"])
    target = str(node.pop("_target_"))
    settings = override_data(node, overrides, target)
    if problems := file_mistakes(settings):
        raise UserMistake(*problems)
    data = make({"_target_": target, **settings}, "data")
    data.prepare(cutoffs, {})
    source, frames = data.source_of(split)
    if len(frames) == 0:
        raise UserMistake(f"{model}: its {split} split is empty; choose another, or give files")
    if not isinstance(data, MixedSets):
        return {split: Chosen(source, frames)}
    by_set = {name: data.frames_of(name, split) for name in data.sets}
    chosen = {n: f for n, f in by_set.items() if len(f) and data_set in (None, n)}
    if not chosen:
        raise UserMistake(f"{model}: {data_set} has no frame in its {split} split; give files")
    return {name: Chosen(source, mine) for name, mine in chosen.items()}


def _default_folder(models: Sequence[str]) -> Path:
    """Folder of the report: in the run, or beside a checkpoint, or here."""
    if len(models) > 1:
        return Path("evaluation-report")
    path = Path(models[0])
    if path.is_dir():
        return path / "report"
    if path.is_file() and path.parent.name == "checkpoints":
        return path.parent.parent / "report"
    return Path(f"{path.stem}-report")
