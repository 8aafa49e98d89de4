"""qfgaohao/pytorch-ssd: vgg16-ssd, mb1-ssd, mb1-ssd-lite, mb2-ssd-lite, sq-ssd-lite (vision/ssd, vision/nn)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from singleshot.inputs import CAFFE_MEAN, InputSpec
from singleshot.priors import PRIORS, PriorSpec
from singleshot.thresholds import Thresholds
from singleshot.weights.class_names import usual_names
from singleshot.weights.foreign_state import ForeignState
from singleshot.weights.graph_builder import GraphBuilder
from singleshot.weights.imported_model import ImportedModel, Importer
from singleshot.weights.importers.mobilenet_blocks import (
    EXPAND_14,
    add_head,
    batch_norm,
    depthwise_bias,
    flat_parts,
    inverted_residual,
    mobilenet_v2,
)
from singleshot.weights.importers.torch_blocks import conv_bias, conv_norm
from singleshot.weights.importers.vgg import VGG_INDEX, count_classes

# vision/ssd/predictor.py: 200 candidates of each class, no limit in all (1000 is above what occurs).
THRESHOLDS = Thresholds(score_min=0.01, nms_iou=0.45, per_class=200, keep=1000)
# vision/ssd/config/*.py; box_utils.generate_ssd_priors clamps cx cy w h.
INPUT_VGG = InputSpec(size=300, mean=CAFFE_MEAN)
INPUT_SMALL = InputSpec(size=300, mean=(127.0,) * 3, std=(128.0,) * 3)
PRIORS_VGG = replace(PRIORS["ssd300-voc"], clip="center", truncate=False)
PRIORS_SMALL = PriorSpec(
    image_size=300,
    maps=(19, 10, 5, 3, 2, 1),
    min_sizes=(60.0, 105.0, 150.0, 195.0, 240.0, 285.0),
    max_sizes=(105.0, 150.0, 195.0, 240.0, 285.0, 330.0),
    ratios=((2.0, 3.0),) * 6,
    steps=(16.0, 32.0, 64.0, 100.0, 150.0, 300.0),
    clip="center",
)
PRIORS_SQUEEZE = replace(PRIORS_SMALL, maps=(17, 10, 5, 3, 2, 1))
_V1_STRIDES = (1, 2, 1, 2, 1, 2, 1, 1, 1, 1, 1, 2, 1)  # MobileNet paper, table 1, after the first convolution

Trunk = Callable[
    [GraphBuilder, ForeignState], tuple[list[str], str]
]  # (maps for heads, what the extra layers start from)


def _trunk_vgg(net: GraphBuilder, tensors: ForeignState) -> tuple[list[str], str]:
    """vision/nn/vgg.py; conv4_3 is batch-normalised for its head, in place of L2Norm."""
    x, first = net.image, ""
    pools = {2: False, 7: False, 14: True, 21: False}  # behind which convolutions, and whether they round up
    for i in VGG_INDEX:
        x = conv_bias(net, tensors, x, f"base_net.{i}", "relu", 3, 1, 1)
        if i == 21:
            first = batch_norm(net, tensors, x, "source_layer_add_ons.0")
        if i in pools:
            x = net.add(f"base_net.{i + 2}", "maxpool", x, kernel=2, stride=2, round_up=pools[i])
    x = net.add("base_net.30", "maxpool", x, kernel=3, stride=1, padding=1)
    weight = tensors.take("base_net.31.weight", None, net.channels[x], 3, 3)
    x = net.conv("base_net.31", x, weight, tensors.take("base_net.31.bias", len(weight)), padding=6, dilation=6)
    x = net.add("base_net.32", "relu", x)
    x = conv_bias(net, tensors, x, "base_net.33", "relu", 1)
    return [first, x], x


def _trunk_v1(net: GraphBuilder, tensors: ForeignState) -> tuple[list[str], str]:
    """vision/nn/mobilenet.py; the maps behind blocks 11 and 13."""
    maps = [conv_norm(net, tensors, net.image, "base_net.0.0", "base_net.0.1", "relu", 3, 2)]
    for i, stride in enumerate(_V1_STRIDES, 1):
        block = f"base_net.{i}"
        x = conv_norm(net, tensors, maps[-1], f"{block}.0", f"{block}.1", "relu", 3, stride, depthwise=True)
        maps.append(conv_norm(net, tensors, x, f"{block}.3", f"{block}.4", "relu", 1))
    return [maps[11], maps[13]], maps[13]


def _trunk_v2(net: GraphBuilder, tensors: ForeignState) -> tuple[list[str], str]:
    """vision/nn/mobilenet_v2.py; the first head looks at block 14's expansion (GraphPath(14, "conv", 3))."""
    layers = mobilenet_v2(net, tensors, "base_net", flat_parts)
    if EXPAND_14 not in layers:
        tensors.missing("base_net.14.conv.6.weight")
    return [layers.get(EXPAND_14, layers["14"]), layers["18"]], layers["18"]


