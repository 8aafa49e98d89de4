"""open-mmlab/mmdetection: SSD300, SSD512 on VGG16 and SSDLite on MobileNetV2 (configs/ssd, dense_heads/ssd_head.py).

From 2.14 on the extra layers and the normalisation of conv4_3 are the "neck" (necks/ssd_neck.py); before that they
belonged to the backbone, and the heads were not lists (tools/model_converters/upgrade_ssd_version.py).
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from torch import Tensor

from singleshot.inputs import InputSpec
from singleshot.priors import PRIORS, PriorSpec
from singleshot.thresholds import Thresholds
from singleshot.weights.class_names import usual_names
from singleshot.weights.foreign_state import ForeignState
from singleshot.weights.graph_builder import GraphBuilder, move_background
from singleshot.weights.imported_model import ImportedModel, Importer
from singleshot.weights.importers.torch_blocks import conv_norm
from singleshot.weights.importers.vgg import VGG_LAYERS, count_classes, extra_names, vgg_model

# configs/_base_/models/ssd300.py: test_cfg. Its nms_pre counts boxes of a map, not of a class. Its decoder
# clips boxes to the image (DeltaXYWHBBoxCoder, clip_border).
THRESHOLDS = Thresholds(score_min=0.02, nms_iou=0.45, per_class=1000, keep=200, clip=True)
MEAN, STD = (123.675, 116.28, 103.53), (58.395, 57.12, 57.375)
# ssdlite_mobilenetv2-scratch_8xb24-600e_coco.py: anchor_generator, and eps of every normalisation.
PRIORS_LITE = PriorSpec(
    image_size=320,
    maps=(20, 10, 5, 3, 2, 1),
    min_sizes=(48.0, 100.0, 150.0, 202.0, 253.0, 304.0),
    max_sizes=(100.0, 150.0, 202.0, 253.0, 304.0, 320.0),
    ratios=((2.0, 3.0),) * 6,
    steps=(16.0, 32.0, 64.0, 107.0, 160.0, 320.0),
)
EPS = 0.001
# backbones/mobilenet_v2.py: stride of the first block of layer1 .. layer7.
_STRIDES = (1, 2, 2, 2, 1, 2, 1)
# SSDAnchorGenerator's basesize_ratio_range[0] -> table, by the side of the image.
_RANGES = {(300, 15): "ssd300-coco", (300, 20): "ssd300-voc", (512, 10): "ssd512-coco", (512, 15): "ssd512-voc"}
_LAST_FIRST = "background moved from the last class to the first"


def _meta(tensors: ForeignState) -> Mapping[str, Any]:
    """What the file says beside its tensors, {} if nothing."""
    meta = tensors.structure.get("meta") if isinstance(tensors.structure, Mapping) else None
    return meta if isinstance(meta, Mapping) else {}


def _names(meta: Mapping[str, Any], count: int) -> tuple[str, ...] | None:
    """The file's own names (CLASSES in 2.x, dataset_meta in 3.x), else those of VOC or COCO by their number."""
    told = meta.get("dataset_meta")
    places = (meta, told) if isinstance(told, Mapping) else (meta,)
    for place in places:
        for key in ("CLASSES", "classes"):
            names = place.get(key)
            if isinstance(names, (list, tuple)) and len(names) == count and all(isinstance(n, str) for n in names):
                return tuple(names)
    return usual_names(count)


def _config(meta: Mapping[str, Any]) -> str:
    """The text of the config that the model was trained by, "" if it is not there."""
    text = meta.get("config", meta.get("cfg", ""))
    return text[:1_000_000] if isinstance(text, str) else ""


def _table(config: str, side: int, num_classes: int) -> tuple[str, str]:
    """Name of the table of default boxes, and how it was chosen."""
    told = re.search(r"basesize_ratio_range\s*=\s*[(\[]\s*(0?\.\d+)", config)
    if told is not None:
        name = _RANGES.get((side, round(float(told[1]) * 100)))
        if name is not None:
            return name, f"default boxes {name}, as its config says"
    name = f"ssd{side}-{'voc' if num_classes == 20 else 'coco'}"
    return name, f"default boxes {name}, by its {num_classes} classes"


