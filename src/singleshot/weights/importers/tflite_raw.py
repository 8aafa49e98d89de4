"""TensorFlow Lite detectors that end in raw boxes and scores: their default boxes are in the code that runs them.

Those of the Object Detection API without its operator (MediaPipe's ssdlite_object_detection.tflite, TensorFlow Lite's
first demo, which had them in box_priors.txt) are read with the API's sample default boxes where these are as many,
others with those of a known project that has as many on the same maps (Ultra-Light's).
"""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise
from typing import NamedTuple

from singleshot.errors import CheckpointError
from singleshot.inputs import InputSpec
from singleshot.prior_boxes import PriorSpec
from singleshot.weights.class_lists import fit_names
from singleshot.weights.class_names import coco_by_number, usual_names
from singleshot.weights.imported_model import ImportedModel, classes_of
from singleshot.weights.importers.known_boxes import boxes_note, known_boxes, names_by_project
from singleshot.weights.importers.tf_detection_settings import Settings
from singleshot.weights.importers.tf_suppression import OPERATOR
from singleshot.weights.importers.tflite_graph import GraphImport
from singleshot.weights.importers.tflite_heads import outputs_of, run_heads
from singleshot.weights.other_layouts import mediapipe_detector

_HALF = 127.5  # of pixels, as the API's MobileNets take them: -1..1
_API_NOTE = "the file has no default boxes: assumed to be the Object Detection API's samples' (--priors)"
_BOXES = (3, 6, 6, 6, 6, 6)  # object_detection/samples/configs/ssd_mobilenet_v*_coco.config


def describe_raw(graph: GraphImport) -> str:
    """What a detector without the operator is, by its outputs [1, P, values] and [1, P, classes]; "" for none."""
    shapes = sorted(graph.value(index).shape for index in graph.network.outputs if index >= 0)
    if len(shapes) != 2 or not all(len(shape) == 3 for shape in shapes) or shapes[0][:2] != shapes[1][:2]:
        return ""
    (_, count, few), (_, _, many) = shapes
    if named := mediapipe_detector(many, few, count):
        return named
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


def raw_model(graph: GraphImport, found: RawOutputs) -> ImportedModel | None:
    """The detector with default boxes that a known project has on the same maps; None where none has as many."""
    image = graph.side(graph.network.inputs[0]) if graph.network.inputs else (0, 0, 0)
    try:
        heads, activation = outputs_of(graph, found.boxes, found.scores, found.columns, raw=True)
    except CheckpointError:
        return None
    per_cell, sides = tuple(head.boxes for head in heads), image[:2]
    known = known_boxes(tuple(head.sides for head in heads), per_cell, sides) if image[2] == 3 else []
    api = _of_api([head.sides for head in heads], per_cell, sides, graph.where) if image[2] == 3 else None
    given = graph.tensors.given_priors
    if api is None and not known:
        return None
    num_classes = classes_of(found.columns, graph.where)
    if api is not None:
        spec = InputSpec(height=sides[0], width=sides[1], mean=(_HALF,) * 3, std=(_HALF,) * 3)
        priors, rule, notes = api, Settings().thresholds, [] if given else [_API_NOTE]
        notes.append("the file does not say how its input is normalised: taken to be -1..1")
    else:
        priors, spec, rule = known[0].priors, known[0].input, known[0].thresholds or Settings().thresholds
        notes = boxes_note(known, given)
        notes.append(f"pixels are assumed to come as those of {known[0].project} (--mean, --std, --colour-order)")
    notes.append("the file does not suppress boxes: the thresholds are the same project's")
    run_heads(graph, heads, num_classes, found.columns, None if api is None else dict.fromkeys("yxhw", 1.0))
    graph.tensors.ignore(*graph.tensors)
    model = graph.assembly.build(num_classes, priors, spec, "custom")
    names = usual_names(num_classes) or (coco_by_number() if api is not None and num_classes == 90 else None)
    names = next((own for own, _ in (fit_names(rows, num_classes) for rows in graph.network.labels) if own), names)
    if names is None and api is None:
        names, assumed = names_by_project(known, num_classes)
        notes += assumed
    about = f"TensorFlow Lite SSD without {OPERATOR}, input {spec.size_text}"
    rule = replace(rule, activation=activation or rule.activation)
    return ImportedModel(model, about, names, rule, tuple(notes), ("size",))


def _of_api(
    grids: list[tuple[int, int]], per_cell: tuple[int, ...], image: tuple[int, ...], where: str
) -> PriorSpec | None:
    """The API's sample default boxes for these maps; None for maps that its networks do not have."""
    maps = [rows for rows, columns in grids if rows == columns]
    halves = all(b == -(-a // 2) for a, b in pairwise(maps))
    if per_cell != _BOXES or len(maps) != len(_BOXES) or not halves or image[0] != image[1]:
        return None
    return Settings(size=image[0]).priors(maps, per_cell, where)
