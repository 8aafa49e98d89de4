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
from singleshot.models.graph_spec import MAX_CHANNELS
from singleshot.prior_boxes import PriorSpec, caffe_cell
from singleshot.thresholds import NO_CAP, Thresholds
from singleshot.weights.graph_builder import widened, with_background
from singleshot.weights.importers.caffe_net import Body, Op
from singleshot.weights.importers.fused_graph import AnyOp, FusedGraph, Shape
from singleshot.weights.importers.prior_rows import PriorRow, dense_boxes, four_variances, spec_of_rows

CODE_TYPE = "CENTER_SIZE"
ENDS = ("DetectionOutput", "MultiBoxLoss")
_RESHAPES = ("Flatten", "Reshape")
_FACEBOXES_SIZES, _FACEBOXES_CELL = (32.0, 64.0, 128.0), 21
_MAX_SIZES = 64  # of one PriorBox
_MAX_IDENTITY = 4096  # channels of a map that is passed on as it is
_NEVER = -100.0  # logit of a background that a network does not have


class End(NamedTuple):
    """What DetectionOutput, or in a training network MultiBoxLoss, says. classes: columns, background included;
    background: which of them, -1 for none; box_of_each_class: as many boxes as columns, of which one is real."""

    op: AnyOp
    classes: int
    background: int
    unit_variances: bool
    activation: str
    thresholds: Thresholds
    box_of_each_class: bool = False


class Map(NamedTuple):
    """One feature map: the ops that give location and confidence as maps, and the map under PriorBox.

    channels: which outputs of both, in what order, are those of the heads; None for all as they are.
    """

    location: int
    confidence: int
    feature: int
    priors: Any  # the layer that makes them
    channels: tuple[tuple[int, ...], tuple[int, ...]] | None = None


def read_end(ops: Sequence[Op], i: int, where: str) -> End:
    """Raises CheckpointError for boxes that our models cannot mean."""
    op = ops[i]
    loss = op.layer.type == "MultiBoxLoss"
    p = op.layer.multibox_loss_param if loss else op.layer.detection_output_param
    code_type = {1: "CORNER", 2: CODE_TYPE, 3: "CORNER_SIZE"}.get(p.code_type, str(p.code_type))
    classes, background = p.num_classes, p.background_label_id
    check_boxes(f"{where}: {op}", classes, background, code_type, p.share_location)
    if loss:
        activation = "sigmoid" if p.conf_loss_type == 1 else "softmax"
        thresholds = Thresholds(activation=activation)
        unit = p.encode_variance_in_target
        return End(op, classes, background, unit, activation, thresholds, not p.share_location)
    if p.nms_param.eta != 1:
        raise CheckpointError(f"{where}: {op} lowers its NMS threshold as it goes (eta {p.nms_param.eta:g}), want 1")
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
    unit = p.variance_encoded_in_target
    return End(op, classes, background, unit, activation, thresholds, not p.share_location)


def check_boxes(what: str, classes: int, background: int, code_type: str, share_location: bool) -> None:
    """Raise CheckpointError for boxes that our models cannot mean. what: the file and the layer."""
    if code_type != CODE_TYPE:
        reason = "its offsets are those of corners, which no model here has"
        raise CheckpointError(f"{what} has code_type {printable(code_type, 60)} ({reason}), want {CODE_TYPE}")
    real = classes - (0 <= background < classes)
    if not 1 <= real <= classes <= MAX_CHANNELS or background >= classes:
        raise CheckpointError(f"{what} has {classes} classes with background {background}")
    if not share_location and real > 1:
        raise CheckpointError(f"{what} has boxes of its own for each of {real} classes (share_location: false)")


def _activation(ops: Sequence[Op], end: Op, where: str) -> str:
    """What makes scores of confidences before DetectionOutput."""
    i = end.takes[1] if len(end.takes) > 1 else -1
    while i >= 0 and ops[i].layer.type in (*_RESHAPES, "Softmax", "Sigmoid"):
        if ops[i].layer.type not in _RESHAPES:
            return str(ops[i].layer.type).lower()
        i = ops[i].takes[0]
    raise CheckpointError(f"{where}: {end} takes confidences without Softmax or Sigmoid")


