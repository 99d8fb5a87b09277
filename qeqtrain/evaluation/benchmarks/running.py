"""Run a suite: task by task, in processes of one thread each, kept as it goes.

Every finished task is one line of ``rows.jsonl``. A benchmark that is started again in the same
folder, with the same model and settings, measures what is missing. A process that dies (memory)
costs the task it was at, not the benchmark.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
import sys
import time
import warnings
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from typing import Any

import torch

from qeqtrain.data.progress import Progress
from qeqtrain.errors import EquilibrationFailed, UserMistake
from qeqtrain.evaluation.benchmarks.model import Model, fingerprint
from qeqtrain.evaluation.benchmarks.suite import (
    Plan,
    Row,
    Suite,
    Task,
    TaskFailed,
    plain_settings,
)
from qeqtrain.models.potential import Potential

ROWS = "rows.jsonl"
DIED = "its process died (out of memory?)"
_WITHOUT_EFFECT = ("count", "max_atoms")
"""Settings that choose tasks without changing what is measured of one."""


def run_suite(
    suite: Suite[Any],
    plan: Plan,
    model: Model,
    potential: Potential,
    folder: Path,
    *,
    jobs: int = 1,
    retry: bool = False,
) -> list[Row]:
    """Measure every task that has no row yet.

    Args:
        suite: with its settings.
        plan: of the suite, for this potential.
        model: how other processes load the model.
        potential: the same, loaded.
        folder: of the suite; made if it is missing.
        jobs: processes; one means this process, unless the suite wants processes of its own.
        retry: measure failed tasks again.

    Returns:
        One row for each task of the plan, in order.

    Raises:
        UserMistake: the folder has rows of another model or of other settings.
    """
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / ROWS
    head = _head(suite, potential)
    found = _read_rows(file, head)
    if retry:
        found = {name: row for name, row in found.items() if not row.failed}
        _write_rows(file, head, found.values())
    waiting = [task for task in plan.tasks if task.name not in found]
    progress = Progress(suite.name, len(waiting), sys.stderr)
    with _open_rows(file, head) as kept:
        for row in _measured(suite, model, potential, waiting, jobs):
            found[row.task] = row
            kept.write(json.dumps(_as_line(row)) + "\n")
            kept.flush()
            progress.advance()
    if waiting:
        progress.close()
    return [found[task.name] for task in plan.tasks]


def _head(suite: Suite[Any], potential: Potential) -> dict[str, Any]:
    settings = plain_settings(suite.settings)
    return {
        "suite": suite.name,
        "model": fingerprint(potential),
        "settings": {k: v for k, v in settings.items() if k not in _WITHOUT_EFFECT},
    }


def _as_line(row: Row) -> dict[str, Any]:
    spent = {"seconds": row.seconds, "cpu": row.cpu}
    line: dict[str, Any] = {"task": row.task, **spent}
    return line | ({"failed": row.failed} if row.failed else {"values": dict(row.values)})


def _read_rows(file: Path, head: Mapping[str, Any]) -> dict[str, Row]:
    """Read the rows of an earlier run; a last line that was cut off is dropped."""
    if not file.is_file():
        return {}
    lines = file.read_text(encoding="utf-8").split("\n")
    try:
        first = json.loads(lines[0])
    except ValueError:
        first = None
    if first is None and len(lines) == 1:
        return {}
    if first != head:
        raise UserMistake(_other_rows(file, first, head))
    rows = {}
    for line in lines[1:-1]:  # the last piece is empty, or a line that was cut off
        try:
            values = json.loads(line)
            rows[values["task"]] = Row(
                values["task"],
                values.get("values", {}),
                values.get("failed", ""),
                values["seconds"],
                values["cpu"],
            )
        except (ValueError, KeyError, TypeError):
            raise UserMistake(f"{file}: a damaged line, {line[:60]!r}; remove it") from None
    return rows


def _other_rows(file: Path, met: Any, head: Mapping[str, Any]) -> str:
    """Say how earlier rows differ from what is asked for now."""
    if not isinstance(met, dict) or met.get("suite") != head["suite"]:
        return f"{file}: not rows of '{head['suite']}'; choose another --out"
    if met.get("model") != head["model"]:
        return f"{file}: measured with another model; choose another --out, or remove it"
    old, new = met.get("settings", {}), head["settings"]
    changed = [
        f"{k}={old.get(k)} there and {new.get(k)} now"
        for k in sorted({*old, *new})
        if old.get(k) != new.get(k)
    ]
    return f"{file}: {'; '.join(changed)}; choose another --out, or remove it"


def _write_rows(file: Path, head: Mapping[str, Any], rows: Any) -> None:
    part = file.with_name(file.name + ".part")
    lines = [json.dumps(head), *(json.dumps(_as_line(row)) for row in rows)]
    part.write_text("\n".join(lines) + "\n", encoding="utf-8")
    part.replace(file)


def _open_rows(file: Path, head: Mapping[str, Any]) -> Any:
    """Open the rows to be continued, whole lines only."""
    if not file.is_file() or "\n" not in file.read_text(encoding="utf-8"):
        _write_rows(file, head, [])
    text = file.read_text(encoding="utf-8")
    if not text.endswith("\n"):
        file.write_text(text[: text.rindex("\n") + 1], encoding="utf-8")
    return file.open("a", encoding="utf-8")


def measure(suite: Suite[Any], potential: Potential, task: Task) -> Row:
    """Measure one task; what goes wrong with it becomes its row."""
    started = time.perf_counter(), time.process_time()
    values: Mapping[str, Any] = {}
    failed = ""
    try:
        with warnings.catch_warnings():  # said once in the report, not once per structure
            warnings.filterwarnings("ignore", message=".*absent from its training data")
            warnings.filterwarnings("ignore", message=".*this is an extrapolation")
            values = suite.measure(potential, task.content)
    except (TaskFailed, UserMistake, EquilibrationFailed) as error:
        failed = " ".join(str(error).split())
    except (RuntimeError, ValueError, ArithmeticError, MemoryError) as error:
        # What a structure or a model can bring about: blown-up geometry, a singular matrix.
        failed = f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"
    wall, cpu = time.perf_counter() - started[0], time.process_time() - started[1]
    return Row(task.name, values, failed, round(wall, 4), round(cpu, 4))


def _measured(
    suite: Suite[Any], model: Model, potential: Potential, tasks: Sequence[Task], jobs: int
) -> Iterator[Row]:
    if suite.own_process:
        for task in tasks:
            yield from _in_processes(suite, model, [task], 1)
    elif jobs == 1:
        for task in tasks:
            yield measure(suite, potential, task)
    else:
        yield from _in_processes(suite, model, tasks, jobs)


_THREADS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")
_state: dict[str, Any] = {}
"""Of a worker process: the suite and the loaded model."""


def _start_worker(suite: Suite[Any], model: Model, threads: int) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's
    torch.set_num_threads(threads)
    _state.update(suite=suite, potential=model.load())


def _measure_here(task: Task) -> Row:
    return measure(_state["suite"], _state["potential"], task)


def _in_processes(
    suite: Suite[Any], model: Model, tasks: Sequence[Task], jobs: int
) -> Iterator[Row]:
    """Measure in other processes; tasks in flight when one dies are tried alone, once."""
    threads = torch.get_num_threads() if suite.own_process else 1
    waiting = deque(tasks)
    suspects: deque[Task] = deque()
    while waiting or suspects:
        alone = bool(suspects)
        queue, width = (suspects, 1) if alone else (waiting, jobs)
        flying: dict[Future[Row], Task] = {}
        with _threads_for_children(threads), _pool(suite, model, width, threads) as pool:
            try:
                while queue or flying:
                    while queue and len(flying) < width:
                        task = queue.popleft()
                        flying[pool.submit(_measure_here, task)] = task
                    done, _ = wait(flying, return_when=FIRST_COMPLETED)
                    for future in done:
                        row = future.result()
                        del flying[future]
                        yield row
            except BrokenProcessPool:
                lost = list(flying.values())
                if width == 1:  # it was alone, so it was this one
                    yield from (Row(task.name, failed=DIED) for task in lost)
                else:
                    suspects.extend(lost)


def _pool(suite: Suite[Any], model: Model, width: int, threads: int) -> ProcessPoolExecutor:
    return ProcessPoolExecutor(
        width,
        mp_context=multiprocessing.get_context("spawn"),
        initializer=_start_worker,
        initargs=(suite, model, threads),
    )


class _threads_for_children:  # noqa: N801 - reads as a statement
    """Tell libraries of processes that are started inside how many threads to use."""

    def __init__(self, threads: int) -> None:
        self._wanted = {name: str(threads) for name in _THREADS}

    def __enter__(self) -> None:
        self._before = {name: os.environ.get(name) for name in self._wanted}
        os.environ.update(self._wanted)

    def __exit__(self, *_: object) -> None:
        for name, value in self._before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value
