"""One node of a recipe on its own: ``data.key=value`` where there is no recipe around it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from qeqtrain.errors import UserMistake
from qeqtrain.recipe.checking import check_node
from qeqtrain.recipe.composing import Composition, apply_values, parse

CONVENTIONS = "qeqtrain.data.labels.Conventions"
"""What can be said of files where no recipe does."""


def override_data(
    defaults: Mapping[str, Any], overrides: Sequence[str], target: str = CONVENTIONS
) -> dict[str, Any]:
    """Apply ``data.key=value`` to a node, with the checks that a recipe gets.

    Args:
        defaults: values that hold where nothing is given.
        overrides: from the command line.
        target: class that takes the values.

    Raises:
        UserMistake: all mistakes together.
    """
    made = Composition(OmegaConf.create({"data": dict(defaults)}), Path())
    values = parse(overrides, made.mistakes)
    stray = [o for o in values if not o.key_or_group.startswith("data.")]
    made.mistakes += [f"{o.input_line}: expected data.key=value" for o in stray]
    apply_values([o for o in values if o not in stray], made)
    settings = check_node(made, "data", target)
    if made.mistakes:
        raise UserMistake(*made.mistakes)
    return settings
