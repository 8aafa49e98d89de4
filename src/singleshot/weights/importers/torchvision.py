"""torchvision's SSD300 on VGG16 and SSDLite320 on MobileNetV3-Large (models/detection/ssd.py, ssdlite.py)."""

from __future__ import annotations

from dataclasses import replace

from torch import Tensor

from singleshot.inputs import InputSpec
from singleshot.priors import PRIORS
from singleshot.thresholds import Thresholds
from singleshot.weights.class_names import usual_names
from singleshot.weights.foreign_state import ForeignState
from singleshot.weights.graph_builder import GraphBuilder
from singleshot.weights.imported_model import ImportedModel, Importer
from singleshot.weights.importers.torch_blocks import conv_norm, squeeze_excitation
from singleshot.weights.importers.vgg import VGG_CONVS, VGG_INDEX, count_classes, extra_names, vgg_model

# ssd300_vgg16: image_mean of values in 0..1, image_std 1/255.
MEAN = (0.48235 * 255, 0.45882 * 255, 0.40784 * 255)
# Its default boxes: Caffe's COCO sizes as fractions of the side (scales .07, .15, .33 ...), w and h alone clamped.
PRIORS_300 = replace(PRIORS["ssd300-coco"], clip="size", truncate=False)
# ssdlite320: values of 0..1 become -1..1.
INPUT_LITE = InputSpec(size=320, mean=(127.5, 127.5, 127.5), std=(127.5, 127.5, 127.5))
# ssd.py postprocess_detections; boxes are clipped to the image before NMS.
THRESHOLDS_300 = Thresholds(score_min=0.01, nms_iou=0.45, per_class=400, keep=200, clip=True)
THRESHOLDS_LITE = Thresholds(score_min=0.001, nms_iou=0.55, per_class=300, keep=300, clip=True)

# Caffe's names of the layers -> theirs, without ".weight": conv5 and fc6, fc7 begin their list of extra layers.
VGG_NAMES = {
    **{name: f"backbone.features.{i}" for name, i in zip(VGG_CONVS[:10], VGG_INDEX[:10], strict=True)},
    **{f"conv5_{i}": f"backbone.extra.0.{2 * i - 1}" for i in (1, 2, 3)},
    "fc6": "backbone.extra.0.7.1",
    "fc7": "backbone.extra.0.7.3",
    **{name: f"backbone.extra.{1 + i // 2}.{2 * (i % 2)}" for i, name in enumerate(extra_names(6))},
}
LOCATION, CONFIDENCE = "head.regression_head.module_list", "head.classification_head.module_list"
SCALE = "backbone.scale_weight"

# ssdlite.py: eps of every normalisation. mobilenetv3.py, "mobilenet_v3_large": blocks of stride 2 before the one that
# is cut in two after its expansion (C4), and the first block with hardswish.
EPS = 0.001
_STRIDED, _HARDSWISH_FROM, _C4 = (2, 4, 7), 7, 13
_COCO_NOTE = "trained on COCO's numbers 1 to 90: ten of its classes are never found"


def _notes(num_classes: int) -> tuple[str, ...]:
    return (_COCO_NOTE,) if num_classes == 90 else ()


def _convert_300(tensors: ForeignState) -> ImportedModel:
    num_classes = count_classes(tensors, f"{CONFIDENCE}.0.bias", 4, tensors.where)

    def find(layer: str | tuple[str, int], part: str, shape: tuple[int, ...]) -> Tensor:
        if isinstance(layer, tuple):
            return tensors.take(f"{LOCATION if layer[0] == 'loc' else CONFIDENCE}.{layer[1]}.{part}", *shape)
        return tensors.take(SCALE if layer == "l2norm" else f"{VGG_NAMES[layer]}.{part}", *shape)

    model = vgg_model(find, num_classes, PRIORS_300, InputSpec(size=300, mean=MEAN))
    tensors.finish("torchvision's ssd300_vgg16")
    names = usual_names(num_classes)
    return ImportedModel(model, "torchvision ssd300_vgg16", names, THRESHOLDS_300, _notes(num_classes))


def _block(net: GraphBuilder, tensors: ForeignState, x: str, name: str, number: int) -> str:
    """One inverted residual of MobileNetV3: expansion (not in the first), depthwise, squeeze-excitation, projection."""
    activation = "hardswish" if number >= _HARDSWISH_FROM else "relu"
    stride = 2 if number in _STRIDED else 1
    part, y = 0, x
    if number > 1:
        y = conv_norm(net, tensors, x, f"{name}.0.0", f"{name}.0.1", activation, kernel=1, eps=EPS)
        part = 1
    y = _rest_of_block(net, tensors, y, name, part, activation, stride)
    if stride == 1 and net.channels[x] == net.channels[y]:
        return net.add(f"{name}.add", "add", x, y)
    return y


