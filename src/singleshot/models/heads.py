"""What predicts the offsets and logits of one feature map."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence

from torch import Tensor, nn

from singleshot.models.blocks import conv_norm
from singleshot.priors import PriorSpec


def predictor(kind: str, in_channels: int, out_channels: int) -> nn.Module:
    """The layer that predicts one map's offsets or logits.

    "conv": 3x3 (paper section 2.1). "norm": the same, batch-normalised (ScratchDet). "lite": depthwise 3x3 then
    1x1 (SSDLite, MobileNetV2 section 6.2). "point": 1x1, for a map of a single cell.
    """
    if kind == "conv":
        return nn.Conv2d(in_channels, out_channels, 3, padding=1)
    if kind == "norm":
        plain = nn.Conv2d(in_channels, out_channels, 3, padding=1, bias=False)
        return nn.Sequential(OrderedDict(conv=plain, bn=nn.BatchNorm2d(out_channels)))
    if kind == "lite":
        pair = conv_norm(in_channels, in_channels, 3, groups=in_channels, bias=True)
        depthwise = nn.Sequential(*pair, nn.ReLU6(inplace=True))
        return nn.Sequential(OrderedDict(depthwise=depthwise, point=nn.Conv2d(in_channels, out_channels, 1)))
    assert kind == "point", kind
    return nn.Conv2d(in_channels, out_channels, 1)


class Head(nn.Module):
    """Offsets and logits of one feature map.

    Args:
        location: map -> [B, boxes * 4, H, W], box after box.
        confidence: map -> [B, boxes * columns, H, W]; a box's columns are background, then the real classes.
        num_classes: real classes.
    """

    def __init__(self, location: nn.Module, confidence: nn.Module, num_classes: int) -> None:
        super().__init__()
        self.location, self.confidence = location, confidence
        self.columns = num_classes + 1

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """[B, C, H, W] -> [B, H * W * boxes, 4], [B, H * W * boxes, C + 1], location-major as the priors are."""
        return by_prior(self.location(x), 4), by_prior(self.confidence(x), self.columns)


def by_prior(x: Tensor, columns: int) -> Tensor:
    """What a head's layer gives, [B, boxes * columns, H, W] -> [B, H * W * boxes, columns]."""
    return x.permute(0, 2, 3, 1).reshape(x.shape[0], -1, columns)


def make_heads(widths: Sequence[int], prior_spec: PriorSpec, num_classes: int, kinds: Sequence[str]) -> list[Head]:
    """One head for each map: widths are the maps' channels, kinds as `predictor` takes them."""
    rows = zip(widths, prior_spec.per_cell, kinds, strict=True)
    return [
        Head(predictor(kind, width, boxes * 4), predictor(kind, width, boxes * (num_classes + 1)), num_classes)
        for width, boxes, kind in rows
    ]
