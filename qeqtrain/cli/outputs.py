"""Files and folders that a verb will write, looked at before the work begins."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

from qeqtrain.errors import UserMistake


def refuse_unwritable(*files: Path | None, folders: Iterable[Path] = ()) -> None:
    """Make sure that results will have a place.

    Args:
        *files: to be written or replaced; ``None`` is passed over.
        folders: to be written into; they are made if need be.

    Raises:
        UserMistake: all that could not be written, together.
    """
    problems = []
    for file in files:
        if file is None:
            continue
        if file.is_dir():
            problems.append(f"{file}: is a folder, expected a file to write")
        elif not file.parent.is_dir():
            problems.append(f"{file}: there is no folder {file.parent}")
        elif not os.access(file if file.exists() else file.parent, os.W_OK):
            problems.append(f"{file}: may not be written by this user")
    for folder in folders:
        above = next(p for p in (folder, *folder.absolute().parents) if p.exists())
        if not above.is_dir():
            problems.append(f"{folder}: {above} is a file, expected a folder to write into")
        elif not os.access(above, os.W_OK):
            problems.append(f"{folder}: {above} may not be written by this user")
    if problems:
        raise UserMistake(*problems)
