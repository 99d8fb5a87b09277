"""Millions of names without millions of Python objects."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import overload

import numpy as np

from qeqtrain.data.columns import BY_GEOMETRY


class Texts(Sequence[str]):
    """Texts kept as the bytes that a store holds, decoded when one is asked for."""

    def __init__(self, characters: np.ndarray, lengths: np.ndarray) -> None:
        """Take the bytes of all texts, and the number of bytes of each."""
        self._bytes = characters.tobytes()
        self._ends = np.concatenate([[0], np.cumsum(lengths, dtype=np.int64)])

    def __len__(self) -> int:
        """Count the texts."""
        return len(self._ends) - 1

    def _one(self, i: int) -> str:
        return self._bytes[self._ends[i] : self._ends[i + 1]].decode()

    @overload
    def __getitem__(self, i: int) -> str: ...
    @overload
    def __getitem__(self, i: slice) -> list[str]: ...
    def __getitem__(self, i: int | slice) -> str | list[str]:
        """Decode one text, or several."""
        if isinstance(i, slice):
            return [self._one(k) for k in range(*i.indices(len(self)))]
        return self._one(range(len(self))[int(i)])

    def __iter__(self) -> Iterator[str]:
        """Decode one after the other."""
        ends = self._ends.tolist()
        return (self._bytes[a:b].decode() for a, b in pairwise(ends))

    def __eq__(self, other: object) -> bool:
        """Compare with any sequence of texts."""
        if not isinstance(other, Sequence):
            return NotImplemented
        return len(self) == len(other) and all(a == b for a, b in zip(self, other, strict=True))

    __hash__ = None  # type: ignore[assignment]  # compared by content, as a list is


class Groups(Texts):
    """Groups of frames: those stated, and the geometry where none is."""

    def __init__(
        self, characters: np.ndarray, lengths: np.ndarray, geometries: np.ndarray
    ) -> None:
        """Take stated groups, empty ones included, and the number of each geometry."""
        super().__init__(characters, lengths)
        self._geometries = geometries

    def _one(self, i: int) -> str:
        return super()._one(i) or f"{BY_GEOMETRY}{int(self._geometries[i]):016x}"

    def __iter__(self) -> Iterator[str]:
        """Give one after the other."""
        for text, geometry in zip(super().__iter__(), self._geometries, strict=True):
            yield text or f"{BY_GEOMETRY}{int(geometry):016x}"


class Chained(Texts):
    """Several sequences of texts, one after the other."""

    def __init__(self, parts: Sequence[Sequence[str]]) -> None:
        """Take the parts; they stay as they are."""
        self._parts = list(parts)
        self._starts = np.concatenate([[0], np.cumsum([len(p) for p in parts])])

    def __len__(self) -> int:
        """Count the texts."""
        return int(self._starts[-1])

    def _one(self, i: int) -> str:
        part = int(np.searchsorted(self._starts, i, side="right")) - 1
        return self._parts[part][i - int(self._starts[part])]

    def __iter__(self) -> Iterator[str]:
        """Give one after the other."""
        return (text for part in self._parts for text in part)


class Prefixed(Texts):
    """Texts with the same words before each."""

    def __init__(self, prefix: str, texts: Sequence[str]) -> None:
        """Take the words and the texts, which stay as they are."""
        self._prefix, self._texts = prefix, texts

    def __len__(self) -> int:
        """Count the texts."""
        return len(self._texts)

    def _one(self, i: int) -> str:
        return self._prefix + self._texts[i]

    def __iter__(self) -> Iterator[str]:
        """Give one after the other."""
        return (self._prefix + text for text in self._texts)


def repeated(texts: Sequence[str]) -> bool:
    """Whether a text occurs twice."""
    return len({hash(text) for text in texts}) < len(texts)
