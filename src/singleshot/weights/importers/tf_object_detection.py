"""TensorFlow's Object Detection API: SSD on MobileNet v1 and v2 and on Inception v2, SSDLite, and on pyramids (FPN).

From checkpoints and frozen graphs, which have the same variables. Names and structure: tensorflow/models,
research/object_detection/models/feature_map_generators.py and predictors/convolutional_box_predictor.py.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace

import torch.nn.functional as F

from singleshot.errors import CheckpointError, printable
from singleshot.inputs import InputSpec
from singleshot.models import SSD
from singleshot.weights.class_names import coco_by_number, usual_names
from singleshot.weights.foreign_state import ForeignState
from singleshot.weights.graph_builder import swap_xy, widened
from singleshot.weights.imported_model import ImportedModel, Importer, classes_of
from singleshot.weights.importers.graphdef_network import heads_of
from singleshot.weights.importers.tf_detection_settings import settings_of
from singleshot.weights.importers.tf_keras_names import INCEPTION, V1, V2, is_keras
from singleshot.weights.importers.tf_networks import Builder, inception_v2, mobilenet_v1, mobilenet_v2
from singleshot.weights.importers.tf_pyramid import PYRAMID_SIZE, has_pyramid, pyramid_model
from singleshot.weights.importers.tflite_heads import paired_heads, run_heads
from singleshot.weights.readers.graphdef import MAX_NAME, GraphDef, Node
from singleshot.weights.readers.tf_companions import Companions
from singleshot.weights.readers.tf_tensors import OPTIMIZER_SLOT

# Other models of the same API, by a part of their names.
_OTHERS = (
    ("FirstStage", "a two-stage detector (Faster R-CNN, R-FCN or Mask R-CNN), not an SSD"),
    ("_bifpn", "an EfficientDet, not an SSD"),
    ("/_first_stage_", "a two-stage detector (Faster R-CNN), not an SSD"),
    ("/_prediction_head_dict/", "a CenterNet, not an SSD"),
)
# Networks that are read along their graph alone, by the first part of their names.
_BY_GRAPH = (
    ("FeatureExtractor/MobilenetV3", "MobileNet v3"),
    ("FeatureExtractor/MobilenetEdgeTPU", "MobileNet EdgeTPU"),
    ("FeatureExtractor/MobileDet", "MobileDet"),
    ("FeatureExtractor/InceptionV3", "Inception v3"),
)
# What training leaves in a checkpoint: slots of optimizers, counters, ranges of fake quantisation.
_SLOTS = re.compile(
    rf"{OPTIMIZER_SLOT}|/ExponentialMovingAverage$|(^|/)\w*_quant/"
    r"|^(global_step|save_counter|beta\d_power)$"
)


_NETWORKS: tuple[tuple[str, str, Callable[[Builder], tuple[str, list[str]]]], ...] = (
    (V1, "MobileNet v1", mobilenet_v1),
    (V2, "MobileNet v2", mobilenet_v2),
    (INCEPTION, "Inception v2", inception_v2),
)


def _extras(build: Builder, prefix: str, maps: list[str], count: int) -> None:
    """Further maps, each of half the side: 1x1, then 3x3 of stride 2, or a depthwise one and 1x1 (SSDLite)."""
    block = build.settings.extras
    for i in range(len(maps), count):
        found = {}
        for which, pattern in ((1, r"1x1_\d+"), (2, r"(\d)x\1_s2_\d+")):
            fits = re.compile(rf"{re.escape(prefix)}_{which}_Conv2d_{i}_{pattern}(?=/|_depthwise/)")
            scopes = sorted({match[0] for name in build.names if (match := fits.match(name))})
            if len(scopes) > 1:
                raise CheckpointError(f"{build.tensors.where}: two layers {printable(', '.join(scopes), 160)}")
            found[which] = scopes[0] if scopes else ""
        if not found[2]:
            build.tensors.missing(f"{prefix}_2_Conv2d_{i}_3x3_s2_...")
            return
        x = build.conv(found[1], maps[-1], block) if found[1] else maps[-1]
        if build.has(f"{found[2]}_depthwise/depthwise_weights"):
            x = build.conv(f"{found[2]}_depthwise", x, block, stride=2, depthwise=True)
            maps.append(build.conv(found[2], x, block))
        else:
            maps.append(build.conv(found[2], x, block, stride=2))


def _head(build: Builder, i: int, x: str, boxes: int, columns: int) -> None:
    """BoxPredictor_i: [H, W, boxes * 4] of ty tx th tw, and [H, W, boxes * columns] with background first."""
    block, scope = build.settings.predictor, f"BoxPredictor_{i}"
    fits = re.compile(rf"{scope}/Conv2d_(\d+)_1x1_\d+(?=/)")
    layers = {int(match[1]): match[0] for name in build.names if (match := fits.match(name))}
    for _, layer in sorted(layers.items()):
        x = build.conv(layer, x, block)
    ends, weights = [], []
    for name, outputs in (("BoxEncodingPredictor", boxes * 4), ("ClassPredictor", boxes * columns)):
        end = x
        if build.has(f"{scope}/{name}_depthwise/depthwise_weights"):
            end = build.conv(f"{scope}/{name}_depthwise", x, block, depthwise=True)
        ends.append(end)
        weight = build.take(f"{scope}/{name}/weights", None, None, build.net.channels[end], outputs).permute(3, 2, 0, 1)
        # A kernel cut down to a map of 2 x 2, padded behind: the same in the middle of 3.
        if weight.shape[2:] == (2, 2):
            weight = F.pad(weight, (1, 0, 1, 0))
        if weight.shape[2:] not in ((1, 1), (3, 3)):
            raise CheckpointError(f"{build.tensors.where}: {scope}/{name}: a kernel of {tuple(weight.shape[2:])}")
        weights.append((weight, build.take(f"{scope}/{name}/biases", outputs)))
    side = max(weight.shape[-1] for weight, _ in weights)
    (location, shift), (confidence, bias) = ((widened(w, side), b) for w, b in weights)
    build.net.head(ends[0], ends[1], swap_xy(location, boxes), swap_xy(shift, boxes), confidence, bias)


def _boxes_and_columns(build: Builder, where: str) -> tuple[list[int], int]:
    """Boxes a cell of each map, and columns of the class scores, background among them."""
    boxes: list[int] = []
    columns = 0
    while (width := build.width(f"BoxPredictor_{len(boxes)}/BoxEncodingPredictor", ("biases", "weights"))) is not None:
        name = f"BoxPredictor_{len(boxes)}"
        scores = build.width(f"{name}/ClassPredictor", ("biases", "weights")) or 0
        if width % 4 or not width or scores % (width // 4) or (columns and scores != columns * width // 4):
            raise CheckpointError(f"{where}: {name} has {width} values for boxes and {scores} for classes")
        boxes.append(width // 4)
        columns = scores // boxes[-1]
    if not boxes:
        raise CheckpointError(
            f"{where}: no BoxPredictor_0/BoxEncodingPredictor: not an SSD of the Object Detection API"
        )
    return boxes, columns


def _convert(tensors: ForeignState) -> ImportedModel:
    where = tensors.where
    if max(map(len, tensors), default=0) > MAX_NAME:
        raise CheckpointError(f"{where}: a name of more than {MAX_NAME} letters, which no model of this API has")
    companions = tensors.structure if isinstance(tensors.structure, Companions) else Companions()
    for part, what in _OTHERS:
        if any(part in name for name in tensors):
            raise CheckpointError(f"{where}: {what}")
    settings = settings_of(companions.graph, companions.config, where)
    described = companions.graph is not None or companions.config is not None
    if not described:
        pyramid = any("/fpn/" in name or "/_fpn_" in name for name in tensors)
        settings = replace(settings, size=tensors.take_size(PYRAMID_SIZE if pyramid else settings.size))
    build = Builder(tensors, settings)
    if has_pyramid(build):
        model, source = pyramid_model(build)
    else:
        model, source = _plain_model(build, companions.graph)
    notes = _ignore_training(tensors)
    tensors.finish(source)
    num_classes = model.num_classes
    if settings.num_classes not in (0, num_classes):
        raise CheckpointError(f"{where}: {num_classes} classes, but pipeline.config says {settings.num_classes}")
    if not described:
        notes.append("no pipeline.config next to it: anchors and thresholds are those of the API's samples")
    classes, note = _class_names(companions, num_classes, where), ""
    if classes not in (None, usual_names(num_classes)) and not companions.given:
        note = f"class names from {printable(companions.label_file, 80)} next to it"
    fixed = ("size", "priors") if described else ()
    return ImportedModel(model, source, classes, settings.thresholds, tuple(notes), fixed, names_note=note)


def _plain_model(build: Builder, graph: GraphDef | None) -> tuple[SSD, str]:
    """-> the model, and what it is; every map has its own predictor."""
    where = build.tensors.where
    found = [row for row in _NETWORKS if any(name.startswith(f"{row[0]}/") for name in build.names)]
    if not found and graph is not None:
        return _graph_model(build, graph)
    if other := next((what for start, what in _BY_GRAPH if any(n.startswith(start) for n in build.names)), ""):
        raise CheckpointError(
            f"{where}: an SSD on {other}, which is read along its graph: want its frozen graph"
            " (frozen_inference_graph.pb or tflite_graph.pb)"
        )
    if len(found) != 1:
        names = printable(", ".join(list(build.tensors)[:3]), 120)
        raise CheckpointError(
            f"{where}: no SSD on MobileNet v1, v2 or Inception v2 of the Object Detection API (it holds {names} ...)"
        )
    boxes, columns = _boxes_and_columns(build, where)
    _, network, make = found[0]
    prefix, maps = make(build)
    maps = maps[: len(boxes)]
    _extras(build, prefix, maps, len(boxes))
    for i, (x, count) in enumerate(zip(maps, boxes, strict=False)):
        _head(build, i, x, count, columns)
    lite = build.has("BoxPredictor_0/BoxEncodingPredictor_depthwise/depthwise_weights")
    source = f"TensorFlow Object Detection API SSD{'Lite' if lite else ''} on {network}"
    input_spec = _input_spec(build)
    name = f"tf-{'ssdlite' if lite else 'ssd'}-{network.replace(' ', '').lower()}"
    if len(maps) < len(boxes):
        build.tensors.finish(source)
    priors = build.settings.priors([build.sides[x] for x in maps], boxes, where)
    return build.net.build(classes_of(columns, where), priors, input_spec, name), source


def _input_spec(build: Builder) -> InputSpec:
    """preprocess() of all feature extractors but ResNet's: (2 / 255) x - 1."""
    return InputSpec(build.settings.size, "stretch", "rgb", (127.5,) * 3, (127.5,) * 3)


