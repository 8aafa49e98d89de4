"""SSD on MobileNetV2: the sources it offers and the extra layers that follow it."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn
from torchvision.models import mobilenet_v2

from singleshot.models.blocks import InvertedResidual

# (channels, expansion) of the four inverted residuals of stride 2 after the backbone.
EXTRAS = ((512, 0.2), (256, 0.25), (256, 0.5), (64, 0.25))


class MobileNetV2(nn.Module):
    """torchvision's MobileNetV2 features, returning the maps that are named.

    sources: indices into its 19 feature blocks; (i, "expand") taps the expansion of block i instead, which is the
    widest map at the stride before it (SSDLite takes block 14's).
    """

    def __init__(self, sources: Sequence[int | tuple[int, str]]) -> None:
        super().__init__()
        self.features = mobilenet_v2(weights=None).features
        self.sources = tuple(sources)

    def forward(self, x: Tensor) -> list[Tensor]:
        maps = []
        for i, block in enumerate(self.features):
            if (i, "expand") in self.sources:
                expand, *rest = block.conv
                x = expand(x)
                maps.append(x)
                for layer in rest:
                    x = layer(x)
            else:
                x = block(x)
            if i in self.sources:
                maps.append(x)
        return maps


def extra_layers(in_channels: int = 1280) -> tuple[list[nn.Module], list[int]]:
    """Four inverted residuals of stride 2 and the channels of each."""
    layers: list[nn.Module] = []
    for channels, expansion in EXTRAS:
        layers.append(InvertedResidual(in_channels, channels, 2, expansion))
        in_channels = channels
    return layers, [channels for channels, _ in EXTRAS]
