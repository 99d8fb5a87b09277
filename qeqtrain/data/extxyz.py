"""Extended XYZ, parsed directly.

Several times faster than going through ``ase.Atoms`` frame by frame, and able to name the line
of a mistake. The total ``charge`` of the comment line and a per-atom column of the same name
stay apart.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from functools import partial
from itertools import islice
from pathlib import Path
from typing import BinaryIO

import numpy as np

from qeqtrain.data.elements import ATOMIC_NUMBERS
from qeqtrain.data.frames import RawFrame
from qeqtrain.data.labels import Conventions
from qeqtrain.data.streams import Bad, Piece
from qeqtrain.data.text_stream import LONGEST, TextStream
from qeqtrain.errors import UserMistake

# key=value with value bare, in double or single quotes, in braces, or in (JSON) brackets
_PAIR = re.compile(
    r"""([^\s=,"']+)\s*=\s*("(?:[^"\\]|\\.)*"|'(?:[^'\\]|\\.)*'|\{[^}]*\}|\[.*?\](?=\s|$)|[^\s]+)"""
)
_TRUE, _FALSE = {"T", "True", "TRUE", "true"}, {"F", "False", "FALSE", "false"}
_PLAIN = "species:S:1:pos:R:3"
_KINDS = {"R": np.float64, "I": np.int64}


def _scalar(word: str) -> object:
    try:
        return int(word)
    except ValueError:
        pass
    try:
        return float(word)
    except ValueError:
        pass
    if word in _TRUE:
        return True
    return False if word in _FALSE else word


def parse_value(text: str) -> object:
    """Read the value of a comment-line key: number, array, truth value or words."""
    quoted = text[:1] in {'"', "'", "{"}
    bare = text[1:-1].replace('\\"', '"') if quoted else text
    if bare.startswith("_JSON "):
        bare = bare[6:]
    if bare[:1] in {"[", "{"}:
        try:
            loaded = json.loads(bare)
        except ValueError:
            return bare
        return np.array(loaded) if isinstance(loaded, list) else loaded
    words = bare.replace(",", " ").split()
    if len(words) == 1:
        return _scalar(words[0])
    values = [_scalar(w) for w in words]
    if values and all(isinstance(v, bool) for v in values):
        return np.array(values)
    if values and all(isinstance(v, int | float) and not isinstance(v, bool) for v in values):
        return np.array(values, dtype=np.float64)
    return bare


def parse_comment(line: str) -> dict[str, object]:
    """Read the keys and values of a comment line."""
    return {m.group(1): parse_value(m.group(2)) for m in _PAIR.finditer(line)}


def _columns(spec: str) -> list[tuple[str, str, int]]:
    parts = spec.split(":")
    if len(parts) % 3:
        raise ValueError(f"Properties={spec} is not made of name:type:count")
    triples = zip(parts[0::3], parts[1::3], parts[2::3], strict=True)
    return [(name, kind, int(count)) for name, kind, count in triples]


def _numbers(symbols: list[str]) -> np.ndarray:
    try:
        return np.array([ATOMIC_NUMBERS[s] for s in symbols], dtype=np.int64)
    except KeyError:
        pass
    try:
        return np.array([int(s) for s in symbols], dtype=np.int64)
    except ValueError:
        unknown = sorted({s for s in symbols if s not in ATOMIC_NUMBERS})
        raise ValueError(f"{', '.join(unknown)}: no such element") from None


def _atoms(lines: list[str], spec: str) -> dict[str, np.ndarray]:
    """Read the columns of one frame.

    Raises:
        ValueError: a line has too few words or a word that is no number.
    """
    columns = _columns(spec)
    width = sum(count for _, _, count in columns)
    words = [line.split() for line in lines]
    for row in words:
        if len(row) < width or (len(row) > width and spec is not _PLAIN):
            raise ValueError(f"an atom has {len(row)} columns, Properties says {width}")
    arrays: dict[str, np.ndarray] = {}
    at = 0
    for name, kind, count in columns:
        block = [row[at : at + count] for row in words]
        at += count
        if kind == "S":
            arrays[name] = np.array(block).reshape(len(lines), count)[:, 0]
        elif kind == "L":
            arrays[name] = np.array([[w in _TRUE for w in row] for row in block])
        elif kind in _KINDS:
            values = np.array(block, dtype=np.float64).astype(_KINDS[kind])
            arrays[name] = values[:, 0] if count == 1 else values
        else:
            raise ValueError(f"Properties has the unknown type '{kind}'; expected S, R, I or L")
    return arrays


def _frame(comment: str, lines: list[str], where: str, index: int) -> RawFrame:
    info = parse_comment(comment)
    spec = str(info.pop("Properties", _PLAIN))
    arrays = _atoms(lines, _PLAIN if spec == _PLAIN else spec)
    for name in ("positions", "R"):
        if name in arrays and "pos" not in arrays:
            arrays["pos"] = arrays.pop(name)
    if "pos" not in arrays:
        raise ValueError(f"Properties={spec} has no positions (pos:R:3)")
    symbols = arrays.pop("species", arrays.pop("symbols", None))
    charges_of_nuclei = arrays.pop("Z", arrays.pop("numbers", None))
    if symbols is not None:
        numbers = _numbers(symbols.tolist())
    elif charges_of_nuclei is not None:
        numbers = charges_of_nuclei.astype(np.int64)
    else:
        raise ValueError(f"Properties={spec} has no elements (species:S:1)")
    lattice = info.pop("Lattice", info.pop("cell", None))
    cell = np.zeros((3, 3)) if lattice is None else np.asarray(lattice, dtype=np.float64)
    if cell.size not in (3, 9):
        raise ValueError(f"Lattice has {cell.size} numbers; expected 9")
    cell = np.diag(cell.ravel()) if cell.size == 3 else cell.reshape(3, 3)
    pbc = np.asarray(info.pop("pbc", [lattice is not None] * 3), dtype=bool)
    pbc = np.broadcast_to(pbc, 3).copy()
    return RawFrame(numbers, arrays.pop("pos"), cell, pbc, info, arrays, where, index)


class Extxyz(TextStream):
    """Reader of extended XYZ; pieces are ranges of bytes."""

    def pieces(self, size: int | None = None) -> list[Piece]:
        """Cut the file between frames.

        Raises:
            UserMistake: a frame does not begin with its number of atoms, or the file ends in
                the middle of one; the line is named.
        """
        with self._opened() as file:
            return self._cut(self._starts(file), size)

    def _starts(self, file: BinaryIO) -> Iterator[int]:
        """First bytes of the frames, and the end of the file."""
        read = partial(file.readline, LONGEST)
        at, index, number = 0, 0, 1
        while head := read():
            if not head.strip():
                at, number = at + len(head), number + 1
                continue
            yield at
            count = self._count(head, index, number)
            length = lines = 0
            for line in islice(iter(read, b""), count + 1):
                length, lines = length + len(line), lines + 1
            if lines < count + 1:
                raise self._cut_short(count, index, number)
            at, index, number = at + len(head) + length, index + 1, number + count + 2
        yield at

    def _where(self, index: int, line: int) -> str:
        return f"{self.path}, frame {index} (line {line})"

    def _count(self, head: bytes, index: int, line: int) -> int:
        """Read the number of atoms, with which a frame begins."""
        word = head.strip()
        if not word.isdigit() or len(word) > 12:
            shown = word[:40].decode(errors="replace")
            raise UserMistake(
                f"{self._where(index, line)}: met {shown!r}; an extxyz frame begins with its "
                "number of atoms"
            )
        return int(word)

    def _cut_short(self, count: int, index: int, line: int) -> UserMistake:
        return UserMistake(
            f"{self._where(index, line)}: the file ends before the {count} atoms of this "
            "frame; it is cut short: copy or write it again"
        )

    def read(self, piece: Piece) -> Iterator[RawFrame | Bad]:
        """Read the frames of a piece, one after the other."""
        before = self._line_of(piece.start) if piece.start else 0
        with self._opened() as file:
            file.seek(piece.start)
            read = partial(file.readline, LONGEST)
            at, index, number = piece.start, piece.first, before + 1
            while at < piece.stop and (head := read()):
                at += len(head)
                if not head.strip():
                    number += 1
                    continue
                count = self._count(head, index, number)
                comment = read()
                lines = list(islice(iter(read, b""), count))
                if not comment or len(lines) < count:
                    raise self._cut_short(count, index, number)
                at += len(comment) + sum(map(len, lines))
                where = self._where(index, number)
                try:
                    rows = b"".join(lines).decode().splitlines()
                    raw: RawFrame | Bad = _frame(comment.decode(), rows, where, index)
                except UnicodeDecodeError:
                    raw = Bad(where, "it is no text; copy the file again from its origin")
                except (ValueError, TypeError, IndexError, OverflowError) as error:
                    raw = Bad(where, str(error))
                yield raw
                number += 2 + count
                index += 1


def read_extxyz(path: Path) -> Iterator[RawFrame]:
    """Read the frames of an extended XYZ file, one after the other.

    Raises:
        UserMistake: the file is not extended XYZ or ends in the middle of a frame; the line
            is named.
    """
    for raw in Extxyz(path, Conventions()).frames():
        if isinstance(raw, Bad):
            raise UserMistake(f"{raw.id}: {raw.reason}")
        yield raw
