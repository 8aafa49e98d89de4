"""Processors, devices and number formats: which there are, how many, and what each computes fastest in.

Imports no torch: the functions that speak of PyTorch's devices import it themselves.
"""

from __future__ import annotations

import contextlib
import functools
import os
import platform
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from singleshot.errors import ConfigError, printable

if TYPE_CHECKING:
    import torch

PRECISIONS = ("auto", "float32", "bfloat16", "float16")

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


class Launch(NamedTuple):
    """Which of the processes that train together this is: `rank` of `size`, and `local_rank` of `local_size` on its
    machine."""

    rank: int = 0
    size: int = 1
    local_rank: int = 0
    local_size: int = 1


def read_launch() -> Launch:
    """What torchrun, or whoever starts the processes, says in RANK, WORLD_SIZE, LOCAL_RANK and LOCAL_WORLD_SIZE; one
    process alone where no WORLD_SIZE above 1 is there. Raises ConfigError."""
    size = _number("WORLD_SIZE", 1, 1, 1 << 16)
    if size == 1:
        return Launch()
    missing = [name for name in ("RANK", "MASTER_ADDR", "MASTER_PORT") if not os.environ.get(name)]
    if missing:
        raise ConfigError(
            f"WORLD_SIZE={size} is set, but not {' and '.join(missing)}: start the processes with torchrun, or unset"
            " WORLD_SIZE to train in one"
        )
    local_size = _number("LOCAL_WORLD_SIZE", 1, 1, size)
    rank, local_rank = _number("RANK", 0, 0, size - 1), _number("LOCAL_RANK", 0, 0, size - 1)
    return Launch(rank, size, local_rank, max(local_size, local_rank + 1))


def _number(name: str, default: int, low: int, high: int) -> int:
    text = os.environ.get(name) or str(default)
    if not text.isdecimal() or not low <= int(text) <= high:
        raise ConfigError(f"{name}={printable(text, 40)} in the environment: want a whole number from {low} to {high}")
    return int(text)


def pick_device(name: str | None, launch: Launch = Launch()) -> torch.device:  # noqa: B008 - values that do not change
    """The device of that name, or CUDA where there is one; of several processes on a machine each has a GPU of its own.
    Raises ConfigError."""
    import torch

    if name in (None, "auto"):
        name = "cuda" if torch.cuda.is_available() else "cpu"
        if launch.size == 1:
            return torch.device(name)
    if launch.size > 1 and name == "cuda":
        name, there = f"cuda:{launch.local_rank}", torch.cuda.device_count()
        if launch.local_rank >= there:
            raise ConfigError(
                f"process {launch.rank}: {launch.local_size} processes on a machine with {there} GPUs; start as many"
                " processes as there are GPUs, or give --device cpu"
            )
    elif launch.local_size > 1 and str(name).startswith("cuda:"):
        raise ConfigError(f"--device {name}: each of several processes has a GPU of its own; want cuda, cpu or auto")
    try:
        device = torch.device(str(name))
        torch.zeros(1, device=device)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        raise ConfigError(f"--device {name}: not available here; want cpu, cuda or cuda:N") from error
    return device


def pick_precision(name: str, device: torch.device) -> torch.dtype:
    """The dtype of autocast on that device; "auto" takes bfloat16 where the processor multiplies it natively.

    On a CPU that is AVX512-BF16 or AMX (emulated it is slower than float32); on CUDA float16 where bfloat16 is missing.
    Raises ConfigError.
    """
    import torch

    if name not in PRECISIONS:
        raise ConfigError(f"--precision {name}: want one of {', '.join(PRECISIONS)}")
    if name != "auto":
        dtype: torch.dtype = getattr(torch, name)
        if dtype is torch.float16 and device.type == "cpu":
            raise ConfigError("--precision float16: no CPU trains in it; want bfloat16 or float32")
        return dtype
    if device.type == "cuda":
        return torch.bfloat16 if torch.cuda.is_bf16_supported(including_emulation=False) else torch.float16
    if device.type == "cpu" and has_bfloat16():
        return torch.bfloat16
    return torch.float32


def pick_dtype(precision: str | None, device: torch.device) -> torch.dtype:
    """The dtype of that name; float32 for None, "fastest" for what the device is fastest in. Raises ConfigError."""
    import torch

    if precision is None:
        return torch.float32
    if precision not in PRECISIONS and precision != "fastest":
        raise ConfigError(f"precision {printable(precision, 40)}: want one of float32, bfloat16, float16, fastest")
    return pick_precision("auto" if precision == "fastest" else precision, device)


def autocast(device: torch.device, dtype: torch.dtype) -> AbstractContextManager[object]:
    """Autocast to that dtype; nothing at all for float32."""
    import torch

    if dtype is torch.float32:
        return contextlib.nullcontext()
    # Caching casted weights pays within one forward pass and is dropped at its end, so it holds no memory.
    return torch.autocast(device.type, dtype=dtype)


def place_model(model: torch.nn.Module, device: torch.device) -> None:
    """Move it to the device, channels-last, which convolutions are faster in on both CPUs and GPUs."""
    import torch

    model.to(device).to(memory_format=torch.channels_last)
