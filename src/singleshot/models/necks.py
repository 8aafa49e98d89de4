"""Necks that pass what deep maps know up to the fine ones."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence

from torch import Tensor, nn
from torch.nn import functional as F

from singleshot.models.blocks import conv, init_he


def _layer(in_channels: int, channels: int, kernel: int, stride: int = 1) -> nn.Sequential:
    return nn.Sequential(OrderedDict(conv(in_channels, channels, kernel, stride, kernel // 2, norm=True)))


class TopDownNeck(nn.Module):
    """A feature pyramid (Lin et al. 2017): every map gets the ones above it added, enlarged by repeating cells.

    Args:
        widths: channels of the backbone's maps, largest map first.
        width: channels of every map that comes out.
        extras: further maps, each half the size of the one before it.
    """

    def __init__(self, widths: Sequence[int], width: int, extras: int) -> None:
        super().__init__()
        self.laterals = nn.ModuleList(_layer(channels, width, 1) for channels in widths)
        self.smooth = nn.ModuleList(_layer(width, width, 3) for _ in widths)
        self.extras = nn.ModuleList(_layer(width, width, 3, 2) for _ in range(extras))
        init_he(self)

    def forward(self, sources: list[Tensor]) -> list[Tensor]:
        """Maps [B, C, H, W], largest first -> as many, and the extra ones, all of `width` channels."""
        maps = [lateral(x) for lateral, x in zip(self.laterals, sources, strict=True)]
        for i in reversed(range(len(maps) - 1)):
            maps[i] = maps[i] + F.interpolate(maps[i + 1], size=maps[i].shape[-2:], mode="nearest")
        maps = [smooth(x) for smooth, x in zip(self.smooth, maps, strict=True)]
        for extra in self.extras:
            maps.append(extra(maps[-1]))
        return maps
