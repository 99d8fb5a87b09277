"""Several values of one key on the command line, ``seed=0,1,2``, in Hydra's grammar."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Glob, QuotedString
from hydra.errors import HydraException

from qeqtrain.errors import UserMistake


def several_values(overrides: Sequence[str]) -> tuple[list[str], dict[str, list[Any]]]:
    """Separate keys with several values: ``a,b``, ``choice(a,b)``, ``range(1,4)``.

    Returns:
        Overrides of one value, as given; and values in plain types, by key.

    Raises:
        UserMistake: several values that are not a finite list.
    """
    parser = OverridesParser.create()
    single: list[str] = []
    several: dict[str, list[Any]] = {}
    problems = []
    for text in overrides:
        try:
            (override,) = parser.parse_overrides([text])
        except HydraException:
            single.append(text)  # refused with the recipe's other mistakes
            continue
        if not override.is_sweep_override():
            single.append(text)
        elif isinstance(override.value(), Glob) or not override.is_discrete_sweep():
            problems.append(
                f"override '{text}': expected a list of values (seed=0,1,2) or range(a,b); an "
                "interval is for a sweep file"
            )
        else:
            several[override.key_or_group] = [_plain(v) for v in override.sweep_iterator()]
    if problems:
        raise UserMistake(*problems)
    return single, several


def _plain(value: Any) -> Any:
    """Take a value out of the classes of Hydra's grammar."""
    if isinstance(value, QuotedString):
        return value.text
    if isinstance(value, list):
        return [_plain(item) for item in value]
    if isinstance(value, dict):
        return {str(key): _plain(item) for key, item in value.items()}
    return value
