"""RuNNer ``input.data`` (n2p2, RuNNer): Bohr, Hartree, Hartree/Bohr.

The column of charges is always there; where it is zero throughout, nobody computed charges. So
it counts as a label of the last resort (:data:`qeqtrain.data.labels.LAST_RESORT`).
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import BinaryIO

import numpy as np

from qeqtrain.data.elements import ATOMIC_NUMBERS
from qeqtrain.data.frames import RawFrame
from qeqtrain.data.streams import Bad, Piece
from qeqtrain.data.text_stream import LONGEST, TextStream
from qeqtrain.errors import UserMistake
from qeqtrain.units import BOHR, HARTREE

COLUMN = "runner_charges"


def _block(lines: list[str], where: str) -> RawFrame:
    """Read one frame, the lines between ``begin`` and ``end``."""
    lattice: list[list[float]] = []
    rows: list[list[float]] = []
    numbers: list[int] = []
    info: dict[str, object] = {}
    for line in lines:
        words = line.split()
        if not words:
            continue
        if words[0] == "atom":
            # x y z element charge (unused) fx fy fz
            numbers.append(ATOMIC_NUMBERS[words[4]])
            rows.append([float(w) for w in (*words[1:4], words[5], *words[7:10])])
        elif words[0] == "lattice":
            lattice.append([float(w) for w in words[1:4]])
        elif words[0] == "energy":
            info["energy"] = float(words[1]) * HARTREE
        elif words[0] == "charge":
            info["charge"] = float(words[1])
    if len(lattice) not in (0, 3):
        raise ValueError(f"{len(lattice)} lattice lines; expected none or three")
    values = np.array(rows, dtype=np.float64).reshape(-1, 7)
    return RawFrame(
        numbers=np.array(numbers, dtype=np.int64),
        positions=values[:, :3] * BOHR,
        cell=np.array(lattice) * BOHR if lattice else np.zeros((3, 3)),
        pbc=np.full(3, bool(lattice)),
        info=info,
        arrays={COLUMN: values[:, 3], "forces": values[:, 4:] * (HARTREE / BOHR)},
        where=where,
    )


def _read_block(lines: list[bytes], where: str, index: int) -> RawFrame | Bad:
    try:
        raw = _block(b"".join(lines).decode().splitlines(), where)
    except KeyError as error:
        return Bad(where, f"{error.args[0]!r} is no element")
    except UnicodeDecodeError:
        return Bad(where, "it is no text; copy the file again from its origin")
    except (ValueError, IndexError) as error:
        return Bad(where, f"{error}; expected atom x y z Element charge unused fx fy fz")
    raw.index = index
    return raw


def is_runner(head: str) -> bool:
    """Whether a file that starts like this is RuNNer's."""
    words = head.split(maxsplit=1)
    return bool(words) and words[0] == "begin"


class Runner(TextStream):
    """Reader of RuNNer files; pieces are ranges of bytes."""

    def pieces(self, size: int | None = None) -> list[Piece]:
        """Cut the file between frames.

        Raises:
            UserMistake: a block is not closed; its line is named.
        """
        with self._opened() as file:
            return self._cut(self._starts(file), size)

    def _starts(self, file: BinaryIO) -> Iterator[int]:
        """First bytes of the blocks, and the end of the file."""
        at, begun = 0, 0
        for number, line in enumerate(iter(partial(file.readline, LONGEST), b""), start=1):
            word = line.strip()
            if word == b"begin":
                if begun:
                    raise self._not_closed(begun)
                begun = number
                yield at
            elif word == b"end":
                begun = 0
            at += len(line)
        if begun:
            raise self._not_closed(begun)
        yield at

    def _not_closed(self, line: int) -> UserMistake:
        return UserMistake(
            f"{self.path}, line {line}: 'begin' without 'end'; the file is cut short"
        )

    def read(self, piece: Piece) -> Iterator[RawFrame | Bad]:
        """Read the frames of a piece, one after the other."""
        number = self._line_of(piece.start) if piece.start else 0
        block: list[bytes] = []
        at, index, start = piece.start, piece.first, 0
        with self._opened() as file:
            file.seek(piece.start)
            for line in iter(partial(file.readline, LONGEST), b""):
                if at >= piece.stop:
                    return
                at, number = at + len(line), number + 1
                word = line.strip()
                if word == b"begin":
                    block, start = [], number
                elif word == b"end":
                    where = f"{self.path}, frame {index} (line {start})"
                    yield _read_block(block, where, index)
                    index += 1
                else:
                    block.append(line)
