"""The files of one data set: where they are, what they mean, which frames are for what."""

from __future__ import annotations

from collections.abc import Mapping
from typing import get_args

import numpy as np

from qeqtrain.data.labels import Conventions
from qeqtrain.data.source import Source
from qeqtrain.data.sources import open_source
from qeqtrain.data.splits import SPLITS, SplitBy, split_from_file, split_indices
from qeqtrain.errors import UserMistake

DEFAULT_SPLIT = {"val": 0.1, "test": 0.1}
"""Fractions of the frames where neither validation nor test frames were given."""

Parts = dict[str, tuple[Source, np.ndarray]]
"""By split: a source, and which of its frames belong to it."""


class DataFiles:
    """Files of one data set, their conventions, and how they are divided.

    Args:
        train: file, pattern or folder of stores, or several.
        val, test: the same; without them, ``split`` takes frames from ``train``.
        split: fraction (below 1) or number of frames, for those of ``val`` and ``test`` that
            have no file of their own and are not in ``split_file``; ``None`` is a tenth for
            each where neither has a file, and nothing otherwise.
        split_by: ``group`` keeps frames of one material, trajectory or geometry together;
            ``random`` does not.
        split_file: JSON with source ids under train, val and test, as a run's ``splits.json``.
        conventions: what the user says of the files.
    """

    def __init__(
        self,
        train: str | list[str],
        val: str | list[str] | None = None,
        test: str | list[str] | None = None,
        split: Mapping[str, float] | None = None,
        split_by: SplitBy = "group",
        split_file: str | None = None,
        conventions: Conventions | None = None,
    ) -> None:
        """Remember what to open; nothing is opened before :meth:`open`."""
        self._files = {"train": train, "val": val, "test": test}
        if split is None and not (val or test):
            split = DEFAULT_SPLIT
        self._split = {} if split_file else dict(split or {})
        self._split = {k: v for k, v in self._split.items() if not self._files.get(k)}
        self._split_by, self._split_file = split_by, split_file
        self.conventions = conventions or Conventions()

    def mistakes(self) -> list[str]:
        """Say what is wrong before any file is opened."""
        problems = []
        if self._split_by not in get_args(SplitBy):
            problems.append(f"data.split_by is {self._split_by!r}; expected random | group")
        if self._split_file and (self._files["val"] or self._files["test"]):
            problems.append("data.split_file says all; leave out data.val and data.test")
        return problems

    def open(self, seed: int, prefix: str = "") -> Parts:
        """Open every file and divide; the mistakes of all files come together.

        Args:
            seed: of the division.
            prefix: of the ids of these frames in a run on several data sets.

        Raises:
            UserMistake: files that cannot be read, or divided as asked.
        """
        problems: list[str] = []
        opened: dict[str, Source] = {}
        for name, files in self._files.items():
            if files:
                try:
                    opened[name] = open_source(files, self.conventions)
                except UserMistake as mistake:
                    problems += [f"data.{name}: {text}" for text in mistake.problems]
        if problems:
            raise UserMistake(*problems)
        source = opened["train"]
        if self._split_file:
            chosen = split_from_file(source, self._split_file, prefix)
        else:
            chosen = split_indices(source, self._split, self._split_by, seed)
        parts = {name: (source, chosen[name]) for name in SPLITS}
        for name in ("val", "test"):
            if name in opened:
                parts[name] = (opened[name], np.arange(len(opened[name])))
        return parts
