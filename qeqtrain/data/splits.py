"""Which frames train, validate and test; what belongs together stays together."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from hashlib import blake2b
from pathlib import Path
from typing import Literal

import numpy as np

from qeqtrain.data.labels import plural
from qeqtrain.data.source import Source
from qeqtrain.errors import UserMistake, nearest

SPLITS = ("train", "val", "test")
SplitBy = Literal["random", "group"]


def families(groups: Sequence[str], geometries: np.ndarray) -> np.ndarray:
    """Number the sets of frames that share a group or a geometry, shape ``(n_frames,)``.

    The same geometry at several charges is one family, even where the file names groups
    differently.
    """
    parent = list(range(len(groups)))

    def root(i: int) -> int:
        while parent[i] != i:
            parent[i] = parent[parent[i]]
            i = parent[i]
        return i

    for keys in (groups, geometries.tolist()):
        first: dict[object, int] = {}
        for i, key in enumerate(keys):
            j = first.setdefault(key, i)
            a, b = root(i), root(j)
            if a != b:
                parent[max(a, b)] = min(a, b)
    return np.array([root(i) for i in range(len(groups))], dtype=np.int64)


def _order(names: Sequence[str], seed: int) -> np.ndarray:
    """Shuffle by a hash of each name, so that frames added later move no other."""
    keys = [blake2b(f"{seed}/{n}".encode(), digest_size=8).digest() for n in names]
    return np.array(
        sorted(range(len(names)), key=lambda i: (keys[i], names[i])), dtype=np.int64
    )


def wanted_counts(
    split: Mapping[str, float], n_frames: int
) -> tuple[dict[str, int], list[str]]:
    """Frames of val and test from fractions (below 1) or counts; second: mistakes."""
    problems: list[str] = []
    counts: dict[str, int] = {}
    for name, value in split.items():
        if name == "train":
            continue  # the rest
        if name not in SPLITS:
            problems.append(
                f"data.split.{name}: expected val and test (the rest trains)"
                f"{nearest(name, SPLITS)}"
            )
            continue
        if not isinstance(value, int | float) or isinstance(value, bool) or value < 0:
            problems.append(
                f"data.split.{name}={value!r}: expected a fraction below 1 or a count of frames"
            )
            continue
        if value >= 1 and value != int(value):
            problems.append(f"data.split.{name}={value}: {value} frames cannot be; round it")
            continue
        share = value * n_frames if value < 1 else value
        counts[name] = max(round(share), 1) if value > 0 else 0
    if not problems and sum(counts.values()) >= n_frames:
        shown = ", ".join(f"{k} {v:,}" for k, v in counts.items())
        problems.append(
            f"data.split takes {shown} of {plural(n_frames, 'frame')}: none is left to train "
            "on; take less"
        )
    return counts, problems


def split_indices(
    source: Source, split: Mapping[str, float], split_by: SplitBy, seed: int
) -> dict[str, np.ndarray]:
    """Divide the frames of a source into train, val and test.

    Args:
        source: frames.
        split: fraction or count of val and of test.
        split_by: ``group`` keeps families whole; ``random`` does not.
        seed: of the shuffle.

    Raises:
        UserMistake: impossible sizes.
    """
    counts, problems = wanted_counts(split, len(source))
    if problems:
        raise UserMistake(*problems)
    if split_by == "random":
        order = _order(source.source_ids, seed)
        chosen: dict[str, np.ndarray] = {}
        start = 0
        for name in ("test", "val"):
            chosen[name] = np.sort(order[start : start + counts.get(name, 0)])
            start += counts.get(name, 0)
        chosen["train"] = np.sort(order[start:])
        return chosen
    family = families(source.groups, source.geometries)
    kinds, member = np.unique(family, return_inverse=True)
    sizes = np.bincount(member)
    queue = _order([source.groups[k] for k in kinds], seed).tolist()
    if len(kinds) < 1 + sum(1 for c in counts.values() if c):
        raise UserMistake(
            f"{source.name}: all {plural(len(source), 'frame')} belong to "
            f"{plural(len(kinds), 'group')} ({source.groups[0]}), which cannot be divided into "
            "train, val and test; give data.val and data.test as files, or data.split_by=random"
        )
    owner = np.zeros(len(kinds), dtype=np.int64)  # 0 train, 1 val, 2 test
    for code, name in ((2, "test"), (1, "val")):
        left = counts.get(name, 0)
        if left == 0:
            continue
        taken = []
        for kind in queue:
            if sizes[kind] <= left:
                taken.append(kind)
                left -= int(sizes[kind])
        # Where every family is larger than what was asked for, the smallest one has to do.
        taken = taken or [min(queue, key=lambda kind: sizes[kind])]
        owner[taken] = code
        queue = [kind for kind in queue if owner[kind] == 0]
    if not queue:
        raise UserMistake(
            f"{source.name}: groups are too large to leave any for training; take less for val "
            "and test"
        )
    return {name: np.flatnonzero(owner[member] == i) for i, name in enumerate(SPLITS)}


def split_from_file(
    source: Source, path: str | Path, prefix: str = ""
) -> dict[str, np.ndarray]:
    """Divide by a file that lists the source ids of each split, as a run's ``splits.json``.

    Args:
        source: frames.
        path: of the file.
        prefix: of the ids of these frames, where a run on several data sets wrote the file;
            where any id has it, others are those of other sets.

    Raises:
        UserMistake: the file is missing, is not JSON of that form, or names unknown frames.
    """
    file = Path(path).expanduser()
    try:
        lists = json.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserMistake(f"data.split_file={path}: there is no such file") from None
    except (ValueError, OSError) as error:
        raise UserMistake(
            f"data.split_file={path} is not JSON ({error}); expected lists of source ids under "
            "train, val and test"
        ) from None
    whole = isinstance(lists, dict) and set(lists) <= set(SPLITS) and "train" in lists
    if not whole or not all(
        isinstance(names, list) and all(isinstance(n, str) for n in names)
        for names in lists.values()
    ):
        raise UserMistake(
            f"data.split_file={path}: expected lists of source ids under train, val and test"
        )
    if prefix and any(n.startswith(prefix) for names in lists.values() for n in names):
        lists = {
            split: [n.removeprefix(prefix) for n in names if n.startswith(prefix)]
            for split, names in lists.items()
        }
    index = {name: i for i, name in enumerate(source.source_ids)}
    unknown = [n for names in lists.values() for n in names if n not in index]
    if unknown:
        raise UserMistake(
            f"data.split_file={path} names {plural(len(unknown), 'frame')} that {source.name} "
            f"lacks, the first is '{unknown[0]}'{nearest(unknown[0], source.source_ids[:2000])}"
        )
    chosen = {
        s: np.sort(np.array([index[n] for n in lists.get(s, ())], dtype=np.int64))
        for s in SPLITS
    }
    counts = np.bincount(np.concatenate(list(chosen.values())), minlength=len(source))
    if (counts > 1).any():
        twice = source.source_ids[int(np.argmax(counts))]
        raise UserMistake(f"data.split_file={path} lists '{twice}' in two splits")
    return chosen
