"""``qeqtrain fit``: train a recipe, or go on with a run."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable

from qeqtrain.cli.arguments import Parser, split_overrides, take
from qeqtrain.cli.folder import choose_folder, claim, forget, rank, set_latest
from qeqtrain.cli.sweep import add_options, refuse_options
from qeqtrain.errors import UserMistake
from qeqtrain.recipe import load_recipe
from qeqtrain.sweeps.words import from_agent

EPILOG = """\
examples:
  qeqtrain fit quickstart
  qeqtrain fit qet data.train=train.extxyz data.val=val.extxyz backbone.channels=32
  qeqtrain fit my.yaml charge=none loss.charges=0 trainer.max_time=01:00:00 logger=wandb
  qeqtrain fit resume=runs/qet/latest trainer.max_epochs=200
  qeqtrain fit quickstart -m seed=0,1,2 charge=diagonal,gaussian --jobs 2

`qeqtrain list` names the recipes, `qeqtrain list parts` the options of groups, and
`qeqtrain show RECIPE` every key that can be set.
"""


def configure(parser: Parser, verb: str) -> Callable[[argparse.Namespace], int]:
    """Describe the arguments."""
    del verb
    parser.description = "Train a recipe. The run goes to runs/<recipe>/<time>."
    parser.epilog = EPILOG
    parser.add_argument(
        "words",
        nargs="*",
        metavar="RECIPE | key=value | group=option",
        help="a shipped recipe or the path of a YAML file, and what to change in it; "
        "run_folder=DIR says where the run goes, resume=RUN goes on with a run",
    )
    parser.add_argument(
        "-m",
        "--multirun",
        action="store_true",
        help="keys may have several values, a,b: one run for every combination",
    )
    add_options(parser)
    return run


def run(arguments: argparse.Namespace) -> int:
    """Train."""
    plain, overrides = split_overrides(arguments.words)
    if "WANDB_SWEEP_ID" in os.environ:
        overrides = from_agent(overrides)
    resumed, overrides = take(overrides, "resume")
    if len(plain) > 1:
        raise UserMistake(f"expected one recipe, met {', '.join(plain)}; changes are key=value")
    if not plain and resumed is None:
        raise UserMistake("expected a recipe, or resume=RUN; `qeqtrain list` names the recipes")
    if arguments.multirun:
        from qeqtrain.cli import multirun

        if resumed is not None:
            raise UserMistake("-m and resume=RUN do not go together")
        return multirun.run(plain[0], overrides, arguments)
    refuse_options(arguments, "fit without -m", ("jobs", "folder"))
    if resumed is not None:
        from qeqtrain.cli.resuming import recipe_of_run

        recipe, folder = recipe_of_run(resumed, plain[0] if plain else None, overrides)
    else:
        recipe = load_recipe(plain[0], overrides).with_absolute_paths()
        folder = choose_folder(recipe)

    from qeqtrain.recipe.building import build

    built = build(recipe)
    if resumed is None:
        claim(folder)
    before = set_latest(folder)
    from qeqtrain.evaluation.pictures import pictures_of
    from qeqtrain.training.run import fit

    try:
        fit(
            **built,
            folder=folder,
            recipe=recipe.settings,
            resume=resumed is not None,
            pictures=pictures_of,
        )
    except BaseException:  # of what never began, not even an empty folder is left
        forget(folder, before)
        raise
    if rank() == 0:
        sys.stdout.write(f"evaluate it: qeqtrain evaluate {folder}\n")
    return 0
