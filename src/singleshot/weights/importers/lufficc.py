"""lufficc/SSD: SSD300 and SSD512 on VGG16, SSDLite320 on MobileNetV2 and V3 (ssd/modeling, configs/*.yaml)."""

from __future__ import annotations

from dataclasses import replace

from singleshot.inputs import CAFFE_MEAN, InputSpec
from singleshot.priors import PRIORS, PriorSpec
from singleshot.thresholds import Thresholds
from singleshot.weights.class_names import usual_names
from singleshot.weights.foreign_state import ForeignState
from singleshot.weights.graph_builder import GraphBuilder
from singleshot.weights.imported_model import ImportedModel, Importer
from singleshot.weights.importers.mobilenet_blocks import add_head, inverted_residual, mobilenet_v2, nested_parts
from singleshot.weights.importers.torch_blocks import conv_norm
from singleshot.weights.importers.vgg import count_classes, find_ported, vgg_model

# ssd/config/defaults.py TEST: no limit for a class (1000 is above what occurs), 100 in all.
THRESHOLDS = Thresholds(score_min=0.01, nms_iou=0.45, per_class=1000, keep=100)
# configs/mobilenet_v2_ssd320_voc0712.yaml, the same for v3
PRIORS_LITE = PriorSpec(
    image_size=320,
    maps=(20, 10, 5, 3, 2, 1),
    min_sizes=(60.0, 105.0, 150.0, 195.0, 240.0, 285.0),
    max_sizes=(105.0, 150.0, 195.0, 240.0, 285.0, 330.0),
    ratios=((2.0, 3.0),) * 6,
    steps=(16.0, 32.0, 64.0, 107.0, 160.0, 320.0),
    clip="center",
)
_HEAD = "box_head.predictor"
_V3_STRIDES = (1, 2, 1, 2, 1, 1, 2, 1, 1, 1, 1, 1, 2, 1, 1)  # MobileNetV3 paper, table 1


def _vgg_priors(maps: int, num_classes: int) -> PriorSpec:
    """The tables of configs/vgg_*.yaml, clipped in centre form (PRIORS.CLIP is True by default)."""
    name = f"ssd{300 if maps == 6 else 512}-{'coco' if num_classes == 80 else 'voc'}"
    spec = replace(PRIORS[name], clip="center", truncate=False)
    if name == "ssd512-voc":  # the last size is 537.65 there
        spec = replace(spec, max_sizes=(*spec.max_sizes[:-1], 537.65))
    return spec


def _convert_vgg(tensors: ForeignState) -> ImportedModel:
    num_classes = count_classes(tensors, f"{_HEAD}.cls_headers.0.bias", 4, tensors.where)
    maps = 7 if "backbone.extras.9.weight" in tensors else 6
    find = find_ported(tensors, maps, "backbone.", "backbone.l2_norm", f"{_HEAD}.reg_headers", f"{_HEAD}.cls_headers")
    size = 300 if maps == 6 else 512
    model = vgg_model(find, num_classes, _vgg_priors(maps, num_classes), InputSpec(size=size, mean=CAFFE_MEAN))
    tensors.finish(f"lufficc/SSD SSD{size}")
    return ImportedModel(model, f"lufficc/SSD SSD{size} on VGG16", usual_names(num_classes), THRESHOLDS)


def _convert_v2(tensors: ForeignState) -> ImportedModel:
    net = GraphBuilder()
    layers = mobilenet_v2(net, tensors, "backbone.features", nested_parts)
    maps = [layers["13"], layers["18"]]
    for i in range(4):
        maps.append(inverted_residual(net, tensors, maps[-1], f"backbone.extras.{i}", 2, nested_parts)[0])
    return _lite(tensors, net, maps, "MobileNetV2")


def _convert_v3(tensors: ForeignState) -> ImportedModel:
    """ssd/modeling/backbone/mobilenetv3.py, large."""
    net, trunk = GraphBuilder(), "backbone.features"
    x = conv_norm(net, tensors, net.image, f"{trunk}.0.0", f"{trunk}.0.1", "hardswish", 3, 2)
    maps = []
    for i, stride in enumerate(_V3_STRIDES, 1):
        x = _block_v3(net, tensors, x, f"{trunk}.{i}.conv", stride, "hardswish" if i >= 7 else "relu")
        if i == 12:
            maps.append(x)
    maps.append(conv_norm(net, tensors, x, f"{trunk}.16.0", f"{trunk}.16.1", "hardswish", 1))
    for i in range(4):
        maps.append(_block_v3(net, tensors, maps[-1], f"backbone.extras.{i}.conv", 2, "hardswish"))
    return _lite(tensors, net, maps, "MobileNetV3")