def _rest_of_block(
    net: GraphBuilder, tensors: ForeignState, x: str, name: str, part: int, activation: str, stride: int
) -> str:  # fmt: skip
    """A block from its depthwise layer on, which is the part of that number."""
    y = conv_norm(net, tensors, x, f"{name}.{part}.0", f"{name}.{part}.1", activation, stride=stride, depthwise=True,
                  eps=EPS)  # fmt: skip
    part += 1
    if f"{name}.{part}.fc1.weight" in tensors:
        y = squeeze_excitation(net, tensors, y, f"{name}.{part}")
        part += 1
    return conv_norm(net, tensors, y, f"{name}.{part}.0", f"{name}.{part}.1", kernel=1, eps=EPS)


def _maps(net: GraphBuilder, tensors: ForeignState) -> list[str]:
    """The six maps that the heads look at: C4's expansion, the last layer of MobileNetV3, four extra blocks."""
    name = "backbone.features"
    x = conv_norm(net, tensors, net.image, f"{name}.0.0.0", f"{name}.0.0.1", "hardswish", 3, stride=2, eps=EPS)
    for i in range(1, _C4):
        x = _block(net, tensors, x, f"{name}.0.{i}.block", i)
    x = conv_norm(net, tensors, x, f"{name}.0.{_C4}.0", f"{name}.0.{_C4}.1", "hardswish", kernel=1, eps=EPS)
    maps = [x]
    x = _rest_of_block(net, tensors, x, f"{name}.1.0", 1, "hardswish", stride=2)
    for i in (1, 2):
        x = _block(net, tensors, x, f"{name}.1.{i}.block", _C4 + i)
    x = conv_norm(net, tensors, x, f"{name}.1.3.0", f"{name}.1.3.1", "hardswish", kernel=1, eps=EPS)
    maps.append(x)
    for i in range(4):
        extra = f"backbone.extra.{i}"
        x = conv_norm(net, tensors, x, f"{extra}.0.0", f"{extra}.0.1", "relu6", kernel=1, eps=EPS)
        x = conv_norm(net, tensors, x, f"{extra}.1.0", f"{extra}.1.1", "relu6", 3, 2, depthwise=True, eps=EPS)
        x = conv_norm(net, tensors, x, f"{extra}.2.0", f"{extra}.2.1", "relu6", kernel=1, eps=EPS)
        maps.append(x)
    return maps


def _convert_lite(tensors: ForeignState) -> ImportedModel:
    num_classes = count_classes(tensors, f"{CONFIDENCE}.0.1.bias", 6, tensors.where)
    net = GraphBuilder()
    for i, x in enumerate(_maps(net, tensors)):
        seen, last = [], []
        for head, outputs in ((LOCATION, 24), (CONFIDENCE, 6 * (num_classes + 1))):
            name = f"{head}.{i}"
            seen.append(conv_norm(net, tensors, x, f"{name}.0.0", f"{name}.0.1", "relu6", 3, depthwise=True, eps=EPS))
            last += [tensors.take(f"{name}.1.weight", outputs, net.channels[x], 1, 1),
                     tensors.take(f"{name}.1.bias", outputs)]  # fmt: skip
        net.head(seen[0], seen[1], *last)
    tensors.finish("torchvision's ssdlite320_mobilenet_v3_large")
    model = net.build(num_classes, PRIORS["ssdlite320"], INPUT_LITE, "ssdlite320-mobilenetv3")
    names = usual_names(num_classes)
    source = "torchvision ssdlite320_mobilenet_v3_large"
    return ImportedModel(model, source, names, THRESHOLDS_LITE, _notes(num_classes))


IMPORTERS = (
    Importer(
        "torchvision-ssd300",
        "torchvision ssd300_vgg16",
        (
            "backbone.features.0.weight",
            SCALE,
            "backbone.extra.0.7.1.weight",
            "backbone.extra.4.2.bias",
            f"{LOCATION}.0.weight",
            f"{CONFIDENCE}.5.bias",
        ),
        _convert_300,
        "pytorch",
    ),
    Importer(
        "torchvision-ssdlite320",
        "torchvision ssdlite320_mobilenet_v3_large",
        (
            "backbone.features.0.0.0.weight",
            "backbone.features.1.3.0.weight",
            "backbone.extra.3.2.0.weight",
            f"{LOCATION}.0.0.0.weight",
            f"{CONFIDENCE}.5.1.bias",
        ),
        _convert_lite,
        "pytorch",
    ),
)
