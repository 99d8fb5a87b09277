"""``qeqtrain fit``: train a recipe, or go on with a run."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from qeqtrain.cli.arguments import Parser, split_overrides, take
from qeqtrain.cli.folder import choose_folder, claim, forget, run_to_go_on_with, set_latest
from qeqtrain.cli.sweep import add_options, refuse_options
from qeqtrain.errors import Diverged, Interrupted, UserMistake
from qeqtrain.recipe import Recipe, load_recipe
from qeqtrain.recipe.launcher import CHOICE
from qeqtrain.sweeps.words import from_agent
from qeqtrain.training.launchers import job, rank, relaunched, restarted

AUTO = "auto"
"""Of ``resume``: go on with the run in ``run_folder`` if there is one, or begin it."""

EPILOG = """\
examples:
  qeqtrain fit quickstart
  qeqtrain fit qet data.train=train.extxyz data.val=val.extxyz backbone.channels=32
  qeqtrain fit my.yaml charge=none loss.charges=0 trainer.max_time=01:00:00 logger=wandb
  qeqtrain fit resume=runs/qet/latest trainer.max_epochs=200
  qeqtrain fit quickstart -m seed=0,1,2 charge=diagonal,gaussian --jobs 2
  qeqtrain fit my.yaml trainer=ddp trainer.devices=4 run_folder=runs/big resume=auto

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
        "run_folder=DIR says where the run goes, resume=RUN goes on with a run, "
        "resume=auto with the one in run_folder, if there is one",
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
    refuse_words(plain, resumed)
    if arguments.multirun:
        from qeqtrain.cli import multirun

        if resumed is not None:
            raise UserMistake("-m and resume=RUN do not go together")
        return multirun.run(plain[0], overrides, arguments)
    refuse_options(arguments, "fit without -m", ("jobs", "folder"))
    if any(text.startswith(CHOICE) for text in overrides):
        raise UserMistake(f"{CHOICE} is for sweep and fit -m; one run: sbatch, then srun")
    return begin_or_go_on(plain, overrides, resumed, _of_fit)


def refuse_words(plain: Sequence[str], resumed: str | None) -> None:
    """Make sure that one recipe is named, or a run.

    Raises:
        UserMistake: it is not so.
    """
    if len(plain) > 1:
        raise UserMistake(f"expected one recipe, met {', '.join(plain)}; changes are key=value")
    if not plain and (resumed is None or resumed == AUTO):
        raise UserMistake("expected a recipe, or resume=RUN; `qeqtrain list` names the recipes")


def _of_fit(recipe: Recipe, overrides: Sequence[str]) -> Recipe:
    """Make sure that a recipe begins with random weights."""
    del overrides
    if recipe.settings["finetune"]:
        raise UserMistake(
            f"{recipe.name} begins with a trained model; run: qeqtrain finetune {recipe.name} "
            "(or say finetune=none)"
        )
    return recipe


def begin_or_go_on(
    plain: Sequence[str],
    overrides: Sequence[str],
    resumed: str | None,
    ready: Callable[[Recipe, Sequence[str]], Recipe],
) -> int:
    """Train a recipe in a new run, or go on with one.

    Args:
        plain: the recipe, or nothing.
        overrides: changes on the command line.
        resumed: a run, ``auto``, or nothing.
        ready: what the verb makes of the recipe of a new run.
    """
    again = resumed == AUTO or (resumed is None and restarted())
    recipe = None
    if again:
        recipe = load_recipe(plain[0], overrides).with_absolute_paths()
        if resumed == AUTO and recipe.settings["run_folder"] is None and job() is None:
            raise UserMistake(
                "resume=auto: which run? Say run_folder=DIR; what is there goes on, or begins"
            )
        found = run_to_go_on_with(recipe, any_job=resumed == AUTO)
        resumed = None if found is None else str(found)
    if resumed is not None:
        from qeqtrain.cli.resuming import recipe_of_run

        named = plain[0] if plain else None
        recipe, folder = recipe_of_run(resumed, named, overrides, again=again)
    else:
        recipe = recipe or load_recipe(plain[0], overrides).with_absolute_paths()
        recipe = ready(recipe, overrides)
        folder = choose_folder(recipe)
    return train(recipe, folder, resume=resumed is not None)


def train(recipe: Recipe, folder: Path, *, resume: bool) -> int:
    """Train a recipe whose run has its place.

    Args:
        recipe: checked.
        folder: of the run.
        resume: whether a run lies there already.
    """
    from qeqtrain.recipe.building import build

    built = build(recipe)
    if not resume:
        claim(folder)
    before = set_latest(folder)
    from qeqtrain.evaluation.pictures import pictures_of
    from qeqtrain.training.run import fit
    from qeqtrain.training.signals import StopSignals

    try:
        with StopSignals() as signals:
            fit(
                **built,
                folder=folder,
                recipe=recipe.settings,
                resume=resume,
                signals=signals,
                pictures=pictures_of,
            )
    except (Diverged, Interrupted) as error:
        if rank() == 0:
            forget(folder, before)
            raise
        # The first rank says why; Lightning would end it for a code of one that it started.
        if relaunched():
            return 0
        return 3 if isinstance(error, Diverged) else 75
    except BaseException:  # of what never began, not even an empty folder is left
        forget(folder, before)
        raise
    if rank() == 0:
        from qeqtrain.evaluation.run_report import report_on

        report_on(folder, built["data"])
        sys.stdout.write(f"evaluate it: qeqtrain evaluate {folder}\n")
    return 0