def _block_v3(net: GraphBuilder, tensors: ForeignState, x: str, name: str, stride: int, activation: str) -> str:
    """The gate comes before the depthwise layer's activation, behind it in a block that does not expand."""
    start, expands = x, f"{name}.7.weight" in tensors
    if expands:
        x = conv_norm(net, tensors, x, f"{name}.0", f"{name}.1", activation, 1)
    at = 3 if expands else 0
    x = conv_norm(net, tensors, x, f"{name}.{at}", f"{name}.{at + 1}", stride=stride, depthwise=True)
    if expands:
        x = _excite(net, tensors, x, f"{name}.5")
    x = net.add(f"{name}.{activation}", activation, x)
    if not expands:
        x = _excite(net, tensors, x, f"{name}.3")
    x = conv_norm(net, tensors, x, f"{name}.{at + 4}", f"{name}.{at + 5}", kernel=1)
    alike = stride == 1 and net.channels[start] == net.channels[x]
    return net.add(f"{name}.add", "add", start, x) if alike else x


def _excite(net: GraphBuilder, tensors: ForeignState, x: str, name: str) -> str:
    """SELayer: two linear layers of the map's mean, as 1x1 convolutions; nothing where the block has none."""
    if f"{name}.fc.0.weight" not in tensors:
        return x
    y = net.add(f"{name}.mean", "avgpool", x)
    for part, activation in (("fc.0", "relu"), ("fc.2", "hardsigmoid")):
        weight = tensors.take(f"{name}.{part}.weight", None, net.channels[y])
        bias = tensors.take(f"{name}.{part}.bias", len(weight))
        y = net.conv(f"{name}.{part}", y, weight[:, :, None, None], bias)
        y = net.add(f"{name}.{part}.{activation}", activation, y)
    return net.add(f"{name}.mul", "mul", x, y)


def _lite(tensors: ForeignState, net: GraphBuilder, maps: list[str], backbone: str) -> ImportedModel:
    num_classes = count_classes(tensors, f"{_HEAD}.cls_headers.5.bias", 6, tensors.where)
    for i, x in enumerate(maps):
        inner = "" if f"{_HEAD}.cls_headers.{i}.weight" in tensors else ".conv"
        location, confidence = (f"{_HEAD}.{which}_headers.{i}{inner}" for which in ("reg", "cls"))
        add_head(net, tensors, x, location, confidence, 6, num_classes + 1)
    tensors.finish("lufficc/SSD SSDLite320")
    name = f"ssdlite320-{backbone.lower()}-lufficc"
    model = net.build(num_classes, PRIORS_LITE, InputSpec(size=320, mean=CAFFE_MEAN), name)
    return ImportedModel(model, f"lufficc/SSD SSDLite320 on {backbone}", usual_names(num_classes), THRESHOLDS)


IMPORTERS = (
    Importer(
        "lufficc-vgg",
        "lufficc/SSD, SSD300 and SSD512 on VGG16",
        (
            "backbone.vgg.0.weight",
            "backbone.vgg.33.bias",
            "backbone.l2_norm.weight",
            "backbone.extras.7.weight",
            f"{_HEAD}.cls_headers.0.weight",
            f"{_HEAD}.reg_headers.5.bias",
        ),
        _convert_vgg,
        "pytorch",
    ),
    Importer(
        "lufficc-mobilenetv2",
        "lufficc/SSD, SSDLite320 on MobileNetV2",
        (
            "backbone.features.0.0.weight",
            "backbone.features.1.conv.0.0.weight",
            "backbone.features.18.0.weight",
            "backbone.extras.3.conv.3.weight",
            f"{_HEAD}.cls_headers.5.bias",
            f"{_HEAD}.reg_headers.5.bias",
        ),
        _convert_v2,
        "pytorch",
    ),
    Importer(
        "lufficc-mobilenetv3",
        "lufficc/SSD, SSDLite320 on MobileNetV3",
        (
            "backbone.features.0.0.weight",
            "backbone.features.1.conv.4.weight",
            "backbone.features.16.0.weight",
            "backbone.extras.3.conv.5.fc.2.weight",
            f"{_HEAD}.cls_headers.5.bias",
            f"{_HEAD}.reg_headers.5.bias",
        ),
        _convert_v3,
        "pytorch",
    ),
)
