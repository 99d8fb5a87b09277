"""Recipes: found, composed by Hydra, checked from source alone, and made into objects.

Hydra stops at the first mistake, and merges misspelt keys of a YAML file without a word. Here a
recipe is composed leniently and then held against the signatures of the classes that its parts
name, read from their source files: nothing heavy is imported, and all mistakes come at once.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from qeqtrain.errors import UserMistake
from qeqtrain.recipe.files import with_absolute_paths
from qeqtrain.recipe.folders import find_recipe, recipe_name


@dataclass(frozen=True)
class Recipe:
    """A recipe without mistakes.

    Attributes:
        name: of the shipped recipe or of the user's file.
        path: file it came from.
        settings: every key, resolved, in plain dicts, lists, numbers and text.
    """

    name: str
    path: Path
    settings: Mapping[str, Any]

    def as_yaml(self) -> str:
        """Write every setting as YAML."""
        import yaml

        return str(yaml.safe_dump(dict(self.settings), sort_keys=False, allow_unicode=True))

    def with_absolute_paths(self) -> Recipe:
        """Make the data's paths absolute: a run can then be resumed from any folder."""
        data = with_absolute_paths(self.settings["data"])
        return replace(self, settings={**self.settings, "data": data})


def load_recipe(
    recipe: str,
    overrides: Sequence[str] = (),
    *,
    only_show: bool = False,
    check_files: bool = True,
) -> Recipe:
    """Compose and check a recipe.

    Args:
        recipe: shipped name, or path of a YAML file.
        overrides: ``key=value`` and ``group=option``, in Hydra's grammar.
        only_show: leave values that must be given, and files, as they are.
        check_files: whether files that the recipe names have to be there.

    Raises:
        UserMistake: with every mistake that can be seen without reading data.
    """
    path = find_recipe(recipe)
    # Hydra takes 0.2 s to import, which a mistake in the name need not wait for.
    from qeqtrain.recipe.checking import check
    from qeqtrain.recipe.composing import compose_leniently

    made = compose_leniently(path, overrides)
    settings = check(made, mandatory=not only_show, files=check_files and not only_show)
    if made.mistakes:
        raise UserMistake(*made.mistakes)
    return Recipe(recipe_name(path), path, settings)


__all__ = ["Recipe", "load_recipe"]
