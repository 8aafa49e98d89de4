"""SSD detectors of TensorFlow's Object Detection API as .tflite files, float or quantised.

The network ends in TFLite_Detection_PostProcess (tensorflow/lite/kernels/detection_postprocess.cc), which has the box
encodings ty tx th tw, the scores of background and classes, the anchors y x h w, and the thresholds as its options.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from singleshot.conventions import RESNET_MEAN
from singleshot.errors import CheckpointError, ConfigError, printable
from singleshot.inputs import InputSpec
from singleshot.model_info import EXPORTED, ModelInfo
from singleshot.prior_boxes import PriorSpec, from_shapes, prior_table
from singleshot.thresholds import Thresholds
from singleshot.weights.class_lists import fit_names
from singleshot.weights.class_names import usual_names
from singleshot.weights.foreign_state import ForeignState
from singleshot.weights.imported_model import ImportedModel, Importer
from singleshot.weights.importers.tf_suppression import OPERATOR, of_operator
from singleshot.weights.importers.tflite_graph import SAME_VALUES, GraphImport
from singleshot.weights.importers.tflite_heads import Head, outputs_of, run_heads
from singleshot.weights.importers.tflite_raw import describe_raw, raw_model, raw_outputs
from singleshot.weights.readers.tflite import EDGE_TPU, Network, Operation

# Options of the operator that must be there.
_LIMITS = ("nms_score_threshold", "nms_iou_threshold", "max_detections")
# The image behind normalisation in a file that singleshot exported.
NORMALISED = "normalised"
_CLASSIFIER, _YOLO = ", as classifiers do", ", as YOLOs do"
_MANY_BOXES = 1000  # in one output with all that there is of them: a YOLO
_MOST_ROUNDED = 0.01  # of quantised anchors: those that may be a step away from their grid
# object_detection/models/*mobilenet*: preprocess() brings 0..255 to -1..1.
_USUAL_MEAN = 127.5
_LEAST_LOGIT = -1.0  # above which a range leaves out what most boxes have: toco's --default_ranges_min=0


def _convert(tensors: ForeignState) -> ImportedModel:
    graph = GraphImport(tensors)
    try:
        if not any(op.kind in (OPERATOR, EDGE_TPU) for op in graph.network.operations):
            found = raw_outputs(graph)
            if found is not None and (model := raw_model(graph, found)):
                return model
        return _detector(graph, _detection(graph))
    except ConfigError as error:
        raise CheckpointError(f"{tensors.where}: {error}") from error


def _detector(graph: GraphImport, op: Operation) -> ImportedModel:
    where, options = graph.where, op.options
    columns = graph.value(graph.input(op, 1)).shape[-1:]
    num_classes = int(_option(options, "num_classes", where))
    if columns not in ((num_classes,), (num_classes + 1,)) or num_classes < 1:
        raise CheckpointError(f"{where}: scores of shape {columns} for {num_classes} classes")
    heads, activation = outputs_of(graph, graph.input(op, 0), graph.input(op, 1), columns[0])
    anchors, quantum = _anchors(graph, graph.input(op, 2))
    boxes = sum(head.priors for head in heads)
    if boxes != len(anchors):
        raise CheckpointError(f"{where}: {len(anchors)} anchors for {boxes} boxes")
    ours = _our_description(graph, num_classes, anchors)
    spec, notes = (ours.input_spec, ()) if ours else input_spec(graph.network, where)
    scales = {name: float(_option(options, f"{name}_scale", where)) for name in "yxhw"}
    if min(scales.values()) <= 0:
        raise CheckpointError(f"{where}: box scales {scales}: want positive numbers")
    variances = 1 / scales["x"], 1 / scales["w"]
    priors, off = (ours.priors, "") if ours else _prior_spec(anchors, quantum, heads, spec.size, variances, where)
    run_heads(graph, heads, num_classes, columns[0], scales)
    thresholds, more = (ours.thresholds, ()) if ours else _thresholds(options, activation, where)
    least = min(graph.value(head.confidence.outputs[0]).limits[0] for head in heads)
    if activation == "sigmoid" and least > _LEAST_LOGIT:
        more += (
            f"the file keeps its logits at {least:g} and more, a range that was not measured, so that all scores are"
            f" {1 / (1 + math.exp(-least)):.2g} at least in TensorFlow Lite; here they are not kept within it",
        )
    graph.tensors.ignore(*graph.tensors)  # a file may hold more than its network uses
    graph.tensors.finish("an SSD of TensorFlow's Object Detection API")
    model = graph.assembly.build(num_classes, priors, spec, "custom")
    model.pretrained = ours.pretrained if ours else None
    precision = _precision(graph.network)
    fixed = ("size", "priors") if precision == "float" and not ours else ("size", "priors", "mean", "std")
    about = f"TensorFlow Lite SSD, {precision}, input {spec.size_text}"
    names = ours.class_names if ours else _names(graph.network, num_classes)
    return ImportedModel(model, about, names, thresholds, tuple(filter(None, (*notes, *more, off))), fixed)


def _our_description(graph: GraphImport, num_classes: int, anchors: np.ndarray) -> ModelInfo | None:
    """That of a file that singleshot exported, whose image is taken from behind its normalisation. Raises
    CheckpointError where it is not of this network."""
    if graph.network.description is None:
        return None
    info = ModelInfo.from_json(graph.network.description, graph.where, (*EXPORTED, "priors"))
    names = [value.name for value in graph.network.values]
    shape = () if NORMALISED not in names else graph.network.values[names.index(NORMALISED)].shape
    table = prior_table(info.priors)
    if shape != (1, *info.input_spec.shape) or len(info.class_names) != num_classes:
        raise CheckpointError(f"{graph.where}: its description is of another network")
    if table.shape != anchors.shape or not np.abs(table - anchors).max() < 1e-5:
        raise CheckpointError(f"{graph.where}: its anchors are not those of its description")
    graph.layers[names.index(NORMALISED)] = graph.assembly.image
    graph.assembly.channels[graph.assembly.image] = info.input_spec.channels
    return info


def _detection(graph: GraphImport) -> Operation:
    """The operator that ends a detector; CheckpointError says what the network is instead."""
    if any(op.kind == EDGE_TPU for op in graph.network.operations):
        raise CheckpointError(
            f"{graph.where}: compiled for the Edge TPU, whose code holds its layers; want the .tflite that"
            " edgetpu_compiler was given (its name has no _edgetpu)"
        )
    found = [op for op in graph.network.operations if op.kind == OPERATOR]
    if len(found) == 1:
        return found[0]
    if raw := describe_raw(graph):
        raise CheckpointError(f"{graph.where}: {raw}")
    ends = ", ".join(_ending(graph, index) for index in graph.network.outputs[:3]) or "nothing"
    custom = sorted({op.kind for op in graph.network.operations if not op.kind.isupper() and op.kind != OPERATOR})
    more = f", and has operators of its own: {printable(', '.join(custom[:3]), 120)}" if custom else ""
    raise CheckpointError(
        f"{graph.where}: not an SSD detector: {len(found) or 'no'} {OPERATOR} in its"
        f" {len(graph.network.operations)} operators; it ends in {ends}{more}"
        + ("" if _CLASSIFIER in ends or _YOLO in ends else f"; want a .tflite that ends in {OPERATOR}")
    )


def _ending(graph: GraphImport, output: int) -> str:
    """What computes an output, behind what only changes its form."""
    index = output
    for _ in range(100):
        op = graph.producers.get(index)
        if op is None or op.kind not in SAME_VALUES or not op.inputs:
            break
        index = op.inputs[0]
    dims = graph.value(index).shape if index >= 0 else ()
    shape = "x".join(map(str, dims)) or "?"
    like = ""
    if len(dims) == 3 and len(graph.network.outputs) == 1 and max(dims) >= _MANY_BOXES > 10 * min(dims[1:]):
        like = _YOLO
    if op is None:
        return f"its input of shape {shape}{like}"
    if op.kind == "SOFTMAX" or (op.kind == "LOGISTIC" and len(dims) == 2):
        like = _CLASSIFIER
    return f"{printable(op.kind, 60)} of shape {shape}{like}"


# ---------------------------------------------------------------------------------------------- anchors


def _anchors(graph: GraphImport, index: int) -> tuple[np.ndarray, float]:
    """Anchors cx cy w h as float64 [P, 4], and the step that they are rounded to, 0 where they are plain numbers."""
    values = graph.constant(index)
    if values.dim() != 2 or values.shape[1] != 4 or not values.is_floating_point():
        raise CheckpointError(f"{graph.where}: anchors of shape {tuple(values.shape)}, want [P, 4]")
    scales = graph.value(index).scales
    return values[:, [1, 0, 3, 2]].double().numpy(), float(scales[0]) if len(scales) == 1 else 0.0


def _prior_spec(
    anchors: np.ndarray, quantum: float, heads: list[Head], size: int, variances: tuple[float, float], where: str
) -> tuple[PriorSpec, str]:
    """The grids that the anchors follow: a spec that gives them back, and a note where that is but nearly so. Raises
    CheckpointError when there is none."""
    grids, start = [], 0
    for head in heads:
        grids.append(anchors[start : start + head.priors].reshape(*head.sides, head.boxes, 4))
        start += head.priors
    middles = [np.median(grid[..., 2:], axis=(0, 1)) for grid in grids]
    shapes = tuple(tuple((float(w) * size, float(h) * size) for w, h in rows) for rows in middles)
    maps = [head.sides[0] for head in heads]
    usual = replace(from_shapes(size, maps, shapes), variances=variances, rounding=quantum)
    for spec in (usual, _fitted(usual, grids)):
        off = np.abs(prior_table(spec).astype(np.float64) - anchors)
        if off.max() < 1e-6:
            return spec, ""
        # Quantised: a converter rounds the corners' differences, which may fall to either side of half a step.
        count = int((off > 0.5 * quantum).any(axis=1).sum())
        if off.max() < 1.001 * quantum and count <= _MOST_ROUNDED * len(anchors):
            return spec, f"{count} of its {len(anchors)} anchors are rounded otherwise, by {quantum * size:.2g} px"
    raise CheckpointError(f"{where}: its anchors do not lie on a grid of each map's cells, with one set of shapes")


def _fitted(usual: PriorSpec, grids: list[np.ndarray]) -> PriorSpec:
    """With the steps in pixels and the offsets in cells that are nearest to the anchors' centres."""
    size, steps, offsets = usual.image[0], [], []
    for grid in grids:
        centres = grid[0, :, 0, 0]
        if len(centres) > 1:
            slope, start = np.polyfit(np.arange(len(centres)), centres, 1)
            steps.append(float(slope))
            offsets.append(round(float(start / slope), 6) if slope else 0.5)
        else:  # a single cell says where it is, not how far the next would be
            offsets.append(offsets[0] if offsets else 0.5)
            steps.append(float(centres[0]) / (offsets[-1] or 0.5))
    spec = replace(usual, steps=tuple(round(step * size, 4) for step in steps), offset=offsets[0])
    if len(set(offsets)) == 1:
        return spec
    within = [min(max(offset, 0.0), 1.0) for offset in offsets]
    return replace(spec, offset=0.5, centres=tuple(((x, x),) * n for x, n in zip(within, usual.per_cell, strict=True)))


