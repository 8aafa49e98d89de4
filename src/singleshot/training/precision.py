"""Which number format a device multiplies fastest in."""

from __future__ import annotations

import contextlib
from contextlib import AbstractContextManager

import torch

from singleshot.errors import ConfigError

PRECISIONS = ("auto", "float32", "bfloat16", "float16")


def pick_precision(name: str, device: torch.device) -> torch.dtype:
    """The dtype of autocast on that device; "auto" takes bfloat16 where the processor multiplies it natively.

    On a CPU that is AVX512-BF16 or AMX (emulated it is slower than float32); on CUDA float16 where bfloat16 is missing.
    Raises ConfigError.
    """
    if name not in PRECISIONS:
        raise ConfigError(f"--precision {name}: want one of {', '.join(PRECISIONS)}")
    if name != "auto":
        dtype = getattr(torch, name)
        if dtype is torch.float16 and device.type == "cpu":
            raise ConfigError("--precision float16: no CPU trains in it; want bfloat16 or float32")
        return dtype
    if device.type == "cuda":
        return torch.bfloat16 if torch.cuda.is_bf16_supported(including_emulation=False) else torch.float16
    if device.type == "cpu" and cpu_has_bfloat16():
        return torch.bfloat16
    return torch.float32


def cpu_has_bfloat16() -> bool:
    """Whether this processor has instructions for bfloat16 products."""
    capabilities: dict[str, bool] = getattr(torch.cpu, "get_capabilities", dict)()
    if capabilities:
        return bool(capabilities.get("avx512_bf16") or capabilities.get("amx_bf16") or capabilities.get("bf16"))
    probes = (getattr(torch.cpu, f"_is_{name}_supported", None) for name in ("avx512_bf16", "amx_tile"))
    return any(probe() for probe in probes if probe is not None)


def autocast(device: torch.device, dtype: torch.dtype) -> AbstractContextManager[object]:
    """Autocast to that dtype; nothing at all for float32."""
    if dtype is torch.float32:
        return contextlib.nullcontext()
    # Caching casted weights pays within one forward pass and is dropped at its end, so it holds no memory.
    return torch.autocast(device.type, dtype=dtype)


def place_model(model: torch.nn.Module, device: torch.device) -> None:
    """Move it to the device, channels-last, which convolutions are faster in on both CPUs and GPUs."""
    model.to(device).to(memory_format=torch.channels_last)
