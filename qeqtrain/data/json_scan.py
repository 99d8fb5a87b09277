"""Objects of a JSON file found without parsing it: where each begins and ends.

A file of gigabytes must be cut into documents, and documents can be parsed one by one. What a
cut needs is which braces stand outside of strings. Bytes are compared sixteen or more at a
time, the inside of strings is the running parity of quotes (in words of 64 bits), and only the
braces that remain are looked at one by one: several times faster than parsing, in the memory of
one block and one document, and safe with any text in strings.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import BinaryIO

import numpy as np

BLOCK = 2**18  # bytes looked at together: what they are compared into stays in the cache
CUT_SHORT = "it ends inside an object or a list: it is cut short"
LARGEST = 2**28  # bytes of one document; more is no data set but damage

_KEY = re.compile(rb'\s*,?\s*"((?:[^"\\]|\\.)*)"\s*:\s*', re.DOTALL)
_START, _NEXT = re.compile(rb"(?:\xef\xbb\xbf)?\s*[\[,]?\s*"), re.compile(rb"\s*,?\s*")
_SPACE, _END = re.compile(rb"\s*"), re.compile(rb"\s*\]?\s*")
_STRUCTURE = re.compile(rb'"structure"\s*:\s*\Z')
_AROUND = b"\xef\xbb\xbf \t\r\n"
_QUOTE, _BACKSLASH, _OPEN, _CLOSE = b'"\\{}'
_ODD = np.uint64(2**63)


def _inside_strings(quotes: np.ndarray, inside: bool) -> np.ndarray:
    """Mark bytes from an opening quote up to its closing one.

    Args:
        quotes: unescaped quotes, bits in words of 64, little end first.
        inside: whether the first byte continues a string.
    """
    parity = quotes.copy()
    for step in (1, 2, 4, 8, 16, 32):
        parity ^= parity << np.uint64(step)
    odd = (parity & _ODD).astype(bool)
    before = np.bitwise_xor.accumulate(np.concatenate([[inside], odd[:-1]]))
    parity[before] ^= np.uint64(2**64 - 1)
    return parity


def _words(bits: np.ndarray) -> np.ndarray:
    """Pack truth values into words of 64 bits, zeros at the end."""
    packed = np.packbits(bits, bitorder="little")
    packed = np.concatenate([packed, np.zeros(-len(packed) % 8, dtype=np.uint8)])
    return packed.view("<u8")


class _Braces:
    """Braces outside of strings, block after block."""

    def __init__(self) -> None:
        self.inside = False
        self._escaped = False  # the first byte of the next block

    def _unescaped(self, block: np.ndarray, quotes: np.ndarray, text: bytes) -> None:
        """Take away the quotes that a backslash protects."""
        escaped, self._escaped = self._escaped, False
        if escaped and len(block):
            quotes[0] = False
        if b"\\" not in text:
            return
        at = np.flatnonzero(block == _BACKSLASH)
        if escaped and at[0] == 0:
            at = at[1:]
            if not len(at):
                return
        first = np.concatenate([[True], np.diff(at) != 1])
        start = at[first]
        length = np.diff(np.concatenate([np.flatnonzero(first), [len(at)]]))
        after = (start + length)[length % 2 == 1]
        if len(after) and after[-1] == len(block):
            self._escaped = True
            after = after[:-1]
        quotes[after] = False

    def find(self, text: bytes) -> tuple[np.ndarray, np.ndarray]:
        """Positions of the braces of the next block, and +1 or -1 for each."""
        block = np.frombuffer(text, dtype=np.uint8)
        quotes = block == _QUOTE
        self._unescaped(block, quotes, text)
        inside = _inside_strings(_words(quotes), self.inside)
        self.inside ^= bool(np.count_nonzero(quotes) % 2)
        opening, closing = block == _OPEN, block == _CLOSE
        free = np.unpackbits((~inside).view(np.uint8), bitorder="little")[: len(block)]
        at = np.flatnonzero((opening | closing) & free.view(bool))
        return at, np.where(opening[at], 1, -1)


@dataclass(frozen=True)
class Member:
    """An object of a JSON file.

    Attributes:
        keys: names of the objects around it, outermost first, and its own; empty in a list.
        text: the object.
    """

    keys: tuple[str, ...]
    text: bytes


def _shown(gap: bytes) -> str:
    return repr(gap.strip()[:60].decode(errors="replace"))


def _key(gap: bytes) -> str:
    """Read the key that stands before an object."""
    match = _KEY.fullmatch(gap)
    if match is None:
        raise ValueError(f"met {_shown(gap)} before an object; expected its name")
    name = match[1]
    return str(json.loads(b'"' + name + b'"')) if b"\\" in name else name.decode()


def _blank(gap: bytes, allowed: re.Pattern[bytes]) -> None:
    if not allowed.fullmatch(gap):
        raise ValueError(f"met {_shown(gap)} between objects")


def members(
    blocks: Iterable[bytes], depth: int, start: int = 0, part: bool = False
) -> Iterator[Member]:
    """Find the objects that stand ``depth`` deep in others.

    Args:
        blocks: the text.
        depth: how many objects stand around those wanted; 0 for those of a list, or one after
            the other.
        start: how many objects are open before the text.
        part: whether the text is a part made by :func:`cuts`, which has seen the whole.

    Raises:
        ValueError: something other than objects stands between them, or the text ends inside
            of one.
    """
    braces = _Braces()
    level = start
    keys = [""] * depth
    kept: list[bytes] = []  # since the last brace that mattered
    size = 0
    first, listed = True, False
    for text in blocks:
        at, signs = braces.find(text)
        levels = level + np.cumsum(signs)
        # Braces within the objects that are wanted do not matter.
        matters = np.where(signs > 0, levels <= depth + 1, levels <= depth)
        here = 0
        for i, sign, now in zip(
            at[matters].tolist(), signs[matters].tolist(), levels[matters].tolist(), strict=True
        ):
            if sign < 0 and now == depth:
                yield Member(tuple(keys), b"".join([*kept, text[here : i + 1]]))
                kept, size, here = [], 0, i + 1
                continue
            gap = b"".join([*kept, text[here:i]])
            if now < 0:
                raise ValueError("there is a '}' without its '{'")
            if sign < 0:
                _blank(gap, _SPACE)
            elif now >= 2:
                keys[now - 2 :] = [_key(gap), *([""] * (depth - now + 1))]
            else:
                _blank(gap, _START if first else _NEXT)
                listed |= first and b"[" in gap
            first = False
            kept, size, here = [], 0, i if sign > 0 and now == depth + 1 else i + 1
        kept.append(text[here:])
        size += len(kept[-1])
        if size > LARGEST:
            raise ValueError(f"there is an object of more than {LARGEST >> 20} MB")
        level = int(levels[-1]) if len(levels) else level
    rest = b"".join(kept)
    if (
        braces.inside
        or level > (depth if part else 0)
        or (listed and not part and b"]" not in rest)
    ):
        raise ValueError(CUT_SHORT)
    if first and not part:
        raise ValueError("there is no object")
    _blank(rest, _END)


def cuts(blocks: Iterable[bytes], level: int, size: int) -> list[int]:
    """Find where a file can be cut between objects.

    Args:
        blocks: the text.
        level: how many objects are open where it is cut.
        size: bytes that parts should have at least.

    Returns:
        First bytes of the parts, and the end of the last.

    Raises:
        ValueError: the text ends inside an object.
    """
    braces = _Braces()
    found, now, read = [0], 0, 0
    listed, last = None, b""
    for text in blocks:
        if plain := text.strip(_AROUND):
            listed = plain[:1] == b"[" if listed is None else listed
            last = plain[-1:]
        at, signs = braces.find(text)
        levels = now + np.cumsum(signs)
        ends = at[(signs < 0) & (levels == level)] + (read + 1)
        while len(ends):
            ends = ends[np.searchsorted(ends, found[-1] + size) :]
            found += ends[:1].tolist()
        now = int(levels[-1]) if len(levels) else now
        read += len(text)
    if now > 0 or braces.inside or (listed and last != b"]"):
        raise ValueError(CUT_SHORT)
    # What follows the last object belongs to its part.
    return [*(found[:-1] if len(found) > 1 and read - found[-1] < size else found), read]


def blocks_of(file: BinaryIO, stop: int | None = None) -> Iterator[bytes]:
    """Read an open file from where it stands, to its end or to ``stop``."""
    left = None if stop is None else stop - file.tell()
    while left is None or left > 0:
        text = file.read(BLOCK if left is None else min(BLOCK, left))
        if not text:
            return
        yield text
        left = None if left is None else left - len(text)


def documents_depth(head: bytes) -> int | None:
    """How deep the first document with a ``structure`` stands; ``None`` if there is none.

    Args:
        head: beginning of a file; what follows it is not looked at.
    """
    at, signs = _Braces().find(head)
    levels = np.cumsum(signs)
    begun = 0
    for i, level in zip(at.tolist(), levels.tolist(), strict=True):
        if _STRUCTURE.search(head[begun:i]) and begun:
            return int(level) - 2
        begun = i
    return None
