"""The process's memory: how much there is, and keeping what is freed, from which training on a CPU gains a fifth."""

from __future__ import annotations

import ctypes
import sys
from collections.abc import Callable
from pathlib import Path

# mallopt's parameters in glibc's malloc.h.
_M_TRIM_THRESHOLD, _M_MMAP_MAX = -1, -4


def keep_freed_memory() -> bool:
    """Keep glibc from handing large blocks back to the system after each use; gives whether it does.

    A feature map over 32 MB is otherwise mapped, zeroed page by page and unmapped at every layer of every step, which
    takes longer than the layer's arithmetic. Affects the whole process. Does nothing outside glibc.
    """
    mallopt = _glibc("mallopt")
    return mallopt is not None and bool(mallopt(_M_MMAP_MAX, 0)) and bool(mallopt(_M_TRIM_THRESHOLD, 2**31 - 1))


def release_freed_memory() -> None:
    """Hand back now what is free: between epochs, so that the holes left by one do not add up over many."""
    trim = _glibc("malloc_trim")
    if trim is not None:
        trim(0)


def free_memory() -> int:
    """Bytes that this process could still take, by the system's count and its container's; 0 where neither is known."""
    free = []
    for line in _lines("/proc/meminfo"):
        if line.startswith("MemAvailable:"):
            free.append(int(line.split()[1]) * 1024)
    limit, used = _lines("/sys/fs/cgroup/memory.max"), _lines("/sys/fs/cgroup/memory.current")
    if limit and used and limit[0].isdigit():
        free.append(max(int(limit[0]) - int(used[0]), 0))
    return min(free, default=0)


def _lines(path: str) -> list[str]:
    try:
        return Path(path).read_text().splitlines()
    except OSError:
        return []


def _glibc(name: str) -> Callable[..., int] | None:
    """That function of the C library, or None where there is no glibc (musl, macOS, Windows)."""
    if not sys.platform.startswith("linux"):
        return None
    return getattr(ctypes.CDLL(None), name, None)