def _graph_model(build: Builder, graph: GraphDef) -> tuple[SSD, str]:
    """A network that no table here has, along its graph: whatever leads from the image to the predictors."""
    tensors, size = build.tensors, build.settings.size
    boxes, columns = _boxes_and_columns(build, tensors.where)
    convs = {source.name: node.name for node in graph.of("Conv2D") if (source := _weights_of(graph, node)) is not None}
    ends = []
    for i in range(len(boxes)):
        for part in ("BoxEncodingPredictor", "ClassPredictor"):
            name = f"BoxPredictor_{i}/{part}/weights"
            if name not in convs:
                raise CheckpointError(f"{tensors.where}: no Conv2D takes {name}")
            ends.append(convs[name])
    found = heads_of(graph, size, ends)
    heads = paired_heads(found.graph, found.operations, columns)
    num_classes = classes_of(columns, tensors.where)
    run_heads(found.graph, heads, num_classes, columns, dict.fromkeys("yxhw", 1.0))
    tensors.ignore(*tensors)
    network = next((what for start, what in _BY_GRAPH if any(n.startswith(start) for n in tensors)), "its own network")
    lite = build.has("BoxPredictor_0/BoxEncodingPredictor_depthwise/depthwise_weights")
    about = f"TensorFlow Object Detection API SSD{'Lite' if lite else ''} on {network}"
    priors = build.settings.priors([head.sides[0] for head in heads], boxes, tensors.where)
    return found.graph.assembly.build(num_classes, priors, _input_spec(build), "custom"), about


