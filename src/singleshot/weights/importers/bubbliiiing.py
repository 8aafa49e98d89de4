"""bubbliiiing/ssd-pytorch: SSD300 on VGG16, MobileNetV2 and ResNet50 (nets/ssd.py, utils/anchors.py, ssd.py)."""

from __future__ import annotations

from singleshot.conventions import BUBBLIIIING
from singleshot.importable import importable
from singleshot.prior_boxes import PriorSpec
from singleshot.weights.class_names import usual_names
from singleshot.weights.foreign_state import ForeignState
from singleshot.weights.imported_model import ImportedModel, Importer
from singleshot.weights.importers.mobilenet_blocks import add_head, inverted_residual, mobilenet_v2, nested_parts
from singleshot.weights.importers.torch_blocks import TorchBuilder
from singleshot.weights.importers.vgg import count_classes, find_ported, vgg_model

# utils/anchors.py: the same sizes for every data set.
PRIORS_300 = BUBBLIIIING.prior_spec("ssd300-voc")
INPUT, THRESHOLDS = BUBBLIIIING.inputs["ssd300"], BUBBLIIIING.detection["bubbliiiing"]

_MEANS = "trained with the channel means in reverse order (R 104, G 117, B 123); kept"
_SIZES = "trained at 300 pixels with default boxes of 30 to 315 (anchors_size), if its settings were not changed"
NOTES = (_MEANS, _SIZES)


def _foreign(net: TorchBuilder, num_classes: int, priors: PriorSpec, backbone: str) -> ImportedModel:
    net.tensors.finish(f"bubbliiiing/ssd-pytorch {backbone}")
    model = net.build(num_classes, priors, INPUT, f"ssd300-{backbone.lower()}")
    source = f"bubbliiiing/ssd-pytorch SSD300 on {backbone}"
    return ImportedModel(model, source, usual_names(num_classes), THRESHOLDS, NOTES)


def _convert_vgg(tensors: ForeignState) -> ImportedModel:
    num_classes = count_classes(tensors, "conf.0.bias", 4)
    find = find_ported(tensors, 6, "", "L2Norm", "loc", "conf")
    model = vgg_model(find, num_classes, PRIORS_300, INPUT)
    tensors.finish("bubbliiiing/ssd-pytorch SSD300")
    source = "bubbliiiing/ssd-pytorch SSD300 on VGG16"
    return ImportedModel(model, source, usual_names(num_classes), THRESHOLDS, NOTES)


def _convert_mobilenet(tensors: ForeignState) -> ImportedModel:
    num_classes = count_classes(tensors, "conf.0.bias", 6)
    net = TorchBuilder(tensors)
    maps = mobilenet_v2(net, "mobilenet", nested_parts)
    x = maps["18"]
    sources = [net.l2_norm(maps["13"], "L2Norm"), x]
    for i in range(4):
        x, _ = inverted_residual(net, x, f"extras.{i}", 2, nested_parts)
        x = net.add(f"extras.{i}.relu", "relu", x)
        sources.append(x)
    for i, source in enumerate(sources):
        add_head(net, source, f"loc.{i}", f"conf.{i}", 6, num_classes + 1)
    return _foreign(net, num_classes, BUBBLIIIING.prior_spec("ssd300-mobilenetv2"), "MobileNetV2")


def _convert_resnet(tensors: ForeignState) -> ImportedModel:
    num_classes = count_classes(tensors, "conf.0.bias", 4)
    net = TorchBuilder(tensors)
    x = net.conv_norm(net.image, "resnet.0", "resnet.1", "relu", 7, 2, 3)
    x = net.add("resnet.3", "maxpool", x, kernel=3, stride=2, round_up=True)
    sources = []
    for stage, stride in ((4, 1), (5, 2), (6, 2)):
        x, _ = net.residual_stage(x, f"resnet.{stage}", bottleneck=True, stride=stride)
        if stage == 5:
            sources.append(net.l2_norm(x, "L2Norm"))
    sources.append(x)
    for i in range(8):
        three = i % 2 == 1
        x = net.conv_bias(x, f"extras.{i}", "relu", 3 if three else 1, 2 if i in (1, 3) else 1, int(i in (1, 3)))
        if three:
            sources.append(x)
    for i, (source, boxes) in enumerate(zip(sources, PRIORS_300.per_cell, strict=True)):
        add_head(net, source, f"loc.{i}", f"conf.{i}", boxes, num_classes + 1)
    return _foreign(net, num_classes, PRIORS_300, "ResNet50")


def _in_its_order(tensors: ForeignState) -> bool:
    """amdegroot/ssd.pytorch has the same names and shapes, but L2Norm before the extra layers: a state dict keeps the
    order in which its module was put together."""
    if not all(name in tensors for name in importable()["bubbliiiing-vgg"].signature):
        return False
    names = list(tensors)
    return names.index("extras.7.bias") < names.index("L2Norm.weight") < names.index("loc.0.weight")


IMPORTERS = (
    Importer("bubbliiiing-vgg", _convert_vgg, matches=_in_its_order, more=("conf.0.weight",)),
    # Asked for by name, in whatever order; otherwise amdegroot, whose names these are as well, comes before.
    Importer("bubbliiiing-vgg", _convert_vgg),
    Importer("bubbliiiing-mobilenetv2", _convert_mobilenet),
    Importer("bubbliiiing-resnet50", _convert_resnet),
)
