"""A sweep file: W&B's own format, read once and checked as a whole.

``command`` says what is fitted, so that the same file works under plain ``wandb sweep`` and
``wandb agent``::

    command: [${env}, qeqtrain, fit, RECIPE, key=value, ${args_no_hyphens}]
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import yaml

from qeqtrain.errors import UserMistake, nearest
from qeqtrain.recipe.folders import find_sweep
from qeqtrain.sweeps.hyperband import Hyperband, read_hyperband
from qeqtrain.sweeps.metrics import METRICS
from qeqtrain.sweeps.parameters import Parameter, read_parameters

KEYS = (
    *("program", "command", "method", "metric", "parameters", "early_terminate"),
    *("run_cap", "name", "description", "project", "entity"),
)
METHODS = ("grid", "random", "bayes")
GOALS = ("minimize", "maximize")
ARGUMENTS = "${args_no_hyphens}"
COMMAND = f"command: [${{env}}, qeqtrain, fit, RECIPE, {ARGUMENTS}]"
_ENVIRONMENT = re.compile(r"\$\{envvar:(\w+)\}")


@dataclass(frozen=True)
class Definition:
    """A sweep.

    Attributes:
        name: of its folder.
        recipe: what every trial fits: a shipped name, or a path.
        fixed: ``key=value`` that all trials share.
        method: ``grid``, ``random`` or ``bayes``.
        metric: name of what is compared, as a logger knows it.
        maximize: whether more is better.
        target: a value of the metric that ends the sweep.
        parameters: what is varied.
        hyperband: when to end a trial early.
        run_cap: most trials; ``None``: until a grid is done.
        written: the file's content, for W&B.
    """

    name: str
    recipe: str
    fixed: tuple[str, ...]
    method: str
    metric: str
    maximize: bool
    parameters: tuple[Parameter, ...]
    target: float | None = None
    hyperband: Hyperband | None = None
    run_cap: int | None = None
    written: Mapping[str, Any] | None = None

    def with_more(self, overrides: Sequence[str], count: int | None) -> Definition:
        """Add what the command line says: values for all trials, and how many trials."""
        cap = self.run_cap if count is None else count
        return replace(self, fixed=(*self.fixed, *overrides), run_cap=cap)

    def without_logger(self) -> Definition:
        """Leave out the file's ``logger=wandb``, which is for trials of W&B's agents."""
        fixed = tuple(text for text in self.fixed if text != "logger=wandb")
        return replace(self, fixed=fixed)

    def better(self, value: float, than: float) -> bool:
        """Whether a value of the metric is better than another."""
        return value > than if self.maximize else value < than

    def fingerprint(self) -> dict[str, Any]:
        """What makes it the same sweep when it goes on later, in plain values."""
        return {
            "recipe": self.recipe,
            "fixed": list(self.fixed),
            "method": self.method,
            "metric": self.metric,
            "goal": GOALS[self.maximize],
            "parameters": {
                p.name: list(p.values) if p.values is not None else list(p.extremes())
                for p in self.parameters
            },
        }


def read_definition(given: str) -> Definition:
    """Read a sweep file.

    Args:
        given: path, or the name of a shipped one.

    Raises:
        UserMistake: everything that is wrong with it.
    """
    path = find_sweep(given)
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        line = mark.line + 1 if mark else "?"
        raise UserMistake(f"{path}:{line}: not valid YAML: {error.problem}") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise UserMistake(f"{path}: not a YAML file: {str(error).splitlines()[0]}") from error
    if not isinstance(content, dict) or "parameters" not in content:
        raise UserMistake(
            f"{path}: expected a sweep file with 'parameters', 'method', 'metric' and "
            f"'command'; a recipe is trained by: qeqtrain fit {given}"
        )
    problems: list[str] = []
    definition = _read(content, path, problems)
    if problems or definition is None:
        raise UserMistake(*(f"{path.name}: {problem}" for problem in problems))
    return definition


def _read(content: dict[str, Any], path: Path, problems: list[str]) -> Definition | None:
    for key in content:
        if key == "recipe":
            problems.append(
                f"unknown key 'recipe'; the recipe stands in the command: {COMMAND}"
            )
        elif key not in KEYS:
            problems.append(
                f"unknown key '{key}'{nearest(str(key), KEYS)} (known: {', '.join(KEYS)})"
            )
    recipe, fixed = _read_command(content.get("command"), problems)
    method = content.get("method")
    if method not in METHODS:
        hint = nearest(str(method), METHODS)
        problems.append(f"method: met {method!r}, expected {' | '.join(METHODS)}{hint}")
    metric, maximize, target = _read_metric(content.get("metric"), problems)
    node = content["parameters"]
    parameters: tuple[Parameter, ...] = ()
    if isinstance(node, Mapping) and node:
        parameters = tuple(read_parameters(node, problems))
    else:
        problems.append(f"parameters: met {node!r}, expected keys of the recipe")
    if method == "grid":
        problems += [
            f"parameters.{p.name}: a grid has no end over a continuum; give values, or a "
            "distribution of whole steps (int_uniform, q_uniform)"
            for p in parameters
            if p.values is None
        ]
    cap = content.get("run_cap")
    if cap is not None and (type(cap) is not int or cap < 1):
        problems.append(f"run_cap: met {cap!r}, expected a whole number above 0")
    hyperband = None
    if content.get("early_terminate") is not None:
        hyperband = read_hyperband(content["early_terminate"], problems)
    name = content.get("name") or path.stem
    if not re.fullmatch(r"[\w .+-]+", str(name)):
        problems.append(f"name: met {name!r}, expected letters, digits, spaces and . + - _")
    if problems:
        return None
    return Definition(
        name=str(name).replace(" ", "_"),
        recipe=recipe,
        fixed=fixed,
        method=str(method),
        metric=metric,
        maximize=maximize,
        target=target,
        parameters=parameters,
        hyperband=hyperband,
        run_cap=cap,
        written=content,
    )


def _read_command(command: Any, problems: list[str]) -> tuple[str, tuple[str, ...]]:
    """Take the recipe and what is fixed in it out of ``command``."""
    if not isinstance(command, list) or not all(isinstance(word, str) for word in command):
        met = "nothing" if command is None else repr(command)
        problems.append(f"command: met {met}; write {COMMAND}")
        return "", ()
    words = [_ENVIRONMENT.sub(lambda m: os.environ.get(m[1], ""), word) for word in command]
    if "fit" not in words or "qeqtrain" not in " ".join(words[: words.index("fit")]):
        problems.append(f"command: expected it to run 'qeqtrain fit'; write {COMMAND}")
        return "", ()
    after = words[words.index("fit") + 1 :]
    if ARGUMENTS not in after:
        other = next((word for word in after if word.startswith("${args")), None)
        met = f"; it has {other}, which gives words that 'fit' does not read" if other else ""
        problems.append(f"command: the trial's values are missing: add {ARGUMENTS}{met}")
    rest = [word for word in after if not word.startswith("${")]
    plain = [word for word in rest if "=" not in word]
    if len(plain) != 1:
        met = ", ".join(plain) or "none"
        problems.append(f"command: expected one recipe after 'fit', met {met}")
        return "", ()
    return plain[0], tuple(word for word in rest if "=" in word)


def _read_metric(node: Any, problems: list[str]) -> tuple[str, bool, float | None]:
    """Read what is compared; by default what the best checkpoint is chosen by."""
    if node is None:
        return METRICS[0], False, None
    if not isinstance(node, Mapping):
        problems.append(f"metric: met {node!r}, expected name and goal")
        return METRICS[0], False, None
    keys = ("name", "goal", "target")
    problems += [
        f"metric: unknown key '{key}'{nearest(str(key), keys)} (known: {', '.join(keys)})"
        for key in node
        if key not in keys
    ]
    name, goal, target = node.get("name"), node.get("goal", GOALS[0]), node.get("target")
    if name not in METRICS:
        problems.append(
            f"metric.name: a run never logs {name!r}{nearest(str(name), METRICS)} "
            f"(it logs: {', '.join(METRICS)})"
        )
    if goal not in GOALS:
        hint = nearest(str(goal), GOALS)
        problems.append(f"metric.goal: met {goal!r}, expected {' | '.join(GOALS)}{hint}")
    if target is not None and (isinstance(target, bool) or not isinstance(target, int | float)):
        problems.append(f"metric.target: met {target!r}, expected a number")
    return str(name), goal == "maximize", target
