"""The end of a Caffe SSD: from DetectionOutput or MultiBoxLoss back to each map's last convolutions and PriorBox."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import torch
from torch import Tensor

from singleshot.errors import CheckpointError, printable
from singleshot.inputs import InputSpec
from singleshot.models import SSD
from singleshot.prior_boxes import PriorSpec, Shapes, caffe_cell, from_shapes
from singleshot.thresholds import NO_CAP, Thresholds
from singleshot.weights.graph_builder import widened
from singleshot.weights.importers.caffe_net import Body, Op, Shape

ENDS = ("DetectionOutput", "MultiBoxLoss")
_RESHAPES = ("Flatten", "Reshape")
_MAX_SIZES = 64  # of one PriorBox
_MAX_IDENTITY = 4096  # channels of a map that is passed on as it is


class End(NamedTuple):
    """What DetectionOutput, or in a training network MultiBoxLoss, says. classes: columns, background included;
    background: which of them."""

    op: Op
    classes: int
    background: int
    unit_variances: bool
    activation: str
    thresholds: Thresholds


class Map(NamedTuple):
    """One feature map: the ops that give location and confidence as maps, and the map under PriorBox."""

    location: int
    confidence: int
    feature: int
    priors: Any  # PriorBoxParameter


def read_end(ops: Sequence[Op], i: int, where: str) -> End:
    """Raises CheckpointError for boxes that our models cannot mean."""
    op = ops[i]
    loss = op.layer.type == "MultiBoxLoss"
    p = op.layer.multibox_loss_param if loss else op.layer.detection_output_param
    if not p.share_location:
        raise CheckpointError(f"{where}: {op} has boxes of its own for each class (share_location: false)")
    if p.code_type != 2:
        raise CheckpointError(f"{where}: {op} has code_type {p.code_type}, want CENTER_SIZE")
    if not 0 <= p.background_label_id < p.num_classes or p.num_classes < 2:
        raise CheckpointError(f"{where}: {op} has {p.num_classes} classes with background {p.background_label_id}")
    if loss:
        activation = "sigmoid" if p.conf_loss_type == 1 else "softmax"
        thresholds = Thresholds(activation=activation)
        return End(op, p.num_classes, p.background_label_id, p.encode_variance_in_target, activation, thresholds)
    activation = _activation(ops, op, where)
    per_class, keep = (top_k if 0 < top_k < NO_CAP else NO_CAP for top_k in (p.nms_param.top_k, p.keep_top_k))
    thresholds = Thresholds(
        score_min=round(p.confidence_threshold, 6),
        nms_iou=round(p.nms_param.nms_threshold, 6),
        per_class=per_class,
        keep=keep,
        activation=activation,
        clip=p.clip,
    )
    return End(op, p.num_classes, p.background_label_id, p.variance_encoded_in_target, activation, thresholds)


def _activation(ops: Sequence[Op], end: Op, where: str) -> str:
    """What makes scores of confidences before DetectionOutput."""
    i = end.takes[1] if len(end.takes) > 1 else -1
    while i >= 0 and ops[i].layer.type in (*_RESHAPES, "Softmax", "Sigmoid"):
        if ops[i].layer.type not in _RESHAPES:
            return str(ops[i].layer.type).lower()
        i = ops[i].takes[0]
    raise CheckpointError(f"{where}: {end} takes confidences without Softmax or Sigmoid")


def read_maps(ops: Sequence[Op], end: Op, where: str) -> list[Map]:
    """The maps in the order in which their outputs are joined."""
    if len(end.takes) < 3:
        raise CheckpointError(f"{where}: {end} takes {len(end.takes)} blobs, want locations, confidences and priors")
    locations, confidences = (_unflattened(ops, i, end, where) for i in end.takes[:2])
    priors = _joined(ops, end.takes[2], ())
    wrong = next((i for i in priors if i < 0 or ops[i].layer.type != "PriorBox"), None)
    if wrong is not None:
        what = f"{ops[wrong]}" if wrong >= 0 else "something that no layer makes"
        raise CheckpointError(f"{where}: {end} takes priors from {what}, want PriorBox")
    if not len(locations) == len(confidences) == len(priors):
        raise CheckpointError(
            f"{where}: {len(locations)} locations, {len(confidences)} confidences and {len(priors)} priors are joined"
        )
    return [
        Map(location, confidence, ops[prior].takes[0], ops[prior].layer.prior_box_param)
        for location, confidence, prior in zip(locations, confidences, priors, strict=True)
    ]


def _joined(ops: Sequence[Op], i: int, through: tuple[str, ...]) -> tuple[int, ...]:
    """What a Concat puts together, or the one op that there is in place of it."""
    while i >= 0 and ops[i].layer.type in through:
        i = ops[i].takes[0]
    return ops[i].takes if i >= 0 and ops[i].layer.type == "Concat" else (i,)


def _unflattened(ops: Sequence[Op], i: int, end: Op, where: str) -> list[int]:
    """For each map the op whose output is permuted to [H, W, channels] and flattened."""
    sources = []
    for part in _joined(ops, i, (*_RESHAPES, "Softmax", "Sigmoid")):
        at = part
        while at >= 0 and ops[at].layer.type in _RESHAPES:
            at = ops[at].takes[0]
        if at < 0 or ops[at].layer.type != "Permute" or tuple(ops[at].layer.permute_param.order) != (0, 2, 3, 1):
            what = str(ops[at]) if at >= 0 else "something that no layer makes"
            raise CheckpointError(f"{where}: {end} takes {what}, want Permute of order 0 2 3 1, flattened")
        sources.append(ops[at].takes[0])
    return sources


# ---------------------------------------------------------------------------------------------- priors


def prior_spec(maps: Sequence[Map], end: End, body: Body, size: int) -> PriorSpec:
    """PriorBox of all maps (prior_box_layer.cpp). As a table of sizes and ratios where that can say the same."""
    where = body.tensors.where
    rows = [m.priors for m in maps]
    for row in rows:
        _check_row(row, where)
    variances = (1.0, 1.0) if end.unit_variances else _one([_variances(row, where) for row in rows], "variance", where)
    maps_of = [body.shapes[m.feature] for m in maps]
    if any(shape.height != shape.width for shape in maps_of):
        raise CheckpointError(f"{where}: PriorBox on maps that are not square")
    sides, images = [shape.width for shape in maps_of], [_image(row, size, where) for row in rows]
    shapes = [_shapes(row, size / image) for row, image in zip(rows, images, strict=True)]
    clip = "corners" if _one([row.clip for row in rows], "clip", where) else "none"
    spec = replace(
        from_shapes(size, sides, shapes, _steps(rows, images, sides, size, where), clip),
        variances=variances,
        offset=round(_one([row.offset for row in rows], "offset", where), 6),
    )
    if set(images) != {size} or not all(_is_plain(row) for row in rows):
        return spec
    return replace(
        spec,
        shapes=None,
        min_sizes=tuple(round(row.min_size[0], 4) for row in rows),
        max_sizes=tuple(round(row.max_size[0], 4) for row in rows),
        ratios=tuple(tuple(round(r, 6) for r in row.aspect_ratio) for row in rows),
        truncate=True,
    )


def _check_row(row: Any, where: str) -> None:
    if not 1 <= len(row.min_size) <= _MAX_SIZES or len(row.aspect_ratio) > _MAX_SIZES:
        raise CheckpointError(f"{where}: PriorBox with {len(row.min_size)} sizes, {len(row.aspect_ratio)} ratios")
    if not all(0 < v < 1e6 for v in (*row.min_size, *row.max_size, *row.aspect_ratio)):
        raise CheckpointError(f"{where}: PriorBox with sizes or ratios that are not positive")
    if not abs(row.offset) <= 100:
        raise CheckpointError(f"{where}: PriorBox with offset {row.offset}")


def _is_plain(row: Any) -> bool:
    """Whether one size and ratios with their inverses say all of it."""
    ratios = row.aspect_ratio
    all_differ = len(caffe_cell([1.0], (), ratios)) == 1 + 2 * len(ratios)
    return len(row.min_size) == len(row.max_size) == 1 and (row.flip or not ratios) and all_differ


def _shapes(row: Any, factor: float) -> Shapes:
    cell = caffe_cell(row.min_size, row.max_size, row.aspect_ratio, row.flip)
    return tuple((w * factor, h * factor) for w, h in cell)


def _steps(rows: Sequence[Any], images: Sequence[int], sides: Sequence[int], size: int, where: str) -> list[float]:
    """Pixels between cells of each map; [] where all are those of the maps."""
    steps = [_step(row, where) for row in rows]
    if not any(steps):
        return []
    return [(step or image / side) * size / image for step, image, side in zip(steps, images, sides, strict=True)]


def _one(values: Sequence[Any], name: str, where: str) -> Any:
    if len(set(values)) != 1:
        raise CheckpointError(f"{where}: PriorBox with another {name} on each map ({printable(values, 60)}): want one")
    return values[0]


def _variances(row: Any, where: str) -> tuple[float, float]:
    values = [round(v, 6) for v in row.variance] or [0.1]
    values = values * 4 if len(values) == 1 else values
    if len(values) != 4 or values[0] != values[1] or values[2] != values[3] or not 0 < min(values) < 1e3:
        raise CheckpointError(
            f"{where}: PriorBox with variance {printable(values, 60)}: want one for x and y, one for sides"
        )
    return values[0], values[2]


def _image(row: Any, size: int, where: str) -> int:
    """Side of the image that sizes and steps are meant for."""
    height, width = row.img_h or row.img_size or size, row.img_w or row.img_size or size
    if height != width or not 1 <= width <= 10**6:
        raise CheckpointError(f"{where}: PriorBox for images of {width}x{height}: want a square")
    return int(width)


def _step(row: Any, where: str) -> float:
    """Pixels between cells; 0 for those of the map."""
    x, y = row.step_w or row.step, row.step_h or row.step
    if x != y or not 0 <= x < 1e6:
        raise CheckpointError(f"{where}: PriorBox with steps of {x} and {y} pixels: want one")
    return round(float(x), 4)


# ---------------------------------------------------------------------------------------------- heads


class Last(NamedTuple):
    """One of a map's last convolutions, stride 1 and padded to keep the side."""

    source: str
    weight: Tensor
    bias: Tensor | None


