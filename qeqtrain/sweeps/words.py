"""Values of a trial as words of the command line, in Hydra's grammar."""

from __future__ import annotations

import ast
import math
import re
from collections.abc import Mapping, Sequence
from typing import Any

_PLAIN = re.compile(r"[A-Za-z_./][\w./+-]*")
_SPECIAL = ("null", "true", "false", "nan", "inf")


def word(name: str, value: Any) -> str:
    """Write one value as ``name=value``."""
    return f"{name}={_written(value)}"


def _written(value: Any) -> str:
    if value is None:
        return "null"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, int | float):
        return repr(value) if math.isfinite(value) else str(value)
    if isinstance(value, Mapping):
        return "{" + ",".join(f"{key}:{_written(v)}" for key, v in value.items()) + "}"
    if isinstance(value, list | tuple):
        return "[" + ",".join(_written(v) for v in value) + "]"
    text = str(value)
    if _PLAIN.fullmatch(text) and text.lower() not in _SPECIAL:
        return text
    if re.fullmatch(r"[+-]?[\d.]+([eE][+-]?\d+)?", text):
        return text  # what YAML 1.1 takes for text, such as 1e-4, means a number here
    return "'" + text.replace("\\", "\\\\").replace("'", "\\'") + "'"


def from_agent(overrides: Sequence[str]) -> list[str]:
    """Translate what W&B's agent writes, Python's ``None`` and dicts, into Hydra's grammar."""
    return [_translated(text) for text in overrides]


def _translated(text: str) -> str:
    key, equals, value = text.partition("=")
    if value != "None" and not value.startswith(("{", "[")):
        return text
    try:
        return word(key, ast.literal_eval(value))
    except (ValueError, SyntaxError):
        return f"{key}{equals}{value}"
