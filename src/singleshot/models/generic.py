"""SSD on any feature extractor: extras and heads sized by its channels and strides."""

from __future__ import annotations

import torch
from torch import nn

from singleshot.conventions import IMAGENET_MEAN, IMAGENET_STD
from singleshot.errors import ConfigError
from singleshot.inputs import InputSpec
from singleshot.models.blocks import Head, InvertedResidual, init_xavier, use_fast_depthwise
from singleshot.models.ssd import SSD, as_list
from singleshot.priors import PriorSpec, sized_for


def build_on(
    backbone: nn.Module,
    num_classes: int,
    input_spec: InputSpec | None = None,
    priors: PriorSpec | None = None,
    lite: bool = True,
    extra_channels: tuple[int, ...] = (512, 256, 256, 128),
) -> SSD:
    """Put SSD on `backbone`, which takes [B, 3, S, S] and returns one map or a list, tuple or dict of maps.

    That is what torchvision's `create_feature_extractor` and timm's `features_only=True` give. The maps must get
    smaller from one to the next. Extra layers halve the last one until a single cell is left or `extra_channels` is
    used up. Priors default to scales spread evenly over all maps. Raises ConfigError when the maps do not fit.
    """
    input_spec = input_spec or InputSpec(size=320, mean=IMAGENET_MEAN, std=IMAGENET_STD)
    size = input_spec.size
    training = backbone.training
    backbone.eval()
    with torch.no_grad():
        sources = as_list(backbone(torch.zeros(1, 3, size, size)))
    backbone.train(training)
    sides, widths = _measure(sources)
    extras: list[nn.Module] = []
    for channels in extra_channels:
        if sides[-1] == 1:
            break
        extras.append(InvertedResidual(widths[-1], channels, stride=2, expansion=max(0.25, 64 / widths[-1])))
        sides.append((sides[-1] + 1) // 2)
        widths.append(channels)
    spec = priors or sized_for(sides, size)
    if spec.maps != tuple(sides):
        raise ConfigError(f"priors: feature maps {spec.maps}, but the backbone and extras have {tuple(sides)}")
    kinds = [("point" if side == 1 else "lite") if lite else "conv" for side in sides]
    rows = zip(widths, spec.per_cell, kinds, strict=True)
    heads = [Head(width, boxes, num_classes, kind) for width, boxes, kind in rows]
    init_xavier(*heads)
    for module in (backbone, *extras, *heads):
        use_fast_depthwise(module)
    return SSD(backbone, [nn.Identity() for _ in sources], extras, heads, spec, input_spec, num_classes)


def _measure(sources: list[torch.Tensor]) -> tuple[list[int], list[int]]:
    """Side in cells and channels of each map."""
    sides = []
    for i, source in enumerate(sources):
        if source.dim() != 4 or source.shape[2] != source.shape[3]:
            raise ConfigError(
                f"backbone: output {i} has shape {tuple(source.shape)}, want a square map [B, C, H, H]"
                " (timm's transformers and channels-last networks need a permute)"
            )
        sides.append(source.shape[2])
    if sides != sorted(set(sides), reverse=True):
        raise ConfigError(f"backbone: maps of {sides} cells, want each smaller than the one before")
    return sides, [source.shape[1] for source in sources]
