"""Memory on a CPU: glibc is told to keep what a step frees, because the next one needs it.

By default it returns large blocks to the kernel, and each step pays for faulting them in again:
for models with large activations that is up to half of a training step.
"""

from __future__ import annotations

import ctypes
import platform

_M_TRIM_THRESHOLD, _M_TOP_PAD, _M_MMAP_MAX = -1, -2, -4  # of malloc.h
_LARGEST = 2**31 - 1
_PAD = 256 * 2**20


def keep_memory() -> bool:
    """Keep freed memory in the process; says whether that was possible (glibc only)."""
    if platform.libc_ver()[0] != "glibc":
        return False
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError):
        return False
    settings = ((_M_MMAP_MAX, 0), (_M_TRIM_THRESHOLD, _LARGEST), (_M_TOP_PAD, _PAD))
    return all(mallopt(ctypes.c_int(k), ctypes.c_int(v)) == 1 for k, v in settings)
