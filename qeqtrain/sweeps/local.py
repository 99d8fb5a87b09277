"""A sweep without W&B: trials in processes of their own, here or elsewhere, some at a time.

Each trial is the command a user would type, ``qeqtrain fit``; what a sweep adds is which values
come next, when a trial is ended early, and that all of it goes on after a kill.
"""

from __future__ import annotations

import shutil
import signal
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

from qeqtrain.data.progress import duration
from qeqtrain.errors import Interrupted, UserMistake
from qeqtrain.sweeps.definition import Definition
from qeqtrain.sweeps.journal import Journal, Trial
from qeqtrain.sweeps.places import PATIENCE, Here, Place, Running
from qeqtrain.sweeps.results import Results, shown_values, write_results
from qeqtrain.sweeps.search import Past, grid_size, propose
from qeqtrain.sweeps.words import word

LOOK = 0.3
"""Seconds between two looks at the trials."""
NOW_AND_THEN = 60.0
"""Seconds between two lines about trials that run."""
ATTEMPTS = 3
"""Starts of one trial, ended by signals, without a validation in between."""

ENDS = {0: "finished", 3: "diverged", 75: "interrupted", -signal.SIGTERM: "interrupted"}
"""States by the exit code of ``qeqtrain fit``; any other code is ``failed``."""


