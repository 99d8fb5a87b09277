"""Words of the command line, sorted into paths, options and ``key=value``."""

from __future__ import annotations

import argparse
import re
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

from qeqtrain.errors import UserMistake, nearest

_OVERRIDE = re.compile(r"^(~|\+{0,2})[\w./@-]+=|^~[\w./]+$")


class Parser(argparse.ArgumentParser):
    """An ``ArgumentParser`` whose mistakes are ours: one line, nearest option, code 2."""

    def __init__(self, prog: str) -> None:
        super().__init__(
            prog=prog,
            allow_abbrev=False,
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )

    def error(self, message: str) -> NoReturn:
        """Turn a complaint of argparse into a :class:`UserMistake`."""
        words = message.removeprefix("unrecognized arguments: ").split()
        if words and words[0].startswith("-"):
            options = [o for action in self._actions for o in action.option_strings]
            message = f"unknown option '{words[0]}'{nearest(words[0], options)}"
        raise UserMistake(message)


def split_overrides(words: Sequence[str]) -> tuple[list[str], list[str]]:
    """Separate ``key=value`` from plain words; an existing path is always a plain word."""
    plain: list[str] = []
    overrides: list[str] = []
    for word in words:
        is_override = _OVERRIDE.match(word) is not None and not Path(word).exists()
        (overrides if is_override else plain).append(word)
    return plain, overrides


def take(overrides: Sequence[str], key: str) -> tuple[str | None, list[str]]:
    """Take one ``key=value`` out of the overrides."""
    front = f"{key}="
    found = [word.removeprefix(front) for word in overrides if word.startswith(front)]
    rest = [word for word in overrides if not word.startswith(front)]
    return (found[-1] if found else None), rest
