"""A backbone as one adds it: this file under `singleshot/models`, and one row in `singleshot/presets.py`."""

from __future__ import annotations

from itertools import pairwise

from torch import Tensor, nn

from singleshot.inputs import InputSpec
from singleshot.models.blocks import InvertedResidual, init_xavier
from singleshot.models.heads import make_heads
from singleshot.models.ssd import SSD, PlainNeck
from singleshot.priors import PriorSpec


class Toy(nn.Module):
    """[B, C, H, W] -> maps at strides 16 and 32."""

    def __init__(self, channels: int, width: int) -> None:
        super().__init__()
        self.stride16 = nn.Sequential(nn.Conv2d(channels, width, 16, 16), nn.BatchNorm2d(width), nn.ReLU())
        self.stride32 = InvertedResidual(width, 2 * width, stride=2, expansion=1.0)

    def forward(self, x: Tensor) -> list[Tensor]:
        fine = self.stride16(x)
        return [fine, self.stride32(fine)]


def build_network(prior_spec: PriorSpec, input_spec: InputSpec, num_classes: int, name: str, *, width: int = 16) -> SSD:
    """Two maps of the backbone and four extra ones."""
    widths = [width, 2 * width, 64, 64, 64, 64]
    extras = [InvertedResidual(before, after, 2, 0.5) for before, after in pairwise(widths[1:])]
    heads = make_heads(widths, prior_spec, num_classes, ["lite"] * 5 + ["point"])
    init_xavier(*heads)
    backbone = Toy(input_spec.channels, width)
    return SSD(backbone, PlainNeck(extras=extras), heads, prior_spec, input_spec, num_classes, name)
