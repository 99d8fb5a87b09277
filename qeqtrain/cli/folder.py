"""Where a run goes: ``runs/<recipe>/<time>``, the same for all processes of one run."""

from __future__ import annotations

import os
import time
from contextlib import suppress
from pathlib import Path

from qeqtrain.errors import UserMistake
from qeqtrain.recipe import Recipe

_CHOSEN = "QEQTRAIN_RUN_FOLDER"  # first process to those it starts


def rank() -> int:
    """Number of this process among those of the run; 0 where there is but one."""
    for name in ("RANK", "LOCAL_RANK", "SLURM_PROCID"):
        if os.environ.get(name, "").isdigit():
            return int(os.environ[name])
    return 0


def _launched() -> bool:
    """Whether a launcher (torchrun, srun) started several processes of this command."""
    counts = (os.environ.get(name, "1") for name in ("WORLD_SIZE", "SLURM_NTASKS"))
    return any(count.isdigit() and int(count) > 1 for count in counts)


def choose_folder(recipe: Recipe) -> Path:
    """Choose the folder of a new run.

    Lightning starts its other ranks by running the same command again: they take the folder
    that the first one chose. Ranks that a launcher started cannot agree on a time, so there the
    job's number takes its place.

    Raises:
        UserMistake: ranks were launched without a common name.
    """
    if os.environ.get(_CHOSEN) and rank() > 0:
        return Path(os.environ[_CHOSEN])
    given = recipe.settings["run_folder"]
    if given is not None:
        folder = Path(given)
    elif _launched():
        job = os.environ.get("SLURM_JOB_ID") or os.environ.get("TORCHELASTIC_RUN_ID", "none")
        if job == "none":
            raise UserMistake("several processes were launched: say where with run_folder=DIR")
        folder = Path("runs") / recipe.name / f"job-{job}"
    else:
        folder = _unused(Path("runs") / recipe.name / time.strftime("%Y-%m-%d_%H-%M-%S"))
    os.environ[_CHOSEN] = str(folder.absolute())
    return folder


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
            f"qeqtrain fit resume={folder}"
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
