"""Sources: anything frames can be read from, behind one face.

:func:`open_source` looks at a path and finds the reader. What is not a store is parsed into the
same flat arrays that a store holds, so that everything after this point knows one layout.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from qeqtrain.data import store
from qeqtrain.data.born_charges import check_order
from qeqtrain.data.columns import columns_of, digest, fingerprint
from qeqtrain.data.frames import Frame, convert_frames, refuse
from qeqtrain.data.joined import Joined
from qeqtrain.data.keys import choose_keys
from qeqtrain.data.labels import Conventions
from qeqtrain.data.reading import contents, missing, places, short_name
from qeqtrain.data.source import Source
from qeqtrain.data.streams import Bad, open_stream
from qeqtrain.errors import UserMistake


def source_from_frames(
    frames: Sequence[Frame], name: str = "frames", conventions: Conventions | None = None
) -> Source:
    """Make a source of frames in memory."""
    columns = columns_of(frames)
    return Source(
        columns,
        name=name,
        conventions=conventions or Conventions(),
        fingerprint=fingerprint({k: digest(v) for k, v in columns.items()}),
        elements={int(z) for z in np.unique(columns["numbers"])},
    )


def _open_store(path: Path, conventions: Conventions) -> Source:
    columns, header = store.open_store(path)
    unwanted = [label for label, key in conventions.aliases.items() if key is None]
    columns = store.without(columns, unwanted)
    merged = replace(
        conventions,
        dipole_origin="center_of_mass",
        born_charges_order="dipole_displacement",
        aliases=header.conventions.aliases,
    )
    return Source(
        columns,
        name=short_name(path),
        path=path,
        conventions=merged,
        fingerprint=header.fingerprint,
        elements=header.elements,
        notes=header.notes,
        pairs_cutoff=header.pairs_cutoff,
        sums=header.sums,
        shard=header.shard,
    )


def _open_file(path: Path, conventions: Conventions) -> Source:
    if not path.exists():
        raise missing(path)
    if store.is_store(path):
        return _open_store(path, conventions)
    raws, bad = [], []
    for raw in open_stream(path, conventions).frames():
        if isinstance(raw, Bad):
            bad.append(f"{raw.id}: {raw.reason}")
        else:
            raws.append(raw)
    name = short_name(path)
    refuse(bad, name)
    if not raws:
        raise UserMistake(f"{path} holds no frames")
    frames, notes = convert_frames(raws, conventions, name)
    check_order(frames, raws, conventions, name)
    source = source_from_frames(frames, name, conventions)
    source.path, source.notes = path, notes
    source.unused = choose_keys(raws, conventions, name).unused
    return source


def _missing_shards(folder: str | Path, found: Sequence[Source]) -> list[str]:
    """Say which shards of a folder are not there; stores that are no shards are let be."""
    count = max((s.shard[1] for s in found), default=1)
    gone = sorted(set(range(count)) - {s.shard[0] for s in found if s.shard[1] == count})
    if not gone:
        return []
    names = ", ".join(f"{k:05d}.h5" for k in gone[:3])
    return [
        f"{folder}: {len(gone):,} of {count:,} shards are missing ({names}); copy them from "
        "their origin, or convert the data anew"
    ]


def open_source(
    path: str | Path | Sequence[str | Path], conventions: Conventions | None = None
) -> Source:
    """Open data files as one source.

    Args:
        path: a file, a pattern, a folder of stores, or several of these.
        conventions: what the user says of them.

    Raises:
        UserMistake: all mistakes of all files together.
    """
    conventions = conventions or Conventions()
    given = [path] if isinstance(path, str | Path) else list(path)
    parts: list[Source] = []
    problems: list[str] = []
    for item in given:
        try:
            for place in places(item):
                found = [_open_file(file, conventions) for file in contents(place)]
                if place.is_dir():
                    refuse(_missing_shards(place, found), str(place))
                parts += found
        except UserMistake as mistake:
            problems += mistake.problems
        except PermissionError:
            problems.append(f"{item} may not be read; check its permissions")
    if problems:
        raise UserMistake(*problems)
    if not parts:
        raise UserMistake("no data file is named")
    return parts[0] if len(parts) == 1 else Joined(parts)
