"""What predicts the offsets and logits of one feature map."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence

from torch import Tensor, nn
from torchvision.ops import Conv2dNormActivation

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
        depthwise = Conv2dNormActivation(
            in_channels, in_channels, 3, groups=in_channels, activation_layer=nn.ReLU6, bias=True
        )
        return nn.Sequential(OrderedDict(depthwise=depthwise, point=nn.Conv2d(in_channels, out_channels, 1)))
    assert kind == "point", kind
    return nn.Conv2d(in_channels, out_channels, 1)


class Head(nn.Module):
    """Offsets and logits of one feature map.

    Args:
        in_channels: of the map.
        boxes: default boxes of a cell.
        num_classes: real classes; the logits have one more column, background, first.
        kind: of both layers, as `predictor` takes it.
    """

    def __init__(self, in_channels: int, boxes: int, num_classes: int, kind: str = "conv") -> None:
        super().__init__()
        self.columns = num_classes + 1
        self.location = predictor(kind, in_channels, boxes * 4)
        self.confidence = predictor(kind, in_channels, boxes * self.columns)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """[B, C, H, W] -> [B, H * W * boxes, 4], [B, H * W * boxes, C + 1], location-major as the priors are."""
        return self.rows(self.location(x), self.confidence(x))

    def rows(self, location: Tensor, confidence: Tensor) -> tuple[Tensor, Tensor]:
        """Maps of the last convolutions -> offsets and logits of each prior."""
        offsets = location.permute(0, 2, 3, 1).reshape(location.shape[0], -1, 4)
        return offsets, confidence.permute(0, 2, 3, 1).reshape(confidence.shape[0], -1, self.columns)


def make_heads(widths: Sequence[int], prior_spec: PriorSpec, num_classes: int, kinds: Sequence[str]) -> list[Head]:
    """One head for each map: widths are the maps' channels, kinds as `predictor` takes them."""
    rows = zip(widths, prior_spec.per_cell, kinds, strict=True)
    return [Head(width, boxes, num_classes, kind) for width, boxes, kind in rows]
