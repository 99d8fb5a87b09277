"""Objects from the settings of a recipe, ready for :func:`qeqtrain.training.run.fit`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from hydra.utils import get_class

from qeqtrain.errors import UserMistake
from qeqtrain.recipe import Recipe

_MODEL = ("backbone", "charge", "coupling", "baselines")
_OBJECTS = ("data", "loss", "optim", "trainer")


def build(recipe: Recipe) -> dict[str, Any]:
    """Make the parts of a recipe.

    Parts of the model, callbacks and loggers stay plain nodes: they need what only the data
    know, and :mod:`qeqtrain.training` makes them then.

    Args:
        recipe: checked, so that every ``_target_`` is an allowed one.

    Raises:
        UserMistake: values that are of the right type but make no sense; all of them.
    """
    settings = recipe.settings
    objects: dict[str, Any] = {}
    problems: list[str] = []
    for name in (*_OBJECTS, *(["finetune"] if settings["finetune"] else [])):
        try:
            objects[name] = make(settings[name], name)
        except UserMistake as mistake:
            problems += mistake.problems
    if problems:
        raise UserMistake(*problems)
    return {
        **objects,
        "potential": potential_settings(settings),
        "logger": settings["logger"] or None,
        "callbacks": {name: node for name, node in settings["callbacks"].items() if node},
        "seed": settings["seed"],
    }


def potential_settings(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Gather what defines the potential: its parts, elements, references, scale and dtype."""
    return {**{part: settings[part] for part in _MODEL}, **settings["potential"]}


def make(node: Mapping[str, Any], name: str) -> Any:
    """Make one part of a checked recipe.

    Args:
        node: ``_target_`` and its arguments.
        name: of the node in the recipe, for messages.

    Raises:
        UserMistake: values that make no sense to the part.
    """
    made = get_class(node["_target_"])
    try:
        return made(**{key: value for key, value in node.items() if key != "_target_"})
    except ValueError as error:
        raise UserMistake(f"{name}: {error}") from error
