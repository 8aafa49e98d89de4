"""Caffe's SSDs (weiliu89/caffe, branch ssd, and what was trained with it): any network that a prototxt describes.

Without a prototxt: the network that the caffemodel holds itself, else the layouts that are known by the names of their
layers, SSD300 and SSD512 on VGG16 and chuanqi305/MobileNet-SSD.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any, NamedTuple

import torch
from torch import Tensor

from singleshot.conventions import CAFFE, CHUANQI305, data_of
from singleshot.errors import CheckpointError, ConfigError, printable
from singleshot.inputs import CAFFE_MEAN, CHANNELS, InputSpec
from singleshot.prior_tables import CHUANQI305_SIZES
from singleshot.weights.class_names import usual_names
from singleshot.weights.foreign_state import ForeignState
from singleshot.weights.imported_model import ImportedModel, Importer
from singleshot.weights.importers import caffe_heads
from singleshot.weights.importers.caffe_net import Body, Op, in_phase, link
from singleshot.weights.importers.caffe_vgg import as_preset
from singleshot.weights.importers.fused_graph import Shape, ancestors
from singleshot.weights.importers.known_boxes import assumed_boxes, boxes_note, known_boxes, names_by_project
from singleshot.weights.importers.vgg import count_classes, vgg_model
from singleshot.weights.readers.caffe import CaffeNet, parse_prototxt

# One layer each of the layouts that are known by name.
VGG_SIGN = ("conv1_1[0]", "conv4_3_norm_mbox_loc[0]")
MOBILE_SIGN = ("conv0[0]", "conv1/dw[0]", "conv11_mbox_loc[0]")
FACE_SIGN = ("conv1_h[0]", "layer_64_1_conv1_h[0]")


class Prepared(NamedTuple):
    """How pixels reach a network: (pixel - mean) * scale, in BGR; note: where that is a guess."""

    mean: tuple[float, ...]
    scale: float
    resize: str = "stretch"
    note: str = ""


_CLASSIFIERS = ("SoftmaxWithLoss", "Softmax", "Accuracy")  # last layer of one


def _has(tensors: ForeignState, sign: tuple[str, ...]) -> bool:
    return all(key in tensors for key in sign)


def _matches(tensors: ForeignState) -> bool:
    return tensors.kind == "caffe" or _has(tensors, VGG_SIGN) or _has(tensors, MOBILE_SIGN)


def _convert(tensors: ForeignState) -> ImportedModel:
    try:
        return _by_network_or_name(tensors)
    except ConfigError as error:
        raise CheckpointError(f"{tensors.where}: {error}") from error


def _by_network_or_name(tensors: ForeignState) -> ImportedModel:
    net = tensors.structure if isinstance(tensors.structure, CaffeNet) else None
    if net is not None:
        layers, end = _ending(net)
        if end is not None:
            return _network(tensors, net, layers)
        if (found := _without_boxes(tensors, net)) is not None:
            return found
        _refuse_boxes_in_code(net)
        if net.where != tensors.where:
            raise CheckpointError(f"{net.where}: no SSD; it has no layer of type {' or '.join(caffe_heads.ENDS)}")
    if _has(tensors, VGG_SIGN):
        return _vgg_by_name(tensors)._replace(fixed=())
    if _has(tensors, MOBILE_SIGN):
        described = parse_prototxt(_mobilenet_prototxt(tensors), tensors.where)
        return _network(tensors, described, described.layers)._replace(fixed=())
    if net is not None and net.layers and net.layers[-1].type in _CLASSIFIERS:
        last = net.layers[-1]
        raise CheckpointError(
            f"{tensors.where}: weights of a classifier, not of an SSD: the network in the file ends in"
            f" {printable(last.name, 40)} of type {last.type}"
        )
    raise CheckpointError(
        f"{tensors.where}: Caffe weights ({printable(', '.join(list(tensors)[:3]), 80)} ...) without their network; put"
        " the prototxt next to the file under the same name"
    )


def _without_boxes(tensors: ForeignState, net: CaffeNet) -> ImportedModel | None:
    """A network that ends in boxes and scores, with default boxes that a known project has on the same maps
    (Ultra-Light has them in its code); None where none has as many."""
    layers = in_phase(net, True)
    kinds = {layer.type for layer in layers}
    if "Permute" not in kinds or "PriorBox" in kinds:
        return None
    images, image = _image_inputs(net, layers)
    ops = link(layers, images)
    ends = caffe_heads.raw_ends(ops, net.where)
    if ends is None:
        return None
    maps, activation = ends
    outputs = [i for m in maps for i in (m.location, m.confidence)]
    needed = ancestors(ops, outputs)
    body = Body(ops, needed, outputs, image, tensors)
    shapes = [(body.shapes[m.location], body.shapes[m.confidence]) for m in maps]
    grids = tuple((location.height, location.width) for location, _ in shapes)
    per_cell = tuple(location.channels // 4 for location, _ in shapes)
    known = known_boxes(grids, per_cell, (image.height, image.width))
    if 0 in per_cell or image.channels != 3 or not (known or tensors.given_priors):
        return None
    known, priors = assumed_boxes(known, tensors.given_priors, net.where)
    columns = shapes[0][1].channels // per_cell[0]
    if columns < 2:
        return None
    rule = known[0].thresholds if known else None
    thresholds = replace(rule or CAFFE.detection["caffe"], activation=activation)
    end = caffe_heads.End(ops[outputs[0]], columns, 0, False, activation, thresholds)
    spec = known[0].input if known else replace(CAFFE.inputs["ssd300"], height=image.height, width=image.width)
    model = caffe_heads.build(maps, end, body, (priors, [torch.ones(4).double()] * len(maps)), spec)
    _ignore_unused(tensors, ops, {ops[i].layer.name for i in needed})
    tensors.finish(f"the network of {net.where}" if net.where != tensors.where else "a Caffe network")
    whose = known[0].project if known else "Caffe"
    notes = [
        *boxes_note(known, tensors.given_priors),
        f"pixels are assumed to come as those of {whose} (--mean, --std, --colour-order)",
    ]
    names = usual_names(model.num_classes)
    if names is None:
        names, assumed = names_by_project(known, model.num_classes)
        notes += assumed
    about = f"Caffe network {printable(net.name, 60)}".strip()
    return ImportedModel(model, about, names, thresholds, tuple(notes), ("size",))


def _refuse_boxes_in_code(net: CaffeNet) -> None:
    """Raise CheckpointError for a network with heads that says nothing of its default boxes: AIZOO's, Ultra-Light's."""
    kinds = [layer.type for layer in net.layers]
    heads = kinds.count("Permute")
    if heads and "PriorBox" not in kinds:
        raise CheckpointError(
            f"{net.where}: {heads} heads, but neither PriorBox nor DetectionOutput: its default boxes are in its"
            " project's code, not in its files; import the project's PyTorch or TensorFlow weights, or add those layers"
        )


def _ending(net: CaffeNet) -> tuple[tuple[Any, ...], Any]:
    """Layers of the phase that ends in detections, or in the loss of a training network; and that end."""
    # A loss may be there in both phases, its data in training alone.
    for kind, phases in zip(caffe_heads.ENDS, ((True, False), (False, True)), strict=True):
        for test in phases:
            layers = in_phase(net, test)
            end = next((layer for layer in layers if layer.type == kind), None)
            if end is not None:
                return layers, end
    return (), None


# ---------------------------------------------------------------------------------------------- networks


def _network(tensors: ForeignState, net: CaffeNet, layers: tuple[Any, ...]) -> ImportedModel:
    """The model of a network that is described."""
    images, image = _image_inputs(net, layers)
    ops = link(layers, images)
    last = next(i for kind in caffe_heads.ENDS for i, op in enumerate(ops) if op.layer.type == kind)
    where = net.where
    end = caffe_heads.read_end(ops, last, where)
    maps = caffe_heads.read_maps(ops, end.op, where)
    prepared = _prepared(net, tensors, image.channels)
    outputs = [i for m in maps for i in (m.location, m.confidence)]
    needed = ancestors(ops, [*outputs, *(m.feature for m in maps)])
    body = Body(ops, needed, outputs, image, tensors)
    table = caffe_heads.prior_spec(maps, end, body, (image.height, image.width))
    model = caffe_heads.build(maps, end, body, table, _input_spec(image, prepared))
    if not all(bool(torch.isfinite(values).all()) for values in model.parameters()):
        raise CheckpointError(f"{tensors.where}: weights become infinite with {where}; one of the two is damaged")
    used = {ops[i].layer.name for i in needed}
    _ignore_unused(tensors, ops, used)
    tensors.finish(f"the network of {net.where}" if net.where != tensors.where else "a Caffe network")
    preset = as_preset(model)
    notes = [prepared.note] if prepared.note else []
    if caffe_heads.are_faceboxes(maps, body):
        notes.append("default boxes as sfzhang15/FaceBoxes makes them: 21 in a cell where the prototxt has 3 sizes")
    if net.where != tensors.where:
        notes.append(f"network taken from {net.where}")
    model = preset or model
    source, names = _source(tensors, net, preset is not None, image.height), _names(tensors, model.num_classes)
    return ImportedModel(model, source, names, end.thresholds, tuple(notes))


def _ignore_unused(tensors: ForeignState, ops: list[Op], used: set[str]) -> None:
    """Weights of layers that the network has and detections do not need."""
    unused = {op.layer.name for op in ops} - used
    tensors.ignore(*(key for key in tensors if key.rpartition("[")[0] in unused))


def _source(tensors: ForeignState, net: CaffeNet, vgg: bool, size: int) -> str:
    if vgg:
        return f"Caffe SSD{size} on VGG16 (weiliu89/caffe)"
    if _has(tensors, MOBILE_SIGN):
        return "Caffe MobileNet-SSD (chuanqi305/MobileNet-SSD)"
    if _has(tensors, FACE_SIGN):
        return "Caffe face detector on ResNet-10 (OpenCV)"
    return f"Caffe network {printable(net.name, 60)}" if net.name else "Caffe network"


def _names(tensors: ForeignState, num_classes: int) -> tuple[str, ...] | None:
    return ("face",) if num_classes == 1 and _has(tensors, FACE_SIGN) else usual_names(num_classes)


def _image_inputs(net: CaffeNet, layers: tuple[Any, ...]) -> tuple[list[str], Shape]:
    """Names of the blobs that hold the image, and its shape. Raises CheckpointError unless there is one, in colour or
    grey."""
    found: list[tuple[str, tuple[int, ...]]] = list(net.inputs)
    for layer in layers:
        if layer.bottom or not layer.top:
            continue
        p = layer.transform_param
        resized = (p.resize_param.height, p.resize_param.width)
        cropped = (p.crop_h or p.crop_size, p.crop_w or p.crop_size)
        sides = cropped if all(cropped) else resized
        if layer.type == "Input":
            found += zip(layer.top, (tuple(shape.dim) for shape in layer.input_param.shape), strict=False)
        elif all(sides):
            found.append((layer.top[0], (1, 1 if p.force_gray else 3, *sides)))
    images = [(name, shape) for name, shape in found if len(shape) == 4]
    if not images:
        raise CheckpointError(f"{net.where}: does not say how large its image is (input_shape, or resize_param)")
    _, channels, height, width = images[0][1]
    if channels not in CHANNELS:
        raise CheckpointError(
            f"{net.where}: takes images of {channels}x{height}x{width}; want 3 channels, or 1 for grey"
        )
    names = [name for name, shape in images if shape[1:] == images[0][1][1:]]
    return names, Shape(int(channels), int(height), int(width))


def _prepared(net: CaffeNet, tensors: ForeignState, channels: int) -> Prepared:
    """From the transform_param of prototxt or caffemodel, else as the layout is known to want it."""
    for p in net.transforms:
        if p.mean_value or p.scale != 1:
            wild = not 1e-6 < p.scale < 1e6 or not all(abs(v) <= 1e6 for v in p.mean_value)
            if wild or len(p.mean_value) not in (0, 1, channels):
                raise CheckpointError(f"{net.where}: transform_param with {len(p.mean_value)} means, scale {p.scale}")
            mean = (tuple(p.mean_value) or (0.0,)) * (1 if len(p.mean_value) == channels else channels)
            resize = "letterbox" if p.resize_param.resize_mode == 3 else "stretch"
            return Prepared(mean, p.scale, resize)
    if _has(tensors, MOBILE_SIGN) and channels == 3:
        spec = CHUANQI305.inputs["ssd300"]
        return Prepared(spec.mean, 1 / spec.std[0])
    if channels == 1:
        return Prepared(
            (0.0,), 1.0, note="its files do not say how images are prepared: grey, 0 to 255, is assumed (--mean, --std)"
        )
    bgr = CAFFE_MEAN[::-1]
    if _has(tensors, VGG_SIGN) or _has(tensors, FACE_SIGN):
        return Prepared(bgr, 1.0)
    return Prepared(
        bgr,
        1.0,
        note="its files do not say how images are prepared: BGR minus 104, 117, 123 is assumed (--mean, --std)",
    )


def _input_spec(image: Shape, prepared: Prepared) -> InputSpec:
    red_first = tuple(float(v) for v in prepared.mean[::-1])
    std = (1.0 / round(prepared.scale, 9),) * image.channels
    order = "bgr" if image.channels == 3 else "rgb"
    channels, height, width = image
    return InputSpec(None, prepared.resize, order, red_first, std, height=height, width=width, channels=channels)


# ---------------------------------------------------------------------------------------------- known by name


def _vgg_by_name(tensors: ForeignState) -> ImportedModel:
    """SSD300 or SSD512 of examples/ssd by the names of its layers."""
    maps = 7 if "conv10_2[0]" in tensors else 6
    size = 300 if maps == 6 else 512
    sources = ["conv4_3_norm", "fc7", *(f"conv{i}_2" for i in range(6, 4 + maps))]
    num_classes = count_classes(tensors, f"{sources[0]}_mbox_conf[1]", 4)
    notes = []
    if num_classes not in (20, 80):
        notes.append("no prototxt: default boxes as those for VOC are assumed")

    def find(layer: str | tuple[str, int], part: str, shape: tuple[int, ...]) -> Tensor:
        if isinstance(layer, tuple):
            layer = f"{sources[layer[1]]}_mbox_{layer[0]}"
        elif layer == "l2norm":
            layer = "conv4_3_norm"
        return tensors.take(f"{layer}[{0 if part == 'weight' else 1}]", *shape)

    priors = CAFFE.prior_spec(f"ssd{size}-{data_of(num_classes)}")
    model = vgg_model(find, num_classes, priors, CAFFE.inputs[f"ssd{size}"])
    tensors.finish(f"Caffe SSD{size} on VGG16")
    source, thresholds = f"Caffe SSD{size} on VGG16 (weiliu89/caffe)", CAFFE.detection["caffe"]
    return ImportedModel(model, source, usual_names(num_classes), thresholds, tuple(notes))


# chuanqi305/MobileNet-SSD, MobileNetSSD_deploy.prototxt: layers at half the side of the layer before; what heads see.
_MOBILE_STRIDES = ("conv0", "conv2/dw", "conv4/dw", "conv6/dw", "conv12/dw", *(f"conv{i}_2" for i in range(14, 18)))
_MOBILE_HEADS = ("conv11", "conv13", "conv14_2", "conv15_2", "conv16_2", "conv17_2")


def _mobilenet_prototxt(tensors: ForeignState) -> str:
    """MobileNet-SSD's network as text, with the norms and the widths that the weights have."""
    lines, x = ['name: "MobileNet-SSD" input: "data" input_shape { dim: 1 dim: 3 dim: 300 dim: 300 }'], "data"

    def layer(name: str, kind: str, bottoms: tuple[str, ...], top: str, parameters: str = "") -> None:
        takes = " ".join(f'bottom: "{b}"' for b in bottoms)
        lines.append(f'layer {{ name: "{name}" type: "{kind}" {takes} top: "{top}" {parameters} }}')

    def conv(name: str, bottom: str, top: str) -> None:
        shape = tensors.shape(f"{name}[0]")
        if len(shape) != 4:
            tensors.finish("MobileNet-SSD")
            raise CheckpointError(f"{tensors.where}: {name}[0] is {'x'.join(map(str, shape))}, want four sides")
        outputs, inner, kernel, _ = shape
        groups, bias = outputs if inner == 1 else 1, str(f"{name}[1]" in tensors).lower()
        stride = 2 if name in _MOBILE_STRIDES else 1
        parameters = f"num_output: {outputs} kernel_size: {kernel} stride: {stride} pad: {kernel // 2} group: {groups}"
        layer(name, "Convolution", (bottom,), top, f"convolution_param {{ {parameters} bias_term: {bias} }}")
        if f"{name}/bn[0]" in tensors:
            layer(f"{name}/bn", "BatchNorm", (top,), top)
            layer(f"{name}/scale", "Scale", (top,), top, "scale_param { bias_term: true }")

    names = ["conv0", *(f"conv{i}{end}" for i in range(1, 14) for end in ("/dw", ""))]
    for name in [*names, *(f"conv{i}_{k}" for i in range(14, 18) for k in (1, 2))]:
        conv(name, x, name)
        layer(f"{name}/relu", "ReLU", (name,), name)
        x = name
    for name, (low, high) in zip(_MOBILE_HEADS, CHUANQI305_SIZES, strict=True):
        for which in ("loc", "conf"):
            head = f"{name}_mbox_{which}"
            renamed = f"{head}_new[0]" in tensors  # as those who train it on classes of their own call it
            conv(f"{head}_new" if renamed else head, name, head)
            layer(f"{head}_perm", "Permute", (head,), f"{head}_perm", "permute_param { order: [0, 2, 3, 1] }")
            layer(f"{head}_flat", "Flatten", (f"{head}_perm",), f"{head}_flat")
        ratios = [2.0, 3.0] if high else [2.0]
        sizes = f"min_size: {list(low)} max_size: {list(high)} aspect_ratio: {ratios} variance: [0.1, 0.1, 0.2, 0.2]"
        layer(f"{name}_prior", "PriorBox", (name, "data"), f"{name}_prior", f"prior_box_param {{ {sizes} }}")
    for end in ("mbox_loc_flat", "mbox_conf_flat", "prior"):
        layer(f"{end}_all", "Concat", tuple(f"{name}_{end}" for name in _MOBILE_HEADS), f"{end}_all")
    key = next((k for k in ("conv11_mbox_conf_new[0]", "conv11_mbox_conf[0]") if k in tensors), "")
    classes = tensors.shape(key)[0] // 3 if key else 0
    layer("softmax", "Softmax", ("mbox_conf_flat_all",), "softmax")
    # demo.py shows what MobileNetSSD_deploy.prototxt finds.
    rule = CHUANQI305.detection["chuanqi305"]
    nms = f"nms_param {{ nms_threshold: {rule.nms_iou} top_k: {rule.per_class} }}"
    limits = f"keep_top_k: {rule.keep} confidence_threshold: {rule.score_min} {nms}"
    end = f"detection_output_param {{ num_classes: {classes} code_type: CENTER_SIZE {limits} }}"
    takes = ("mbox_loc_flat_all", "softmax", "prior_all")
    layer("detection_out", "DetectionOutput", takes, "detection_out", end)
    return "\n".join(lines)


IMPORTERS = (Importer("caffe", _convert, "caffe", _matches),)
