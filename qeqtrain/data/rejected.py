"""Frames that a conversion leaves out: each with its id and its reason, none unsaid."""

from __future__ import annotations

import csv
import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from qeqtrain.data.frames import MAX_SHOWN
from qeqtrain.data.pieces import File, Report
from qeqtrain.errors import UserMistake

OnBad = Literal["error", "skip"]


def refuse_bad(file: File, report: Report, on_bad: OnBad) -> None:
    """Under ``on_bad: error``, a bad frame is a mistake.

    Raises:
        UserMistake: there is one.
    """
    if not report.bad or on_bad == "skip":
        return
    problems = [f"{file.path}, {name}: {reason}" for name, reason in report.bad[:MAX_SHOWN]]
    rest = len(report.bad) - MAX_SHOWN
    if rest > 0:
        problems.append(f"{file.path}: and {rest:,} more of the kind")
    raise UserMistake(
        *problems,
        "correct or remove such frames, or leave them out with --on-bad skip; what is done "
        "already is kept",
    )


def kind_of(reason: str) -> str:
    """Reduce a reason to its words, so that frames with other numbers count together."""
    return re.sub(r"[-+]?\d[\d.e+-]*", "#", reason)


def rejected_ids(files: Sequence[File]) -> dict[str, list[str]]:
    """Ids of the frames left out, by the first reason of each kind; commonest first."""
    ids: dict[str, list[str]] = {}
    shown: dict[str, str] = {}
    for file in files:
        for p in sorted(file.reports):
            for name, reason in file.reports[p].bad:
                kind = kind_of(reason)
                shown.setdefault(kind, reason)
                ids.setdefault(kind, []).append(name)
    return {shown[k]: ids[k] for k in sorted(ids, key=lambda k: -len(ids[k]))}


def rejected_path(out: Path) -> Path:
    """Where the frames that were left out are listed."""
    return out.with_name(f"{out.name}.rejected.csv")


def list_rejected(out: Path, files: Sequence[File]) -> Path | None:
    """Write the list of frames left out; take an older one away if there are none."""
    path = rejected_path(out)
    if not any(report.bad for file in files for report in file.reports.values()):
        path.unlink(missing_ok=True)
        return None
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    with temporary.open("w", encoding="utf-8", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(["file", "id", "reason"])
        for one in files:
            for p in sorted(one.reports):
                rows.writerows((one.path, *bad) for bad in one.reports[p].bad)
    temporary.replace(path)
    return path