# ---------------------------------------------------------------------------------------------- what goes with it


def _option(options: Mapping[str, Any], name: str, where: str) -> float:
    if name not in options:
        raise CheckpointError(f"{where}: {OPERATOR} has no {name}")
    value = float(options[name])
    if not np.isfinite(value):
        raise CheckpointError(f"{where}: {OPERATOR} has {name} {value}")
    return value


def _thresholds(options: Mapping[str, Any], activation: str, where: str) -> tuple[Thresholds, tuple[str, ...]]:
    """The file's own, and notes on what they do not say."""
    needed = {name: _option(options, name, where) for name in _LIMITS}
    thresholds = of_operator({**options, **needed}, activation, where)
    notes = []
    if thresholds.keep < 100:
        notes.append(f"keeps at most {thresholds.keep} detections of an image, as the file says")
    if thresholds.class_agnostic and int(options.get("max_classes_per_detection", 1)) > 1:
        notes.append("the file names several classes for a box; here each box has its best")
    return thresholds, tuple(notes)


def input_spec(network: Network, where: str) -> tuple[InputSpec, tuple[str, ...]]:
    """Size and normalisation: as the input is quantised, else as the metadata says, else TensorFlow's -1..1."""
    value = network.values[network.inputs[0]] if network.inputs and network.inputs[0] >= 0 else None
    if value is None or len(value.shape) != 4 or value.shape[1] != value.shape[2] or value.shape[3] != 3:
        raise CheckpointError(f"{where}: input {value.shape if value else 'missing'}, want [1, S, S, 3]")
    size = value.shape[1]
    if len(value.scales) == 1 and value.dtype in ("u1", "i1"):
        # A pixel p is stored as p, or as p - 128 in signed bytes.
        mean = float(value.zeros[0]) + (128.0 if value.dtype == "i1" else 0.0)
        return InputSpec(size=size, mean=(mean,) * 3, std=(1 / float(value.scales[0]),) * 3), ()
    if network.normalisation is not None and all(len(part) in (1, 3) for part in network.normalisation):
        mean3, std3 = ((part * 3)[:3] for part in network.normalisation)
        return InputSpec(size=size, mean=tuple(mean3), std=tuple(std3)), ()
    if any(len(op.inputs) > 1 and network.values[op.inputs[1]].shape[1:] == (7, 7, 3) for op in network.operations):
        spec = InputSpec(size=size, mean=RESNET_MEAN, std=(1.0,) * 3)
        return spec, ("the file does not say how its input is normalised: taken to be ResNet's, a mean taken off",)
    spec = InputSpec(size=size, mean=(_USUAL_MEAN,) * 3, std=(_USUAL_MEAN,) * 3)
    return spec, ("the file does not say how its input is normalised: taken to be -1..1",)


def _names(network: Network, num_classes: int) -> tuple[str, ...] | None:
    """Of the label file that has a line for each class, or one more for background, first."""
    for lines in network.labels:
        names, _ = fit_names(lines, num_classes)
        if names is not None:
            return tuple(printable(name, 100) for name in names)
    return usual_names(num_classes)


def _precision(network: Network) -> str:
    value = network.values[network.inputs[0]]
    if not len(value.scales):  # bytes may be an input of a network in float too
        return "float"
    return {"u1": "quantised (uint8)", "i1": "quantised (int8)"}.get(value.dtype, "float")


IMPORTERS = (Importer("tflite", _convert, "tflite", lambda tensors: tensors.kind == "tflite"),)
