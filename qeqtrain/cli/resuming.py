"""``resume=RUN``: the run's own recipe, and what may change in it."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from qeqtrain.cli.arguments import split_overrides
from qeqtrain.errors import UserMistake, nearest
from qeqtrain.recipe import Recipe, load_recipe

FREE = (
    *("trainer.max_epochs", "trainer.max_steps", "trainer.max_time", "trainer.max_cpu_time"),
    *("trainer.accelerator", "trainer.devices", "trainer.nodes", "trainer.threads"),
    *("trainer.checkpoint_every", "trainer.checkpoint_every_steps", "trainer.log_every"),
    *("trainer.profile", "trainer.compile", "data.workers", "logger", "run_folder"),
)
"""Keys a resumed run may change: its length, its logger and its hardware."""


def recipe_of_run(
    run: str, named: str | None, overrides: Sequence[str], *, again: bool = False
) -> tuple[Recipe, Path]:
    """Read the recipe of a run and apply what may be changed.

    Args:
        run: the run's folder.
        named: recipe on the command line, which must still be that of the run.
        overrides: changes on the command line.
        again: whether the command line is the whole one that began the run.

    Raises:
        UserMistake: no such run, or differences that would make it another run.
    """
    folder = Path(run)
    file = folder / "recipe.yaml"
    if not file.is_file():
        siblings = [p.name for p in folder.parent.glob("*") if (p / "recipe.yaml").is_file()]
        raise UserMistake(
            f"resume={run}: expected the folder of a run, with recipe.yaml in it"
            f"{nearest(folder.name, siblings)}"
        )
    kept = load_recipe(str(file), check_files=False)
    if named is None:
        asked = load_recipe(str(file), overrides)
    else:
        before = [] if again else _original_overrides(folder, named)
        asked = load_recipe(named, [*before, *overrides])
        if asked.settings["finetune"]:
            from qeqtrain.cli.finetune import with_source

            asked = with_source(asked, [*before, *overrides])
    asked = asked.with_absolute_paths()
    problems = [
        f"resume={run}: {key} is {_shown(new)}, the run has {_shown(old)}; length, logger and "
        "hardware may change, the rest makes it another run"
        for key, old, new in differences(kept.settings, asked.settings)
    ]
    elsewhere = asked.settings.get("run_folder")
    changed = elsewhere and elsewhere != kept.settings.get("run_folder")
    if changed and Path(str(elsewhere)).resolve() != folder.resolve():
        problems.append(
            f"run_folder={elsewhere}: a resumed run goes on in {folder}; leave it out"
        )
    if problems:
        raise UserMistake(*problems)
    return Recipe(kept.name, file, asked.settings), folder.resolve()


def _original_overrides(folder: Path, named: str) -> list[str]:
    """What the command line changed when the run began, if it named the same recipe."""
    try:
        record = json.loads((folder / "run.json").read_text(encoding="utf-8"))
        argv = record["sessions"][0]["argv"]
    except (OSError, ValueError, LookupError):
        return []
    plain, overrides = split_overrides([str(word) for word in argv])
    return [o for o in overrides if not o.startswith("resume=")] if named in plain else []


def differences(
    old: Mapping[str, Any], new: Mapping[str, Any], prefix: str = ""
) -> Iterator[tuple[str, Any, Any]]:
    """Keys in which two recipes differ, apart from those that are :data:`FREE`."""
    for key in [*old, *(k for k in new if k not in old)]:
        full = f"{prefix}{key}"
        before, after = old.get(key), new.get(key)
        if full in FREE or before == after:
            continue
        if isinstance(before, Mapping) and isinstance(after, Mapping):
            yield from differences(before, after, f"{full}.")
        else:
            yield full, before, after


def _shown(value: Any) -> str:
    return json.dumps(value, default=str)
