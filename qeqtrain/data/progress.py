"""Progress of long work: rate and time left; without a terminal, a line now and then."""

from __future__ import annotations

import time
from typing import TextIO

_EVERY_TERMINAL = 0.2  # s between refreshed lines
_EVERY_FILE = 15.0  # s between lines of a log


def duration(seconds: float) -> str:
    """Write a time as ``43 s`` or ``5 min 02 s`` or ``3 h 12 min``."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"


class Progress:
    """Say how far a piece of work has come.

    Args:
        title: what is done.
        total: steps, or ``None`` where that is not known.
        stream: where to write.
    """

    def __init__(self, title: str, total: int | None, stream: TextIO) -> None:
        """Start the clock."""
        self._title, self._total, self._stream = title, total, stream
        self._start = self._shown = time.perf_counter()
        self._terminal = stream.isatty()
        self._done = 0

    def expect(self, total: int) -> None:
        """Say how many steps there will be, as far as that is known by now.

        Args:
            total: steps; an estimate may change as work goes on.
        """
        self._total = total

    def _line(self) -> str:
        spent = time.perf_counter() - self._start
        rate = self._done / spent if spent > 0 else 0.0
        if self._total is None:
            return f"{self._title}: {self._done:,}, {rate:,.1f}/s, {duration(spent)}"
        left = (self._total - self._done) / rate if rate > 0 else 0.0
        ahead = f"{duration(left)} left" if self._done < self._total else duration(spent)
        return f"{self._title}: {self._done:,}/{self._total:,}, {rate:,.1f}/s, {ahead}"

    def advance(self, steps: int = 1) -> None:
        """Count steps, and show them if the last time is long enough ago."""
        self._done += steps
        now = time.perf_counter()
        if now - self._shown < (_EVERY_TERMINAL if self._terminal else _EVERY_FILE):
            return
        self._shown = now
        end = "\033[K\r" if self._terminal else "\n"
        self._stream.write(self._line() + end)
        self._stream.flush()

    def close(self) -> None:
        """Show where it ended."""
        self._stream.write(self._line() + ("\033[K\n" if self._terminal else "\n"))
        self._stream.flush()
