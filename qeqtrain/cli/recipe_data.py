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
    from qeqtrain.data.describe import describe_source, render
    from qeqtrain.data.mixed import MixedSets
    from qeqtrain.recipe.building import make

    data = make(settings, "data")
    data.prepare({}, {})
    parts = data.train_parts().items()
    described = {name: describe_source(source) for name, (source, _) in parts}
    if not isinstance(data, MixedSets):
        return f"{render(described[''])}\n", {"sets": described}
    told, epoch = data.told(), data.epoch_counts
    lines = [f"an epoch has {sum(epoch.values()):,} frames"]
    for name, found in described.items():
        lines += ["", f"{name}: {told[name]}", render(found)]
    return "\n".join(lines) + "\n", {"sets": described, "epoch": epoch}
