"""Which values come next: a grid, random draws, or a Bayesian search.

A proposal follows from the trials so far and from nothing else: a sweep that was killed goes on
as if it had not been, and there is no state to keep beside the journal.
"""

from __future__ import annotations

import itertools
import json
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from qeqtrain.errors import UserMistake
from qeqtrain.sweeps.definition import Definition
from qeqtrain.sweeps.parameters import Parameter

TRIES = 1000
"""Draws after which a random search over few values has had them all."""
FIRST_AT_RANDOM = 8
"""Trials before a Bayesian search has anything to learn from."""


@dataclass(frozen=True)
class Proposal:
    """Values of the next trial.

    Attributes:
        parameters: by name.
        place: share of each parameter's distribution, where they were drawn.
    """

    parameters: dict[str, Any]
    place: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Past:
    """A trial that has been proposed.

    Attributes:
        parameters: by name.
        place: as in its proposal.
        value: of the metric; ``None`` while it runs.
        lost: whether it ended without a value.
    """

    parameters: Mapping[str, Any]
    place: Mapping[str, float]
    value: float | None = None
    lost: bool = False


def propose(definition: Definition, past: Sequence[Past]) -> Proposal | None:
    """Give the values of the next trial, or ``None`` when there are no more.

    Args:
        definition: of the sweep.
        past: every trial so far, in order.
    """
    count = len(past)
    if definition.run_cap is not None and count >= definition.run_cap:
        return None
    if definition.method == "grid":
        return _grid(definition.parameters, count)
    had = {_key(trial.parameters) for trial in past}
    if definition.method == "bayes":
        found = _bayesian(definition, past)
        if _key(found.parameters) not in had:
            return found
    return _draw(definition.parameters, count, had)


def grid_size(definition: Definition) -> int | None:
    """Number of trials, where it is known: that of the grid, or the cap."""
    sizes = [len(p.values or ()) for p in definition.parameters]
    total = 1
    for size in sizes:
        total *= size
    if definition.method != "grid":
        return definition.run_cap
    return total if definition.run_cap is None else min(total, definition.run_cap)


def _grid(parameters: Sequence[Parameter], count: int) -> Proposal | None:
    """Give the next point of the grid; the last parameter changes fastest."""
    points = itertools.product(*(p.values or () for p in parameters))
    point = next(itertools.islice(points, count, None), None)
    if point is None:
        return None
    return Proposal({p.name: value for p, value in zip(parameters, point, strict=True)})


def _draw(parameters: Sequence[Parameter], count: int, had: set[str]) -> Proposal | None:
    """Draw values that no trial has had; the draw depends on the trial's number alone."""
    generator = random.Random(count)
    for _ in range(TRIES):
        place = {p.name: generator.random() for p in parameters}
        found = _at(parameters, place)
        if _key(found.parameters) not in had:
            return found
    return None


def _at(parameters: Sequence[Parameter], place: Mapping[str, float]) -> Proposal:
    return Proposal({p.name: p.quantile(place[p.name]) for p in parameters}, dict(place))


def _key(parameters: Mapping[str, Any]) -> str:
    return json.dumps(parameters, sort_keys=True, default=str)


def _bayesian(definition: Definition, past: Sequence[Past]) -> Proposal:
    """Ask a Gaussian process for the largest expected improvement, as Optuna has it.

    Jones, Schonlau and Welch, J. Global Optim. 13, 455 (1998); W&B's server searches in the
    same way. The process sees shares of the distributions, uniform between 0 and 1; values
    without an order are told apart by number; trials that still run are taken into account.
    """
    optuna = import_optuna()
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    spaces: dict[str, Any] = {}
    for p in definition.parameters:
        if p.values is not None and not p.ordered:
            names = list(range(len(p.values)))
            spaces[p.name] = optuna.distributions.CategoricalDistribution(names)
        else:
            spaces[p.name] = optuna.distributions.FloatDistribution(0.0, 1.0)
    study = optuna.create_study(
        direction="maximize" if definition.maximize else "minimize",
        sampler=optuna.samplers.GPSampler(seed=len(past), n_startup_trials=FIRST_AT_RANDOM),
    )
    states = optuna.trial.TrialState
    for trial in past:
        if trial.lost:
            continue
        study.add_trial(
            optuna.trial.create_trial(
                state=states.RUNNING if trial.value is None else states.COMPLETE,
                params={
                    p.name: _point(p, trial, spaces[p.name]) for p in definition.parameters
                },
                distributions=spaces,
                value=trial.value,
            )
        )
    asked = study.ask(spaces)
    place: dict[str, float] = {}
    for p in definition.parameters:
        value = asked.params[p.name]
        place[p.name] = value if isinstance(value, float) else _middle(p, value)
    return _at(definition.parameters, place)


def _point(parameter: Parameter, trial: Past, space: Any) -> Any:
    """Coordinate of a past trial in the space of the search."""
    if hasattr(space, "choices"):
        assert parameter.values is not None
        return parameter.values.index(trial.parameters[parameter.name])
    return trial.place[parameter.name]


def _middle(parameter: Parameter, index: int) -> float:
    """Share of the distribution at which a parameter has one of its values."""
    assert parameter.values is not None
    shares = [k / 4096 for k in range(4096)]
    hits = [s for s in shares if parameter.quantile(s) == parameter.values[index]]
    return hits[len(hits) // 2]


def import_optuna() -> Any:
    """Import Optuna, or say how to get it.

    Raises:
        UserMistake: it is not installed.
    """
    try:
        import optuna
    except ImportError as error:
        raise UserMistake(
            "method: bayes needs Optuna; install it with: pip install 'qeqtrain[sweep]', or "
            "choose method: random"
        ) from error
    return optuna
