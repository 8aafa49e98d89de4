"""Which number format a device trains in, and memory that is kept."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch

from singleshot.devices import autocast, has_bfloat16, pick_precision, place_model
from singleshot.errors import ConfigError
from singleshot.memory import keep_freed_memory, release_freed_memory
from singleshot.models import build

CPU = torch.device("cpu")


def test_auto_follows_the_processor(monkeypatch) -> None:
    import singleshot.devices as module

    monkeypatch.setattr(module, "has_bfloat16", lambda: True)
    assert pick_precision("auto", CPU) is torch.bfloat16
    monkeypatch.setattr(module, "has_bfloat16", lambda: False)
    assert pick_precision("auto", CPU) is torch.float32
    assert pick_precision("bfloat16", CPU) is torch.bfloat16


def test_the_probe_agrees_with_the_kernel() -> None:
    cpuinfo = Path("/proc/cpuinfo")
    if not cpuinfo.exists():
        pytest.skip("no /proc/cpuinfo here")
    flags = cpuinfo.read_text()
    if "avx512_bf16" not in flags and "amx_bf16" not in flags and "avx2" in flags:
        assert not has_bfloat16()
    if "amx_bf16" in flags:
        assert has_bfloat16()


def test_impossible_precisions() -> None:
    with pytest.raises(ConfigError, match="want one of auto"):
        pick_precision("int8", CPU)
    with pytest.raises(ConfigError, match="no CPU trains in it"):
        pick_precision("float16", CPU)


def test_autocast_and_channels_last() -> None:
    layer = torch.nn.Conv2d(3, 8, 3)
    with autocast(CPU, torch.bfloat16):
        assert layer(torch.rand(1, 3, 8, 8)).dtype is torch.bfloat16
    with autocast(CPU, torch.float32):
        assert layer(torch.rand(1, 3, 8, 8)).dtype is torch.float32
    model = build("ssd320-mini", 2)
    place_model(model, CPU)
    assert model.backbone.stage8.conv.weight.is_contiguous(memory_format=torch.channels_last)


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="glibc only")
def test_memory_calls_do_not_harm() -> None:
    assert keep_freed_memory() in (True, False)
    x = torch.rand(1000, 1000)
    release_freed_memory()
    assert torch.isfinite(x).all()
