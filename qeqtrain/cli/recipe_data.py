"""What is in the data of a recipe: every set as the recipe reads it, and how they are mixed."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from qeqtrain.recipe import load_recipe


def info_of_recipe(recipe: str, overrides: Sequence[str]) -> tuple[str, dict[str, Any]]:
    """Describe the training files of a recipe, set by set.

    Args:
        recipe: path of a YAML file.
        overrides: ``key=value`` as for a run.

    Returns:
        Text, and the same for machines: descriptions by set under ``sets``, frames of an epoch
        by set under ``epoch``.

    Raises:
        UserMistake: all mistakes of the recipe, or of its data, together.
    """
    settings = load_recipe(recipe, overrides).settings["data"]
    from qeqtrain.data.describe import describe, render
    from qeqtrain.data.labels import Conventions
    from qeqtrain.data.mixed import MixedSets
    from qeqtrain.recipe.building import make

    data = make(settings, "data")
    if not isinstance(data, MixedSets):
        only = describe(settings["train"], Conventions.from_dict(data.conventions))
        return f"{render(only)}\n", {"sets": {"": only}}
    data.prepare({}, {})
    described = {
        name: describe(settings["sets"][name]["train"], one.files.conventions)
        for name, one in data.sets.items()
    }
    told, epoch = data.told(), data.epoch_counts
    lines = [f"an epoch has {sum(epoch.values()):,} frames"]
    for name, found in described.items():
        lines += ["", f"{name}: {told[name]}", render(found)]
    return "\n".join(lines) + "\n", {"sets": described, "epoch": epoch}
