"""torchvision's SSD300 on VGG16 and SSDLite320 on MobileNetV3-Large (models/detection/ssd.py, ssdlite.py)."""

from __future__ import annotations

from torch import Tensor

from singleshot.conventions import LITE_NORM_EPS, LITE_NORM_MOMENTUM, TORCHVISION
from singleshot.weights.class_names import usual_names
from singleshot.weights.foreign_state import ForeignState
from singleshot.weights.imported_model import ImportedModel, Importer
from singleshot.weights.importers.mobilenet_blocks import add_head, lite_extra, v3_block, v3_rest_of_block
from singleshot.weights.importers.torch_blocks import TorchBuilder
from singleshot.weights.importers.vgg import VGG_CONVS, VGG_INDEX, count_classes, extra_names, vgg_model

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

# mobilenetv3.py, "mobilenet_v3_large": blocks of stride 2 before the one that is cut in two after its expansion (C4),
# and the first block with hardswish.
_STRIDED, _HARDSWISH_FROM, _C4 = (2, 4, 7), 7, 13
_COCO_NOTE = "trained on COCO's numbers 1 to 90: ten of its classes are never found"


def _notes(num_classes: int) -> tuple[str, ...]:
    return (_COCO_NOTE,) if num_classes == 90 else ()


def _convert_300(tensors: ForeignState) -> ImportedModel:
    num_classes = count_classes(tensors, f"{CONFIDENCE}.0.bias", 4)

    def find(layer: str | tuple[str, int], part: str, shape: tuple[int, ...]) -> Tensor:
        if isinstance(layer, tuple):
            return tensors.take(f"{LOCATION if layer[0] == 'loc' else CONFIDENCE}.{layer[1]}.{part}", *shape)
        return tensors.take(SCALE if layer == "l2norm" else f"{VGG_NAMES[layer]}.{part}", *shape)

    model = vgg_model(find, num_classes, TORCHVISION.prior_spec("ssd300"), TORCHVISION.inputs["ssd300"])
    tensors.finish("torchvision's ssd300_vgg16")
    names, thresholds = usual_names(num_classes), TORCHVISION.detection["torchvision"]
    return ImportedModel(model, "torchvision ssd300_vgg16", names, thresholds, _notes(num_classes))


def _block(net: TorchBuilder, x: str, name: str, number: int) -> str:
    """The block of that number of MobileNetV3-Large."""
    activation = "hardswish" if number >= _HARDSWISH_FROM else "relu"
    return v3_block(net, x, name, activation, 2 if number in _STRIDED else 1, expands=number > 1)


def _maps(net: TorchBuilder) -> list[str]:
    """The six maps that the heads look at: C4's expansion, the last layer of MobileNetV3, four extra blocks."""
    name = "backbone.features"
    x = net.conv_norm(net.image, f"{name}.0.0.0", f"{name}.0.0.1", "hardswish", 3, stride=2)
    for i in range(1, _C4):
        x = _block(net, x, f"{name}.0.{i}.block", i)
    x = net.conv_norm(x, f"{name}.0.{_C4}.0", f"{name}.0.{_C4}.1", "hardswish", kernel=1)
    maps = [x]
    x = v3_rest_of_block(net, x, f"{name}.1.0", 1, "hardswish", stride=2)
    for i in (1, 2):
        x = _block(net, x, f"{name}.1.{i}.block", _C4 + i)
    x = net.conv_norm(x, f"{name}.1.3.0", f"{name}.1.3.1", "hardswish", kernel=1)
    maps.append(x)
    for i in range(4):
        maps.append(
            lite_extra(net, maps[-1], [(f"backbone.extra.{i}.{k}.0", f"backbone.extra.{i}.{k}.1") for k in range(3)])
        )
    return maps


def _convert_lite(tensors: ForeignState) -> ImportedModel:
    num_classes = count_classes(tensors, f"{CONFIDENCE}.0.1.bias", 6)
    net = TorchBuilder(tensors, LITE_NORM_EPS, LITE_NORM_MOMENTUM)
    for i, x in enumerate(_maps(net)):
        add_head(net, x, f"{LOCATION}.{i}", f"{CONFIDENCE}.{i}", 6, num_classes + 1)
    tensors.finish("torchvision's ssdlite320_mobilenet_v3_large")
    priors, spec = TORCHVISION.prior_spec("ssdlite320"), TORCHVISION.inputs["ssdlite320"]
    model = net.build(num_classes, priors, spec, "ssdlite320-mobilenetv3")
    names, thresholds = usual_names(num_classes), TORCHVISION.detection["torchvision-lite"]
    return ImportedModel(model, "torchvision ssdlite320_mobilenet_v3_large", names, thresholds, _notes(num_classes))


IMPORTERS = (
    Importer("torchvision-ssd300", _convert_300),
    Importer("torchvision-ssdlite320", _convert_lite),
)
