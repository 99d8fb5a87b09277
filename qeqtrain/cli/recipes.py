"""``qeqtrain list``, ``show`` and ``copy``: what there is to run, and how it is made up."""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Callable
from pathlib import Path

from qeqtrain.cli.arguments import Parser
from qeqtrain.errors import UserMistake, nearest
from qeqtrain.recipe import folders, load_recipe

KINDS = ("recipes", "sweeps", "parts", "models", "families", "suites")
_WITH_SOURCE = re.compile(r"^\s*-\s*override /finetune:\s*(?!none\b)\w", re.MULTILINE)
"""The line of a recipe that begins with a trained model."""


def configure(parser: Parser, verb: str) -> Callable[[argparse.Namespace], int]:
    """Describe the arguments of one of the three verbs."""
    if verb == "list":
        parser.description = "List what can be named on the command line."
        parser.epilog = "example:\n  qeqtrain list parts"
        parser.add_argument("kind", nargs="?", default="recipes", help=" | ".join(KINDS))
        return run_list
    if verb == "show":
        parser.description = "Print a recipe as it would run: every value, every default."
        parser.epilog = "example:\n  qeqtrain show quickstart backbone.channels=32 charge=none"
        parser.add_argument("recipe", help="shipped name, or path of a YAML file")
        parser.add_argument("overrides", nargs="*", help="key=value or group=option")
        return run_show
    parser.description = "Write an editable copy of a recipe; an existing file is left alone."
    parser.epilog = "example:\n  qeqtrain copy quickstart my.yaml\n  qeqtrain fit my.yaml"
    parser.add_argument("recipe", help="shipped name, or path of a YAML file")
    parser.add_argument(
        "to", nargs="?", help="file or folder; the recipe's name here by default"
    )
    return run_copy


def run_list(arguments: argparse.Namespace) -> int:
    """Print names with one line about each."""
    if arguments.kind not in KINDS:
        hint = nearest(arguments.kind, KINDS)
        raise UserMistake(f"list {arguments.kind}: expected {', '.join(KINDS)}{hint}")
    rows = {
        "sweeps": _sweeps,
        "parts": _parts,
        "models": _models,
        "families": _families,
        "suites": _suites,
    }
    lines = rows[arguments.kind]() if arguments.kind in rows else [*_recipes(), *_sweeps()]
    width = max((len(name) for name, _ in lines), default=0) + 2
    for name, about in lines:
        sys.stdout.write(f"{name:<{width}}{about}".rstrip() + "\n")
    return 0


def _recipes() -> list[tuple[str, str]]:
    root = folders.shipped("recipes")
    return [(name, _first_comment(root / f"{name}.yaml")) for name in folders.recipe_names()]


def _sweeps() -> list[tuple[str, str]]:
    root = folders.shipped("recipes")
    return [(name, _first_comment(root / f"{name}.yaml")) for name in folders.sweep_names()]


def _parts() -> list[tuple[str, str]]:
    root = folders.shipped("configs")
    return [
        (f"{group}={option}", _first_comment(root / group / f"{option}.yaml"))
        for group in folders.group_names()
        for option in folders.option_names(group)
    ]


def _first_comment(path: Path) -> str:
    for line in path.read_text(encoding="utf-8").splitlines():
        if line.startswith("#") and "@package" not in line:
            return line.lstrip("# ")
    return ""


def _models() -> list[tuple[str, str]]:
    from qeqtrain.models.foundation import FOUNDATION_MODELS

    rows = []
    for model in FOUNDATION_MODELS.values():
        rows.append((model.name, model.summary))
        rows.append(("", f"source: {model.source}; licence: {model.license}"))
        rows.append(("", f"elements: {model.elements}; convention: {model.convention}"))
        for file, digest in model.files.items():
            rows.append(("", f"sha256 of {file}: {digest or 'not known'}"))
        if model.url is None:
            rows.append(("", f"files: from {model.page}, by hand"))
    return rows


def _families() -> list[tuple[str, str]]:
    from qeqtrain.data.salts import FAMILIES

    return [(name, family.meaning) for name, family in FAMILIES.items()]


def _suites() -> list[tuple[str, str]]:
    from qeqtrain.evaluation.benchmarks.registry import SUITES

    return list(SUITES.items())


def run_show(arguments: argparse.Namespace) -> int:
    """Print the resolved recipe; files that it names need not exist."""
    recipe = load_recipe(arguments.recipe, arguments.overrides, only_show=True)
    sys.stdout.write(recipe.as_yaml())
    return 0


def run_copy(arguments: argparse.Namespace) -> int:
    """Write the recipe's own file elsewhere."""
    is_sweep = arguments.recipe in folders.sweep_names()
    find = folders.find_sweep if is_sweep else folders.find_recipe
    source = find(arguments.recipe)
    target = Path(arguments.to) if arguments.to else Path(source.name)
    if target.is_dir():
        target /= source.name
    if target.suffix != ".yaml":
        raise UserMistake(f"copy to {target}: expected a name that ends in .yaml")
    if target.exists():
        raise UserMistake(f"copy to {target}: the file exists; choose another name")
    if not target.parent.is_dir():
        raise UserMistake(f"copy to {target}: there is no folder {target.parent}")
    try:
        target.write_text(source.read_text(encoding="utf-8"), encoding="utf-8")
    except OSError as error:
        raise UserMistake(f"copy to {target}: cannot be written: {error.strerror}") from error
    begins = _WITH_SOURCE.search(source.read_text(encoding="utf-8"))
    verb = "sweep" if is_sweep else "finetune" if begins else "fit"
    sys.stdout.write(f"{target} written; edit it, then: qeqtrain {verb} {target}\n")
    return 0
