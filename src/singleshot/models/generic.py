"""SSD on any feature extractor: extras and heads sized by its channels and strides."""

from __future__ import annotations

import torch
from torch import nn

from singleshot.errors import ConfigError
from singleshot.inputs import IMAGENET_MEAN, IMAGENET_STD, InputSpec
from singleshot.models.blocks import InvertedResidual, init_xavier, use_fast_depthwise
from singleshot.models.dry_run import shown
from singleshot.models.heads import make_heads
from singleshot.models.ssd import SSD, PlainNeck, as_list
from singleshot.priors import PriorSpec, sized_for


def build_on(
    backbone: nn.Module,
    num_classes: int,
    input_spec: InputSpec | None = None,
    priors: PriorSpec | None = None,
    lite: bool = True,
    extra_channels: tuple[int, ...] = (512, 256, 256, 128),
) -> SSD:
    """Put SSD on a backbone: extra layers, priors and heads are made for its maps.

    Extra layers halve the last map until a single cell is left or `extra_channels` is used up.

    Args:
        backbone: [B, C, H, W] -> one map or a list, tuple or dict of them, each smaller than the one before: what
            torchvision's `create_feature_extractor` and timm's `features_only=True` give.
        num_classes: real classes, without background.
        input_spec: 320 pixels square and ImageNet's normalisation if not given.
        priors: for all maps; if not given, scales spread evenly over them.
        lite: depthwise heads (SSDLite) in place of full 3x3 ones.
        extra_channels: of each extra layer.

    Raises:
        ConfigError: the maps do not fit the input, one another or the priors.
    """
    input_spec = input_spec or InputSpec(size=320, mean=IMAGENET_MEAN, std=IMAGENET_STD)
    training = backbone.training
    backbone.eval()
    with torch.no_grad():
        sources = as_list(backbone(torch.zeros(1, input_spec.channels, *input_spec.sides)))
    backbone.train(training)
    grids, widths = _measure(sources, input_spec)
    extras: list[nn.Module] = []
    for channels in extra_channels:
        rows, columns = grids[-1]
        if rows == columns == 1:
            break
        extras.append(InvertedResidual(widths[-1], channels, stride=2, expansion=max(0.25, 64 / widths[-1])))
        grids.append(((rows + 1) // 2, (columns + 1) // 2))
        widths.append(channels)
    spec = priors or sized_for(grids, input_spec.sides)
    if spec.grids != tuple(grids):
        raise ConfigError(f"priors: feature maps {shown(spec.grids)}, but the backbone and extras have {shown(grids)}")
    kinds = [("point" if grid == (1, 1) else "lite") if lite else "conv" for grid in grids]
    heads = make_heads(widths, spec, num_classes, kinds)
    init_xavier(*heads)
    for module in (backbone, *extras, *heads):
        use_fast_depthwise(module)
    return SSD(backbone, PlainNeck(extras=extras), heads, spec, input_spec, num_classes)


def _measure(sources: list[torch.Tensor], input_spec: InputSpec) -> tuple[list[tuple[int, int]], list[int]]:
    """Rows and columns, and channels, of each map."""
    grids: list[tuple[int, int]] = []
    height, width = input_spec.sides
    for i, source in enumerate(sources):
        shape = tuple(source.shape)
        # Rounding at the borders may cost either side a cell where they differ.
        aside = abs(shape[2] * width - shape[3] * height) if len(shape) == 4 else None
        if aside is None or aside > (0 if height == width else max(height, width)):
            kind = (
                "a square map [B, C, H, H]" if height == width else f"a map [B, C, H, W] shaped as {height} x {width}"
            )
            raise ConfigError(
                f"backbone: output {i} has shape {shape}, want {kind}"
                " (timm's transformers and channels-last networks need a permute)"
            )
        grids.append((shape[2], shape[3]))
    cells = [rows * columns for rows, columns in grids]
    if cells != sorted(set(cells), reverse=True):
        raise ConfigError(f"backbone: maps of {shown(grids)} cells, want each smaller than the one before")
    return grids, [source.shape[1] for source in sources]
