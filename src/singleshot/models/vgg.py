"""SSD300 and SSD512 on VGG16 (paper sections 2.1 and 3; Caffe examples/ssd/ssd_pascal.py, model_libs.py)."""

from __future__ import annotations

from collections import OrderedDict

from torch import Tensor, nn

from singleshot.inputs import InputSpec
from singleshot.models.blocks import L2Norm, Part, conv, init_xavier
from singleshot.models.heads import make_heads
from singleshot.models.ssd import SSD, PlainNeck
from singleshot.priors import PriorSpec

# Stages of VGG16 and the channels of their convolutions.
_STAGES = (
    (1, (64, 64)),
    (2, (128, 128)),
    (3, (256, 256, 256)),
    (4, (512, 512, 512)),
    (5, (512, 512, 512)),
)
SOURCE_CHANNELS = (512, 1024)

# (1x1 channels, 3x3 channels, kernel, stride, padding) of each extra pair of SSD300 and SSD512.
EXTRAS = {
    300: ((256, 512, 3, 2, 1), (128, 256, 3, 2, 1), (128, 256, 3, 1, 0), (128, 256, 3, 1, 0)),
    512: (
        (256, 512, 3, 2, 1),
        (128, 256, 3, 2, 1),
        (128, 256, 3, 2, 1),
        (128, 256, 3, 2, 1),
        (128, 256, 4, 1, 1),  # the last kernel is 4: 2x2 -> 1x1
    ),
}


class VGG16(nn.Module):
    """VGG16 up to fc7 as convolutions; returns conv4_3 (stride 8) and fc7 (stride 16).

    pool3 rounds up (38 cells of 300 pixels, not 37); pool5 is 3x3 with stride 1; fc6 has dilation 6.

    Args:
        norm: batch normalisation behind every convolution, in place of its bias.
        channels: of the images.
    """

    def __init__(self, norm: bool = False, channels: int = 3) -> None:
        super().__init__()
        stages: OrderedDict[str, nn.Module] = OrderedDict()
        for stage, widths in _STAGES:
            for i, width in enumerate(widths, start=1):
                for kind, layer in conv(channels, width, 3, padding=1, norm=norm):
                    stages[f"{kind}{stage}_{i}"] = layer
                channels = width
            stages[f"pool{stage}"] = nn.MaxPool2d(2, 2, ceil_mode=True)
        stages["pool5"] = nn.MaxPool2d(3, 1, padding=1)
        for name, kernel, padding in (("fc6", 3, 6), ("fc7", 1, 0)):
            layers = conv(channels, 1024, kernel, padding=padding, dilation=6 if name == "fc6" else 1, norm=norm)
            stages.update((name if kind == "conv" else f"{kind}_{name}", layer) for kind, layer in layers)
            channels = 1024
        self.layers = nn.Sequential(stages)

    def parts(self) -> list[Part]:
        """In the order in which an image passes them: conv1 to conv5, each with its pooling, then fc6 and fc7."""
        parts: list[Part] = []
        layers: list[nn.Module] = []
        for name, layer in self.layers.named_children():
            layers.append(layer)
            if name.startswith("pool") or name in ("relu_fc6", "relu_fc7"):
                parts.append(Part(nn.Sequential(*layers), min(2 ** (len(parts) + 1), 16)))
                layers = []
        return parts

    def forward(self, x: Tensor) -> list[Tensor]:
        """[B, C, H, W] -> [B, 512, H/8, W/8], [B, 1024, H/16, W/16]"""
        conv4_3 = x
        for name, layer in self.layers.named_children():
            x = layer(x)
            if name == "relu4_3":
                conv4_3 = x
        return [conv4_3, x]


def extra_layers(size: int, norm: bool = False) -> tuple[list[nn.Module], list[int]]:
    """conv6 .. conv9 (conv10 for 512) and the channels of each."""
    layers: list[nn.Module] = []
    channels, outputs = SOURCE_CHANNELS[-1], []
    for i, (narrow, wide, kernel, stride, padding) in enumerate(EXTRAS[size], start=6):
        pair = [(f"{kind}{i}_1", layer) for kind, layer in conv(channels, narrow, 1, norm=norm)] + [
            (f"{kind}{i}_2", layer) for kind, layer in conv(narrow, wide, kernel, stride, padding, norm=norm)
        ]
        layers.append(nn.Sequential(OrderedDict(pair)))
        channels = wide
        outputs.append(wide)
    return layers, outputs


def build_network(
    prior_spec: PriorSpec, input_spec: InputSpec, num_classes: int, name: str, *, size: int, norm: bool = False
) -> SSD:
    """SSD on VGG16.

    Args:
        size: 300 or 512, whose extra layers differ in number (a key of EXTRAS).
        norm: batch normalisation everywhere, in the heads too.
    """
    backbone = VGG16(norm, input_spec.channels)
    extras, channels = extra_layers(size, norm)
    widths = [*SOURCE_CHANNELS, *channels]
    heads = make_heads(widths, prior_spec, num_classes, ["norm" if norm else "conv"] * len(widths))
    init_xavier(backbone, *extras, *heads)
    neck = PlainNeck([L2Norm(SOURCE_CHANNELS[0], scale=20.0)], extras)
    return SSD(backbone, neck, heads, prior_spec, input_spec, num_classes, name)
