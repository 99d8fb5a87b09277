"""``qeqtrain fit RECIPE -m key=a,b``: every combination of the values, one run each."""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence
from pathlib import Path

from qeqtrain.cli.sweep import refuse_numbers, run_here
from qeqtrain.errors import UserMistake
from qeqtrain.recipe.folders import find_recipe, recipe_name
from qeqtrain.recipe.launcher import split_launcher
from qeqtrain.recipe.multirun import several_values
from qeqtrain.sweeps.checking import refuse_mistakes
from qeqtrain.sweeps.definition import Definition
from qeqtrain.sweeps.metrics import SCORE
from qeqtrain.sweeps.parameters import choice


def run(recipe: str, overrides: Sequence[str], arguments: argparse.Namespace) -> int:
    """Run all combinations, and say which was best.

    Args:
        recipe: shipped name or path.
        overrides: some of them with several values.
        arguments: with ``jobs`` and ``folder``.
    """
    refuse_numbers(arguments)
    launcher, overrides = split_launcher(overrides)
    fixed, several = several_values(overrides)
    if not several:
        raise UserMistake("-m expects a key with several values, such as seed=0,1,2")
    name = recipe_name(find_recipe(recipe))
    definition = Definition(
        name=name,
        recipe=recipe,
        fixed=tuple(fixed),
        method="grid",
        metric=SCORE,
        maximize=False,
        parameters=tuple(choice(key, tuple(values)) for key, values in several.items()),
    )
    refuse_mistakes(definition)
    folder = arguments.folder
    if folder is None:
        folder = Path("runs") / name / time.strftime("multirun_%Y-%m-%d_%H-%M-%S")
    return run_here(definition, folder, arguments.jobs, launcher)
