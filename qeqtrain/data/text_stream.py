"""Text files of frames: cut between frames, and lines numbered in messages."""

from __future__ import annotations

import gzip
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO, cast

from qeqtrain.data.streams import PIECE_BYTES, Piece, Stream
from qeqtrain.errors import UserMistake

LONGEST = 2**24  # bytes of one line; more is no text
_SLAB = 2**22


def is_compressed(path: Path) -> bool:
    """Whether a file is compressed with gzip."""
    with path.open("rb") as file:
        return file.read(2) == b"\x1f\x8b"


def open_bytes(path: Path) -> BinaryIO:
    """Open a file, uncompressing it on the way."""
    return cast("BinaryIO", gzip.open(path) if is_compressed(path) else path.open("rb"))


class TextStream(Stream):
    """A text file of frames."""

    @contextmanager
    def _opened(self) -> Iterator[BinaryIO]:
        """Open the file.

        Raises:
            UserMistake: it is no text, or its compressed form is damaged.
        """
        try:
            with open_bytes(self.path) as file:
                yield file
        except UnicodeDecodeError:
            from qeqtrain.data.reading import READS

            raise UserMistake(f"{self.path} is no text; qeqtrain reads {READS}") from None
        except (EOFError, gzip.BadGzipFile) as error:
            raise UserMistake(
                f"{self.path} cannot be uncompressed ({error}); copy it again from its origin"
            ) from None

    def _cut(self, starts: Iterable[int], size: int | None) -> list[Piece]:
        """Make pieces of the first bytes of all frames and the end of the file."""
        size = size or PIECE_BYTES
        found: list[Piece] = []
        begun = first = end = 0
        for count, end in enumerate(starts):
            if end - begun >= size and count > first:
                found.append(Piece(begun, end, first))
                begun, first = end, count
        return [*found, Piece(begun, end, first)] if end > begun else found

    def _line_of(self, start: int) -> int:
        """Count the lines before a byte; looked up only for a message."""
        lines = 0
        with open_bytes(self.path) as file:
            while start > 0 and (text := file.read(min(_SLAB, start))):
                lines += text.count(b"\n")
                start -= len(text)
        return lines
