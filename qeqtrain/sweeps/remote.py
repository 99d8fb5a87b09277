"""A sweep on W&B: registered there, worked off by W&B's agents on any number of machines."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from qeqtrain.errors import UserMistake
from qeqtrain.sweeps.definition import ARGUMENTS, Definition
from qeqtrain.training.tracking import why_offline

PROJECT = "qeqtrain"


def why_local() -> str | None:
    """Say why a sweep cannot be registered; ``None`` if it can."""
    return why_offline()


def for_server(definition: Definition) -> dict[str, Any]:
    """Give the file's content with what the command line added, as W&B takes it.

    Trials log to W&B whatever the file says: the server sees their metric nowhere else.
    """
    content = {"program": "qeqtrain", **(definition.written or {})}  # agents want a program
    command = list(content["command"])
    place = command.index(ARGUMENTS)
    more = [word for word in definition.fixed if word not in command]
    if not any(word.startswith("logger=") for word in (*command, *more)):
        more.append("logger=wandb")
    content["command"] = [*command[:place], *more, *command[place:]]
    content["metric"] = {
        "name": definition.metric,
        "goal": "maximize" if definition.maximize else "minimize",
        **({} if definition.target is None else {"target": definition.target}),
    }
    if definition.run_cap is not None:
        content["run_cap"] = definition.run_cap
    return content


def register(definition: Definition, jobs: int, count: int | None) -> int:
    """Register a sweep and work it off.

    Args:
        definition: checked.
        jobs: agents on this machine; others join with ``qeqtrain sweep ID``.
        count: most trials of each agent.
    """
    import wandb

    content = for_server(definition)
    project = str(content.get("project") or os.environ.get("WANDB_PROJECT") or PROJECT)
    try:
        sweep = wandb.sweep(content, entity=content.get("entity"), project=project)
    except Exception as error:  # wandb raises what its server says, in many classes
        raise UserMistake(f"W&B refused the sweep: {str(error).splitlines()[0]}") from error
    entity = content.get("entity") or os.environ.get("WANDB_ENTITY")
    path = "/".join(part for part in (entity, project, sweep) if part)
    sys.stdout.write(f"sweep {path}; on other machines: qeqtrain sweep {path}\n")
    sys.stdout.flush()
    return run_agents(path, jobs, count)


def join(path: str, jobs: int, count: int | None) -> int:
    """Work on a sweep that is registered already.

    Raises:
        UserMistake: there is no key, or no server.
    """
    reason = why_offline()
    if reason is not None:
        raise UserMistake(f"sweep {path}: cannot be joined: {reason}")
    return run_agents(path, jobs, count)


def run_agents(path: str, jobs: int, count: int | None) -> int:
    """Run W&B's agent, some at a time, until the sweep has no more trials.

    Raises:
        UserMistake: an agent failed; what it said stands above.
    """
    words = ["--count", str(count)] if count is not None else []
    command = [sys.executable, "-m", "wandb", "agent", *words, path]
    agents = [subprocess.Popen(command, env=_environment(os.environ)) for _ in range(jobs)]
    try:
        codes = [agent.wait() for agent in agents]
    finally:
        for agent in agents:
            if agent.poll() is None:
                agent.terminate()
    if any(codes):
        raise UserMistake(f"sweep {path}: W&B's agent ended with code {max(codes, key=abs)}")
    return 0


def _environment(given: Mapping[str, str]) -> dict[str, str]:
    """Let agents find this installation's ``qeqtrain``, and trials keep to one thread."""
    here = str(Path(sys.executable).parent)
    path = os.pathsep.join(part for part in (here, given.get("PATH")) if part)
    return {"OMP_NUM_THREADS": "1", **given, "PATH": path}
