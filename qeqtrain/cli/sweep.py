"""``qeqtrain sweep``: many trials of a recipe, on W&B or here."""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from qeqtrain.cli.arguments import Parser, split_overrides
from qeqtrain.cli.outputs import refuse_unwritable
from qeqtrain.errors import UserMistake
from qeqtrain.recipe.launcher import CHOICE, LauncherChoice, split_launcher
from qeqtrain.sweeps.definition import Definition, read_definition

EPILOG = """\
examples:
  qeqtrain sweep sweep/backbone_charge --jobs 2
  qeqtrain sweep my_sweep.yaml --count 20 trainer.max_time=00:10:00
  qeqtrain sweep entity/project/a1b2c3d4          (join a sweep, on any machine)
  qeqtrain sweep my_sweep.yaml hydra/launcher=submitit_slurm hydra.launcher.partition=gpu

A sweep file is W&B's own: method, metric, parameters, early_terminate, command. With a W&B key
it is registered there; without one, or with --local, it runs here, in runs/sweeps/<name>; the
same command again goes on with it. `qeqtrain copy sweep/backbone_charge` gives one to edit.
"""
_ID = re.compile(r"([\w.-]+/){0,2}[a-z0-9]{8}")


def configure(parser: Parser, verb: str) -> Callable[[argparse.Namespace], int]:
    """Describe the arguments."""
    del verb
    parser.description = (
        "Train a recipe many times with different values, and say what is best."
    )
    parser.epilog = EPILOG
    parser.add_argument(
        "words",
        nargs="*",
        metavar="SWEEP | ID | key=value",
        help="a sweep file or the id of a W&B sweep, and values that all trials share",
    )
    add_options(parser)
    parser.add_argument("--count", type=int, metavar="N", help="most trials; as run_cap")
    parser.add_argument("--local", action="store_true", help="here, also with a W&B key")
    return run


def add_options(parser: Parser) -> None:
    """Add how trials run, wherever they come from."""
    parser.add_argument(
        "--jobs", type=int, metavar="N", help="of a sweep or -m: runs at a time; 1"
    )
    parser.add_argument("--folder", type=Path, metavar="DIR", help="of a sweep or -m")


def run(arguments: argparse.Namespace) -> int:
    """Run a sweep, or join one."""
    plain, overrides = split_overrides(arguments.words)
    if len(plain) != 1:
        raise UserMistake(
            f"expected one sweep file, or the id of a sweep, met {', '.join(plain) or 'none'}"
        )
    refuse_numbers(arguments)
    given = plain[0]
    if _ID.fullmatch(given) and not Path(given).exists():
        if overrides:
            raise UserMistake(f"{given}: a sweep that runs already takes no {overrides[0]}")
        refuse_options(arguments, "a sweep that runs on W&B", ("folder", "local"))
        from qeqtrain.sweeps.remote import join

        return join(given, arguments.jobs or 1, arguments.count)
    launcher, overrides = split_launcher(overrides)
    written = read_definition(given)
    definition = written.with_more(overrides, arguments.count)
    from qeqtrain.sweeps.checking import refuse_mistakes

    refuse_mistakes(definition)
    from qeqtrain.sweeps.remote import register, why_local

    away = None if launcher is None else f"{CHOICE} starts its trials"
    reason = "--local" if arguments.local else away or why_local()
    if reason is None:
        refuse_options(arguments, "a sweep on W&B (or add --local)", ("folder",))
        return register(definition, arguments.jobs or 1, arguments.count)
    if not arguments.local:
        sys.stdout.write(f"W&B: {reason}; the sweep runs here\n")
    definition = written.without_logger().with_more(overrides, arguments.count)
    return run_here(definition, arguments.folder, arguments.jobs, launcher)


def refuse_options(arguments: argparse.Namespace, what: str, names: Sequence[str]) -> None:
    """Refuse options that have no use where they were given."""
    given = [f"--{name}" for name in names if getattr(arguments, name, None)]
    if given:
        raise UserMistake(f"{', '.join(given)}: of no use to {what}")


def run_here(
    definition: Definition,
    folder: Path | None,
    jobs: int | None,
    launcher: LauncherChoice | None,
) -> int:
    """Run a sweep from this machine.

    Args:
        definition: checked.
        folder: of the sweep.
        jobs: trials at a time.
        launcher: of the trials; ``None`` for processes of this machine.
    """
    folder = Path("runs") / "sweeps" / definition.name if folder is None else folder
    refuse_unwritable(folders=[folder])
    folder = folder.absolute()
    from qeqtrain.sweeps.local import LocalSweep

    place = None
    if launcher is not None:
        from qeqtrain.sweeps.submitted import Jobs

        place = Jobs(launcher, folder)
    results = LocalSweep(definition, folder, jobs, place).run()
    sys.stdout.write(
        f"\n{results.table()}\n\n"
        f"best: {results.ranked[0].trial.folder}\n"
        f"tables and figure: {folder / 'results.md'}, .csv, .json, .png\n"
    )
    return 0


def refuse_numbers(arguments: argparse.Namespace) -> None:
    """Refuse counts that mean nothing."""
    problems = [
        f"--{name} {value}: expected 1 or more"
        for name in ("jobs", "count")
        if (value := getattr(arguments, name, None)) is not None and value < 1
    ]
    if problems:
        raise UserMistake(*problems)
