"""open-mmlab/mmdetection: SSD300, SSD512 on VGG16 and SSDLite on MobileNetV2 (configs/ssd, dense_heads/ssd_head.py).

From 2.14 on the extra layers and the normalisation of conv4_3 are the "neck" (necks/ssd_neck.py); before that they
belonged to the backbone, and the heads were not lists (tools/model_converters/upgrade_ssd_version.py).
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from torch import Tensor

from singleshot.conventions import LITE_NORM_EPS, LITE_NORM_MOMENTUM, MMDET
from singleshot.inputs import InputSpec
from singleshot.weights.class_names import usual_names
from singleshot.weights.foreign_state import ForeignState
from singleshot.weights.graph_builder import move_background
from singleshot.weights.imported_model import ImportedModel, Importer
from singleshot.weights.importers.mobilenet_blocks import add_head, as_it_is, inverted_residual, lite_extra
from singleshot.weights.importers.torch_blocks import TorchBuilder
from singleshot.weights.importers.vgg import VGG_LAYERS, count_classes, extra_names, vgg_model

THRESHOLDS = MMDET.detection["mmdet"]
# backbones/mobilenet_v2.py: stride of the first block of layer1 .. layer7.
_STRIDES = (1, 2, 2, 2, 1, 2, 1)
# SSDAnchorGenerator's basesize_ratio_range[0] -> table, by the side of the image.
_RANGES = {(300, 15): "ssd300-coco", (300, 20): "ssd300-voc", (512, 10): "ssd512-coco", (512, 15): "ssd512-voc"}
_LAST_FIRST = "background moved from the last class to the first"


def _meta(tensors: ForeignState) -> Mapping[str, Any]:
    """What the file says apart from its tensors, {} if nothing."""
    meta = tensors.structure.get("meta") if isinstance(tensors.structure, Mapping) else None
    return meta if isinstance(meta, Mapping) else {}


def _names(meta: Mapping[str, Any], count: int) -> tuple[str, ...] | None:
    """The file's own names (CLASSES in 2.x, dataset_meta in 3.x), else those of VOC or COCO by their number."""
    own = meta.get("dataset_meta")
    places = (meta, own) if isinstance(own, Mapping) else (meta,)
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
    """Which of MMDET.priors, and how it was chosen."""
    written = re.search(r"basesize_ratio_range\s*=\s*[(\[]\s*(0?\.\d+)", config)
    if written is not None:
        name = _RANGES.get((side, round(float(written[1]) * 100)))
        if name is not None:
            return name, f"default boxes {name}, as its config says"
    name = f"ssd{side}-{'voc' if num_classes == 20 else 'coco'}"
    return name, f"default boxes {name}, by its {num_classes} classes"


def _background_last(meta: Mapping[str, Any]) -> bool:
    """Since 2.0 (docs/en/compatibility.md); a file that does not say is taken for newer."""
    return re.match(r"[01]\.", str(meta.get("mmdet_version", ""))) is None


def _three(config: str, key: str, usual: tuple[float, ...]) -> tuple[float, ...]:
    """mean or std of the first pipeline in the config, else the usual one."""
    written = re.search(rf"\b{key}\s*=\s*\[([-\d.,\s]{{1,80}})\]", config)
    parts = [part for part in written[1].split(",") if part.strip()] if written is not None else []
    try:
        a, b, c = (float(part) for part in parts)
    except ValueError:  # not three, or no numbers
        return usual
    return a, b, c


def _input_spec(config: str, usual: InputSpec) -> InputSpec:
    mean, std = _three(config, "mean", usual.mean), _three(config, "std", usual.std)
    if re.search(r"\b(to_rgb|bgr_to_rgb)\s*=\s*False", config):
        return replace(usual, colour_order="bgr", mean=mean[::-1], std=std[::-1])
    return replace(usual, mean=mean, std=std)


def _convert_vgg(tensors: ForeignState) -> ImportedModel:
    old = "backbone.l2_norm.weight" in tensors
    deep = ("backbone.extra.9.weight" if old else "neck.extra_layers.4.0.conv.weight") in tensors
    side, maps = (512, 7) if deep else (300, 6)
    inner = "" if old else ".0"
    num_classes = count_classes(tensors, f"bbox_head.cls_convs.0{inner}.bias", 4)
    meta = _meta(tensors)
    table, why = _table(_config(meta), side, num_classes)
    priors, last = MMDET.prior_spec(table), _background_last(meta)
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

    model = vgg_model(find, num_classes, priors, _input_spec(_config(meta), MMDET.inputs[f"ssd{side}"]))
    source = f"mmdetection SSD{side}"
    tensors.finish(source)
    legacy = "made by mmdetection 1.x, whose boxes count their last pixel: they are up to a pixel larger here"
    notes = (why, _LAST_FIRST if last else legacy)
    return ImportedModel(model, f"{source} on VGG16", _names(meta, num_classes), THRESHOLDS, notes)


def _unit(name: str) -> tuple[str, str]:
    return f"{name}.conv", f"{name}.bn"


def _parts(tensors: ForeignState, name: str) -> list[tuple[str, str]]:
    """Of one block of its MobileNetV2: expansion, which the first one has not, depthwise layer, projection."""
    expands = f"{name}.expand_conv.conv.weight" in tensors
    layers = ("expand_conv", "depthwise_conv", "linear_conv") if expands else ("depthwise_conv", "linear_conv")
    return [_unit(f"{name}.{layer}") for layer in layers]


def _backbone(net: TorchBuilder) -> list[str]:
    """mmdetection's MobileNetV2: the ends of layer5 and of conv2."""
    x = net.conv_norm(net.image, *_unit("backbone.conv1"), "relu6", 3, 2)
    maps = []
    for i, first in enumerate(_STRIDES, start=1):
        block = 0
        while block == 0 or f"backbone.layer{i}.{block}.linear_conv.conv.weight" in net.tensors:
            x, _ = inverted_residual(net, x, f"backbone.layer{i}.{block}", first if block == 0 else 1, _parts)
            block += 1
        if i == 5:
            maps.append(x)
    return [*maps, net.conv_norm(x, *_unit("backbone.conv2"), "relu6", 1)]


def _convert_lite(tensors: ForeignState) -> ImportedModel:
    num_classes = count_classes(tensors, "bbox_head.cls_convs.0.1.bias", 6)
    meta, net = _meta(tensors), TorchBuilder(tensors, LITE_NORM_EPS, LITE_NORM_MOMENTUM)
    maps = _backbone(net)
    for i in range(4):
        layers = ("0", "1.depthwise_conv", "1.pointwise_conv")
        maps.append(lite_extra(net, maps[-1], [_unit(f"neck.extra_layers.{i}.{layer}") for layer in layers]))
    for i, x in enumerate(maps):
        location, confidence = f"bbox_head.reg_convs.{i}", f"bbox_head.cls_convs.{i}"
        add_head(net, x, location, confidence, 6, num_classes + 1, (as_it_is, move_background))
    source = "mmdetection SSDLite320"
    tensors.finish(source)
    spec = _input_spec(_config(meta), MMDET.inputs["ssdlite320"])
    model = net.build(num_classes, MMDET.prior_spec("ssdlite320"), spec, "ssdlite320-mobilenetv2-mmdet")
    return ImportedModel(model, f"{source} on MobileNetV2", _names(meta, num_classes), THRESHOLDS, (_LAST_FIRST,))


IMPORTERS = (
    Importer("mmdet-vgg", _convert_vgg),
    Importer("mmdet-vgg-old", _convert_vgg),
    Importer("mmdet-ssdlite", _convert_lite),
)
