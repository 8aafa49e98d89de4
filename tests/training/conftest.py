"""A few small images to train on, and a network that does so in milliseconds."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from singleshot.inputs import InputSpec
from singleshot.models import SSD, build_on
from singleshot.models.blocks import conv
from singleshot.scenes.scenes import write_scenes


@pytest.fixture(scope="session")
def scenes(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("data") / "scenes"
    write_scenes(folder, train=24, test=8, val=8)
    return folder


class Tiny(torch.nn.Module):
    """Two maps of a 96-pixel input."""

    def __init__(self) -> None:
        super().__init__()
        low = [m for _, m in conv(3, 16, 3, 4, 1, norm=True)] + [m for _, m in conv(16, 32, 3, 2, 1, norm=True)]
        self.low = torch.nn.Sequential(*low)
        self.high = torch.nn.Sequential(*[m for _, m in conv(32, 48, 3, 2, 1, norm=True)])

    def forward(self, x: torch.Tensor) -> list[torch.Tensor]:
        low = self.low(x)
        return [low, self.high(low)]


@pytest.fixture(scope="session")
def tiny_ssd() -> Callable[..., SSD]:
    """tiny_ssd(classes, seed): a new model."""

    def make(num_classes: int = 3, seed: int = 0) -> SSD:
        torch.manual_seed(seed)
        return build_on(Tiny(), num_classes, InputSpec(size=96), extra_channels=(32, 32)).train()

    return make
