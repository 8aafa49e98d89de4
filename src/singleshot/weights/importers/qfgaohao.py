"""qfgaohao/pytorch-ssd: vgg16-ssd, mb1-ssd, mb1-ssd-lite, mb2-ssd-lite, sq-ssd-lite (vision/ssd, vision/nn)."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

from singleshot.conventions import QFGAOHAO
from singleshot.prior_boxes import PriorSpec
from singleshot.weights.class_names import usual_names
from singleshot.weights.foreign_state import ForeignState
from singleshot.weights.imported_model import ImportedModel, Importer, SizedPriors
from singleshot.weights.importers.mobilenet_blocks import (
    EXPAND_14,
    V1_STRIDES,
    add_head,
    depthwise_bias,
    flat_parts,
    inverted_residual,
    mobilenet_v2,
)
from singleshot.weights.importers.torch_blocks import TorchBuilder
from singleshot.weights.importers.vgg import VGG_INDEX, count_classes

Trunk = Callable[[TorchBuilder], tuple[list[str], str]]  # (maps for heads, what the extra layers start from)


def _trunk_vgg(net: TorchBuilder) -> tuple[list[str], str]:
    """vision/nn/vgg.py; conv4_3 is batch-normalised for its head, in place of L2Norm."""
    x, first = net.image, ""
    pools = {2: False, 7: False, 14: True, 21: False}  # behind which convolutions, and whether they round up
    for i in VGG_INDEX:
        x = net.conv_bias(x, f"base_net.{i}", "relu", 3, 1, 1)
        if i == 21:
            first = net.batch_norm(x, "source_layer_add_ons.0")
        if i in pools:
            x = net.add(f"base_net.{i + 2}", "maxpool", x, kernel=2, stride=2, round_up=pools[i])
    x = net.add("base_net.30", "maxpool", x, kernel=3, stride=1, padding=1)
    x = net.conv_bias(x, "base_net.31", "relu", 3, padding=6, dilation=6)
    x = net.conv_bias(x, "base_net.33", "relu", 1)
    return [first, x], x


def _trunk_v1(net: TorchBuilder) -> tuple[list[str], str]:
    """vision/nn/mobilenet.py; the maps behind blocks 11 and 13."""
    maps = [net.conv_norm(net.image, "base_net.0.0", "base_net.0.1", "relu", 3, 2)]
    for i, stride in enumerate(V1_STRIDES, 1):
        maps.append(net.separable_norm(maps[-1], f"base_net.{i}", "relu", stride))
    return [maps[11], maps[13]], maps[13]


def _trunk_v2(net: TorchBuilder) -> tuple[list[str], str]:
    """vision/nn/mobilenet_v2.py; the first head looks at block 14's expansion (GraphPath(14, "conv", 3))."""
    layers = mobilenet_v2(net, "base_net", flat_parts)
    if EXPAND_14 not in layers:
        net.tensors.missing("base_net.14.conv.6.weight")
    return [layers.get(EXPAND_14, layers["14"]), layers["18"]], layers["18"]


