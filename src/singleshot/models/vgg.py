"""SSD300 and SSD512 on VGG16 (paper sections 2.1 and 3; Caffe examples/ssd/ssd_pascal.py, model_libs.py)."""

from __future__ import annotations

from collections import OrderedDict

from torch import Tensor, nn

from singleshot.models.blocks import conv

# Convolutions of each VGG16 stage: name and channels.
_STAGES = (
    ("conv1", (64, 64)),
    ("conv2", (128, 128)),
    ("conv3", (256, 256, 256)),
    ("conv4", (512, 512, 512)),
    ("conv5", (512, 512, 512)),
)
SOURCE_CHANNELS = (512, 1024)

# (1x1 channels, 3x3 channels, kernel, stride, padding) of each extra pair, by input size.
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
    """

    def __init__(self, norm: bool = False) -> None:
        super().__init__()
        stages: OrderedDict[str, nn.Module] = OrderedDict()
        channels = 3
        for name, widths in _STAGES:
            for i, width in enumerate(widths, start=1):
                stages.update((f"{name}_{i}" if kind == "conv" else f"{kind}{name[4:]}_{i}", layer)
                              for kind, layer in conv(channels, width, 3, padding=1, norm=norm))  # fmt: skip
                channels = width
            stages[f"pool{name[4:]}"] = nn.MaxPool2d(2, 2, ceil_mode=True)
        stages["pool5"] = nn.MaxPool2d(3, 1, padding=1)
        for name, kernel, padding in (("fc6", 3, 6), ("fc7", 1, 0)):
            layers = conv(channels, 1024, kernel, padding=padding, dilation=6 if name == "fc6" else 1, norm=norm)
            stages.update((name if kind == "conv" else f"{kind}_{name}", layer) for kind, layer in layers)
            channels = 1024
        self.layers = nn.Sequential(stages)

    def forward(self, x: Tensor) -> list[Tensor]:
        """[B, 3, S, S] -> [B, 512, S/8, S/8], [B, 1024, S/16, S/16]"""
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
