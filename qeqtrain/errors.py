"""What goes wrong, by whose doing: each class is one exit code of the command line."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class UserMistake(Exception):
    """Something the user can mend: exit code 2, no traceback.

    Args:
        problems: one line each: what was met, what was expected, the remedy.
    """

    def __init__(self, *problems: str) -> None:
        super().__init__("\n".join(problems))
        self.problems = problems


class EquilibrationFailed(RuntimeError):
    """Charges of a structure could not be found; it is named, with its composition and why.

    Bad geometry or diverged weights rather than a setting: training skips the step.
    """


class Diverged(Exception):
    """Training gave non-finite numbers even after going back: exit code 3."""


class Interrupted(Exception):
    """A signal asked to stop and everything was saved: exit code 75, ready to be resumed."""


def nearest(name: str, choices: Iterable[str]) -> str:
    """Offer the most similar valid name, as the end of a sentence; empty if none is near."""
    close = difflib.get_close_matches(name, list(choices), n=1, cutoff=0.5)
    return f"; did you mean '{close[0]}'?" if close else ""
