"""The trials of a sweep, in a file that survives being killed at any moment.

One line of JSON per event, only ever appended: a trial began, a trial ended. What is known of a
sweep is what follows from its lines.
"""

from __future__ import annotations

import fcntl
import json
import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TextIO

from qeqtrain.errors import UserMistake
from qeqtrain.sweeps.definition import Definition
from qeqtrain.sweeps.metrics import History, read_history

DONE = ("finished", "stopped", "diverged", "failed")
"""States in which a trial stays; ``running`` and ``interrupted`` ones go on."""


@dataclass
class Trial:
    """One run of a sweep.

    Attributes:
        number: from 1.
        parameters: value of every parameter, by name.
        folder: of the run.
        place: share of every parameter's distribution, where they were drawn.
        state: ``running``, ``interrupted``, or one of :data:`DONE`.
        reason: of an end that is none of ``finished``.
        seconds: spent so far, those of earlier sessions included.
        running_as: process or job that runs it, or ran it last, such as ``process 4711``.
    """

    number: int
    parameters: dict[str, Any]
    folder: Path
    place: dict[str, float] = field(default_factory=dict)
    state: str = "running"
    reason: str = ""
    seconds: float = 0.0
    running_as: str | None = None

    @property
    def log(self) -> Path:
        """What the run printed."""
        return self.folder.with_suffix(".log")

    @property
    def done(self) -> bool:
        """Whether it stays as it is."""
        return self.state in DONE

    def history(self) -> History:
        """What it has logged."""
        return read_history(self.folder)


class Journal:
    """The folder of a sweep, and its trials.

    Args:
        folder: made if need be.

    Raises:
        UserMistake: another process works on it.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        (folder / "trials").mkdir(parents=True, exist_ok=True)
        self._file = folder / "journal.jsonl"
        self._lock = self._locked()
        self.trials: list[Trial] = []
        self._began: dict[int, float] = {}
        for event in self._events():
            self._take(event)

    def refuse_other(self, definition: Definition) -> None:
        """Make sure that a sweep goes on as it began, or write down how it begins.

        Raises:
            UserMistake: the folder holds another sweep.
        """
        file = self.folder / "sweep.json"
        now = json.loads(json.dumps(definition.fingerprint(), default=str))
        if not file.exists():
            _write(file, json.dumps(now, indent=2) + "\n")
            return
        before = json.loads(file.read_text(encoding="utf-8"))
        changed = [key for key in now if now[key] != before.get(key)]
        if changed:
            raise UserMistake(
                *(
                    f"{self.folder} began with another {key}: {before.get(key)}, now {now[key]}"
                    for key in changed
                ),
                "go on with the sweep as it was, or choose another folder: "
                f"--folder {self.folder}_2",
            )

    def begin(self, parameters: Mapping[str, Any], place: Mapping[str, float]) -> Trial:
        """Add a trial."""
        number = len(self.trials) + 1
        return self._append("begun", number, parameters=dict(parameters), place=dict(place))

    def started(self, trial: Trial, running_as: str) -> None:
        """Write down which process or job runs a trial, from now on."""
        self._append("started", trial.number, running_as=running_as)
        self._began[trial.number] = time.monotonic()

    def ended(self, trial: Trial, state: str, reason: str = "") -> None:
        """Write down how a trial, or this session of it, ended."""
        begun = self._began.pop(trial.number, time.monotonic())
        spent = round(trial.seconds + time.monotonic() - begun, 2)
        self._append("ended", trial.number, state=state, reason=reason, seconds=spent)

    def unfinished(self) -> list[Trial]:
        """Trials to go on with, in their order."""
        return [trial for trial in self.trials if not trial.done]

    def close(self) -> None:
        """Let another process work on the sweep."""
        self._lock.close()

    def _append(self, event: str, number: int, **entries: Any) -> Trial:
        line = {"event": event, "trial": number, **entries}
        with self._file.open("a", encoding="utf-8") as out:
            out.write(json.dumps(line) + "\n")
            out.flush()
            os.fsync(out.fileno())
        return self._take(line)

    def _take(self, event: Mapping[str, Any]) -> Trial:
        number = int(event["trial"])
        if event["event"] == "begun":
            folder = self.folder / "trials" / f"{number:03d}"
            trial = Trial(number, dict(event["parameters"]), folder, dict(event["place"]))
            self.trials.append(trial)
            return trial
        trial = self.trials[number - 1]
        if event["event"] == "started":
            trial.running_as = event.get("running_as")
            trial.state, trial.reason = "running", ""
        else:
            trial.state, trial.reason = str(event["state"]), str(event["reason"])
            trial.seconds = float(event["seconds"])
        return trial

    def _events(self) -> Sequence[dict[str, Any]]:
        """Read the lines; a last one that a kill cut short is dropped."""
        if not self._file.exists():
            return []
        text = self._file.read_text(encoding="utf-8")
        whole, _, rest = text.rpartition("\n")
        if rest:
            _write(self._file, whole + "\n" if whole else "")
        try:
            return [json.loads(line) for line in whole.splitlines()]
        except ValueError as error:
            raise UserMistake(
                f"{self._file}: is damaged ({error}); remove its folder"
            ) from error

    def _locked(self) -> TextIO:
        lock = (self.folder / "lock").open("w")
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            lock.close()
            raise UserMistake(
                f"{self.folder}: another process works on this sweep; --jobs N makes one "
                "process run several trials at a time"
            ) from error
        return lock


def _write(file: Path, text: str) -> None:
    part = file.with_name(file.name + ".part")
    part.write_text(text, encoding="utf-8")
    part.replace(file)
