"""``qeqtrain finetune``: train a recipe from a trained model on."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import yaml

from qeqtrain.cli.arguments import Parser, split_overrides, take
from qeqtrain.cli.fit import begin_or_go_on, refuse_words
from qeqtrain.errors import UserMistake
from qeqtrain.recipe import Recipe

EPILOG = """\
examples:
  qeqtrain finetune finetune/own_system data.train=frames.extxyz
  qeqtrain finetune finetune/own_system finetune.model=runs/qet/latest finetune=lora \\
      data.train=frames.extxyz
  qeqtrain finetune finetune/new_element finetune.model=my.ckpt data.train=frames.extxyz
  qeqtrain finetune resume=runs/finetune/own_system/latest trainer.max_epochs=200

`qeqtrain list models` names foundation models, `qeqtrain list parts` the options of finetune.
"""

PARTS = ("backbone", "charge", "coupling", "baselines")
"""Groups that come from the source."""

FIXED = ("elements", "references", "scale", "charge_references", "atomic_dipoles", "dtype")
"""Keys of the group ``potential`` that come from the source."""

REMEDIES: Mapping[str, str] = {
    "elements": "finetune.new_elements=add takes up those of the data",
    "references": "finetune.references says what becomes of them",
}

HINTS: Mapping[str, str] = {
    "charge": "; finetune.charge=new makes a new charge head",
    "backbone.conditioning": "; finetune.conditioning lets the model read it",
}
"""What changes parts of the source all the same."""


def configure(parser: Parser, verb: str) -> Callable[[argparse.Namespace], int]:
    """Describe the arguments."""
    del verb
    parser.description = (
        "Train a recipe from a foundation model, a checkpoint or an exported file on. Parts of "
        "the model and its conventions are the source's."
    )
    parser.epilog = EPILOG
    parser.add_argument(
        "words",
        nargs="*",
        metavar="RECIPE | key=value | group=option",
        help="as for `qeqtrain fit`; finetune.model=MODEL says where to begin",
    )
    return run


def run(arguments: argparse.Namespace) -> int:
    """Train."""
    plain, overrides = split_overrides(arguments.words)
    resumed, overrides = take(overrides, "resume")
    refuse_words(plain, resumed)
    return begin_or_go_on(plain, overrides, resumed, with_source)


def refuse_without_source(recipe: Recipe) -> None:
    """Make sure that a recipe says where to begin.

    Raises:
        UserMistake: it does not.
    """
    if not recipe.settings["finetune"]:
        raise UserMistake(
            f"{recipe.name} begins with random weights: choose finetune=full (heads, freeze, "
            f"lora, replay) and finetune.model=MODEL, or run: qeqtrain fit {recipe.name}"
        )


def with_source(recipe: Recipe, overrides: Sequence[str]) -> Recipe:
    """Give a recipe the parts and conventions of the model it begins with.

    Args:
        recipe: with a node ``finetune``.
        overrides: on the command line.

    Raises:
        UserMistake: no node ``finetune``, no such model, or changes of what it fixes.
    """
    refuse_without_source(recipe)
    settings = dict(recipe.settings)
    if sets := settings["data"].get("sets"):
        raise UserMistake(
            "finetune: a model is fine-tuned on one data set, met data.sets "
            f"{', '.join(sets)}; say data=files data.train=FILE, or train on all of them with "
            "qeqtrain fit"
        )
    node = dict(settings["finetune"])
    said = {*_said_by(overrides), *_said_in(recipe.path)}
    new_charges = node.get("charge") == "new"
    _refuse_fixed(said, str(node["model"]), new_charges=new_charges)

    from qeqtrain.models.archive import load

    potential = load(node["model"])
    spec, before = potential.spec, potential.conventions
    ours = {"charge", "coupling"} & said if new_charges else set()
    if new_charges and not potential.has_charges:
        ours |= {"charge"}
    for part in PARTS:
        if part not in ours:
            settings[part] = spec.get(part, {})
    if (wanted := node.get("conditioning", "keep")) != "keep":
        settings["backbone"] = {**settings["backbone"], "conditioning": wanted}
    found = {**settings["potential"], "dtype": spec["dtype"]}
    found["atomic_dipoles"] = bool(spec.get("atomic_dipoles"))
    if not isinstance(potential.scale, dict):
        found["scale"] = potential.scale
    if "potential.unseen_charge_states" not in said:
        found["unseen_charge_states"] = potential.unseen_charge_states
    settings["potential"] = found
    if "total_charge" in before and "data.total_charge" not in said:
        settings["data"] = {**settings["data"], "total_charge": before["total_charge"]}
    if Path(node["model"]).exists():
        node["model"] = str(Path(node["model"]).absolute())
    node["replay"] = _absolute(node.get("replay"))
    settings["finetune"] = node
    return replace(recipe, settings=settings)


def _absolute(value: Any) -> Any:
    if isinstance(value, list):
        return [_absolute(path) for path in value]
    return str(Path(value).absolute()) if isinstance(value, str) else value


def _refuse_fixed(said: set[str], model: str, *, new_charges: bool) -> None:
    """Answer changes of what the source fixes."""
    problems = []
    for key in sorted(said):
        group, _, rest = key.partition(".")
        if group in ("charge", "coupling") and new_charges:
            continue
        if group in (*PARTS, "model"):
            hint = HINTS.get(key, HINTS.get(group, ""))
            problems.append(
                f"{key}: the model's parts are those of {model}; leave it out{hint}"
            )
        elif group == "potential" and rest in FIXED:
            remedy = REMEDIES.get(rest, "leave it out")
            problems.append(f"{key}: is that of {model}; {remedy}")
    if problems:
        raise UserMistake(*problems)


def _said_by(overrides: Sequence[str]) -> set[str]:
    """Keys and groups that the command line changes."""
    return {word.lstrip("+~").partition("=")[0] for word in overrides}


def _said_in(path: Path) -> set[str]:
    """Keys and groups that a recipe's own file changes; nothing of a resolved one."""
    content = yaml.safe_load(path.read_text(encoding="utf-8"))
    if "defaults" not in content:
        return set()
    groups = {
        words.split()[-1].lstrip("/")
        for entry in content["defaults"]
        if isinstance(entry, dict)
        for words in entry
    }
    return groups | set(_keys(content))


def _keys(node: Mapping[str, Any], prefix: str = "") -> set[str]:
    found: set[str] = set()
    for key, value in node.items():
        full = f"{prefix}{key}"
        if isinstance(value, Mapping) and value:
            found |= _keys(value, f"{full}.")
        elif full != "defaults":
            found.add(full)
    return found