def build(maps: Sequence[Map], end: End, body: Body, priors: PriorSpec, input_spec: InputSpec) -> SSD:
    """Adds the heads and makes the model."""
    for m, boxes, (rows, cells) in zip(maps, priors.per_cell, priors.grids, strict=True):
        for i, columns in ((m.location, 4), (m.confidence, end.classes)):
            if body.shapes[i] != Shape(boxes * columns, rows, cells):
                found, op = body.shapes[i], body.ops[i]
                raise body.refuse(
                    op,
                    f"gives {found.channels}x{found.height}x{found.width}, want {boxes} x {columns} x {rows} x {cells}",
                )
        location, confidence = _last(body, m.location), _last(body, m.confidence)
        confidence = _background_first(confidence, boxes, end)
        kernel = max(location.weight.shape[-1], confidence.weight.shape[-1])
        location, confidence = _same_form(location, kernel, confidence), _same_form(confidence, kernel, location)
        body.assembly.head(
            location.source, confidence.source, location.weight, location.bias, confidence.weight, confidence.bias
        )
    return body.assembly.build(end.classes - 1, priors, input_spec, "custom")


def _last(body: Body, i: int) -> Last:
    """The convolution itself where it has a form that heads have; else a convolution that passes its output on."""
    held = body.pending(i)
    if held is not None:
        kernel, options = held.weight.shape[-1], held.options
        plain = options["stride"] == options["dilation"] == (1, 1) and options["groups"] == 1
        padding = kernel // 2
        if plain and held.weight.shape[-2] == kernel in (1, 3) and options["padding"] == (padding,) * 4:
            bias = None if held.bias is None else held.bias.float()
            return Last(body.value(held.source), held.weight.float(), bias)
    channels = body.shapes[i].channels
    if channels > _MAX_IDENTITY:
        raise body.refuse(body.ops[i], f"gives {channels} channels (at most {_MAX_IDENTITY})")
    return Last(body.value(i), torch.eye(channels).view(channels, channels, 1, 1), None)


def _background_first(last: Last, boxes: int, end: End) -> Last:
    if end.background == 0:
        return last
    order = [end.background, *(c for c in range(end.classes) if c != end.background)]

    def moved(values: Tensor) -> Tensor:
        return values.reshape(boxes, end.classes, *values.shape[1:])[:, order].reshape(values.shape)

    return last._replace(weight=moved(last.weight), bias=None if last.bias is None else moved(last.bias))


def _same_form(last: Last, kernel: int, other: Last) -> Last:
    """The same numbers with a kernel of that side, and a bias where the other has one."""
    weight = widened(last.weight, kernel)
    bias = torch.zeros(len(weight)) if last.bias is None and other.bias is not None else last.bias
    return last._replace(weight=weight, bias=bias)
