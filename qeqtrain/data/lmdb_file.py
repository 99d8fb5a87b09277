"""Values of an LMDB file by their keys, read only.

An LMDB file is a B+ tree in pages. The library maps it into memory and trusts it: a file that
was cut short on its way ends the process, one file cannot be opened twice, and an environment
must not be carried over a fork. Looking up a key takes few lines, every offset is checked
here, and pages are read rather than mapped, so that memory does not grow with the file.

Layout: H. Chu, LMDB 0.9 (data version 1): two meta pages, the newer of which holds the root;
branch pages hold (key, page), leaf pages (key, value), and large values own pages.
"""

from __future__ import annotations

import os
import struct
from bisect import bisect_left, bisect_right
from pathlib import Path
from typing import Self

_MAGIC, _VERSION = 0xBEEFC0DE, 1
_HEADER = struct.Struct("<QHHHH")  # number, pad, flags, lower, upper
_META = struct.Struct("<IIQQ")  # magic, version, address, map size
_TREE = struct.Struct("<IHHQQQQQ")  # pad, flags, depth, branch, leaf, overflow, entries, root
_NODE = struct.Struct("<HHHH")  # low, high, flags, size of the key
_BRANCH, _LEAF, _OVERFLOW, _BIG = 1, 2, 4, 1
_DEEPEST = 32
_PAGES_KEPT = 256
LARGEST = 2**28  # bytes of one value


class Damaged(ValueError):
    """The file is no LMDB file, or is not as it was written."""


class LmdbFile:
    """An LMDB file, open for reading.

    Attributes:
        entries: keys in the file.
    """

    def __init__(self, path: Path) -> None:
        """Open the file and read where its tree begins.

        Raises:
            Damaged: it is something else, or shorter than it says.
        """
        self._file = os.open(path, os.O_RDONLY)
        try:
            self._size = os.fstat(self._file).st_size
            self._page = 4096
            self._page, self.entries, self._root, last = self._newest_meta()
            if (last + 1) * self._page > self._size:
                raise Damaged(
                    f"it has {self._size:,} bytes and should have "
                    f"{(last + 1) * self._page:,}; it is cut short"
                )
        except BaseException:
            os.close(self._file)
            raise
        self._known: dict[int, tuple[bool, list[bytes], list[tuple[int, int]], bytes]] = {}

    def __enter__(self) -> Self:
        """Begin."""
        return self

    def __exit__(self, *_: object) -> None:
        """Close the file."""
        os.close(self._file)

    def _newest_meta(self) -> tuple[int, int, int, int]:
        first = self._meta(0)
        pages = [first, self._meta(first[1])] if first else []
        found = [meta for meta in pages if meta is not None]
        if not found:
            raise Damaged("it does not begin like an LMDB file")
        _, size, entries, root, last = max(found)
        return size, entries, root, last

    def _meta(self, at: int) -> tuple[int, int, int, int, int] | None:
        """Read a meta page: transaction, page size, entries, root, last page."""
        text = os.pread(self._file, 152, at)
        if len(text) < 152:
            return None
        magic, version, _, _ = _META.unpack_from(text, 16)
        if magic != _MAGIC or version != _VERSION:
            return None
        size = _TREE.unpack_from(text, 40)[0]
        *_, entries, root = _TREE.unpack_from(text, 88)
        last, transaction = struct.unpack_from("<QQ", text, 136)
        if size < 512 or size > 65536 or size & (size - 1):
            return None
        return transaction, size, entries, root, last

    def _read(self, number: int, length: int) -> bytes:
        at = number * self._page
        if at + length > self._size:
            raise Damaged(f"page {number} lies beyond its end")
        return os.pread(self._file, length, at)

    def _nodes(self, number: int) -> tuple[bool, list[bytes], list[tuple[int, int]], bytes]:
        """Read a page of the tree: whether a leaf; keys; flags and place of data; the page."""
        known = self._known.get(number)
        if known is not None:
            return known
        page = self._read(number, self._page)
        _, _, flags, lower, _ = _HEADER.unpack_from(page)
        leaf = bool(flags & _LEAF)
        if not flags & (_LEAF | _BRANCH) or not 16 <= lower <= len(page):
            raise Damaged(f"page {number} is no page of its tree")
        keys: list[bytes] = []
        places: list[tuple[int, int]] = []
        for (at,) in struct.iter_unpack("<H", page[16 : lower - lower % 2]):
            if at + 8 > len(page):
                raise Damaged(f"page {number} points outside of itself")
            low, high, node, size = _NODE.unpack_from(page, at)
            keys.append(page[at + 8 : at + 8 + size])
            if leaf:
                places.append((node, at))
            else:
                places.append((low | high << 16 | node << 32, at))
        if len(self._known) >= _PAGES_KEPT:
            self._known.clear()
        self._known[number] = (leaf, keys, places, page)
        return self._known[number]

    def get(self, key: bytes) -> bytes | None:
        """Look up a value; ``None`` if there is none.

        Raises:
            Damaged: a page on the way is not as it was written.
        """
        if not self.entries:
            return None
        number = self._root
        for _ in range(_DEEPEST):
            leaf, keys, places, page = self._nodes(number)
            if leaf:
                i = bisect_left(keys, key)
                if i == len(keys) or keys[i] != key:
                    return None
                return self._value(page, *places[i])
            # The first key of a branch stands for everything below the second.
            if not keys:
                raise Damaged(f"page {number} leads nowhere")
            number = places[bisect_right(keys, key, lo=1) - 1][0]
        raise Damaged("its tree has no end")

    def _value(self, page: bytes, flags: int, at: int) -> bytes:
        low, high, _, size_of_key = _NODE.unpack_from(page, at)
        size, start = low | high << 16, at + 8 + size_of_key
        if size > LARGEST:
            raise Damaged(f"a value of {size:,} bytes")
        if not flags & _BIG:
            if start + size > len(page):
                raise Damaged("a value reaches beyond its page")
            return page[start : start + size]
        if start + 8 > len(page):
            raise Damaged("a value reaches beyond its page")
        (number,) = struct.unpack_from("<Q", page, start)
        text = self._read(number, 16 + size)
        if not _HEADER.unpack_from(text)[2] & _OVERFLOW:
            raise Damaged(f"page {number} holds no value")
        return text[16:]
