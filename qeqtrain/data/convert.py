"""Any format to the store (or to extended XYZ), in pieces that survive a kill.

A file is cut into pieces, always the same ones; each becomes a part of its own in a folder
beside the result, by whichever process is free; the parts are joined in order. The bytes of the
result therefore do not depend on the number of workers, nor on how often the conversion was
stopped and started again. Memory is that of a piece's frames at hand, never of a file.
"""

from __future__ import annotations

import shutil
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TextIO

from qeqtrain.data.labels import Conventions, plural
from qeqtrain.data.pieces import Rules
from qeqtrain.data.progress import duration
from qeqtrain.data.rejected import OnBad, list_rejected, rejected_ids
from qeqtrain.data.shards import write_result
from qeqtrain.data.work import (
    identity_of,
    make_parts,
    notes_of,
    open_files,
    stretches_of,
    work_folder,
)
from qeqtrain.errors import UserMistake

_IDS_SHOWN = 3


@dataclass(frozen=True)
class Converted:
    """What came of a conversion.

    Attributes:
        path: of the result, a file or a folder of shards.
        frames, atoms: written.
        labels: frames with each label.
        rejected: ids of the first few frames that were left out, by reason.
        rejected_counts: how many were, by reason.
        rejected_file: where all of them are listed; ``None`` if there are none.
        notes: what was left out of frames that were written.
        unused: keys that no label was taken from.
        resumed: pieces that an earlier conversion had finished.
        pieces: all of them.
        fingerprint: of the content.
        bytes: of the result.
        seconds: wall time.
    """

    path: Path
    frames: int
    atoms: int
    labels: dict[str, int]
    rejected: dict[str, list[str]]
    rejected_counts: dict[str, int]
    rejected_file: Path | None
    notes: list[str]
    unused: list[str]
    resumed: int
    pieces: int
    fingerprint: str
    bytes: int
    seconds: float

    def told(self) -> list[str]:
        """Say it in lines of text."""
        lines = [
            f"{self.path}: {plural(self.frames, 'structure')}, {plural(self.atoms, 'atom')}, "
            f"{self.bytes / 2**20:,.1f} MiB in {duration(self.seconds)}"
        ]
        if self.rejected_file is not None:
            total = sum(self.rejected_counts.values())
            lines.append(f"  {plural(total, 'structure')} left out ({self.rejected_file}):")
            for reason, ids in self.rejected.items():
                count = self.rejected_counts[reason]
                more = ", ..." if count > len(ids) else ""
                lines.append(f"  {count:9,}  {reason} ({', '.join(ids)}{more})")
        lines += [f"  {note}" for note in self.notes]
        if self.unused:
            lines.append(f"  keys not used: {', '.join(self.unused)}")
        return lines


def convert(
    sources: str | Path | Sequence[str | Path],
    out: str | Path,
    conventions: Conventions | None = None,
    pairs_cutoff: float | None = None,
    stream: TextIO | None = None,
    *,
    workers: int = 1,
    shard_frames: int | None = None,
    max_force: float | None = None,
    on_bad: OnBad = "error",
    piece_size: int | None = None,
) -> Converted:
    """Write the frames of some files into one, or into a folder of shards.

    Worker processes import the main module anew: a script that asks for several calls this
    under ``if __name__ == "__main__"``.

    Args:
        sources: files, patterns, folders of stores.
        out: store (``.h5``) or extended XYZ (``.extxyz``), replaced in one step; with
            ``shard_frames`` a folder, which must not be there yet or be empty.
        conventions: what the user says of the files; under ``total_charge: error`` frames
            without a total charge keep none.
        pairs_cutoff: A; neighbour lists of this cutoff go into the store.
        stream: where progress is shown; standard error by default.
        workers: processes.
        shard_frames: frames of one shard.
        max_force: eV/A; frames with a larger force on an atom are bad.
        on_bad: whether a bad frame is a mistake, or left out and listed.
        piece_size: of pieces, in what the reader counts (bytes or frames).

    Raises:
        UserMistake: all mistakes of the arguments, or of the files, together.
    """
    path = Path(out).expanduser()
    _check(path, pairs_cutoff, workers, shard_frames, max_force, on_bad)
    start = time.perf_counter()
    rules = Rules(conventions or Conventions(), pairs_cutoff, max_force)
    given = [sources] if isinstance(sources, str | Path) else list(sources)
    screen = stream or sys.stderr
    files = open_files(given, rules.conventions, piece_size)
    folder = path.with_name(f"{path.name}.parts")
    with work_folder(folder, identity_of(files, rules, piece_size)):
        resumed = make_parts(files, folder, rules, workers, on_bad, screen)
        rejected = rejected_ids(files)
        listed = list_rejected(path, files)
        notes = notes_of(files)
        stretches = list(stretches_of(files, folder))
        if not stretches:
            raise UserMistake(f"{path}: there is no frame to write")
        found, fingerprint = write_result(
            path, folder, stretches, rules, notes, shard_frames, screen
        )
        shutil.rmtree(folder)
    size = sum(p.stat().st_size for p in path.iterdir()) if path.is_dir() else 0
    return Converted(
        path=path,
        frames=found.frames,
        atoms=found.atoms,
        labels=found.labelled,
        rejected={r: ids[:_IDS_SHOWN] for r, ids in rejected.items()},
        rejected_counts={r: len(ids) for r, ids in rejected.items()},
        rejected_file=listed,
        notes=notes,
        unused=sorted({key for file in files for key in file.keys.unused}),
        resumed=resumed,
        pieces=sum(len(file.pieces) for file in files),
        fingerprint=fingerprint,
        bytes=size or path.stat().st_size,
        seconds=time.perf_counter() - start,
    )


def _check(
    path: Path,
    pairs_cutoff: float | None,
    workers: int,
    shard_frames: int | None,
    max_force: float | None,
    on_bad: str,
) -> None:
    problems = []
    stored = path.suffix in {".h5", ".hdf5"} or shard_frames is not None
    if not stored and path.suffix not in {".xyz", ".extxyz"}:
        problems.append(f"{path}: expected a name that ends in .h5 (store) or .extxyz")
    if pairs_cutoff is not None and not 0 < pairs_cutoff < float("inf"):
        problems.append(f"--pairs-cutoff is {pairs_cutoff}; expected a length in A above 0")
    if pairs_cutoff is not None and not stored:
        problems.append(
            "neighbour lists go into a store only; write to a name that ends in .h5"
        )
    if workers < 1:
        problems.append(f"--workers is {workers}; expected 1 or more")
    if max_force is not None and not max_force > 0:
        problems.append(f"--max-force is {max_force}; expected a force above 0, in eV/A")
    if on_bad not in {"error", "skip"}:
        problems.append(f"--on-bad is {on_bad!r}; expected error | skip")
    if shard_frames is not None:
        if shard_frames < 1:
            problems.append(f"--shard-frames is {shard_frames}; expected 1 or more")
        if path.suffix in {".h5", ".hdf5", ".xyz", ".extxyz"}:
            problems.append(
                f"{path}: with --shard-frames the result is a folder; leave out {path.suffix}"
            )
        elif path.is_file() or (path.is_dir() and any(path.iterdir())):
            problems.append(f"{path}: is there already; remove it or choose another name")
    if problems:
        raise UserMistake(*problems)
