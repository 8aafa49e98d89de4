"""bubbliiiing/ssd-pytorch: SSD300 on VGG16, MobileNetV2 and ResNet50 (nets/ssd.py, utils/anchors.py, ssd.py)."""

from __future__ import annotations

from dataclasses import replace

from singleshot.inputs import InputSpec
from singleshot.priors import PRIORS
from singleshot.thresholds import Thresholds
from singleshot.weights.class_names import usual_names
from singleshot.weights.foreign_state import ForeignState
from singleshot.weights.graph_builder import GraphBuilder
from singleshot.weights.imported_model import ImportedModel, Importer
from singleshot.weights.importers.mobilenet_blocks import add_head, inverted_residual, mobilenet_v2, nested_parts
from singleshot.weights.importers.torch_blocks import conv_bias, conv_norm
from singleshot.weights.importers.vgg import count_classes, find_ported, vgg_model

# utils/utils.py preprocess_input: the means of B, G, R taken off R, G, B. ssd.py: letterbox_image False.
INPUT = InputSpec(size=300, mean=(104.0, 117.0, 123.0))
# get_map.py; boxes are shown from 0.5 (ssd.py). Nothing is cut off there: these limits are above what occurs.
THRESHOLDS = Thresholds(score_min=0.02, nms_iou=0.5, per_class=1000, keep=1000, clip=True, show_min=0.5)
# utils/anchors.py: centres of the cells whatever the steps, corners clipped, the same sizes for every data set.
PRIORS_300 = replace(PRIORS["ssd300-voc"], steps=None, clip="corners", truncate=False)

_MEANS = "trained with the channel means in reverse order (R 104, G 117, B 123); kept"
_SIZES = "trained at 300 pixels with default boxes of 30 to 315 (anchors_size), if its settings were not changed"
NOTES = (_MEANS, _SIZES)


def _foreign(tensors: ForeignState, net: GraphBuilder, num_classes: int, mobile: bool, backbone: str) -> ImportedModel:
    tensors.finish(f"bubbliiiing/ssd-pytorch {backbone}")
    priors = PRIORS["ssd300-mobilenetv2"] if mobile else PRIORS_300
    model = net.build(num_classes, priors, INPUT, f"ssd300-{backbone.lower()}")
    source = f"bubbliiiing/ssd-pytorch SSD300 on {backbone}"
    return ImportedModel(model, source, usual_names(num_classes), THRESHOLDS, NOTES)


def _convert_vgg(tensors: ForeignState) -> ImportedModel:
    num_classes = count_classes(tensors, "conf.0.bias", 4, tensors.where)
    find = find_ported(tensors, 6, "", "L2Norm", "loc", "conf")
    model = vgg_model(find, num_classes, PRIORS_300, INPUT)
    tensors.finish("bubbliiiing/ssd-pytorch SSD300")
    source = "bubbliiiing/ssd-pytorch SSD300 on VGG16"
    return ImportedModel(model, source, usual_names(num_classes), THRESHOLDS, NOTES)


def _convert_mobilenet(tensors: ForeignState) -> ImportedModel:
    num_classes = count_classes(tensors, "conf.0.bias", 6, tensors.where)
    net = GraphBuilder()
    maps = mobilenet_v2(net, tensors, "mobilenet", nested_parts)
    x = maps["18"]
    sources = [_l2norm(net, tensors, maps["13"]), x]
    for i in range(4):
        x, _ = inverted_residual(net, tensors, x, f"extras.{i}", 2, nested_parts)
        x = net.add(f"extras.{i}.relu", "relu", x)
        sources.append(x)
    for i, source in enumerate(sources):
        add_head(net, tensors, source, f"loc.{i}", f"conf.{i}", 6, num_classes + 1)
    return _foreign(tensors, net, num_classes, True, "MobileNetV2")


