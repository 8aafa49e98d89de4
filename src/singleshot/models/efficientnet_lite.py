"""SSD on EfficientNet-Lite0 with a top-down neck: for photos, from weights trained on ImageNet.

EfficientNet-Lite (Tan, Liu 2020) has ReLU6 and no squeeze-and-excitation, so it keeps its accuracy in int8.
"""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Sequence
from typing import NamedTuple

from torch import Tensor, nn

from singleshot.inputs import InputSpec
from singleshot.models.blocks import Part, SamePad, init_he, init_xavier, use_fast_depthwise
from singleshot.models.heads import make_heads
from singleshot.models.necks import TopDownNeck
from singleshot.models.ssd import SSD
from singleshot.priors import PriorSpec


class Stage(NamedTuple):
    """A row of table 1 in EfficientNet (Tan, Le 2019), as Lite0 has it."""

    blocks: int
    kernel: int
    stride: int
    expansion: int
    channels: int


STEM = 32
STAGES = (
    Stage(1, 3, 1, 1, 16),
    Stage(2, 3, 2, 6, 24),
    Stage(2, 5, 2, 6, 40),
    Stage(3, 3, 2, 6, 80),
    Stage(3, 5, 1, 6, 112),
    Stage(4, 5, 2, 6, 192),
    Stage(1, 3, 1, 6, 320),
)
# Blocks whose maps are at strides 8, 16 and 32, and their channels.
SOURCES = {4: 40, 10: 112, 15: 320}


def _unit(in_channels: int, channels: int, kernel: int, stride: int, groups: int, active: bool) -> nn.Sequential:
    """Convolution padded as TensorFlow's SAME, batch normalisation with TensorFlow's eps, ReLU6 where `active`."""
    padding = kernel // 2 if stride == 1 else 0
    layers: list[tuple[str, nn.Module]] = [("pad", SamePad(kernel, stride))] if stride > 1 else []
    layers.append(("conv", nn.Conv2d(in_channels, channels, kernel, stride, padding, groups=groups, bias=False)))
    layers.append(("bn", nn.BatchNorm2d(channels, eps=1e-3, momentum=0.01)))
    return nn.Sequential(OrderedDict([*layers, ("relu", nn.ReLU6())] if active else layers))


class _Block(nn.Module):
    """Inverted residual: 1x1 to `expansion` times the channels, depthwise, 1x1 back."""

    def __init__(self, in_channels: int, channels: int, kernel: int, stride: int, expansion: int) -> None:
        super().__init__()
        hidden = in_channels * expansion
        if expansion > 1:
            self.expand = _unit(in_channels, hidden, 1, 1, 1, True)
        self.depthwise = _unit(hidden, hidden, kernel, stride, hidden, True)
        self.project = _unit(hidden, channels, 1, 1, 1, False)
        self.shortcut = stride == 1 and in_channels == channels

    def forward(self, x: Tensor) -> Tensor:
        """[B, C, H, W] -> [B, channels, H / stride, W / stride]"""
        y: Tensor = x
        for unit in self.children():
            y = unit(y)
        return x + y if self.shortcut else y


class EfficientNetLite0(nn.Module):
    """[B, C, H, W] -> the maps of the named blocks, largest first.

    Args:
        sources: indices into its 16 blocks.
        channels: of the images.
    """

    def __init__(self, sources: Sequence[int] = tuple(SOURCES), channels: int = 3) -> None:
        super().__init__()
        self.stem = _unit(channels, STEM, 3, 2, 1, True)
        self.blocks = nn.ModuleList()
        width = STEM
        for stage in STAGES:
            for i in range(stage.blocks):
                stride = stage.stride if i == 0 else 1
                self.blocks.append(_Block(width, stage.channels, stage.kernel, stride, stage.expansion))
                width = stage.channels
        self.sources = tuple(sources)

    def parts(self) -> list[Part]:
        """In the order in which an image passes them: the stem and the 16 blocks."""
        strides = [2, *(stage.stride for stage in STAGES)]
        repeats = [1, *(stage.blocks for stage in STAGES)]
        of_blocks = [math.prod(strides[: i + 1]) for i, count in enumerate(repeats) for _ in range(count)]
        return [Part(module, stride) for module, stride in zip([self.stem, *self.blocks], of_blocks, strict=True)]

    def forward(self, x: Tensor) -> list[Tensor]:
        """The maps, largest first."""
        x = self.stem(x)
        maps = []
        for i, block in enumerate(self.blocks):
            x = block(x)
            if i in self.sources:
                maps.append(x)
        return maps


def build_network(prior_spec: PriorSpec, input_spec: InputSpec, num_classes: int, name: str, *, width: int) -> SSD:
    """SSD on EfficientNet-Lite0, with full 3x3 heads; width: channels of the neck's maps."""
    backbone = EfficientNetLite0(channels=input_spec.channels)
    init_he(backbone)
    neck = TopDownNeck(tuple(SOURCES.values()), width, extras=len(prior_spec.maps) - len(SOURCES))
    maps = len(prior_spec.maps)
    heads = make_heads([width] * maps, prior_spec, num_classes, ["conv"] * maps)
    init_xavier(*heads)
    for module in (backbone, neck, *heads):
        use_fast_depthwise(module)
    return SSD(backbone, neck, heads, prior_spec, input_spec, num_classes, name)
