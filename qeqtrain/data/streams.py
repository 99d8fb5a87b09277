"""Streams: any file as frames one after the other, in constant memory, in pieces.

Each format has one reader, a :class:`Stream`. It cuts its file into :class:`Piece`, ranges that
can be read apart from each other, by other processes and again after a crash; and it reads a
piece frame by frame. How a file is cut depends on the file alone, never on who will read it.

A frame that cannot be understood comes as :class:`Bad`, and the ones after it follow. What
makes the rest of a file unreadable (it is cut short, it is another format) is a
:class:`~qeqtrain.errors.UserMistake`.

Which key is which label is decided for a whole source: :class:`qeqtrain.data.keys.Survey`
gathers what that takes, frame by frame, and surveys of pieces add up.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from qeqtrain.data.frames import RawFrame
from qeqtrain.data.labels import Conventions

PIECE_BYTES = 64 * 2**20
PIECE_FRAMES = 10_000


@dataclass(frozen=True)
class Piece:
    """A range of a file that can be read on its own.

    Attributes:
        start: first byte, or first frame; what is counted is the reader's business.
        stop: one past the last.
        first: number of the first frame of the piece within the file; -1 where frames are not
            counted beforehand (those have names).
    """

    start: int
    stop: int
    first: int = -1


@dataclass(frozen=True)
class Bad:
    """A frame that could not be read.

    Attributes:
        id: its name in the file, or file and number.
        reason: what was met and what was expected.
    """

    id: str
    reason: str


class Stream(ABC):
    """One file, read frame by frame; can be pickled, and holds nothing open between reads.

    Attributes:
        name: short name, for messages and for ids of frames that have none:
            ``f"{name}:{raw.index}"``.
        path: of the file.
        conventions: what the user says of it.
        notes: what the user should know of the file as a whole.
    """

    def __init__(self, path: Path, conventions: Conventions) -> None:
        """Keep the path; nothing is read yet."""
        from qeqtrain.data.reading import short_name

        self.path, self.conventions = path, conventions
        self.name = short_name(path)
        self.notes: list[str] = []

    @abstractmethod
    def pieces(self, size: int | None = None) -> list[Piece]:
        """Cut the file; every frame is in exactly one piece, and pieces are in order.

        Args:
            size: bytes or frames of a piece, as the reader counts; by default
                :data:`PIECE_BYTES` or :data:`PIECE_FRAMES`.

        Raises:
            UserMistake: the file cannot be cut: it is damaged or something else.
        """

    @abstractmethod
    def read(self, piece: Piece) -> Iterator[RawFrame | Bad]:
        """Read the frames of a piece, one after the other.

        Raises:
            UserMistake: the rest of the piece cannot be read.
        """

    def frames(self) -> Iterator[RawFrame | Bad]:
        """Read all frames."""
        for piece in self.pieces():
            yield from self.read(piece)


def open_stream(path: str | Path, conventions: Conventions | None = None) -> Stream:
    """Find the reader of a file by looking at it; stores are not streams.

    Args:
        path: one file, as :func:`qeqtrain.data.reading.expand` gives them.
        conventions: what the user says of it.

    Raises:
        UserMistake: there is no such file, or no reader understands it.
    """
    from qeqtrain.data.reading import find_reader

    return find_reader(Path(path).expanduser(), conventions or Conventions())
