"""Lines for whoever watches a run; of several ranks the first one speaks."""

from __future__ import annotations

import sys
from typing import TextIO

from pytorch_lightning.utilities import rank_zero_only


def say(line: str, stream: TextIO | None = None) -> None:
    """Write a line at once, to the standard output unless told otherwise."""
    write(line + "\n", stream)


def write(text: str, stream: TextIO | None = None) -> None:
    """Write some text at once, without a line's end."""
    if first_rank():
        out = stream or sys.stdout
        out.write(text)
        out.flush()


def first_rank() -> bool:
    """Whether this process is the one that speaks and logs."""
    return int(getattr(rank_zero_only, "rank", 0) or 0) == 0
