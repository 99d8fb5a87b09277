"""Signals that ask a run to stop: remembered, and acted on between two steps."""

from __future__ import annotations

import signal
import sys
import threading
from types import FrameType, TracebackType
from typing import Any

from qeqtrain.errors import Interrupted
from qeqtrain.training.screen import say

ASKING = tuple(
    getattr(signal, name)
    for name in ("SIGTERM", "SIGINT", "SIGUSR1")  # SIGUSR1: SLURM's --signal=USR1@120
    if hasattr(signal, name)
)
"""A cluster's wish to have its machine back, a person's, and that of a job near its end."""


class StopSignals:
    """Listens between ``with`` and its end; one of those who tell other ranks.

    Before training begins, a signal ends the run at once: there is nothing to save. During
    training the first one is remembered, and a second one ends the run at once.
    """

    def __init__(self) -> None:
        self.training = False
        self.asked: int | None = None
        """First signal that any rank got, once all know of it."""
        self._received: int | None = None
        self._before: dict[int, Any] = {}

    def __enter__(self) -> StopSignals:
        """Listen."""
        self.listen()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Put back what listened before."""
        for number, handler in self._before.items():
            signal.signal(number, handler)
        self._before.clear()

    def listen(self) -> None:
        """Listen, also if Lightning has put its own handlers in between."""
        if threading.current_thread() is not threading.main_thread():
            return
        for number in ASKING:
            replaced = signal.signal(number, self._remember)
            self._before.setdefault(number, replaced)

    def tell(self, first: bool) -> list[float]:
        """Say which signal this rank got."""
        return [float(self._received == number) for number in ASKING]

    def hear(self, values: list[float]) -> None:
        """Learn which signal any rank got."""
        heard = [number for number, count in zip(ASKING, values, strict=True) if count > 0.0]
        self.asked = heard[0] if heard else None

    def _remember(self, number: int, frame: FrameType | None) -> None:
        """Handle a signal."""
        name = signal.Signals(number).name
        if not self.training:
            raise Interrupted(f"{name} before the first step")
        if self._received is not None:
            raise Interrupted(f"{name} again: stopped at once, in the state saved last")
        self._received = number
        say(f"\n{name}: saving, then stopping; again to stop at once", sys.stderr)
