"""Worker processes: one thread each, gone when the one that started them is gone."""

from __future__ import annotations

import multiprocessing
import os
import threading
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from multiprocessing.connection import wait

from qeqtrain.data.xtb import THREAD_VARIABLES


@contextmanager
def one_thread() -> Iterator[None]:
    """Let processes that start now use one thread each, bit for bit the same everywhere."""
    before = {name: os.environ.get(name) for name in THREAD_VARIABLES}
    os.environ.update(dict.fromkeys(THREAD_VARIABLES, "1"))
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


@contextmanager
def cancelled_on_error(pool: ProcessPoolExecutor) -> Iterator[None]:
    """Wait for the workers at the end; after an error or Ctrl-C, start nothing more."""
    try:
        yield
    except BaseException:
        pool.shutdown(cancel_futures=True)
        raise
    pool.shutdown()


def end_with_parent() -> None:
    """Let this worker end as soon as its parent does, by kill -9 for instance.

    A worker that waits for work holds both ends of the pipe it waits at, and would do so for
    ever.
    """
    parent = multiprocessing.parent_process()
    if parent is None:
        return

    def watch() -> None:
        wait([parent.sentinel])
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()