def read_maps(ops: Sequence[Op], end: AnyOp, where: str) -> list[Map]:
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


def raw_ends(ops: Sequence[Op], where: str) -> tuple[list[Map], str] | None:
    """The maps of a network that ends in boxes and scores without DetectionOutput, and what makes the scores; None for
    another network."""
    taken = {source for op in ops for source in op.takes}
    found: dict[bool, tuple[list[int], str]] = {}
    for i, op in enumerate(ops):
        if i in taken:
            continue
        kinds, at = [], i
        while at >= 0 and ops[at].layer.type in (*_RESHAPES, "Softmax", "Sigmoid"):
            kinds.append(str(ops[at].layer.type).lower())
            at = ops[at].takes[0]
        active = [kind for kind in kinds if kind in ("softmax", "sigmoid")]
        try:
            sources = _unflattened(ops, i, op, where)
        except CheckpointError:
            continue
        found[bool(active)] = sources, (active or [""])[0]
    if set(found) != {False, True} or len(found[False][0]) != len(found[True][0]):
        return None
    pairs = zip(found[False][0], found[True][0], strict=True)
    return [Map(location, confidence, location, None) for location, confidence in pairs], found[True][1]


def _joined(ops: Sequence[Op], i: int, through: tuple[str, ...]) -> tuple[int, ...]:
    """What a Concat puts together, or the one op that there is in place of it."""
    while i >= 0 and ops[i].layer.type in through:
        i = ops[i].takes[0]
    return ops[i].takes if i >= 0 and ops[i].layer.type == "Concat" else (i,)


def _unflattened(ops: Sequence[Op], i: int, end: AnyOp, where: str) -> list[int]:
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


def prior_spec(maps: Sequence[Map], end: End, body: Body, image: tuple[int, int]) -> tuple[PriorSpec, list[Tensor]]:
    """PriorBox of all maps (prior_box_layer.cpp), as a table of sizes and ratios where that can say the same; and what
    `spec_of_rows` gives with it. image: height and width."""
    where = body.tensors.where
    for m in maps:
        _check_row(m.priors, where)
    params, images = [m.priors for m in maps], [_image(m.priors, image, where) for m in maps]
    rows = [_row(p, own, image, end, where) for p, own in zip(params, images, strict=True)]
    if are_faceboxes(maps, body):
        rows = [_faceboxes_row(p, row, where) for p, row in zip(params, rows, strict=True)]
    spec, factors = spec_of_rows(rows, [body.shapes[m.feature] for m in maps], image, where)
    if set(images) != {image} or not all(_is_plain(p) for p in params):
        return spec, factors
    spec = replace(
        spec,
        shapes=None,
        min_sizes=tuple(round(p.min_size[0], 4) for p in params),
        max_sizes=tuple(round(p.max_size[0], 4) for p in params),
        ratios=tuple(tuple(round(r, 6) for r in p.aspect_ratio) for p in params),
        truncate=True,
    )
    return spec, factors


def _row(p: Any, own: tuple[int, int], image: tuple[int, int], end: End, where: str) -> PriorRow:
    """own: height and width of the image that its sizes and steps are meant for."""
    down, across = image[0] / own[0], image[1] / own[1]
    if len(p.fixed_size):
        return _dense_row(p, own, image, end, where)
    cell = caffe_cell(p.min_size, p.max_size, p.aspect_ratio, p.flip)
    variances = (1.0, 1.0, 1.0, 1.0) if end.unit_variances else four_variances(p.variance, where)
    step = _step(p, where)
    return PriorRow(
        tuple((w * across, h * down) for w, h in cell),
        (step[0] * down, step[1] * across),
        round(p.offset, 6),
        p.clip,
        variances,
    )