def _convert_resnet(tensors: ForeignState) -> ImportedModel:
    num_classes = count_classes(tensors, "conf.0.bias", 4, tensors.where)
    net = GraphBuilder()
    x = conv_norm(net, tensors, net.image, "resnet.0", "resnet.1", "relu", 7, 2, 3)
    x = net.add("resnet.3", "maxpool", x, kernel=3, stride=2, round_up=True)
    sources = []
    for stage, stride in ((4, 1), (5, 2), (6, 2)):
        x = _stage(net, tensors, x, f"resnet.{stage}", stride)
        if stage == 5:
            sources.append(_l2norm(net, tensors, x))
    sources.append(x)
    for i in range(8):
        three = i % 2 == 1
        x = conv_bias(
            net, tensors, x, f"extras.{i}", "relu", 3 if three else 1, 2 if i in (1, 3) else 1, int(i in (1, 3))
        )
        if three:
            sources.append(x)
    for i, (source, boxes) in enumerate(zip(sources, PRIORS_300.per_cell, strict=True)):
        add_head(net, tensors, source, f"loc.{i}", f"conf.{i}", boxes, num_classes + 1)
    return _foreign(tensors, net, num_classes, False, "ResNet50")


def _stage(net: GraphBuilder, tensors: ForeignState, x: str, name: str, stride: int) -> str:
    """As many bottlenecks as there are (nets/resnet.py); the first one's 3x3 has the stride."""
    i = 0
    while i == 0 or f"{name}.{i}.conv1.weight" in tensors:
        block, start = f"{name}.{i}", x
        x = conv_norm(net, tensors, x, f"{block}.conv1", f"{block}.bn1", "relu", 1)
        x = conv_norm(net, tensors, x, f"{block}.conv2", f"{block}.bn2", "relu", 3, stride if i == 0 else 1)
        x = conv_norm(net, tensors, x, f"{block}.conv3", f"{block}.bn3", kernel=1)
        if i == 0:
            down = f"{block}.downsample"
            start = conv_norm(net, tensors, start, f"{down}.0", f"{down}.1", kernel=1, stride=stride)
        x = net.add(f"{block}.relu", "relu", net.add(f"{block}.add", "add", x, start))
        i += 1
    return x


def _l2norm(net: GraphBuilder, tensors: ForeignState, x: str) -> str:
    return net.l2norm("L2Norm", x, tensors.take("L2Norm.weight", net.channels[x]))


_VGG = (
    "vgg.0.weight",
    "vgg.33.bias",
    "extras.0.weight",
    "extras.7.bias",
    "L2Norm.weight",
    "loc.0.weight",
    "conf.5.bias",
)


def _in_its_order(tensors: ForeignState) -> bool:
    """amdegroot/ssd.pytorch has the same names and shapes, but L2Norm before the extra layers: a state dict keeps the
    order in which its module was put together."""
    if not all(name in tensors for name in _VGG):
        return False
    names = list(tensors)
    return names.index("extras.7.bias") < names.index("L2Norm.weight") < names.index("loc.0.weight")


IMPORTERS = (
    Importer(
        "bubbliiiing-vgg",
        "bubbliiiing/ssd-pytorch, SSD300 on VGG16",
        (*_VGG, "conf.0.weight"),
        _convert_vgg,
        "pytorch",
        _in_its_order,
    ),
    # Asked for by name, in whatever order; otherwise amdegroot, whose names these are as well, comes before.
    Importer("bubbliiiing-vgg", "bubbliiiing/ssd-pytorch, SSD300 on VGG16", _VGG, _convert_vgg, "pytorch"),
    Importer(
        "bubbliiiing-mobilenetv2",
        "bubbliiiing/ssd-pytorch, SSD300 on MobileNetV2",
        ("mobilenet.0.0.weight", "mobilenet.18.0.weight", "extras.3.conv.3.weight", "L2Norm.weight", "conf.5.bias"),
        _convert_mobilenet,
        "pytorch",
    ),
    Importer(
        "bubbliiiing-resnet50",
        "bubbliiiing/ssd-pytorch, SSD300 on ResNet50",
        ("resnet.0.weight", "resnet.6.0.conv1.weight", "extras.7.bias", "L2Norm.weight", "conf.5.bias"),
        _convert_resnet,
        "pytorch",
    ),
)
