"""What processor this is: engines' defaults and remembered measurements go by it."""

from __future__ import annotations

import functools
import os
import platform
from pathlib import Path

# Names in /proc/cpuinfo of instructions for bfloat16 products: AVX512, AMX, ARM.
_BFLOAT16 = {"avx512_bf16", "amx_bf16", "bf16"}


@functools.cache
def _cpuinfo() -> dict[str, str]:
    """Fields of the first processor in /proc/cpuinfo; nothing on other systems."""
    try:
        text = Path("/proc/cpuinfo").read_text(errors="replace")
    except OSError:
        return {}
    lines = (line.partition(":") for line in text.split("\n\n")[0].splitlines())
    return {name.strip(): value.strip() for name, _, value in lines}


def processor_name() -> str:
    """As the system calls it."""
    return _cpuinfo().get("model name") or platform.processor() or platform.machine()


def cores() -> int:
    """Processors that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def has_bfloat16() -> bool:
    """Whether the processor multiplies bfloat16 natively; emulated it is slower than float32. False if unknown."""
    info = _cpuinfo()
    return bool(_BFLOAT16 & set((info.get("flags") or info.get("Features") or "").split()))
