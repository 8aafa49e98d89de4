"""A small residual network of plain 3x3 convolutions, made to be trained from scratch on a CPU.

Depthwise networks save multiplications, which a processor with matrix instructions has plenty of, and pay with passes
over memory, which it has not: this one has more of the former and a fifth of the latter, and takes several times as
many images per second in training.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence

from torch import Tensor, nn

from singleshot.inputs import InputSpec
from singleshot.models.blocks import Part, conv, init_he, init_xavier, use_fast_depthwise
from singleshot.models.heads import make_heads
from singleshot.models.necks import TopDownNeck
from singleshot.models.ssd import SSD, PlainNeck
from singleshot.priors import PriorSpec

# Channels of the maps at strides 2, 4, 8, 16 and 32, and residual blocks from stride 4 on.
WIDTHS = (32, 48, 96, 192, 256)
BLOCKS = (1, 2, 2, 1)
# (1x1 channels, 3x3 channels) of the stride-2 pairs after the backbone.
EXTRAS = ((128, 192), (96, 128), (96, 128), (96, 128))


class Residual(nn.Module):
    """Two 3x3 convolutions around a shortcut (He et al. 2016)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        *first, relu = conv(channels, channels, 3, padding=1, norm=True)
        *second, _ = conv(channels, channels, 3, padding=1, norm=True)
        layers = [(f"{k}1", m) for k, m in first] + [("relu1", relu[1])] + [(f"{k}2", m) for k, m in second]
        self.layers = nn.Sequential(OrderedDict(layers))
        self.relu = nn.ReLU(inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        """[B, C, H, W] -> the same shape."""
        y: Tensor = self.relu(x + self.layers(x))
        return y


def _down(in_channels: int, channels: int, blocks: int) -> nn.Sequential:
    """Halve the map, then residual blocks."""
    stage = OrderedDict(conv(in_channels, channels, 3, stride=2, padding=1, norm=True))
    for i in range(blocks):
        stage[f"block{i + 1}"] = Residual(channels)
    return nn.Sequential(stage)


class MiniNet(nn.Module):
    """[B, C, H, W] -> maps at strides 8, 16 and 32.

    Args:
        widths: channels of the maps at strides 2, 4, 8, 16 and 32.
        blocks: residual blocks at strides 4, 8, 16 and 32.
        channels: of the images.
    """

    def __init__(self, widths: Sequence[int] = WIDTHS, blocks: Sequence[int] = BLOCKS, channels: int = 3) -> None:
        super().__init__()
        two, four, *w = widths
        self.stem = nn.Sequential(OrderedDict(stage2=_down(channels, two, 0), stage4=_down(two, four, blocks[0])))
        self.stage8 = _down(four, w[0], blocks[1])
        self.stage16 = _down(w[0], w[1], blocks[2])
        self.stage32 = _down(w[1], w[2], blocks[3])

    def parts(self) -> list[Part]:
        """In the order in which an image passes them: the stem and the three stages."""
        return [Part(stage, stride) for stage, stride in zip(self.children(), (4, 8, 16, 32), strict=True)]

    def forward(self, x: Tensor) -> list[Tensor]:
        """The three maps, largest first."""
        stride8 = self.stage8(self.stem(x))
        stride16 = self.stage16(stride8)
        return [stride8, stride16, self.stage32(stride16)]


def extra_layers(channels: int) -> tuple[list[nn.Module], list[int]]:
    """Pairs of 1x1 and 3x3 convolutions that halve a map of so many channels, and the channels of each."""
    layers: list[nn.Module] = []
    for narrow, wide in EXTRAS:
        pair = [(f"{k}1", m) for k, m in conv(channels, narrow, 1, norm=True)]
        pair += [(f"{k}2", m) for k, m in conv(narrow, wide, 3, 2, 1, norm=True)]
        layers.append(nn.Sequential(OrderedDict(pair)))
        channels = wide
    return layers, [wide for _, wide in EXTRAS]


def build_network(
    prior_spec: PriorSpec,
    input_spec: InputSpec,
    num_classes: int,
    name: str,
    *,
    widths: Sequence[int] = WIDTHS,
    blocks: Sequence[int] = BLOCKS,
    neck: int | None = None,
) -> SSD:
    """SSD on MiniNet with full 3x3 heads.

    neck: channels of a top-down neck's maps; without it four extra layers, and a 1x1 head on the last map.
    """
    backbone = MiniNet(widths, blocks, input_spec.channels)
    sources, maps = list(widths[2:]), len(prior_spec.maps)
    if neck:
        joined: nn.Module = TopDownNeck(sources, neck, extras=maps - len(sources))
        heads = make_heads([neck] * maps, prior_spec, num_classes, ["conv"] * maps)
        plain: list[nn.Module] = [backbone]
    else:
        extras, channels = extra_layers(sources[-1])
        joined, plain = PlainNeck(extras=extras), [backbone, *extras]
        heads = make_heads([*sources, *channels], prior_spec, num_classes, ["conv"] * (maps - 1) + ["point"])
    for module in plain:
        init_he(module)
    for module in (*plain, joined):
        use_fast_depthwise(module)
    init_xavier(*heads)
    return SSD(backbone, joined, heads, prior_spec, input_spec, num_classes, name)