def _trunk_squeeze(net: GraphBuilder, tensors: ForeignState) -> tuple[list[str], str]:
    """vision/nn/squeezenet.py, version 1.1; the head looks at Fire 11, the extra layers begin behind Fire 12."""
    x = conv_bias(net, tensors, net.image, "base_net.0", "relu", 3, 2)
    maps = {}
    for i in range(2, 13):
        fire = f"base_net.{i}"
        if i in (2, 5, 8):
            x = net.add(fire, "maxpool", x, kernel=3, stride=2)
            continue
        x = conv_bias(net, tensors, x, f"{fire}.squeeze", "relu", 1)
        sides = [conv_bias(net, tensors, x, f"{fire}.expand{k}x{k}", "relu", k, padding=k // 2) for k in (1, 3)]
        x = net.add(fire, "concat", *sides, channels=sum(net.channels[side] for side in sides))
        maps[i] = x
    return [maps[11]], maps[12]


def _extra(net: GraphBuilder, tensors: ForeignState, x: str, name: str, stride: int, padding: int) -> str:
    """1x1 and a plain or depthwise separable 3x3, or an inverted residual block."""
    if any(f"{name}.conv.{i}.weight" in tensors for i in (0, 1)):
        return inverted_residual(net, tensors, x, name, stride, flat_parts)[0]
    x = conv_bias(net, tensors, x, f"{name}.0", "relu", 1)
    if f"{name}.2.0.weight" not in tensors:
        return conv_bias(net, tensors, x, f"{name}.2", "relu", 3, stride, padding)
    x = depthwise_bias(net, tensors, x, f"{name}.2.0", "", "relu", stride, padding)
    return conv_bias(net, tensors, x, f"{name}.2.2", kernel=1)


def _convert(tensors: ForeignState, trunk: Trunk, priors: PriorSpec, input_spec: InputSpec, name: str) -> ImportedModel:
    boxes = priors.per_cell
    last = len(boxes) - 1
    num_classes = count_classes(tensors, f"classification_headers.{last}.bias", boxes[last], tensors.where)
    net = GraphBuilder()
    maps, x = trunk(net, tensors)
    for i in range(len(boxes) - len(maps)):
        # VGG's last two extra layers are not padded; SqueezeNet's first one is by 2, from 17 cells to 10.
        whole = trunk is _trunk_vgg and i >= 2
        wide = trunk is _trunk_squeeze and i == 0
        x = _extra(net, tensors, x, f"extras.{i}", 1 if whole else 2, 0 if whole else 1 + wide)
        maps.append(x)
    for i, (x, count) in enumerate(zip(maps, boxes, strict=True)):
        add_head(net, tensors, x, f"regression_headers.{i}", f"classification_headers.{i}", count, num_classes + 1)
    source = f"qfgaohao/pytorch-ssd {name}"
    tensors.finish(source)
    model = net.build(num_classes, priors, input_spec, f"{name}-qfgaohao")
    return ImportedModel(model, source, usual_names(num_classes), THRESHOLDS)


def _convert_vgg(tensors: ForeignState) -> ImportedModel:
    return _convert(tensors, _trunk_vgg, PRIORS_VGG, INPUT_VGG, "vgg16-ssd")


def _convert_v1(tensors: ForeignState) -> ImportedModel:
    name = "mb1-ssd-lite" if "classification_headers.0.0.weight" in tensors else "mb1-ssd"
    return _convert(tensors, _trunk_v1, PRIORS_SMALL, INPUT_SMALL, name)


def _convert_v2(tensors: ForeignState) -> ImportedModel:
    return _convert(tensors, _trunk_v2, PRIORS_SMALL, INPUT_SMALL, "mb2-ssd-lite")


def _convert_squeeze(tensors: ForeignState) -> ImportedModel:
    return _convert(tensors, _trunk_squeeze, PRIORS_SQUEEZE, INPUT_SMALL, "sq-ssd-lite")


_LAST = ("classification_headers.5.bias", "regression_headers.5.bias")
IMPORTERS = (
    Importer(
        "qfgaohao-vgg",
        "qfgaohao/pytorch-ssd, vgg16-ssd",
        ("base_net.0.weight", "base_net.33.bias", "source_layer_add_ons.0.running_var", "extras.3.2.weight", *_LAST),
        _convert_vgg,
        "pytorch",
    ),
    Importer(
        "qfgaohao-mb1",
        "qfgaohao/pytorch-ssd, mb1-ssd and mb1-ssd-lite",
        ("base_net.0.0.weight", "base_net.13.0.weight", "base_net.13.3.weight", "extras.3.0.weight", *_LAST),
        _convert_v1,
        "pytorch",
    ),
    Importer(
        "qfgaohao-mb2",
        "qfgaohao/pytorch-ssd, mb2-ssd-lite",
        ("base_net.0.0.weight", "base_net.14.conv.6.weight", "base_net.18.0.weight", "extras.3.conv.7.weight", *_LAST),
        _convert_v2,
        "pytorch",
    ),
    Importer(
        "qfgaohao-sq",
        "qfgaohao/pytorch-ssd, sq-ssd-lite",
        ("base_net.0.weight", "base_net.12.expand3x3.weight", "extras.4.2.0.weight", "extras.4.0.weight", *_LAST),
        _convert_squeeze,
        "pytorch",
    ),
)
