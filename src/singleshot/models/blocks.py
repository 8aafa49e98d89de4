"""The layers that SSD networks are put together from."""

from __future__ import annotations

from collections import OrderedDict

import torch
from torch import Tensor, nn
from torchvision.ops import Conv2dNormActivation


class L2Norm(nn.Module):
    """Scale every position's channel vector to length `scale` (learned, per channel).

    ParseNet's normalisation of conv4_3, whose values are larger than those of the deeper maps (paper section 3.1;
    Caffe normalize_layer.cpp, across_spatial false, eps 1e-10 inside the root). In float32 whatever the precision
    around it: the squares of conv4_3 overflow float16.
    """

    def __init__(self, channels: int, scale: float = 20.0) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.full((channels,), float(scale)))

    def forward(self, x: Tensor) -> Tensor:
        """[B, C, H, W] -> [B, C, H, W]"""
        with torch.autocast(x.device.type, enabled=False):
            values = x.float()
            length = values.square().sum(dim=1, keepdim=True).add(1e-10).sqrt()
            return (values / length * self.weight.float().view(1, -1, 1, 1)).to(x.dtype)


def conv(
    in_channels: int,
    channels: int,
    kernel: int,
    stride: int = 1,
    padding: int = 0,
    dilation: int = 1,
    norm: bool = False,
) -> list[tuple[str, nn.Module]]:
    """Convolution, with `norm` a batch normalisation in place of its bias, and ReLU: named for a Sequential."""
    layer = nn.Conv2d(in_channels, channels, kernel, stride, padding, dilation, bias=not norm)
    layers: list[tuple[str, nn.Module]] = [("conv", layer)]
    if norm:
        layers.append(("bn", nn.BatchNorm2d(channels)))
    return [*layers, ("relu", nn.ReLU(inplace=True))]


class InvertedResidual(nn.Module):
    """MobileNetV2's block with any expansion, also under 1 (as SSDLite's extra layers have)."""

    def __init__(self, in_channels: int, channels: int, stride: int, expansion: float) -> None:
        super().__init__()
        hidden = round(in_channels * expansion)
        self.layers = nn.Sequential(
            OrderedDict(
                expand=Conv2dNormActivation(in_channels, hidden, 1, activation_layer=nn.ReLU6),
                depthwise=Conv2dNormActivation(hidden, hidden, 3, stride, groups=hidden, activation_layer=nn.ReLU6),
                project=Conv2dNormActivation(hidden, channels, 1, activation_layer=None),
            )
        )
        self.shortcut = stride == 1 and in_channels == channels

    def forward(self, x: Tensor) -> Tensor:
        return x + self.layers(x) if self.shortcut else self.layers(x)


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
    """Offsets and logits of one feature map."""

    def __init__(self, in_channels: int, boxes: int, num_classes: int, kind: str = "conv") -> None:
        super().__init__()
        self.columns = num_classes + 1  # and background, first
        self.location = predictor(kind, in_channels, boxes * 4)
        self.confidence = predictor(kind, in_channels, boxes * self.columns)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """[B, C, H, W] -> [B, H * W * boxes, 4], [B, H * W * boxes, C + 1], location-major as the priors are."""
        offsets = self.location(x).permute(0, 2, 3, 1).reshape(len(x), -1, 4)
        logits = self.confidence(x).permute(0, 2, 3, 1).reshape(len(x), -1, self.columns)
        return offsets, logits


def init_xavier(*modules: nn.Module) -> None:
    """Caffe's filler for every layer of SSD: xavier weights, zero biases."""
    for module in modules:
        for layer in module.modules():
            if isinstance(layer, nn.Conv2d):
                nn.init.xavier_uniform_(layer.weight)
                if layer.bias is not None:
                    nn.init.zeros_(layer.bias)
