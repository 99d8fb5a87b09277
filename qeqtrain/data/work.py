"""Pieces made into parts by worker processes, in a folder that survives them.

The folder holds the request, one part and one report for each piece that is done, and a lock.
"""

from __future__ import annotations

import fcntl
import json
import multiprocessing
import signal
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TextIO

import numpy as np

from qeqtrain.data import store
from qeqtrain.data.keys import Keys, Survey, choose_keys
from qeqtrain.data.labels import Conventions, plural
from qeqtrain.data.pieces import (
    File,
    Job,
    Report,
    Rules,
    make_part,
    pieces_of_store,
    report_path,
    survey_of,
)
from qeqtrain.data.progress import Progress
from qeqtrain.data.reading import expand, short_name
from qeqtrain.data.rejected import OnBad, refuse_bad
from qeqtrain.data.store_writer import Stretch
from qeqtrain.data.streams import open_stream
from qeqtrain.data.workers import cancelled_on_error, end_with_parent, one_thread
from qeqtrain.errors import UserMistake

_SAMPLED = (8, 50)  # pieces of a file, and frames of each, that a first look at keys takes


def open_files(
    given: Iterable[str | Path], conventions: Conventions, size: int | None
) -> list[File]:
    """Find a reader for every file and cut it; the mistakes of all files come together."""
    files: list[File] = []
    problems: list[str] = []
    for item in given:
        try:
            for path in expand(item):
                files.append(_opened(path, conventions, size))  # noqa: PERF401 (keeps the first)
        except UserMistake as mistake:
            problems += mistake.problems
        except PermissionError:
            problems.append(f"{item} may not be read; check its permissions")
    if not files and not problems:
        problems.append("no data file is named")
    if problems:
        raise UserMistake(*problems)
    return files


def _opened(path: Path, conventions: Conventions, size: int | None) -> File:
    if path.exists() and store.is_store(path):
        _, header = store.open_store(path, in_memory=0)
        return File(path, None, pieces_of_store(path, size), Keys(), list(header.notes))
    stream = open_stream(path, conventions)
    pieces = stream.pieces(size)
    most, each = _SAMPLED
    survey = Survey()
    for i in np.unique(np.linspace(0, len(pieces) - 1, most).astype(int)) if pieces else ():
        survey.merge(survey_of(stream, pieces[i], each))
    try:
        keys = choose_keys(survey, conventions, stream.name)
    except UserMistake:
        # The frames that were looked at may lack what others have: look at all.
        for piece in pieces:
            survey.merge(survey_of(stream, piece))
        keys = choose_keys(survey, conventions, stream.name)
    return File(path, stream, pieces, keys, list(stream.notes))


def identity_of(files: Sequence[File], rules: Rules, size: int | None) -> dict[str, Any]:
    """What parts depend on, beside the keys; another one makes other parts."""
    named = {}
    for file in files:
        if file.path.is_dir():
            inside = sorted(p for p in file.path.rglob("*") if p.is_file())
            stats = [(p.stat().st_size, p.stat().st_mtime_ns) for p in inside]
        else:
            stats = [(file.path.stat().st_size, file.path.stat().st_mtime_ns)]
        named[str(file.path.absolute())] = [list(s) for s in stats]
    plain = {
        "files": named,
        "order": [str(f.path.absolute()) for f in files],
        "conventions": rules.conventions.as_dict(),
        "pairs_cutoff": rules.pairs_cutoff,
        "max_force": rules.max_force,
        "piece_size": size,
        "format": store.FORMAT,
    }
    loaded: dict[str, Any] = json.loads(json.dumps(plain))
    return loaded


