"""Settings of a run, and the small things around it."""

from __future__ import annotations

import io
import json
import math
import platform
from pathlib import Path

import pytest

from qeqtrain.errors import UserMistake
from qeqtrain.training.budget import Budget, Stopwatch
from qeqtrain.training.memory import keep_memory
from qeqtrain.training.progress import count, duration, number
from qeqtrain.training.records import RunFolder
from qeqtrain.training.trainer import TrainerSettings


@pytest.mark.parametrize(
    ("written", "seconds"),
    [("00:06:00", 360.0), ("1:02:03", 3723.0), ("02:00:00:01", 172801.0), (90, 90.0)],
)
def test_times_are_hours_minutes_seconds(written: str | float, seconds: float) -> None:
    assert TrainerSettings(max_time=written).max_time == seconds


def test_wrong_settings_are_mistakes_that_come_together() -> None:
    with pytest.raises(UserMistake) as caught:
        TrainerSettings(max_epochs=0, max_cpu_time="6 minutes", validate_every=1.5)
    assert len(caught.value.problems) == 3
    assert "HH:MM:SS" in str(caught.value)


def test_the_nearest_limit_decides_how_much_of_a_run_is_done() -> None:
    budget = Budget(max_time=100.0, max_cpu_time=10.0)
    budget.load_state_dict({"wall": 30.0, "cpu": 5.0})
    assert budget.done() == 0.0  # not started

    class Trainer:
        global_step = 0

    budget._trainer = Trainer()  # type: ignore[assignment]
    assert budget.done() == pytest.approx(0.5)


def test_a_stopwatch_pauses_and_takes_up_earlier_time() -> None:
    now = [0.0]
    watch = Stopwatch(lambda: now[0])
    watch.set(5.0)
    watch.start()
    now[0] = 2.0
    assert watch.seconds == 7.0
    watch.stop()
    now[0] = 10.0
    assert watch.seconds == 7.0
    watch.start()
    now[0] = 11.0
    assert watch.seconds == 8.0


def test_durations_read_like_a_clock() -> None:
    assert [duration(s) for s in (3.4, 63.0, 3723.0)] == ["3 s", "01:03", "1:02:03"]


def test_numbers_keep_about_three_digits() -> None:
    shown = [number(x) for x in (0.0123, 0.456, 7.891, 234.56, 1e6, 2e-5, math.nan)]
    assert shown == ["0.0123", "0.456", "7.89", "234.6", "1.00e+06", "2.00e-05", "-"]
    assert [count(x) for x in (812.0, 7021.0, 1.3e6)] == ["812", "7.02k", "1.3M"]


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="the C library is not glibc")
def test_memory_is_kept_where_glibc_runs() -> None:
    assert keep_memory()


def test_a_run_folder_refuses_what_it_cannot_resume(tmp_path: Path) -> None:
    (tmp_path / "run" / "checkpoints").mkdir(parents=True)
    folder = RunFolder(tmp_path / "run", resume=True)
    (folder.checkpoints / "last.ckpt").write_bytes(b"nothing")
    with pytest.raises(
        UserMistake, match=r"last\.ckpt cannot be read.*previous\.ckpt is missing"
    ):
        folder.checkpoint_to_resume()


def test_a_stream_without_a_terminal_gets_whole_lines() -> None:
    from qeqtrain.training.checkpoints import Checkpoints
    from qeqtrain.training.progress import Progress

    stream = io.StringIO()
    progress = Progress(Budget(max_steps=1), Checkpoints(Path()), stream)
    progress._draw("step 1")
    progress._draw("step 2")
    assert stream.getvalue() == "step 1\nstep 2\n"


def test_a_terminal_gets_one_line_that_is_rewritten() -> None:
    from qeqtrain.training.checkpoints import Checkpoints
    from qeqtrain.training.progress import Progress

    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    stream = Terminal()
    progress = Progress(Budget(max_steps=1), Checkpoints(Path()), stream)
    progress._draw("step 1")
    progress._draw("step 2")
    progress._clear()
    assert "\n" not in stream.getvalue()
    assert stream.getvalue().endswith("\r\x1b[K")


def test_splits_are_written_a_name_a_line(tmp_path: Path) -> None:
    splits = {"train": ['a/"b"', "\u00e9", "c"], "val": [], "test": ["d"]}
    RunFolder(tmp_path / "run", resume=False).start({}, splits)
    text = (tmp_path / "run" / "splits.json").read_text()
    assert json.loads(text) == splits
    assert text == json.dumps(splits, indent=0)