def _background_last(meta: Mapping[str, Any]) -> bool:
    """Since 2.0 (docs/en/compatibility.md); a file that does not say is taken for newer."""
    return re.match(r"[01]\.", str(meta.get("mmdet_version", ""))) is None


def _normalisation(config: str, std: tuple[float, float, float]) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and std of the first pipeline in the config, else those of the project's SSD configs."""
    values: list[tuple[float, ...]] = []
    for key, usual in (("mean", MEAN), ("std", std)):
        told = re.search(rf"\b{key}\s*=\s*\[([-\d.,\s]{{1,80}})\]", config)
        parts = [part for part in told[1].split(",") if part.strip()] if told is not None else []
        try:
            values.append(tuple(float(part) for part in parts) if len(parts) == 3 else usual)
        except ValueError:
            values.append(usual)
    return values[0], values[1]


def _input_spec(config: str, side: int, std: tuple[float, float, float]) -> InputSpec:
    means, stds = _normalisation(config, std)
    if re.search(r"\b(to_rgb|bgr_to_rgb)\s*=\s*False", config):
        return InputSpec(side, "stretch", "bgr", (means[2], means[1], means[0]), (stds[2], stds[1], stds[0]))
    return InputSpec(side, "stretch", "rgb", (means[0], means[1], means[2]), (stds[0], stds[1], stds[2]))


def _convert_vgg(tensors: ForeignState) -> ImportedModel:
    old = "backbone.l2_norm.weight" in tensors
    deep = ("backbone.extra.9.weight" if old else "neck.extra_layers.4.0.conv.weight") in tensors
    side, maps = (512, 7) if deep else (300, 6)
    inner = "" if old else ".0"
    num_classes = count_classes(tensors, f"bbox_head.cls_convs.0{inner}.bias", 4, tensors.where)
    meta = _meta(tensors)
    table, why = _table(_config(meta), side, num_classes)
    priors, last = PRIORS[table], _background_last(meta)
    extras = {
        name: f"backbone.extra.{i}" if old else f"neck.extra_layers.{i // 2}.{i % 2}.conv"
        for i, name in enumerate(extra_names(maps))
    }

    def find(layer: str | tuple[str, int], part: str, shape: tuple[int, ...]) -> Tensor:
        if layer == "l2norm":
            return tensors.take("backbone.l2_norm.weight" if old else "neck.l2_norm.weight", *shape)
        if isinstance(layer, str):
            return tensors.take(f"{extras.get(layer) or f'backbone.features.{VGG_LAYERS[layer]}'}.{part}", *shape)
        which, i = layer
        value = tensors.take(f"bbox_head.{'reg' if which == 'loc' else 'cls'}_convs.{i}{inner}.{part}", *shape)
        return move_background(value, priors.per_cell[i]) if which == "conf" and last else value

    model = vgg_model(find, num_classes, priors, _input_spec(_config(meta), side, (1.0, 1.0, 1.0)))
    source = f"mmdetection SSD{side}"
    tensors.finish(source)
    legacy = "made by mmdetection 1.x, whose boxes count their last pixel: they are up to a pixel larger here"
    notes = (why, _LAST_FIRST if last else legacy)
    return ImportedModel(model, f"{source} on VGG16", _names(meta, num_classes), THRESHOLDS, notes)


def _backbone(net: GraphBuilder, tensors: ForeignState) -> list[str]:
    """mmdetection's MobileNetV2: the ends of layer5 and of conv2."""

    def unit(x: str, name: str, activation: str = "relu6", stride: int = 1, kernel: int = 1) -> str:
        wide = kernel > 1 and x != net.image
        return conv_norm(net, tensors, x, f"{name}.conv", f"{name}.bn", activation, kernel, stride, None, wide, EPS)

    x = unit(net.image, "backbone.conv1", stride=2, kernel=3)
    maps = []
    for i, first in enumerate(_STRIDES, start=1):
        block = 0
        while block == 0 or f"backbone.layer{i}.{block}.linear_conv.conv.weight" in tensors:
            name = f"backbone.layer{i}.{block}"
            stride = first if block == 0 else 1
            y = unit(x, f"{name}.expand_conv") if f"{name}.expand_conv.conv.weight" in tensors else x
            y = unit(y, f"{name}.depthwise_conv", stride=stride, kernel=3)
            y = unit(y, f"{name}.linear_conv", "")
            same = stride == 1 and net.channels[x] == net.channels[y]
            x = net.add(f"{name}.add", "add", x, y) if same else y
            block += 1
        if i == 5:
            maps.append(x)
    return [*maps, unit(x, "backbone.conv2")]


