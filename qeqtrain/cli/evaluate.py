"""``qeqtrain evaluate``: how good a model is on labelled data."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from qeqtrain.cli.arguments import Parser, split_overrides
from qeqtrain.cli.data import write_json
from qeqtrain.cli.models import add_policy, model_mistakes, path_mistakes, policy_mistakes
from qeqtrain.cli.outputs import refuse_unwritable
from qeqtrain.errors import UserMistake, nearest
from qeqtrain.recipe.node import override_data

if TYPE_CHECKING:
    from qeqtrain.evaluation.inference import Frames
    from qeqtrain.neighbors import Reach

SPLITS = ("test", "val", "train")
EPILOG = """\
examples:
  qeqtrain evaluate runs/quickstart/latest                 the run's own test split
  qeqtrain evaluate runs/qet/latest test.extxyz --out report
  qeqtrain evaluate qet-matq crystals.extxyz data.total_charge=zero --json errors.json

data.key=value says what the files do not say themselves; what the model was trained with holds
where nothing is given.
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
        "words", nargs="*", metavar="DATA | data.key=value", help="files to read"
    )
    parser.add_argument("--out", type=Path, metavar="DIR", help="where the report goes")
    parser.add_argument("--json", type=Path, metavar="FILE", help="the numbers for machines")
    parser.add_argument(
        "--split", metavar="S", help="without DATA: test (default), val or train"
    )
    add_policy(parser)
    return run


def run(arguments: argparse.Namespace) -> int:
    """Evaluate."""
    paths, overrides = split_overrides(arguments.words)
    problems = [*model_mistakes(arguments.model), *path_mistakes(paths)]
    problems += policy_mistakes(arguments.unseen_charge_states)
    split = arguments.split or "test"
    if split not in SPLITS:
        problems.append(
            f"--split {split}: expected {', '.join(SPLITS)}{nearest(split, SPLITS)}"
        )
    if arguments.split and paths:
        problems.append("--split is for the data of the run itself; leave out the files, or it")
    if problems:
        raise UserMistake(*problems)
    out = arguments.out or _default_folder(arguments.model)
    refuse_unwritable(arguments.json, folders=[out])

    from qeqtrain.models.archive import load

    potential = load(arguments.model)
    if arguments.unseen_charge_states is not None:
        potential.unseen_charge_states = arguments.unseen_charge_states
    if paths:
        parts = open_files(paths, conventions_for(potential.conventions, overrides))
    else:
        parts = _own_split(arguments.model, split, overrides, potential.cutoffs)

    from qeqtrain.evaluation.evaluate import evaluate
    from qeqtrain.evaluation.report import as_json, table, write_report

    found = evaluate(potential, parts)
    report = write_report(found, out)
    sys.stdout.write(f"{table(found).rstrip()}\nreport: {report}\n")
    write_json(arguments.json, as_json(found))
    return 0


def conventions_for(
    trained_with: Mapping[str, Any], overrides: Sequence[str]
) -> dict[str, Any]:
    """Conventions to read files with: the model's own, and what the command line changes."""
    known = (
        *("total_charge", "nan", "aliases", "dipole_origin", "born_charges_order"),
        *("valences", "hdf5"),
    )
    own = {key: trained_with[key] for key in known if key in trained_with}
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
    model: str, split: str, overrides: Sequence[str], cutoffs: Mapping[str, Reach]
) -> dict[str, Frames]:
    """Read the frames that a run kept apart."""
    from qeqtrain.cli.frames import Chosen
    from qeqtrain.models.archive import best_checkpoint, read_entry
    from qeqtrain.recipe.building import make
    from qeqtrain.recipe.files import file_mistakes

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
    return {split: Chosen(source, frames)}


def _default_folder(model: str) -> Path:
    """Folder of the report: in the run, or beside a checkpoint, or here."""
    path = Path(model)
    if path.is_dir():
        return path / "report"
    if path.is_file() and path.parent.name == "checkpoints":
        return path.parent.parent / "report"
    return Path(f"{path.stem}-report")
