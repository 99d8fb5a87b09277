"""Parameters of a sweep: what values they take, and how often.

Names and arguments of distributions are W&B's (docs.wandb.ai, "Sweep configuration options").
Each is kept as its quantile function, a value for every share between 0 and 1: random search
draws the share uniformly, and Bayesian search looks for a good one, so that both see the same
prior.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from statistics import NormalDist
from typing import Any

from qeqtrain.errors import nearest

MOST_VALUES = 10_000
"""Whole numbers of one parameter beyond which a grid over them makes no sense."""


@dataclass(frozen=True)
class Distribution:
    """Arguments that a distribution takes.

    Attributes:
        needs: those without a default.
        takes: all others, with their defaults.
        rounds: whether values are multiples of ``q``.
    """

    needs: tuple[str, ...] = ()
    takes: Mapping[str, float] | None = None
    rounds: bool = False


_RANGE = Distribution(("min", "max"))
_BELL = Distribution((), {"mu": 0.0, "sigma": 1.0})
_BETA = Distribution(("a", "b"))
_SMOOTH = {
    **dict.fromkeys(("uniform", "log_uniform", "log_uniform_values"), _RANGE),
    **dict.fromkeys(("inv_log_uniform", "inv_log_uniform_values"), _RANGE),
    **dict.fromkeys(("normal", "log_normal"), _BELL),
    "beta": _BETA,
}
_WITHOUT_ROUNDING = ("inv_log_uniform", "inv_log_uniform_values")
DISTRIBUTIONS: dict[str, Distribution] = {
    "constant": Distribution(("value",)),
    "categorical": Distribution(("values",)),
    "categorical_w_probabilities": Distribution(("values", "probabilities")),
    "int_uniform": _RANGE,
    **_SMOOTH,
    **{
        f"q_{name}": Distribution(kind.needs, {**(kind.takes or {}), "q": 1.0}, rounds=True)
        for name, kind in _SMOOTH.items()
        if name not in _WITHOUT_ROUNDING
    },
}
"""W&B's names, and what each takes."""


@dataclass(frozen=True)
class Parameter:
    """One key of the recipe and the values it takes.

    Attributes:
        name: the key, or the group.
        values: all of them; ``None`` where they are a continuum.
        quantile: value for a share between 0 and 1.
        ordered: whether shares next to each other mean values next to each other.
        logarithmic: whether it is natural to draw it on a logarithmic scale.
    """

    name: str
    values: tuple[Any, ...] | None
    quantile: Callable[[float], Any]
    ordered: bool = True
    logarithmic: bool = False

    @property
    def varies(self) -> bool:
        """Whether there is anything to choose."""
        return self.values is None or len(self.values) > 1

    def extremes(self) -> tuple[Any, ...]:
        """All values, or the least and the largest that are likely."""
        if self.values is not None and len(self.values) <= 20:
            return self.values
        return self.quantile(0.0005), self.quantile(0.9995)


def read_parameters(
    node: Mapping[str, Any], problems: list[str], prefix: str = ""
) -> Iterator[Parameter]:
    """Read the ``parameters`` of a sweep file; nested ones get dotted names.

    Args:
        node: parameters by name.
        problems: gets what is wrong, one line each.
        prefix: names of the nodes around these.
    """
    for key, entry in node.items():
        name = f"{prefix}{key}"
        if not isinstance(entry, Mapping):
            problems.append(
                f"parameters.{name}: met {entry!r}, expected value, values, or min and max"
            )
        elif isinstance(entry.get("parameters"), Mapping):
            problems += [
                f"parameters.{name}: '{other}' beside nested parameters means nothing"
                for other in entry
                if other != "parameters"
            ]
            yield from read_parameters(entry["parameters"], problems, f"{name}.")
        else:
            found = _read(name, dict(entry), problems)
            if found is not None:
                yield found


def _read(name: str, entry: dict[str, Any], problems: list[str]) -> Parameter | None:
    where = f"parameters.{name}"
    kind = entry.pop("distribution", None) or _kind(entry)
    if kind is None:
        keys = ("value", "values", "min", "max", "distribution", "parameters")
        hints = [nearest(key, keys) for key in entry if key not in keys]
        problems.append(
            f"{where}: met {', '.join(map(str, entry)) or 'nothing'}, expected value, values, "
            f"min and max, or a distribution{next(filter(None, hints), '')}"
        )
        return None
    if kind not in DISTRIBUTIONS:
        problems.append(
            f"{where}.distribution: unknown '{kind}'{nearest(str(kind), DISTRIBUTIONS)} "
            f"(known: {', '.join(DISTRIBUTIONS)})"
        )
        return None
    known = DISTRIBUTIONS[kind]
    defaults = dict(known.takes or {})
    if kind == "categorical" and "probabilities" in entry:
        kind, known = (
            "categorical_w_probabilities",
            DISTRIBUTIONS["categorical_w_probabilities"],
        )
    before = len(problems)
    takes = (*known.needs, *defaults)
    for key in entry:
        if key not in takes:
            hint = nearest(str(key), takes)
            problems.append(f"{where}: {kind} takes {', '.join(takes)}, not '{key}'{hint}")
    problems += [f"{where}: {kind} needs '{key}'" for key in known.needs if key not in entry]
    given = {**defaults, **entry}
    for key in takes:
        value = given.get(key)
        if key in ("value", "values", "probabilities") or key not in given:
            continue
        if isinstance(value, bool) or not isinstance(value, int | float):
            remedy = "; YAML wants a point in it: 1.0e-3" if isinstance(value, str) else ""
            problems.append(f"{where}.{key}: met {value!r}, expected a number{remedy}")
        elif not math.isfinite(value):
            problems.append(f"{where}.{key}: met {value}, expected a finite number")
    if len(problems) == before:
        wrong = _senseless(kind, given)
        problems += [f"{where}{text}" for text in wrong]
    return _make(name, kind, given) if len(problems) == before else None


