"""Numbers out of a pickle, without running what it says.

A pickle is a small programme, and loading it may call anything that can be imported. Weights
published that way are nested dictionaries of arrays, and need few instructions and half a dozen
names. The instructions are looked through before any is followed; each name stands for a class
of this module that only keeps what it is given; whatever else appears is refused and named.
"""

from __future__ import annotations

import io
import pickle
import pickletools
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from qeqtrain.errors import UserMistake

# fmt: off
INSTRUCTIONS = frozenset([
    "PROTO", "FRAME", "STOP", "MARK", "POP", "POP_MARK",
    "MEMOIZE", "PUT", "BINPUT", "LONG_BINPUT", "GET", "BINGET", "LONG_BINGET",
    "NONE", "NEWTRUE", "NEWFALSE", "INT", "BININT", "BININT1", "BININT2", "LONG", "LONG1",
    "LONG4", "FLOAT", "BINFLOAT", "STRING", "BINSTRING", "SHORT_BINSTRING", "UNICODE",
    "BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8", "BINBYTES", "SHORT_BINBYTES",
    "BINBYTES8", "BYTEARRAY8", "EMPTY_LIST", "LIST", "APPEND", "APPENDS",
    "EMPTY_TUPLE", "TUPLE", "TUPLE1", "TUPLE2", "TUPLE3",
    "EMPTY_DICT", "DICT", "SETITEM", "SETITEMS",
    "GLOBAL", "STACK_GLOBAL", "REDUCE", "BUILD",
])
# fmt: on
"""What dictionaries of arrays are written with; none of them reaches outside the file."""

KINDS = ("b1", *(f"{kind}{size}" for kind in "iu" for size in (1, 2, 4, 8)), "f2", "f4", "f8")
"""Types of numbers that are read, as numpy writes them."""

DEEPEST, MOST = 32, 100_000
"""Levels and entries of a nested dictionary: beyond them the file is not one of weights."""


class _RefusedError(Exception):
    """The file asks for something that numbers do not need."""


def read_arrays(path: Path) -> dict[str, np.ndarray]:
    """Read a pickled nested dictionary of arrays, of numpy or JAX.

    Args:
        path: the file.

    Returns:
        Arrays by the keys that lead to them, joined by ``/``.

    Raises:
        UserMistake: the file is damaged, or holds something else: the name or the entry that
            was met is said. Nothing of it was run.
    """
    try:
        data = path.read_bytes()
    except OSError as error:
        raise UserMistake(f"{path}: cannot be read: {error.strerror}") from error
    try:
        _look_through(data)
        content = _reader(data).load()
        return dict(_arrays(content, (), [0]))
    except _RefusedError as refused:
        raise UserMistake(
            f"{path}: {refused}; expected a pickled dictionary of numpy or JAX arrays. "
            "Nothing of the file was run"
        ) from refused
    except Exception as error:  # a damaged file fails in any way that its bytes spell
        raise UserMistake(
            f"{path}: damaged or not a pickle ({type(error).__name__}: {str(error)[:100]})"
        ) from error


def _look_through(data: bytes) -> None:
    """Refuse instructions that arrays do not need, and indices that only fill memory."""
    for code, argument, _ in pickletools.genops(data):
        if code.name not in INSTRUCTIONS:
            raise _RefusedError(f"holds the pickle instruction {code.name}")
        if code.name in ("PUT", "LONG_BINPUT") and int(argument) > len(data):
            raise _RefusedError(f"keeps an object under the number {argument}")


def _reader(data: bytes) -> pickle.Unpickler:
    """Make a reader whose names are fresh stand-ins: a file cannot alter them for another."""

    class DType:
        """Stands in for ``numpy.dtype``."""

        def __init__(self, kind: str, *_: object) -> None:
            self.kind, self.order = kind, "<"

        def __setstate__(self, state: tuple[Any, ...]) -> None:
            self.order = state[1]

        def real(self) -> np.dtype[Any]:
            if self.kind not in KINDS or self.order not in ("<", ">", "|", "="):
                raise _RefusedError(f"holds numbers of type {self.order}{self.kind}")
            return np.dtype(self.kind).newbyteorder(self.order)

    class Array:
        """Stands in for an array that is built from its state."""

        def __init__(self, *_: object) -> None:
            self.value: np.ndarray | None = None

        def __setstate__(self, state: tuple[Any, ...]) -> None:
            if self.value is None:  # JAX adds a second state, of types only
                _, shape, kind, by_columns, raw = state
                self.value = _array(raw, kind, shape, "F" if by_columns else "C")

    def _array(raw: bytes, kind: DType, shape: tuple[int, ...], order: str) -> np.ndarray:
        if not isinstance(kind, DType) or not isinstance(raw, bytes | bytearray):
            raise _RefusedError("holds an array of something else than numbers")
        flat = np.frombuffer(raw, dtype=kind.real())
        return flat.reshape([int(n) for n in shape], order=order)  # type: ignore[call-overload]

    def of_buffer(
        raw: bytes, kind: DType, shape: tuple[int, ...], order: str = "C"
    ) -> np.ndarray:
        return _array(raw, kind, shape, order)

    def of_scalar(kind: DType, raw: bytes) -> np.ndarray:
        return _array(raw, kind, (), "C")

    def of_jax(_: object, __: object, state: tuple[Any, ...], *___: object) -> Array:
        made = Array()
        made.__setstate__(state)
        return made

    def plain(content: object = ()) -> object:
        return dict(content) if isinstance(content, Mapping | list | tuple) else content

    def encoded(text: str, encoding: str = "latin1") -> bytes:
        if encoding not in ("latin1", "latin-1"):
            raise _RefusedError(f"encodes text as {str(encoding)[:40]}")
        return text.encode("latin1")

    names: dict[tuple[str, str], Callable[..., object]] = {
        ("numpy", "dtype"): DType,
        ("numpy", "ndarray"): Array,
        ("_codecs", "encode"): encoded,
        ("collections", "OrderedDict"): plain,
        ("flax.core.frozen_dict", "FrozenDict"): plain,
        ("jax._src.array", "_reconstruct_array"): of_jax,
        ("jaxlib.xla_extension", "_reconstruct_array"): of_jax,
    }
    for core in ("numpy.core", "numpy._core"):
        names[f"{core}.multiarray", "_reconstruct"] = Array
        names[f"{core}.multiarray", "scalar"] = of_scalar
        names[f"{core}.numeric", "_frombuffer"] = of_buffer

    class Reader(pickle.Unpickler):
        def find_class(self, module: str, name: str) -> Any:
            if (module, name) not in names:
                raise _RefusedError(f"asks for {module}.{name}")
            return names[module, name]

    return Reader(io.BytesIO(data))


def _arrays(
    content: object, keys: tuple[str, ...], count: list[int]
) -> Iterator[tuple[str, np.ndarray]]:
    """Walk through the dictionary; ``count`` is how many entries were met so far."""
    count[0] += 1
    if count[0] > MOST or len(keys) > DEEPEST:
        raise _RefusedError(f"has more than {MOST} entries or {DEEPEST} levels")
    if isinstance(content, Mapping):
        for key, inner in content.items():
            if not isinstance(key, str):
                raise _RefusedError(f"has a key that is no text: {str(key)[:40]!r}")
            yield from _arrays(inner, (*keys, key), count)
        return
    value = getattr(content, "value", content)
    if not isinstance(value, np.ndarray):
        where = "/".join(keys) or "the whole"
        raise _RefusedError(f"{where} is no array but a {type(content).__name__}")
    yield "/".join(keys), value
