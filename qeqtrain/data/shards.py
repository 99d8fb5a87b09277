"""The result of a conversion: one store, a folder of numbered ones, or extended XYZ."""

from __future__ import annotations

import shutil
from collections.abc import Iterable, Iterator, Sequence
from functools import reduce
from pathlib import Path
from typing import TextIO

from qeqtrain.data import store
from qeqtrain.data.frames import Frame
from qeqtrain.data.joined import joined_fingerprint
from qeqtrain.data.pieces import Rules
from qeqtrain.data.progress import Progress
from qeqtrain.data.sources import open_source
from qeqtrain.data.store_writer import Stretch, join
from qeqtrain.data.sums import Sums
from qeqtrain.data.writing import write_extxyz


def write_result(
    path: Path,
    folder: Path,
    stretches: Sequence[Stretch],
    rules: Rules,
    notes: Sequence[str],
    shard_frames: int | None,
    screen: TextIO,
) -> tuple[Sums, str]:
    """Join the parts into what was asked for; statistics and fingerprint of it."""
    frames = sum(s.stop - s.start for s in stretches)
    progress = Progress(f"writing {path.name}", frames, screen)
    if path.suffix in {".xyz", ".extxyz"} and shard_frames is None:
        made = folder / "whole.h5"
        join(stretches, made, rules.conventions)
        source = open_source(made)
        write_extxyz(path, _advancing((source[i] for i in range(len(source))), progress))
        progress.close()
        return source.sum_up(), source.fingerprint
    if shard_frames is None:
        rest = (rules.conventions, notes, rules.pairs_cutoff)
        join(stretches, path, *rest, advance=progress.advance)
        shards = [path]
    else:
        shards = _write_shards(path, folder, stretches, rules, notes, shard_frames, progress)
    progress.close()
    headers = [_header(p) for p in shards]
    prints = [h.fingerprint for h in headers]
    sums = reduce(Sums.merge, [h.sums for h in headers if h.sums is not None])
    return sums, prints[0] if len(prints) == 1 else joined_fingerprint(prints)


def _advancing(frames: Iterable[Frame], progress: Progress) -> Iterator[Frame]:
    for frame in frames:
        yield frame
        progress.advance()


def _header(path: Path) -> store.Header:
    return store.open_store(path, in_memory=0)[1]


def _write_shards(
    path: Path,
    folder: Path,
    stretches: Sequence[Stretch],
    rules: Rules,
    notes: Sequence[str],
    shard_frames: int,
    progress: Progress,
) -> list[Path]:
    """Write numbered stores into a folder that appears when all are there."""
    making = folder / "shards"
    shutil.rmtree(making, ignore_errors=True)
    total = sum(s.stop - s.start for s in stretches)
    count = -(-total // shard_frames)
    names = []
    for k in range(count):
        name = f"{k:05d}.h5"
        chosen = list(_between(stretches, k * shard_frames, (k + 1) * shard_frames))
        join(
            chosen,
            making / name,
            rules.conventions,
            notes,
            rules.pairs_cutoff,
            shard=(k, count),
            advance=progress.advance,
        )
        names.append(name)
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.is_dir():
        path.rmdir()  # empty, as was made sure of
    making.replace(path)
    return [path / name for name in names]


def _between(stretches: Iterable[Stretch], start: int, stop: int) -> Iterator[Stretch]:
    """Frames ``start`` to ``stop`` of all stretches, numbered through."""
    first = 0
    for one in stretches:
        count = one.stop - one.start
        a, b = max(start - first, 0), min(stop - first, count)
        if a < b:
            yield Stretch(one.part, one.start + a, one.start + b)
        first += count
