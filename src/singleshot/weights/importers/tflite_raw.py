"""TensorFlow Lite detectors that end in raw boxes and scores: their default boxes are in the code that runs them.

Those of the Object Detection API without its operator (MediaPipe's ssdlite_object_detection.tflite, TensorFlow Lite's
first demo, which had them in box_priors.txt) are read with the API's sample default boxes where these are as many.
"""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise
from typing import NamedTuple

from singleshot.errors import CheckpointError
from singleshot.inputs import InputSpec
from singleshot.weights.class_lists import fit_names
from singleshot.weights.class_names import coco_by_number, usual_names
from singleshot.weights.imported_model import ImportedModel, classes_of
from singleshot.weights.importers.tf_detection_settings import Settings
from singleshot.weights.importers.tf_suppression import OPERATOR
from singleshot.weights.importers.tflite_graph import GraphImport
from singleshot.weights.importers.tflite_heads import outputs_of, run_heads
from singleshot.weights.other_layouts import FACES, KNOWN, LINEAR

# MediaPipe's detectors, by the values of a box: four, and two for each key point.
_KEY_POINTS = {16: "face", 18: "palm", 12: "pose"}
_MAPS, _BOXES = 6, (3, 6, 6, 6, 6, 6)  # object_detection/samples/configs/ssd_mobilenet_v*_coco.config


def describe_raw(graph: GraphImport) -> str:
    """What a detector without the operator is, by its outputs [1, P, values] and [1, P, classes]; "" for none."""
    shapes = sorted(graph.value(index).shape for index in graph.network.outputs if index >= 0)
    if len(shapes) != 2 or not all(len(shape) == 3 for shape in shapes) or shapes[0][:2] != shapes[1][:2]:
        return ""
    (_, count, few), (_, _, many) = shapes
    if few == 1 and many in _KEY_POINTS:
        advice = FACES if _KEY_POINTS[many] == "face" else KNOWN
        return f"MediaPipe's {_KEY_POINTS[many]} detector, {count} anchors without {OPERATOR}: {LINEAR}; {advice}"
    if few == 4 or many == 4:
        return (
            f"boxes and scores of {count} default boxes, which are in its project's code and not in the file: want a"
            f" .tflite that ends in {OPERATOR}, or the checkpoint that it was made from"
        )
    return ""


class RawOutputs(NamedTuple):
    """Indices of the outputs [1, P, 4] and [1, P, columns]."""

    boxes: int
    scores: int
    columns: int


def raw_outputs(graph: GraphImport) -> RawOutputs | None:
    """The two outputs of a detector without the operator; None for another network."""
    outputs = graph.network.outputs
    shapes = [graph.value(index).shape for index in outputs if index >= 0]
    if len(shapes) != 2 or not all(len(shape) == 3 for shape in shapes) or shapes[0][1] != shapes[1][1]:
        return None
    first = 0 if shapes[0][2] == 4 else 1  # where both have four columns, boxes come first
    columns = shapes[1 - first][2]
    return RawOutputs(outputs[first], outputs[1 - first], columns) if shapes[first][2] == 4 and columns > 1 else None


def raw_model(graph: GraphImport, found: RawOutputs, pixels: tuple[InputSpec, tuple[str, ...]]) -> ImportedModel | None:
    """The detector with the API's sample default boxes; None where its heads are not as those are."""
    spec, notes = pixels
    try:
        heads, activation = outputs_of(graph, found.boxes, found.scores, found.columns, raw=True)
    except CheckpointError:
        return None
    maps = [head.sides[0] for head in heads]
    halves = all(b == -(-a // 2) for a, b in pairwise(maps))
    if tuple(head.boxes for head in heads) != _BOXES or len(maps) != _MAPS or not halves:
        return None
    where, num_classes = graph.where, classes_of(found.columns, graph.where)
    priors = Settings(size=spec.size).priors(maps, _BOXES, where)
    run_heads(graph, heads, num_classes, found.columns, dict.fromkeys("yxhw", 1.0))
    graph.tensors.ignore(*graph.tensors)
    model = graph.assembly.build(num_classes, priors, spec, "custom")
    thresholds = Settings().thresholds
    notes = (
        *notes,
        "the file has no default boxes: assumed to be the Object Detection API's samples' (--priors)",
        f"the file does not suppress boxes: the API's thresholds, scores by {activation or 'sigmoid'}",
    )
    lines = next((names for names, _ in (fit_names(rows, num_classes) for rows in graph.network.labels) if names), None)
    names = lines or usual_names(num_classes) or (coco_by_number() if num_classes == 90 else None)
    about = f"TensorFlow Lite SSD without {OPERATOR}, input {spec.size_text}"
    rule = replace(thresholds, activation=activation or thresholds.activation)
    return ImportedModel(model, about, names, rule, notes, ("size",))