def _trunk_squeeze(net: TorchBuilder) -> tuple[list[str], str]:
    """vision/nn/squeezenet.py, version 1.1; the head looks at Fire 11, the extra layers begin behind Fire 12."""
    x = net.conv_bias(net.image, "base_net.0", "relu", 3, 2)
    maps = {}
    for i in range(2, 13):
        fire = f"base_net.{i}"
        if i in (2, 5, 8):
            x = net.add(fire, "maxpool", x, kernel=3, stride=2)
            continue
        x = net.conv_bias(x, f"{fire}.squeeze", "relu", 1)
        sides = [net.conv_bias(x, f"{fire}.expand{k}x{k}", "relu", k, padding=k // 2) for k in (1, 3)]
        x = net.add(fire, "concat", *sides, channels=sum(net.channels[side] for side in sides))
        maps[i] = x
    return [maps[11]], maps[12]


def _extra(net: TorchBuilder, x: str, name: str, stride: int, padding: int) -> str:
    """1x1 and a plain or depthwise separable 3x3, or an inverted residual block."""
    if any(f"{name}.conv.{i}.weight" in net.tensors for i in (0, 1)):
        return inverted_residual(net, x, name, stride, flat_parts)[0]
    x = net.conv_bias(x, f"{name}.0", "relu", 1)
    if f"{name}.2.0.weight" not in net.tensors:
        return net.conv_bias(x, f"{name}.2", "relu", 3, stride, padding)
    x = depthwise_bias(net, x, f"{name}.2.0", "", "relu", stride, padding)
    return net.conv_bias(x, f"{name}.2.2", kernel=1)


def boxes_by_resolution(size: int, maps: Sequence[int]) -> PriorSpec:
    """dusty-nv/pytorch-ssd, train_ssd.py --resolution: set_image_size(size, min_ratio=20, max_ratio=90) of
    vision/ssd/config/mobilenetv1_ssd_config.py, which keeps the usual table for 300 pixels."""
    step = (90 - 20) // (len(maps) - 2)
    ratios = [10, *range(20, 91, step)][: len(maps)]
    return PriorSpec(
        image_size=size,
        maps=tuple(maps),
        min_sizes=tuple(size * ratio / 100 for ratio in ratios),
        max_sizes=tuple(size * ratio / 100 for ratio in [20, *(ratio + step for ratio in ratios[1:])]),
        ratios=((2.0, 3.0),) * len(maps),
        steps=tuple(float(math.ceil(size / cells)) for cells in maps),
        clip="center",
    )


_BY_RESOLUTION = SizedPriors(boxes_by_resolution, "dusty-nv/pytorch-ssd's for that resolution (--priors names others)")


def _convert(tensors: ForeignState, trunk: Trunk, network: str, name: str) -> ImportedModel:
    """network: whose default boxes it has, a key of QFGAOHAO.priors."""
    priors = QFGAOHAO.prior_spec(network)
    boxes, input_spec = priors.per_cell, QFGAOHAO.inputs["vgg16-ssd" if network == "vgg16-ssd" else "mb1-ssd"]
    last = len(boxes) - 1
    num_classes = count_classes(tensors, f"classification_headers.{last}.bias", boxes[last])
    net = TorchBuilder(tensors)
    maps, x = trunk(net)
    for i in range(len(boxes) - len(maps)):
        # VGG's last two extra layers are not padded; SqueezeNet's first one is by 2, from 17 cells to 10.
        whole = trunk is _trunk_vgg and i >= 2
        wide = trunk is _trunk_squeeze and i == 0
        x = _extra(net, x, f"extras.{i}", 1 if whole else 2, 0 if whole else 1 + wide)
        maps.append(x)
    for i, (x, count) in enumerate(zip(maps, boxes, strict=True)):
        add_head(net, x, f"regression_headers.{i}", f"classification_headers.{i}", count, num_classes + 1)
    source = f"qfgaohao/pytorch-ssd {name}"
    tensors.finish(source)
    model = net.build(num_classes, priors, input_spec, f"{name}-qfgaohao")
    names, thresholds = usual_names(num_classes), QFGAOHAO.detection["qfgaohao"]
    return ImportedModel(
        model, source, names, thresholds, sized_priors=_BY_RESOLUTION if network == "mb1-ssd" else None
    )


def _convert_vgg(tensors: ForeignState) -> ImportedModel:
    return _convert(tensors, _trunk_vgg, "vgg16-ssd", "vgg16-ssd")


def _convert_v1(tensors: ForeignState) -> ImportedModel:
    name = "mb1-ssd-lite" if "classification_headers.0.0.weight" in tensors else "mb1-ssd"
    return _convert(tensors, _trunk_v1, "mb1-ssd", name)


def _convert_v2(tensors: ForeignState) -> ImportedModel:
    return _convert(tensors, _trunk_v2, "mb1-ssd", "mb2-ssd-lite")


def _convert_squeeze(tensors: ForeignState) -> ImportedModel:
    return _convert(tensors, _trunk_squeeze, "sq-ssd-lite", "sq-ssd-lite")


IMPORTERS = (
    Importer("qfgaohao-vgg", _convert_vgg),
    Importer("qfgaohao-mb1", _convert_v1),
    Importer("qfgaohao-mb2", _convert_v2),
    Importer("qfgaohao-sq", _convert_squeeze),
)
