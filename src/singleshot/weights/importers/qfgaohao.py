"""qfgaohao/pytorch-ssd: vgg16-ssd, mb1-ssd, mb1-ssd-lite, mb2-ssd-lite, sq-ssd-lite, mb3-large-ssd-lite,
mb3-small-ssd-lite (vision/ssd, vision/nn)."""

from __future__ import annotations

import math
from collections.abc import Callable

from singleshot.conventions import QFGAOHAO
from singleshot.prior_boxes import PriorSpec
from singleshot.weights.class_names import usual_names
from singleshot.weights.foreign_state import ForeignState
from singleshot.weights.imported_model import Grids, ImportedModel, Importer, SizedPriors, square_sides
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


# vision/nn/mobilenetv3.py: strides of the blocks, and the number of the first with hardswish.
_V3 = {
    "large": ((1, 2, 1, 2, 1, 1, 2, 1, 1, 1, 1, 1, 1, 2, 1), 6),
    "small": ((2, 2, 1, 2, 1, 1, 1, 1, 2, 1, 1), 3),
}
_V3_SEEN = {"large": 11, "small": 7}  # the block behind which the first head is


def _v3_kind(tensors: ForeignState) -> str:
    return "large" if "base_net.14.conv1.weight" in tensors else "small"


def _trunk_v3(net: TorchBuilder) -> tuple[list[str], str]:
    """vision/nn/mobilenetv3.py: layers 0 and 1 of base_net are the first convolution and its normalisation, the blocks
    begin at 3."""
    kind = _v3_kind(net.tensors)
    strides, hardswish = _V3[kind]
    x, first = net.conv_norm(net.image, "base_net.0", "base_net.1", "hardswish", 3, 2), ""
    for i, stride in enumerate(strides):
        x = _block_v3(net, x, f"base_net.{i + 3}", "hardswish" if i >= hardswish else "relu", stride)
        first = x if i == _V3_SEEN[kind] else first
    end = len(strides) + 3
    x = net.conv_norm(x, f"base_net.{end}", f"base_net.{end + 1}", "hardswish", 1)
    return [first, x], x


def _block_v3(net: TorchBuilder, x: str, name: str, activation: str, stride: int) -> str:
    """Block: the gate comes behind the projection; what is added at stride 1 is brought to its width first."""
    y = net.conv_norm(x, f"{name}.conv1", f"{name}.bn1", activation, 1)
    y = net.conv_norm(y, f"{name}.conv2", f"{name}.bn2", activation, None, stride, depthwise=True)
    y = net.conv_norm(y, f"{name}.conv3", f"{name}.bn3", kernel=1)
    if f"{name}.se.se.1.weight" in net.tensors:
        gate = net.add(f"{name}.se.mean", "avgpool", y)
        gate = net.conv_norm(gate, f"{name}.se.se.1", f"{name}.se.se.2", "relu", 1)
        gate = net.conv_norm(gate, f"{name}.se.se.4", f"{name}.se.se.5", "hardsigmoid", 1)
        y = net.add(f"{name}.se.mul", "mul", y, gate)
    if stride > 1:
        return y
    if f"{name}.shortcut.0.weight" in net.tensors:
        x = net.conv_norm(x, f"{name}.shortcut.0", f"{name}.shortcut.1", kernel=1)
    return net.add(f"{name}.add", "add", y, x)


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
    if f"{name}.conv1.weight" in net.tensors:
        return _block_v3(net, x, name, "hardswish", stride)
    x = net.conv_bias(x, f"{name}.0", "relu", 1)
    if f"{name}.2.0.weight" not in net.tensors:
        return net.conv_bias(x, f"{name}.2", "relu", 3, stride, padding)
    x = depthwise_bias(net, x, f"{name}.2.0", "", "relu", stride, padding)
    return net.conv_bias(x, f"{name}.2.2", kernel=1)


def boxes_by_resolution(size: int, grids: Grids) -> PriorSpec:
    """dusty-nv/pytorch-ssd, train_ssd.py --resolution: set_image_size(size, min_ratio=20, max_ratio=90) of
    vision/ssd/config/mobilenetv1_ssd_config.py, which keeps the usual table for 300 pixels."""
    maps = square_sides(grids)
    step = (90 - 20) // (len(maps) - 2)
    ratios = [10, *range(20, 91, step)][: len(maps)]
    return PriorSpec(
        image_size=size,
        maps=maps,
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


def _convert_v3(tensors: ForeignState) -> ImportedModel:
    return _convert(tensors, _trunk_v3, "mb1-ssd", f"mb3-{_v3_kind(tensors)}-ssd-lite")


def _convert_squeeze(tensors: ForeignState) -> ImportedModel:
    return _convert(tensors, _trunk_squeeze, "sq-ssd-lite", "sq-ssd-lite")


IMPORTERS = (
    Importer("qfgaohao-vgg", _convert_vgg),
    Importer("qfgaohao-mb1", _convert_v1),
    Importer("qfgaohao-mb2", _convert_v2),
    Importer("qfgaohao-mb3", _convert_v3),
    Importer("qfgaohao-sq", _convert_squeeze),
)