@contextmanager
def work_folder(folder: Path, identity: dict[str, Any]) -> Iterator[None]:
    """Keep parts in a folder that one conversion at a time works in.

    Raises:
        UserMistake: it holds parts of another conversion, or one is at work.
    """
    folder.mkdir(parents=True, exist_ok=True)
    request = folder / "request.json"
    with (folder / "lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise UserMistake(
                f"{folder}: another conversion is at work here; wait for it, or choose "
                "another name for the result"
            ) from None
        try:
            before = json.loads(request.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            before = None
        if before is not None and before != identity:
            names = ", ".join(k for k in identity if before.get(k) != identity[k])
            raise UserMistake(
                f"{folder} holds the parts of a conversion that was stopped, with other "
                f"{names}; remove the folder to begin anew, or choose another name"
            )
        temporary = request.with_suffix(".tmp")
        temporary.write_text(json.dumps(identity), encoding="utf-8")
        temporary.replace(request)
        yield


def part_path(folder: Path, file: int, piece: int) -> Path:
    """Where the part of a piece stands."""
    return folder / f"{file:04d}-{piece:06d}.part"


def make_parts(
    files: Sequence[File],
    folder: Path,
    rules: Rules,
    workers: int,
    on_bad: OnBad,
    screen: TextIO,
) -> int:
    """Make all parts that are not there yet; how many were."""
    resumed = 0
    for attempt in range(2):
        jobs: dict[tuple[int, int], Job] = {}
        for f, file in enumerate(files):
            wanted = {label: tuple(names) for label, names in file.keys.chosen.items()}
            for p, piece in enumerate(file.pieces):
                part = part_path(folder, f, p)
                report = Report.read(report_path(part))
                if report is not None and report.keys == wanted:
                    file.reports[p] = report
                    resumed += attempt == 0
                else:
                    job = Job(file.stream, file.path, piece, part, file.keys, rules)
                    jobs[f, p] = job
        _run(files, jobs, workers, on_bad, screen, resumed if attempt == 0 else 0)
        changed = [file for file in files if _decided_otherwise(file, rules.conventions)]
        if not changed:
            break
        for file in changed:
            screen.write(
                f"{file.path.name}: later frames have keys that the first ones lack; reading "
                "it once more with them\n"
            )
    return resumed


def _decided_otherwise(file: File, conventions: Conventions) -> bool:
    """Decide on the keys anew, now that all frames were seen."""
    if file.stream is None:
        return False
    survey = Survey()
    for report in file.reports.values():
        survey.merge(report.survey)
    if not survey.in_info and not survey.in_arrays:
        return False  # no frame could be read
    before, file.keys = file.keys, choose_keys(survey, conventions, file.stream.name)
    return file.keys.chosen != before.chosen


def _start() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's
    end_with_parent()


def _attempt(job: Job) -> Report | tuple[str, ...]:
    """Make a part; mistakes come back as text, line by line."""
    try:
        return make_part(job)
    except UserMistake as mistake:
        return mistake.problems


def _run(
    files: Sequence[File],
    jobs: dict[tuple[int, int], Job],
    workers: int,
    on_bad: OnBad,
    screen: TextIO,
    resumed: int,
) -> None:
    if resumed:
        done = sum(r.frames for file in files for r in file.reports.values())
        screen.write(
            f"{plural(resumed, 'piece')} of {resumed + len(jobs):,} were finished before "
            f"({plural(done, 'frame')})\n"
        )
    for file in files:
        for report in file.reports.values():
            refuse_bad(file, report, on_bad)
    progress = Progress("reading frames", None, screen)
    finished, seen = 0, 0

    def take(at: tuple[int, int], result: Report | tuple[str, ...]) -> None:
        nonlocal finished, seen
        if not isinstance(result, Report):
            raise UserMistake(*result)
        files[at[0]].reports[at[1]] = result
        finished, seen = finished + 1, seen + result.frames + len(result.bad)
        progress.expect(round(seen * len(jobs) / finished))
        progress.advance(result.frames + len(result.bad))
        refuse_bad(files[at[0]], result, on_bad)

    if workers == 1 or len(jobs) < 2:
        for at, job in jobs.items():
            take(at, _attempt(job))
    else:
        context = multiprocessing.get_context("spawn")
        pool = ProcessPoolExecutor(min(workers, len(jobs)), context, initializer=_start)
        with one_thread(), cancelled_on_error(pool):
            running = {pool.submit(_attempt, job): at for at, job in jobs.items()}
            for future in as_completed(running):
                take(running[future], future.result())
    if jobs:
        progress.close()


def notes_of(files: Sequence[File]) -> list[str]:
    """What was left out of frames, and what the user should know of the files."""
    notes: list[str] = []
    for file in files:
        name = short_name(file.path)
        remarks: Counter[str] = Counter()
        bad = 0
        for p in sorted(file.reports):
            remarks.update(file.reports[p].remarks)
            bad += len(file.reports[p].bad)
        notes += file.notes + file.keys.notes
        notes += [f"{name}: {text} ({count:,} frames)" for text, count in remarks.items()]
        if bad:
            notes.append(f"{name}: {plural(bad, 'frame')} left out on conversion")
    return list(dict.fromkeys(notes))


def stretches_of(files: Sequence[File], folder: Path) -> Iterator[Stretch]:
    """Frames of all parts, in the order of the files."""
    for f, file in enumerate(files):
        for p in range(len(file.pieces)):
            if file.reports[p].frames:
                yield Stretch(part_path(folder, f, p), 0, file.reports[p].frames)
