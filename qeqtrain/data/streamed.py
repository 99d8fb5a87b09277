"""Files too large for memory, opened through a store that lasts as long as they are looked at.

Whoever only looks at a file should not have to convert it by hand first, nor need the memory
of all its frames. It is read as a stream, as for a conversion, into a store in the folder for
temporary files, and that is what is looked at.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

from qeqtrain.data import store
from qeqtrain.data.convert import convert
from qeqtrain.data.labels import Conventions
from qeqtrain.data.reading import contents, places
from qeqtrain.data.source import Source
from qeqtrain.data.sources import open_source
from qeqtrain.errors import UserMistake

LARGE = 256 * 2**20
"""Bytes of a file that is no longer read into memory, where it takes several times as many."""

_WORKERS = 4  # processes; each takes some 300 MB


def _is_large(file: Path) -> bool:
    return file.is_file() and file.stat().st_size > LARGE and not store.is_store(file)


@contextmanager
def streamed_source(
    paths: str | Path | Sequence[str | Path], conventions: Conventions | None = None
) -> Iterator[Source]:
    """Open data files as one source, the large ones through temporary stores.

    Args:
        paths: files, patterns, folders of stores or databases.
        conventions: what the user says of the files.

    Raises:
        UserMistake: a file cannot be read, or a frame is bad.
    """
    conventions = conventions or Conventions()
    given = [paths] if isinstance(paths, str | Path) else list(paths)
    try:
        inside = {place: contents(place) for item in given for place in places(item)}
    except (UserMistake, PermissionError):
        inside = {}  # said together with all other mistakes below
    if not any(_is_large(file) for files in inside.values() for file in files):
        yield open_source(paths, conventions)
        return
    with TemporaryDirectory(prefix="qeqtrain-") as folder:
        chosen: list[Path] = []
        unused: list[str] = []
        for place, files in inside.items():
            if not any(map(_is_large, files)):
                chosen.append(place)
                continue
            for file in files:
                if not _is_large(file):
                    chosen.append(file)
                    continue
                out = Path(folder) / str(len(chosen)) / file.absolute().parent.name
                out.mkdir(parents=True)
                chosen.append(out / f"{file.stem}.h5")
                sys.stderr.write(f"{file} is large: read into a temporary store in {folder}\n")
                workers = min(os.cpu_count() or 1, _WORKERS)
                done = convert(file, chosen[-1], conventions, workers=workers)
                unused += done.unused
        source = open_source(chosen, conventions)
        source.unused = tuple(dict.fromkeys([*source.unused, *unused]))
        yield source