def _kind(entry: Mapping[str, Any]) -> str | None:
    """Distribution of a parameter that does not name it, by W&B's rules."""
    if "values" in entry:
        return "categorical"
    if "value" in entry:
        return "constant"
    if "min" in entry and "max" in entry:
        whole = all(type(entry[key]) is int for key in ("min", "max"))
        return "int_uniform" if whole else "uniform"
    return None


def _senseless(kind: str, given: Mapping[str, Any]) -> list[str]:
    """Say what is wrong with arguments of the right type."""
    problems = []
    if "values" in given and not (isinstance(given["values"], list) and given["values"]):
        problems.append(f".values: met {given['values']!r}, expected a list of values")
    elif kind == "categorical_w_probabilities":
        shares = given["probabilities"]
        fits = isinstance(shares, list) and len(shares) == len(given["values"])
        fits = fits and all(isinstance(p, int | float) and p >= 0 for p in shares)
        if not fits or not math.isclose(sum(shares), 1.0, rel_tol=1e-6):
            problems.append(
                f".probabilities: met {shares}, expected one for each value, with the sum 1"
            )
    if "min" in given and not given["min"] < given["max"]:
        problems.append(f": min {given['min']} is not below max {given['max']}")
    if kind.endswith("log_uniform_values") and not given["min"] > 0:
        problems.append(f".min: met {given['min']}, expected more than 0 for a logarithm")
    if kind.endswith("log_uniform") and max(abs(given["min"]), abs(given["max"])) > 300:
        problems.append(
            f": exponents {given['min']} and {given['max']} of e are beyond all numbers; "
            "log_uniform_values takes the values themselves"
        )
    if kind == "int_uniform" and any(int(given[k]) != given[k] for k in ("min", "max")):
        problems.append(f": int_uniform from {given['min']} to {given['max']} is not whole")
    problems += [
        f".{key}: met {given[key]}, expected more than 0"
        for key in ("q", "sigma", "a", "b")
        if key in given and not given[key] > 0
    ]
    return problems


def _make(name: str, kind: str, given: Mapping[str, Any]) -> Parameter:
    if kind == "constant":
        return choice(name, (given["value"],))
    if kind == "categorical":
        return choice(name, tuple(given["values"]))
    if kind == "categorical_w_probabilities":
        return choice(name, tuple(given["values"]), tuple(given["probabilities"]))
    if kind == "int_uniform":
        low, high = int(given["min"]), int(given["max"])
        if high - low < MOST_VALUES:
            return replace(choice(name, tuple(range(low, high + 1))), ordered=True)
        return Parameter(name, None, lambda u: min(low + int(u * (high - low + 1)), high))
    smooth = _quantile(kind.removeprefix("q_"), given)
    logarithmic = "log" in kind
    if not DISTRIBUTIONS[kind].rounds:
        return Parameter(name, None, smooth, logarithmic=logarithmic)
    step = given["q"]

    def rounded(share: float) -> float | int:
        return _multiple(round(smooth(share) / step), step)

    values = None
    if kind == "q_uniform" and (given["max"] - given["min"]) / step < MOST_VALUES:
        first, last = round(given["min"] / step), round(given["max"] / step)
        values = tuple(_multiple(n, step) for n in range(first, last + 1))
    return Parameter(name, values, rounded, logarithmic=logarithmic)


def _multiple(count: int, step: float) -> float | int:
    """Multiply without the dust of binary fractions."""
    return count * int(step) if step == int(step) else round(count * step, 12)


def choice(
    name: str, values: tuple[Any, ...], weights: tuple[float, ...] | None = None
) -> Parameter:
    """Make a parameter of a few values; its quantile function is a staircase."""
    shares = weights or tuple(1.0 / len(values) for _ in values)

    def pick(share: float) -> Any:
        climbed = 0.0
        for value, part in zip(values, shares, strict=True):
            climbed += part
            if share < climbed:
                return value
        return values[-1]

    return Parameter(name, values, pick, ordered=False)


def _quantile(kind: str, given: Mapping[str, Any]) -> Callable[[float], float]:
    """Quantile function of a continuous distribution."""
    if kind in ("normal", "log_normal"):
        bell = NormalDist(given["mu"], given["sigma"])
        if kind == "normal":
            return lambda u: bell.inv_cdf(_inside(u))
        return lambda u: math.exp(bell.inv_cdf(_inside(u)))
    if kind == "beta":
        from scipy.special import betaincinv

        return lambda u: float(betaincinv(given["a"], given["b"], _inside(u)))
    low, high = float(given["min"]), float(given["max"])
    if kind == "uniform":
        return lambda u: low + u * (high - low)
    if kind.endswith("_values"):
        low, high = math.log(low), math.log(high)
    if kind == "inv_log_uniform":  # log(1 / x) lies between min and max
        low, high = -high, -low
    return lambda u: math.exp(low + u * (high - low))


def _inside(share: float) -> float:
    """Keep a share off both ends, where bells have no value."""
    return min(max(share, 1e-9), 1.0 - 1e-9)
