"""Keeping freed memory in the process, which training on a CPU gains a fifth of its speed from."""

from __future__ import annotations

import ctypes
import sys

# mallopt's parameters in glibc's malloc.h.
_M_TRIM_THRESHOLD, _M_MMAP_MAX = -1, -4


def keep_freed_memory() -> bool:
    """Tell glibc not to hand large blocks back to the system after each use; says whether it listened.

    A feature map over 32 MB is otherwise mapped, zeroed page by page and unmapped at every layer of every step, which
    takes longer than the layer's arithmetic. Affects the whole process. Does nothing outside glibc.
    """
    if not sys.platform.startswith("linux"):
        return False
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError):  # musl has no mallopt
        return False
    return bool(mallopt(_M_MMAP_MAX, 0)) and bool(mallopt(_M_TRIM_THRESHOLD, 2**31 - 1))