def _dense_row(p: Any, own: tuple[int, int], image: tuple[int, int], end: End, where: str) -> PriorRow:
    """FaceBoxes' several boxes of a size in a cell, cut to the image."""
    step = _step(p, where)
    if own != image or min(step) <= 0 or any(ratio != 1 for ratio in p.aspect_ratio) or p.min_size or p.fixed_ratio:
        raise CheckpointError(f"{where}: PriorBox with fixed sizes, and other ones or without a step")
    variances = (1.0, 1.0, 1.0, 1.0) if end.unit_variances else four_variances(p.variance, where)
    offset = round(p.offset, 6)
    shapes, centres = dense_boxes(p.fixed_size, p.density, offset, step, f"{where}: PriorBox")
    return PriorRow(shapes, step, offset, True, variances, centres)


def are_faceboxes(maps: Sequence[Map], body: Body) -> bool:
    """Whether default boxes are those of sfzhang15/FaceBoxes' own PriorBox, whose three sizes make 21 boxes in a cell,
    which its file does not say (src/caffe/layers/prior_box_layer.cpp)."""
    return any(
        tuple(m.priors.min_size) == _FACEBOXES_SIZES and body.shapes[m.location].channels == 4 * _FACEBOXES_CELL
        for m in maps
    )


def _faceboxes_row(p: Any, row: PriorRow, where: str) -> PriorRow:
    """Of 32 pixels 4 x 4 squares a cell, of 64 pixels 2 x 2, 8 and 16 pixels apart; all of them a pixel smaller."""
    if min(row.step) <= 0 or p.max_size or any(ratio != 1 for ratio in p.aspect_ratio):
        raise CheckpointError(
            f"{where}: PriorBox as FaceBoxes has it, but with ratios, largest sizes or without a step"
        )
    shapes, centres = [], []
    for size in p.min_size:
        count = {32.0: 4, 64.0: 2}.get(size, 1)
        apart = 32 / count
        for down in range(-(count // 2), (count + 1) // 2):
            for across in range(-(count // 2), (count + 1) // 2):
                shapes.append((size - 1, size - 1))
                centres.append((row.offset + across * apart / row.step[1], row.offset + down * apart / row.step[0]))
    return row._replace(shapes=tuple(shapes), centres=tuple(centres))


def _check_row(row: Any, where: str) -> None:
    if not 1 <= len(row.min_size) + len(row.fixed_size) <= _MAX_SIZES or len(row.aspect_ratio) > _MAX_SIZES:
        raise CheckpointError(f"{where}: PriorBox with {len(row.min_size)} sizes, {len(row.aspect_ratio)} ratios")
    sizes = (*row.fixed_size, *row.min_size, *row.max_size)
    if not all(0 < v < 1e6 for v in (*sizes, *row.fixed_ratio, *row.aspect_ratio)):
        raise CheckpointError(f"{where}: PriorBox with sizes or ratios that are not positive")
    if not abs(row.offset) <= 100:
        raise CheckpointError(f"{where}: PriorBox with offset {row.offset}")


def _is_plain(row: Any) -> bool:
    """Whether one size and ratios with their inverses say all of it."""
    ratios = row.aspect_ratio
    all_differ = len(caffe_cell([1.0], (), ratios)) == 1 + 2 * len(ratios)
    return len(row.min_size) == len(row.max_size) == 1 and (row.flip or not ratios) and all_differ


def _image(row: Any, image: tuple[int, int], where: str) -> tuple[int, int]:
    """Height and width of the image that sizes and steps are meant for."""
    height, width = row.img_h or row.img_size or image[0], row.img_w or row.img_size or image[1]
    if not (1 <= height <= 10**6 and 1 <= width <= 10**6):
        raise CheckpointError(f"{where}: PriorBox for images of {width}x{height}")
    return height, width


def _step(row: Any, where: str) -> tuple[float, float]:
    """Pixels between cells, down and across; 0 for those of the map."""
    down, across = row.step_h or row.step, row.step_w or row.step
    if not (0 <= down < 1e6 and 0 <= across < 1e6):
        raise CheckpointError(f"{where}: PriorBox with steps of {across} and {down} pixels")
    return round(float(down), 4), round(float(across), 4)


# ---------------------------------------------------------------------------------------------- heads


class Last(NamedTuple):
    """One of a map's last convolutions, stride 1 and padded to keep the side."""

    source: str
    weight: Tensor
    bias: Tensor | None


def build(
    maps: Sequence[Map], end: End, body: FusedGraph, table: tuple[PriorSpec, list[Tensor]], input_spec: InputSpec
) -> SSD:
    """Adds the heads and makes the model. table: as `spec_of_rows` gives it."""
    priors, factors = table
    of_cell = end.classes if end.box_of_each_class else 1
    for m, boxes, (rows, cells), factor in zip(maps, priors.per_cell, priors.grids, factors, strict=True):
        given = m.channels or (range(body.shapes[m.location].channels), range(body.shapes[m.confidence].channels))
        for i, columns, taken in zip((m.location, m.confidence), (4 * of_cell, end.classes), given, strict=True):
            if body.shapes[i]._replace(channels=len(taken)) != Shape(boxes * columns, rows, cells):
                found, op = body.shapes[i], body.ops[i]
                raise body.refuse(
                    op,
                    f"gives {found.channels}x{found.height}x{found.width}, want {boxes} x {columns} x {rows} x {cells}",
                )
        location, confidence = _last(body, m.location), _last(body, m.confidence)
        if m.channels is not None:
            location, confidence = _chosen(location, m.channels[0]), _chosen(confidence, m.channels[1])
        location = _one_box(location, boxes, end, factor)
        confidence = _background_first(confidence, boxes, end)
        kernel = max(location.weight.shape[-1], confidence.weight.shape[-1])
        location, confidence = _same_form(location, kernel, confidence), _same_form(confidence, kernel, location)
        body.assembly.head(
            location.source, confidence.source, location.weight, location.bias, confidence.weight, confidence.bias
        )
    real = end.classes - (end.background >= 0)
    return body.assembly.build(real, priors, input_spec, "custom")


def _last(body: FusedGraph, i: int) -> Last:
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


def _chosen(last: Last, channels: Sequence[int]) -> Last:
    """Some of its outputs, in that order."""
    rows = torch.tensor(channels)
    return last._replace(weight=last.weight[rows], bias=None if last.bias is None else last.bias[rows])


def _one_box(last: Last, boxes: int, end: End, factor: Tensor) -> Last:
    """The box of the only real class where each has one; and dx dy dw dh times `factor`."""

    def taken(values: Tensor) -> Tensor:
        rows = values.reshape(boxes, -1, 4, *values.shape[1:])
        rows = rows[:, next(c for c in range(end.classes) if c != end.background) if end.box_of_each_class else 0]
        return (rows * factor.view(4, *[1] * (values.dim() - 1)).float()).reshape(-1, *values.shape[1:])

    return last._replace(weight=taken(last.weight), bias=None if last.bias is None else taken(last.bias))


def _background_first(last: Last, boxes: int, end: End) -> Last:
    """The background's column in front; where there is none, one that never has a score."""
    if end.background == 0:
        return last
    if end.background < 0:
        bias = torch.zeros(len(last.weight)) if last.bias is None else last.bias
        return Last(last.source, *with_background(last.weight, bias, boxes, _NEVER))
    order = [end.background, *(c for c in range(end.classes) if c != end.background)]

    def moved(values: Tensor) -> Tensor:
        return values.reshape(boxes, end.classes, *values.shape[1:])[:, order].reshape(values.shape)

    return last._replace(weight=moved(last.weight), bias=None if last.bias is None else moved(last.bias))


def _same_form(last: Last, kernel: int, other: Last) -> Last:
    """The same numbers with a kernel of that side, and a bias where the other has one."""
    weight = widened(last.weight, kernel)
    bias = torch.zeros(len(weight)) if last.bias is None and other.bias is not None else last.bias
    return last._replace(weight=weight, bias=bias)