class LocalSweep:
    """Runs a sweep to its end.

    Args:
        definition: checked.
        folder: of the sweep; one that it ran in before goes on.
        jobs: trials at a time; ``None``: as many as the place takes.
        place: where trials run.
    """

    def __init__(
        self,
        definition: Definition,
        folder: Path,
        jobs: int | None = None,
        place: Place | None = None,
    ) -> None:
        self.definition = definition
        self.place: Place = Here() if place is None else place
        self.jobs = self.place.jobs if jobs is None else jobs
        self.journal = Journal(folder)
        try:
            self.journal.refuse_other(definition)
        except UserMistake:
            self.journal.close()
            raise
        self._running: dict[int, Running] = {}
        self._ending_early: dict[int, str] = {}
        self._rows_seen: dict[int, int] = {}
        self._attempts: dict[int, int] = {}
        self._began_at: dict[int, int] = {}
        self._asked_to_stop: int | None = None
        self._said_at = time.monotonic()

    def run(self) -> Results:
        """Run trials until there are no more.

        Raises:
            UserMistake: the metric is never logged, or no trial works.
            Interrupted: a signal; every trial has saved its state.
        """
        self._greet()
        try:
            with _signals(self._remember):
                while self._fill():
                    time.sleep(LOOK)
                    for number in list(self._running):
                        self._look_at(self.journal.trials[number - 1])
                    if self._asked_to_stop is not None:
                        name = signal.Signals(self._asked_to_stop).name
                        raise Interrupted(
                            f"{name}: run the same command again to go on with the sweep in "
                            f"{self.journal.folder}"
                        )
                    self._say_now_and_then()
        finally:
            self._stop_all()
            self.journal.close()
        results = write_results(self.definition, self.journal)
        if not results.ranked:
            raise UserMistake(
                f"no trial gave a value of {self.definition.metric}",
                *(f"trial {t.number}: {t.state}: {t.reason}" for t in self.journal.trials[:5]),
            )
        return results

    # Starting.

    def _greet(self) -> None:
        total = grid_size(self.definition)
        had = sum(trial.done for trial in self.journal.trials)
        before = f", {had} of them done before" if had else ""
        _say(
            f"{self.definition.method} of {'open' if total is None else total} trials{before}, "
            f"{self.jobs} at a time{self.place.description}; "
            f"sweep folder {self.journal.folder}"
        )

    def _fill(self) -> bool:
        """Start trials up to the number of jobs; say whether any runs."""
        while len(self._running) < self.jobs:
            trial = self._next()
            if trial is None:
                break
            self._start(trial)
        return bool(self._running)

    def _next(self) -> Trial | None:
        waiting = [t for t in self.journal.unfinished() if t.number not in self._running]
        if waiting:
            return waiting[0]
        if self._reached_target():
            return None
        metric = self.definition.metric
        past = []
        for trial in self.journal.trials:
            value = trial.history().kept(metric) if trial.done else None
            past.append(
                Past(trial.parameters, trial.place, value, trial.done and value is None)
            )
        found = propose(self.definition, past)
        return self.journal.begin(found.parameters, found.place) if found else None

    def _reached_target(self) -> bool:
        target = self.definition.target
        if target is None:
            return False
        kept = (t.history().kept(self.definition.metric) for t in self.journal.trials if t.done)
        return any(v is not None and not self.definition.better(target, v) for v in kept)

    def _start(self, trial: Trial) -> None:
        """Start a trial, go on with it, or watch it again where it still runs."""
        found = self.place.find(trial)
        resumed = (trial.folder / "checkpoints" / "last.ckpt").is_file()
        if found is not None:
            process, verb = found, f"still runs as {found.name}"
        elif resumed:
            process, verb = self.place.begin(trial, [f"resume={trial.folder}"]), "resumed"
        else:
            # A session that was killed before its first checkpoint left nothing to go on from.
            shutil.rmtree(trial.folder, ignore_errors=True)
            values = [word(name, value) for name, value in trial.parameters.items()]
            words = [self.definition.recipe, *self.definition.fixed, *values]
            process = self.place.begin(trial, [*words, f"run_folder={trial.folder}"])
            verb = "started"
        self.journal.started(trial, process.name)
        self._running[trial.number] = process
        self._attempts[trial.number] = self._attempts.get(trial.number, 0) + 1
        self._began_at[trial.number] = len(trial.history())
        _say(f"trial {trial.number} {verb}: {shown_values(trial)}")

    # Watching.

    def _look_at(self, trial: Trial) -> None:
        code = self._running[trial.number].poll()
        if code is not None:
            del self._running[trial.number]
            self._take_end(trial, code)
            return
        history = trial.history()
        if len(history) == self._rows_seen.get(trial.number, 0):
            return
        self._rows_seen[trial.number] = len(history)
        mine = history.of(self.definition.metric)
        if not mine:
            raise UserMistake(self._never_logged(trial))
        if self.definition.hyperband is None or trial.number in self._ending_early:
            return
        others = [
            other.history().of(self.definition.metric)
            for other in self.journal.trials
            if other is not trial
        ]
        maximize = self.definition.maximize
        if self.definition.hyperband.ends(mine, others, maximize=maximize):
            self._ending_early[trial.number] = f"left behind after {len(mine)} validations"
            self._running[trial.number].terminate()

    def _take_end(self, trial: Trial, code: int) -> None:
        state, reason = ENDS.get(code, "failed"), ""
        if trial.number in self._ending_early and state == "interrupted":
            state, reason = "stopped", self._ending_early.pop(trial.number)
        elif state != "finished":
            reason = _last_words(trial.log) or f"exit code {code}"
        if len(trial.history()) > self._began_at[trial.number]:
            self._attempts[trial.number] = 1
        if state == "interrupted" and self._attempts[trial.number] >= ATTEMPTS:
            state, reason = "failed", f"stopped by signals {ATTEMPTS} times; {reason}"
        if state == "finished" and not trial.history().of(self.definition.metric):
            self.journal.ended(trial, "finished")
            raise UserMistake(self._never_logged(trial))
        self.journal.ended(trial, state, reason)
        value = trial.history().kept(self.definition.metric)
        shown = "" if value is None else f", {self.definition.metric} {value:.4g}"
        _say(
            f"trial {trial.number} {state} after {duration(trial.seconds)}{shown}"
            + (f" ({reason})" if reason else "")
        )
        write_results(self.definition, self.journal)
        if code == 2 and not any(
            t.state in ("finished", "stopped") for t in self.journal.trials
        ):
            raise UserMistake(
                f"trial {trial.number} ended by a mistake before any other had finished: "
                f"{reason} (all it said is in {trial.log})"
            )

    def _never_logged(self, trial: Trial) -> str:
        history = trial.history()
        known = [f"val/{name}" for name in history.columns if history.of(f"val/{name}")]
        known = [name for name in known if name.endswith(("_rmse", "_mae", "score"))]
        return (
            f"metric.name: trial {trial.number} does not log {self.definition.metric}; it logs "
            f"{', '.join([*known, 'train/loss'])}. Nothing is validated without data.val or "
            "data.split, and a quantity without labels has no error"
        )

    def _say_now_and_then(self) -> None:
        if time.monotonic() - self._said_at < NOW_AND_THEN:
            return
        self._said_at = time.monotonic()
        total = grid_size(self.definition)
        done = sum(t.done for t in self.journal.trials)
        spent = [t.seconds for t in self.journal.trials if t.done]
        left = ""
        if total is not None and spent:
            left = (
                f", left about {duration((total - done) * sum(spent) / len(spent) / self.jobs)}"
            )
        rows = [
            f"{number} at validation {len(self.journal.trials[number - 1].history())}"
            for number in self._running
        ]
        _say(f"{done} of {total or '?'} trials done; running: {', '.join(rows)}{left}")

    # Stopping.

    def _remember(self, number: int, frame: FrameType | None) -> None:
        if self._asked_to_stop is None:
            _say(f"\n{signal.Signals(number).name}: the trials save their state, then stop")
        self._asked_to_stop = number

    def _stop_all(self) -> None:
        """End the trials that run; each saves its state first."""
        for process in self._running.values():
            process.terminate()
        for number, process in self._running.items():
            code = process.wait(PATIENCE)
            trial = self.journal.trials[number - 1]
            state = ENDS.get(code, "interrupted")
            self.journal.ended(trial, "interrupted" if state == "diverged" else state)
        self._running.clear()


@contextmanager
def _signals(handler: Callable[[int, FrameType | None], None]) -> Iterator[None]:
    """Handle SIGTERM and SIGINT for a while."""
    before = {n: signal.signal(n, handler) for n in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield
    finally:
        for number, old in before.items():
            signal.signal(number, old)


def _last_words(log: Path) -> str:
    """Give the last error that a run printed."""
    lines = log.read_text(encoding="utf-8", errors="replace").splitlines()
    errors = [line.removeprefix("error: ") for line in lines if line.startswith("error: ")]
    return (
        errors[-1] if errors else next((line for line in reversed(lines) if line.strip()), "")
    )


def _say(line: str) -> None:
    sys.stdout.write(line + "\n")
    sys.stdout.flush()
