"""Any format to the store (or to extended XYZ)."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TextIO

from qeqtrain.data.frames import Frame
from qeqtrain.data.labels import Conventions
from qeqtrain.data.progress import Progress
from qeqtrain.data.sources import Source, open_source
from qeqtrain.data.writing import write_extxyz, write_store
from qeqtrain.errors import UserMistake


def _frames(source: Source, progress: Progress) -> Iterator[Frame]:
    for i in range(len(source)):
        yield source[i]
        progress.advance()


def convert(
    sources: str | Path | Sequence[str | Path],
    out: str | Path,
    conventions: Conventions | None = None,
    pairs_cutoff: float | None = None,
    stream: TextIO | None = None,
) -> dict[str, object]:
    """Write the frames of some files into one.

    Args:
        sources: files, patterns, folders of stores.
        out: store (``.h5``) or extended XYZ (``.extxyz``); replaced in one step.
        conventions: what the user says of the files; under ``total_charge: error`` frames
            without a total charge keep none.
        pairs_cutoff: A; neighbour lists of this cutoff go into the store.
        stream: where progress is shown; standard error by default.

    Returns:
        What was written: ``path``, ``frames``, ``atoms``, ``labels`` (frames with each),
        ``notes``, ``fingerprint``, ``bytes``, ``seconds``.

    Raises:
        UserMistake: all mistakes of the files together.
    """
    path = Path(out).expanduser()
    problems = []
    stored = path.suffix in {".h5", ".hdf5"}
    if not stored and path.suffix not in {".xyz", ".extxyz"}:
        problems.append(f"{out}: expected a name that ends in .h5 (store) or .extxyz")
    if pairs_cutoff is not None and pairs_cutoff <= 0:
        problems.append(
            f"the cutoff of neighbour lists is {pairs_cutoff} A; expected more than 0"
        )
    if pairs_cutoff is not None and not stored:
        problems.append(
            "neighbour lists go into a store only; write to a name that ends in .h5"
        )
    if problems:
        raise UserMistake(*problems)
    start = time.perf_counter()
    conventions = conventions or Conventions()
    source = open_source(sources, conventions)
    progress = Progress(f"writing {path.name}", len(source), stream or sys.stderr)
    frames = _frames(source, progress)
    if stored:
        write_store(path, frames, conventions, source.notes, pairs_cutoff)
    else:
        write_extxyz(path, frames)
    progress.close()
    return {
        "path": str(path),
        "frames": len(source),
        "atoms": int(source.sizes.sum()),
        "labels": {name: int(mask.sum()) for name, mask in source.present.items()},
        "notes": list(source.notes),
        "fingerprint": source.fingerprint,
        "bytes": path.stat().st_size,
        "seconds": time.perf_counter() - start,
    }
