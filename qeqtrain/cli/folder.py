"""Where a run goes: ``runs/<recipe>/<time>``, the same for all processes of one run."""

from __future__ import annotations

import json
import os
import sys
import time
from contextlib import suppress
from pathlib import Path

from qeqtrain.errors import UserMistake
from qeqtrain.recipe import Recipe
from qeqtrain.training.launchers import job, launcher, rank, relaunched

_CHOSEN = "QEQTRAIN_RUN_FOLDER"  # first process to those it starts
_RESUMED = "QEQTRAIN_RUN_RESUMED"  # the same


def choose_folder(recipe: Recipe) -> Path:
    """Choose the folder of a new run.

    Lightning starts its other ranks by running the same command again: they take the folder
    that the first one chose. Ranks that a launcher started cannot agree on a time, so there the
    job's number takes its place.

    Raises:
        UserMistake: ranks were launched without a common name.
    """
    if os.environ.get(_CHOSEN) and relaunched():
        return Path(os.environ[_CHOSEN])
    given = recipe.settings["run_folder"]
    if given is not None:
        folder = Path(given)
    elif (found := launcher()) is not None and found.ranks > 1:
        if found.job is None:
            raise UserMistake(
                f"{found.name} started {found.ranks} processes, and no name is common to them: "
                "say where the run goes with run_folder=DIR"
            )
        folder = Path("runs") / recipe.name / f"job-{found.job}"
    else:
        folder = _unused(Path("runs") / recipe.name / time.strftime("%Y-%m-%d_%H-%M-%S"))
    os.environ[_CHOSEN] = str(folder.absolute())
    return folder


def run_to_go_on_with(recipe: Recipe, *, any_job: bool) -> Path | None:
    """Find the run that this very command began before; ``None`` if there is none.

    A job that its cluster requeued runs the same command again, in the same place and under
    the same number. The other ranks that a first one started do as it did.

    Args:
        recipe: of this command.
        any_job: take whatever run is in the folder that the recipe names (``resume=auto``).
    """
    if relaunched():
        return Path(os.environ[_CHOSEN]) if os.environ.get(_RESUMED) else None
    given = recipe.settings["run_folder"]
    if given is not None:
        places = [Path(given)]
    else:
        places = list((Path("runs") / recipe.name).glob("*"))
    begun = [
        (started, folder)
        for folder in places
        if not folder.is_symlink()
        for started in [_began_here(folder, any_job=any_job and given is not None)]
        if started is not None
    ]
    if not begun:
        return None
    folder = max(begun)[1]
    os.environ[_CHOSEN], os.environ[_RESUMED] = str(folder.absolute()), "1"
    return folder


def _began_here(folder: Path, *, any_job: bool) -> str | None:
    """Say when the run in a folder began, if it is that of this command and job."""
    if any_job:
        return "" if (folder / "recipe.yaml").is_file() else None
    try:
        record = json.loads((folder / "run.json").read_text(encoding="utf-8"))
        first = record["sessions"][0]
        own = first["job"] == job() and first["argv"][1:] == sys.argv[1:]
        return str(first["started"]) if own else None
    except (OSError, ValueError, LookupError):
        return None


def _unused(folder: Path) -> Path:
    count, found = 1, folder
    while found.exists():
        count += 1
        found = folder.with_name(f"{folder.name}_{count}")
    return found


def claim(folder: Path) -> None:
    """Make the folder of a new run.

    Raises:
        UserMistake: it cannot be made, or holds anything already.
    """
    if rank() > 0:
        return
    try:
        folder.mkdir(parents=True, exist_ok=True)
        used = any(folder.iterdir())
    except OSError as error:
        raise UserMistake(f"run_folder={folder}: cannot be made ({error.strerror})") from error
    if used:
        raise UserMistake(
            f"run_folder={folder}: is not empty; choose another, or go on with that run: "
            f"qeqtrain fit resume={folder} (resume=auto: go on if there is one, or begin)"
        )


def set_latest(folder: Path) -> Path | None:
    """Point ``latest`` beside the run at it, where the run is in its usual place.

    Returns:
        What it pointed at before.
    """
    link = folder.parent / "latest"
    if rank() > 0 or "runs" not in folder.parts or (link.exists() and not link.is_symlink()):
        return None
    before = link.readlink() if link.is_symlink() else None
    folder.parent.mkdir(parents=True, exist_ok=True)
    temporary = folder.parent / f".latest-{os.getpid()}"
    temporary.unlink(missing_ok=True)
    temporary.symlink_to(folder.name)
    temporary.replace(link)
    return before


def forget(folder: Path, before: Path | None) -> None:
    """Take back the folder of a run that a mistake ended before it began.

    Args:
        folder: of the run.
        before: what :func:`set_latest` returned.
    """
    if rank() > 0 or (folder / "recipe.yaml").exists():
        return
    for empty in (folder / "checkpoints", folder):
        with suppress(OSError):
            empty.rmdir()
    link = folder.parent / "latest"
    if link.is_symlink() and link.readlink() == Path(folder.name):
        link.unlink()
        if before is not None:
            link.symlink_to(before)
    for parent in folder.parents if "runs" in folder.parts else ():
        with suppress(OSError):
            parent.rmdir()
        if parent.name == "runs":
            break
