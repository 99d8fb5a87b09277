"""What a benchmark suite is: tasks, a measurement of one task, and what all rows say.

A suite is made of its settings alone and can be sent to another process. A task is one
structure, or one pair, or one size: what is measured by itself, kept as one row, and not
measured again when an interrupted benchmark goes on.
"""

from __future__ import annotations

import dataclasses
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar, Generic, TypeVar, get_type_hints

from qeqtrain.errors import UserMistake, nearest
from qeqtrain.evaluation.tables import Table
from qeqtrain.models.potential import Potential

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@dataclass(frozen=True)
class Settings:
    """What every suite may be told.

    Attributes:
        count: tasks at most; all unless given.
        seed: of every random choice.
    """

    count: int | None = None
    seed: int = 0


S = TypeVar("S", bound=Settings)


@dataclass(frozen=True)
class Task:
    """What is measured by itself.

    Attributes:
        name: of its row, unique in the suite.
        content: what the suite needs for it; can be sent to another process.
    """

    name: str
    content: Mapping[str, Any]


@dataclass(frozen=True)
class Plan:
    """What a suite will measure.

    Attributes:
        tasks: in order.
        notes: sentences for the report: what was left out, and where references come from.
    """

    tasks: Sequence[Task]
    notes: Sequence[str] = ()


@dataclass(frozen=True)
class Row:
    """The result of one task.

    Attributes:
        task: its name.
        values: plain values as measured; empty if it failed.
        failed: why it failed, or nothing.
        seconds: that it took.
        cpu: seconds of its process.
    """

    task: str
    values: Mapping[str, Any] = field(default_factory=dict)
    failed: str = ""
    seconds: float = 0.0
    cpu: float = 0.0


@dataclass(frozen=True)
class Findings:
    """What the rows of a suite say together.

    Attributes:
        numbers: the summary for machines, each name with its unit.
        tables: for people.
        notes: sentences beside the tables.
        plots: by the name of their file.
        card: entries under ``metrics`` of a model card of matbench-discovery, by group.
    """

    numbers: Mapping[str, Any]
    tables: Sequence[Table]
    notes: Sequence[str] = ()
    plots: Mapping[str, Figure] = field(default_factory=dict)
    card: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)


class Suite(ABC, Generic[S]):
    """One benchmark.

    Args:
        settings: of this suite.

    Attributes:
        name: as on the command line.
        settings_class: a frozen dataclass; the type and the default of every setting.
        own_process: whether each task has a process of its own, one after the other, because
            time or memory is what is measured.
    """

    name: ClassVar[str]
    settings_class: ClassVar[type[Settings]]
    own_process: ClassVar[bool] = False

    def __init__(self, settings: S) -> None:
        self.settings = settings

    @abstractmethod
    def plan(self, potential: Potential) -> Plan:
        """Choose the tasks for a model.

        Raises:
            UserMistake: there is nothing to measure for this model, or no reference.
        """

    @abstractmethod
    def measure(self, potential: Potential, content: Mapping[str, Any]) -> dict[str, Any]:
        """Measure one task; plain values, ready for JSON.

        Raises:
            TaskFailed: it could not be measured; the reason becomes its row.
        """

    @abstractmethod
    def findings(self, rows: Sequence[Row]) -> Findings:
        """Say what the rows mean; at least one of them succeeded."""


class TaskFailed(Exception):
    """A task could not be measured, for a reason in words."""


def values_of(rows: Sequence[Row]) -> list[Mapping[str, Any]]:
    """Give the values of the rows that succeeded."""
    return [row.values for row in rows if not row.failed]


def parse_settings(
    classes: Mapping[str, type[Settings]],
    overrides: Sequence[str],
    common: Mapping[str, Any],
) -> dict[str, Settings]:
    """Fill the settings of several suites from ``key=value`` words.

    ``key=value`` is for every chosen suite that has the key; ``suite.key=value`` for one.

    Args:
        classes: settings by the name of the chosen suites.
        overrides: words of the command line; later ones win.
        common: values for all, from options.

    Raises:
        UserMistake: every key that no chosen suite has and every value of a wrong kind.
    """
    given: dict[str, dict[str, Any]] = {name: dict(common) for name in classes}
    problems = []
    for word in overrides:
        full, _, text = word.lstrip("+").partition("=")
        suite, _, key = full.rpartition(".")
        chosen = [n for n in classes if (not suite or n == suite) and key in _kinds(classes[n])]
        if not chosen:
            problems.append(_unknown(full, classes))
            continue
        for name in chosen:
            try:
                given[name][key] = _value(text, _kinds(classes[name])[key])
            except ValueError:
                kind = _kind_name(_kinds(classes[name])[key])
                problems.append(f"{full}={text}: expected {kind}")
                break
    if problems:
        raise UserMistake(*problems)
    return {name: classes[name](**given[name]) for name in classes}


def _unknown(key: str, classes: Mapping[str, type[Settings]]) -> str:
    known = sorted({k for c in classes.values() for k in _kinds(c)} - {"count"})
    qualified = [f"{n}.{k}" for n, c in classes.items() for k in _kinds(c)]
    close = nearest(key, [*known, *qualified])
    return f"{key}: no setting of {', '.join(classes)}; expected {', '.join(known)}{close}"


def _kinds(settings: type[Settings]) -> dict[str, Any]:
    """Type of every setting."""
    hints = get_type_hints(settings)
    return {f.name: hints[f.name] for f in dataclasses.fields(settings)}


def _value(text: str, kind: Any) -> Any:
    if kind in (int, int | None):
        return int(text)
    if kind in (float, float | None):
        return float(text)
    if kind is bool:
        if text.lower() not in ("true", "false"):
            raise ValueError(text)
        return text.lower() == "true"
    if kind == tuple[str, ...]:
        return tuple(x for x in text.strip("[]").replace(" ", "").split(",") if x)
    return text


def _kind_name(kind: Any) -> str:
    names = {int: "a whole number", float: "a number", bool: "true or false"}
    return next((n for k, n in names.items() if kind in (k, k | None)), "words, with commas")


def plain_settings(settings: Settings) -> dict[str, Any]:
    """Give settings as they are kept beside the rows."""
    return {
        k: list(v) if isinstance(v, tuple) else v
        for k, v in dataclasses.asdict(settings).items()
    }
