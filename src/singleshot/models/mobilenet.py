"""SSD on MobileNetV2: the sources it offers and the extra layers that follow it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from torch import Tensor, nn
from torchvision.models import mobilenet_v2

from singleshot.inputs import InputSpec
from singleshot.models.blocks import InvertedResidual, L2Norm, Part, init_xavier, use_fast_depthwise
from singleshot.models.heads import make_heads
from singleshot.models.ssd import SSD, PlainNeck
from singleshot.priors import PriorSpec

# A map to take: that of a feature block, or of the expansion inside it, (block, "expand").
Tap = int | tuple[int, str]

# Of the feature blocks' maps, in pixels of the image (MobileNetV2, table 2).
STRIDES = (*[2] * 2, *[4] * 2, *[8] * 3, *[16] * 7, *[32] * 5)

# (channels, expansion) of the four inverted residuals of stride 2 after the backbone.
EXTRAS = ((512, 0.2), (256, 0.25), (256, 0.5), (64, 0.25))


class MobileNetV2(nn.Module):
    """torchvision's MobileNetV2 features, returning the maps that are named.

    Args:
        sources: indices into its 19 feature blocks; (i, "expand") takes the expansion of block i instead, which is the
            widest map at the stride before it (SSDLite takes block 14's).
        channels: of the images.
    """

    def __init__(self, sources: Sequence[Tap], channels: int = 3) -> None:
        super().__init__()
        self.features = mobilenet_v2(weights=None).features
        self.sources = tuple(sources)
        if channels != 3:
            stem = self.features[0][0]
            self.features[0][0] = nn.Conv2d(channels, stem.out_channels, 3, stride=2, padding=1, bias=False)

    def parts(self) -> list[Part]:
        """In the order in which an image passes them: the 19 feature blocks."""
        return [Part(block, stride) for block, stride in zip(self.features, STRIDES, strict=True)]

    def forward(self, x: Tensor) -> list[Tensor]:
        """[B, C, H, W] -> the sources, largest first."""
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


def build_network(
    prior_spec: PriorSpec,
    input_spec: InputSpec,
    num_classes: int,
    name: str,
    *,
    sources: Mapping[Tap, int],
    l2_norm: bool = False,
    lite: bool = False,
) -> SSD:
    """SSD on MobileNetV2.

    Args:
        sources: the maps that the heads look at, and the channels of each.
        l2_norm: whether the first of them is normalised as VGG16's conv4_3 is.
        lite: depthwise heads, and a 1x1 one on the last map (SSDLite).
    """
    extras, channels = extra_layers()
    widths = [*sources.values(), *channels]
    kinds = ["lite" if lite else "conv"] * (len(widths) - 1) + ["point" if lite else "conv"]
    heads = make_heads(widths, prior_spec, num_classes, kinds)
    init_xavier(*heads)
    neck = PlainNeck([L2Norm(widths[0], scale=20.0)] if l2_norm else [], extras)
    backbone = MobileNetV2(tuple(sources), input_spec.channels)
    for module in (backbone, neck, *heads):
        use_fast_depthwise(module)
    return SSD(backbone, neck, heads, prior_spec, input_spec, num_classes, name)
