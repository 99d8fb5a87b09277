"""One piece of a file made into a part of a store: what a conversion hands to its workers.

Every frame of the piece either stands in the part or is listed, by id and reason, in the report
beside it. The report is written last; a piece is done when its report is there, and need not be
done again however often the conversion is killed.
"""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from itertools import islice
from pathlib import Path

import numpy as np

from qeqtrain.data.columns import compact_pairs
from qeqtrain.data.frames import Frame, convert_frame
from qeqtrain.data.keys import Keys, Survey
from qeqtrain.data.labels import Conventions
from qeqtrain.data.parts import BLOCK, PartWriter
from qeqtrain.data.source import Source
from qeqtrain.data.sources import open_source
from qeqtrain.data.streams import PIECE_FRAMES, Bad, Piece, Stream
from qeqtrain.neighbors import find_pairs
from qeqtrain.structures import Pairs

_MOST_CELLS = 127  # between two neighbours; what a stored list can hold


@dataclass(frozen=True)
class Rules:
    """What is asked of every frame, and kept of it.

    Attributes:
        conventions: what the user says of the files.
        pairs_cutoff: A; store neighbour lists of this cutoff.
        max_force: eV/A; a frame with a larger force on an atom is bad.
    """

    conventions: Conventions
    pairs_cutoff: float | None = None
    max_force: float | None = None


@dataclass(frozen=True)
class Job:
    """A piece to be made into a part.

    Attributes:
        stream: that reads it; ``None`` where ``path`` is a store.
        path: of the file.
        piece: of the file; frames of a store.
        part: file to write; the report stands beside it.
        keys: which keys of the file to read.
        rules: for every frame.
    """

    stream: Stream | None
    path: Path
    piece: Piece
    part: Path
    keys: Keys
    rules: Rules


@dataclass
class Report:
    """What became of a piece.

    Attributes:
        frames: written to the part.
        bad: id and reason of those that were not.
        remarks: what was left out of frames that were written, and of how many.
        survey: keys that were met.
        keys: by which keys labels were read.
    """

    frames: int = 0
    bad: list[tuple[str, str]] = field(default_factory=list)
    remarks: Counter[str] = field(default_factory=Counter)
    survey: Survey = field(default_factory=Survey)
    keys: dict[str, tuple[str, ...]] = field(default_factory=dict)

    def write(self, path: Path) -> None:
        """Write the report, whole or not at all."""
        plain = asdict(self)
        plain["survey"] = {
            "in_info": sorted(self.survey.in_info),
            "in_arrays": sorted(self.survey.in_arrays),
            "differ": {
                label: sorted(sorted(pair) for pair in pairs)
                for label, pairs in self.survey.differ.items()
            },
            "nonzero": sorted(self.survey.nonzero),
        }
        temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
        with temporary.open("w", encoding="utf-8") as file:
            json.dump(plain, file)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)

    @classmethod
    def read(cls, path: Path) -> Report | None:
        """Read a report; ``None`` if there is none that can be read."""
        try:
            plain = json.loads(path.read_text(encoding="utf-8"))
            survey = plain["survey"]
            pairs = {
                label: {frozenset(p) for p in found}
                for label, found in survey["differ"].items()
            }
            return cls(
                frames=plain["frames"],
                bad=[(i, reason) for i, reason in plain["bad"]],
                remarks=Counter(plain["remarks"]),
                survey=Survey(
                    set(survey["in_info"]),
                    set(survey["in_arrays"]),
                    pairs,
                    set(survey["nonzero"]),
                ),
                keys={label: tuple(names) for label, names in plain["keys"].items()},
            )
        except (OSError, ValueError, KeyError, TypeError):
            return None


@dataclass
class File:
    """A file to be converted, cut into pieces."""

    path: Path
    stream: Stream | None
    pieces: list[Piece]
    keys: Keys
    notes: list[str]
    reports: dict[int, Report] = field(default_factory=dict)


def report_path(part: Path) -> Path:
    """Where the report of a part stands."""
    return part.with_suffix(".json")


def pieces_of_store(path: Path, size: int | None = None) -> list[Piece]:
    """Cut a store into ranges of frames."""
    step = size or PIECE_FRAMES
    frames = len(open_source(path))
    return [Piece(a, min(a + step, frames), a) for a in range(0, frames, step)]


def survey_of(stream: Stream, piece: Piece, most: int | None = None) -> Survey:
    """Look at the keys of a piece, or of its first ``most`` frames."""
    survey = Survey()
    for raw in islice(stream.read(piece), most):
        if not isinstance(raw, Bad):
            survey.add(raw)
    return survey


def make_part(job: Job) -> Report:
    """Write one part and its report."""
    report = Report(keys=dict(job.keys.chosen))
    cutoff = job.rules.pairs_cutoff
    with PartWriter(job.part, cutoff) as writer:
        frames: list[Frame] = []
        lists: list[Pairs] = []
        atoms = 0
        for frame in _understood(job, report):
            pairs, reason = _examined(frame, job.rules)
            if reason:
                report.bad.append((frame.source_id, reason))
                continue
            frames.append(frame)
            if pairs is not None:
                lists.append(compact_pairs(pairs))
            atoms += len(frame)
            if atoms >= BLOCK:
                writer.write(frames, lists if cutoff is not None else None)
                frames, lists, atoms = [], [], 0
        if frames:
            writer.write(frames, lists if cutoff is not None else None)
    report.frames = writer.frames
    report.write(report_path(job.part))
    return report


def _understood(job: Job, report: Report) -> Iterator[Frame]:
    """Frames whose labels and geometry could be read; the others go into the report."""
    if job.stream is None:
        source: Source = open_source(job.path, job.rules.conventions)
        yield from (source[i] for i in range(job.piece.start, job.piece.stop))
        return
    name = job.stream.name
    for raw in job.stream.read(job.piece):
        if isinstance(raw, Bad):
            report.bad.append((raw.id, raw.reason))
            continue
        report.survey.add(raw)
        fallback = f"{name}:{raw.index}"
        frame, wrong, left_out = convert_frame(raw, job.keys, job.rules.conventions, fallback)
        if wrong:
            report.bad.append((frame.source_id, "; ".join(wrong)))
            continue
        report.remarks.update(left_out)
        yield frame


def _examined(frame: Frame, rules: Rules) -> tuple[Pairs | None, str]:
    """Neighbour list of a frame, if one is stored, and what is wrong with the frame."""
    forces = frame.labels.get("forces")
    if rules.max_force is not None and forces is not None:
        largest = float(np.sqrt((forces**2).sum(-1).max()))
        if largest > rules.max_force:
            return None, (
                f"a force of {largest:.3g} eV/A is beyond --max-force {rules.max_force:g}"
            )
    if rules.pairs_cutoff is None:
        return None, ""
    pairs = find_pairs(frame.structure, rules.pairs_cutoff)
    if np.abs(pairs.shift).max(initial=0) > _MOST_CELLS:
        return None, f"atoms lie more than {_MOST_CELLS} cells apart; wrap them into the cell"
    return pairs, ""
