"""Whether an operation runs, or is being written down as a graph that will be compiled.

Sums over neighbours go through the pairs in blocks that fit a CPU's cache. A compiler has its
own way to keep intermediates out of memory, and wants the plain expression of the same sum.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

_TRACED: ContextVar[bool] = ContextVar("traced", default=False)


@contextmanager
def tracing() -> Iterator[None]:
    """Ask for plain expressions within."""
    token = _TRACED.set(True)
    try:
        yield
    finally:
        _TRACED.reset(token)


def traced() -> bool:
    """Tell whether plain expressions are asked for."""
    return _TRACED.get()