def _convert_lite(tensors: ForeignState) -> ImportedModel:
    num_classes = count_classes(tensors, "bbox_head.cls_convs.0.1.bias", 6, tensors.where)
    meta, net = _meta(tensors), GraphBuilder()
    maps = _backbone(net, tensors)
    for i in range(4):
        name = f"neck.extra_layers.{i}"
        x = conv_norm(net, tensors, maps[-1], f"{name}.0.conv", f"{name}.0.bn", "relu6", 1, eps=EPS)
        for part, kernel, stride in (("depthwise_conv", 3, 2), ("pointwise_conv", 1, 1)):
            layer = f"{name}.1.{part}"
            x = conv_norm(net, tensors, x, f"{layer}.conv", f"{layer}.bn", "relu6", kernel, stride, None, kernel == 3,
                          EPS)  # fmt: skip
        maps.append(x)
    for i, x in enumerate(maps):
        seen, last = [], []
        for which, outputs in (("reg", 24), ("cls", 6 * (num_classes + 1))):
            name = f"bbox_head.{which}_convs.{i}"
            layer = f"{name}.0"
            seen.append(conv_norm(net, tensors, x, f"{layer}.conv", f"{layer}.bn", "relu6", 3, depthwise=True, eps=EPS))
            pair = (tensors.take(f"{name}.1.weight", outputs, net.channels[x], 1, 1),
                    tensors.take(f"{name}.1.bias", outputs))  # fmt: skip
            last += [move_background(value, 6) for value in pair] if which == "cls" else list(pair)
        net.head(seen[0], seen[1], *last)
    source = "mmdetection SSDLite320"
    tensors.finish(source)
    spec = _input_spec(_config(meta), 320, STD)
    model = net.build(num_classes, PRIORS_LITE, spec, "ssdlite320-mobilenetv2-mmdet")
    return ImportedModel(model, f"{source} on MobileNetV2", _names(meta, num_classes), THRESHOLDS, (_LAST_FIRST,))


_HEADS = ("bbox_head.cls_convs.0.0.weight", "bbox_head.reg_convs.5.0.bias")
IMPORTERS = (
    Importer(
        "mmdet-vgg",
        "open-mmlab/mmdetection 2.14 to 3.x, SSD300 and SSD512 on VGG16",
        (
            "backbone.features.0.weight",
            "backbone.features.33.bias",
            "neck.l2_norm.weight",
            "neck.extra_layers.3.1.conv.weight",
            *_HEADS,
        ),
        _convert_vgg,
        "pytorch",
    ),
    Importer(
        "mmdet-vgg-old",
        "open-mmlab/mmdetection before 2.14, SSD300 and SSD512 on VGG16",
        (
            "backbone.features.0.weight",
            "backbone.features.33.bias",
            "backbone.l2_norm.weight",
            "backbone.extra.7.weight",
            "bbox_head.cls_convs.0.weight",
            "bbox_head.reg_convs.5.bias",
        ),
        _convert_vgg,
        "pytorch",
    ),
    Importer(
        "mmdet-ssdlite",
        "open-mmlab/mmdetection, SSDLite320 on MobileNetV2",
        (
            "backbone.conv1.conv.weight",
            "backbone.layer7.0.linear_conv.conv.weight",
            "neck.extra_layers.3.1.pointwise_conv.conv.weight",
            "bbox_head.cls_convs.0.0.conv.weight",
            "bbox_head.reg_convs.5.1.bias",
        ),
        _convert_lite,
        "pytorch",
    ),
)