def _weights_of(graph: GraphDef, node: Node) -> Node | None:
    return graph.source(node.inputs[1]) if len(node.inputs) > 1 else None


def _ignore_training(tensors: ForeignState) -> list[str]:
    """-> what a user should know of it."""
    left = [name for name in tensors if _SLOTS.search(name)]
    tensors.ignore(*left)
    notes = []
    if any(name.endswith("/ExponentialMovingAverage") for name in left):
        notes.append("its moving averages were left out, as the API's own export does unless asked to")
    if any("_quant/" in name for name in left):
        notes.append("trained for 8 bits: the rounding that imitates them is left out")
    return notes


def _class_names(companions: Companions, num_classes: int, where: str) -> tuple[str, ...] | None:
    """The label map's, which numbers from 1; COCO's 90 numbers; else None."""
    labels = companions.labels
    if labels is not None:
        named = {number: name for number, name in labels.items() if number != 0}
        if named and min(named) >= 1 and max(named) <= num_classes:
            return tuple(named.get(i) or f"unused {i}" for i in range(1, num_classes + 1))
        if companions.given:
            raise CheckpointError(
                f"{where}: {num_classes} classes, but the label map numbers {min(named, default=0)} to"
                f" {max(named, default=0)}"
            )
    return coco_by_number() if num_classes == 90 else None


def _matches(tensors: ForeignState) -> bool:
    """Names of the Object Detection API, also those of models that are then refused by name."""
    starts = ("FeatureExtractor/", "BoxPredictor_0/", "FirstStage", "WeightSharedConvolutionalBoxPredictor")
    if is_keras(tensors):
        return True
    return any(name.startswith(starts) for name in tensors)


IMPORTERS = (Importer("tf-object-detection", _convert, kind="", matches=_matches),)
