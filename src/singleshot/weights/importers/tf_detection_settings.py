"""How a model of TensorFlow's Object Detection API was configured: by its graph, by the pipeline.config next to it, or
else as in the API's sample configurations (object_detection/samples/configs/ssd_*_coco.config)."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from singleshot.conventions import TF_OBJECT_DETECTION, TF_SAMPLE_RATIOS
from singleshot.errors import CheckpointError, printable
from singleshot.prior_boxes import (
    Anchors,
    PriorSpec,
    Shapes,
    anchor_shapes,
    create_ssd_anchors,
    evenly,
    from_shapes,
    prior_table,
)
from singleshot.thresholds import Thresholds
from singleshot.weights.importers.tf_suppression import OPERATOR, of_operator, within_limits
from singleshot.weights.readers.graphdef import GraphDef, shape_of

# core/post_processing.py with the samples' post_processing.
THRESHOLDS = TF_OBJECT_DETECTION.detection["tf-object-detection"]
RESNET_EPSILON = 1e-5  # slim/nets/resnet_utils.py, resnet_arg_scope; keras_models/resnet_v1.py
_ACTIVATIONS = {1: "relu", 2: "relu6"}  # hyperparams.proto
# TFLite_Detection_PostProcess: options and the field of an AttrValue that each is in.
_OPTIONS = {
    "nms_score_threshold": "f",
    "nms_iou_threshold": "f",
    "max_detections": "i",
    "detections_per_class": "i",
    "use_regular_nms": "b",
}


@dataclass(frozen=True)
class Block:
    """What follows the convolutions of one part of the network. epsilon: of its batch normalisations."""

    activation: str = "relu6"
    epsilon: float = 0.001


@dataclass(frozen=True)
class Pyramid:
    """multiscale_anchor_generator (anchor_generators/multiscale_grid_anchor_generator.py) and the levels: a cell of
    level n is 2^n pixels wide. The default is the samples'."""

    min_level: int = 3
    anchor_scale: float = 4.0
    ratios: tuple[float, ...] = (1.0, 2.0, 0.5)
    scales_per_octave: int = 2

    def priors(self, size: int, maps: Sequence[int], variances: tuple[float, float]) -> PriorSpec:
        """Every ratio in every scale; a cell is halfway between steps, or on one that does not divide the image."""
        strides = [2 ** (self.min_level + i) for i in range(len(maps))]
        octaves = [2 ** (i / self.scales_per_octave) for i in range(self.scales_per_octave)]
        shapes = tuple(
            anchor_shapes(tuple((scale * self.anchor_scale * stride, r) for r in self.ratios for scale in octaves), 1)
            for stride in strides
        )
        begin = [0.0 if size % stride else 0.5 for stride in strides]
        count = len(self.ratios) * len(octaves)
        spec = from_shapes(size, maps, shapes, [float(stride) for stride in strides])
        centres = tuple(((x, x),) * count for x in begin) if min(begin) < 0.5 else None
        return replace(spec, variances=variances, centres=centres)


@dataclass(frozen=True)
class Settings:
    """size: of the input. boxes: for each map, None where nothing tells; anchors: [P, 4] cy cx h w instead, where the
    file holds them ready. variances: of centres and sizes. base, extras, predictor: parts of the network; scopes: what
    the graph says of single layers by name. explicit_padding: as much before as behind at stride 2. clipped: anchors
    cut at the image's border (the API's first versions)."""

    size: int = 300
    boxes: tuple[Anchors, ...] | None = None
    anchors: np.ndarray | None = None
    variances: tuple[float, float] = (0.1, 0.2)
    thresholds: Thresholds = THRESHOLDS
    base: Block = Block()
    extras: Block = Block()
    predictor: Block = Block()
    scopes: Mapping[str, Block] = field(default_factory=dict)
    explicit_padding: bool = False
    clipped: bool = False
    num_classes: int = 0
    pyramid: Pyramid = Pyramid()

    def priors(self, maps: Sequence[int], per_cell: Sequence[int], where: str) -> PriorSpec:
        """maps: sides of the feature maps; per_cell: boxes that each map's predictor has. Raises CheckpointError."""
        if self.anchors is not None:
            return self._from_anchors(self.anchors, maps, per_cell, where)
        usual = create_ssd_anchors(evenly(0.2, 0.95, len(maps)), TF_SAMPLE_RATIOS, reduce_lowest=per_cell[0] == 3)
        boxes = self.boxes or usual
        if [len(shapes) for shapes in boxes] != list(per_cell):
            raise CheckpointError(
                f"{where}: {list(per_cell)} boxes a cell, but anchors for {[len(shapes) for shapes in boxes]};"
                " put its pipeline.config next to it, which says how they were made"
            )
        return self._spec(maps, tuple(anchor_shapes(row, self.size) for row in boxes))

    def _spec(self, maps: Sequence[int], shapes: tuple[Shapes, ...]) -> PriorSpec:
        clip = "corners" if self.clipped else "none"
        return PriorSpec(self.size, tuple(maps), (), (), (), shapes=shapes, variances=self.variances, clip=clip)

    def _from_anchors(self, anchors: np.ndarray, maps: Sequence[int], per_cell: Sequence[int], where: str) -> PriorSpec:
        """The shapes in the first cell of each map, which all other cells must have as well."""
        counts = [side * side * boxes for side, boxes in zip(maps, per_cell, strict=True)]
        if anchors.shape != (sum(counts), 4):
            raise CheckpointError(f"{where}: anchors of shape {anchors.shape}, want {sum(counts)} of 4 numbers")
        starts = np.cumsum([0, *counts[:-1]])
        shapes = tuple(
            tuple((float(w) * self.size, float(h) * self.size) for _, _, h, w in anchors[start : start + boxes])
            for start, boxes in zip(starts, per_cell, strict=True)
        )
        spec = replace(self._spec(maps, shapes), clip="none")
        if not np.allclose(prior_table(spec)[:, [1, 0, 3, 2]], anchors, atol=1e-4):
            raise CheckpointError(f"{where}: anchors that are not the same in every cell of a map, which is not read")
        return spec


def settings_of(graph: GraphDef | None, config: Any, where: str) -> Settings:
    """What the graph says, then what the configuration says. Raises CheckpointError for what cannot be kept to."""
    known = {} if config is None else _from_config(config, where)
    if graph is not None:
        known |= _from_graph(graph, known.get("thresholds", THRESHOLDS), where)
    return Settings(**known)


# ----------------------------------------------------------------------------------------------- pipeline.config


def _from_config(config: Any, where: str) -> dict[str, Any]:
    where = f"{where}: pipeline.config"
    if not config.model.HasField("ssd"):
        raise CheckpointError(f"{where}: describes no SSD")
    ssd = config.model.ssd
    resizer, extractor, anchors = ssd.image_resizer, ssd.feature_extractor, ssd.anchor_generator
    known: dict[str, Any] = {"num_classes": ssd.num_classes, "explicit_padding": extractor.use_explicit_padding}
    if resizer.HasField("keep_aspect_ratio_resizer"):
        raise CheckpointError(f"{where}: keep_aspect_ratio_resizer: want fixed_shape_resizer, one size for all images")
    known["size"] = _size(resizer.fixed_shape_resizer.height, resizer.fixed_shape_resizer.width, where)
    if extractor.pad_to_multiple > 1 and known["size"] % extractor.pad_to_multiple:
        raise CheckpointError(f"{where}: pad_to_multiple {extractor.pad_to_multiple}, which is not done here")
    if anchors.HasField("multiscale_anchor_generator"):
        known["pyramid"] = _pyramid(anchors.multiscale_anchor_generator, where)
    if anchors.HasField("ssd_anchor_generator"):
        known["boxes"] = _configured_boxes(anchors.ssd_anchor_generator, where)
    coder = ssd.box_coder.faster_rcnn_box_coder
    scales = [coder.y_scale, coder.x_scale, coder.height_scale, coder.width_scale]
    known["variances"] = _variances(scales, where)
    if extractor.HasField("conv_hyperparams"):
        known["extras"] = _block(extractor.conv_hyperparams)
        if extractor.override_base_feature_extractor_hyperparams:
            known["base"] = known["extras"]
        elif "resnet" in extractor.type:
            known["base"] = Block("relu", RESNET_EPSILON)
    predictor = ssd.box_predictor
    if predictor.HasField("convolutional_box_predictor"):
        known["predictor"] = _block(predictor.convolutional_box_predictor.conv_hyperparams)
    if predictor.HasField("weight_shared_convolutional_box_predictor"):
        known["predictor"] = _block(predictor.weight_shared_convolutional_box_predictor.conv_hyperparams)
    if ssd.HasField("post_processing"):
        known["thresholds"] = _configured_thresholds(ssd.post_processing, where)
    return known


def _pyramid(table: Any, where: str) -> Pyramid:
    numbers = [table.anchor_scale, *table.aspect_ratios]
    if not (2 <= table.min_level <= 5 and 1 <= table.scales_per_octave <= 8 and len(table.aspect_ratios) <= 16):
        raise CheckpointError(f"{where}: anchors of level {table.min_level}, {table.scales_per_octave} an octave")
    if min(numbers) <= 0 or not math.isfinite(sum(numbers)) or not table.normalize_coordinates:
        raise CheckpointError(f"{where}: anchors of scale or ratio 0, or in pixels: want positive numbers, normalised")
    ratios = tuple(map(float, table.aspect_ratios)) or Pyramid.ratios
    return Pyramid(table.min_level, table.anchor_scale, ratios, table.scales_per_octave)


def _block(hyperparams: Any) -> Block:
    return Block(_ACTIVATIONS.get(hyperparams.activation, "relu6"), _epsilon(hyperparams.batch_norm.epsilon))


def _configured_boxes(table: Any, where: str) -> tuple[Anchors, ...]:
    if (table.base_anchor_height, table.base_anchor_width) != (1.0, 1.0) or any(
        (table.height_stride, table.width_stride, table.height_offset, table.width_offset)
    ):
        raise CheckpointError(f"{where}: anchors of their own base, strides or offsets, which is not read")
    layers = table.num_layers
    if not 1 <= layers <= 32 or (table.scales and len(table.scales) != layers) or len(table.aspect_ratios) > 64:
        raise CheckpointError(f"{where}: anchors for {layers} maps with {len(table.scales)} scales")
    if min([*table.scales, *table.aspect_ratios, table.min_scale, table.max_scale]) <= 0:
        raise CheckpointError(f"{where}: anchors of scale or ratio 0: want positive numbers")
    scales = list(table.scales) or evenly(table.min_scale, table.max_scale, layers)
    between, lowest = table.interpolated_scale_aspect_ratio, table.reduce_boxes_in_lowest_layer
    return create_ssd_anchors(scales, table.aspect_ratios, between, lowest)


def _configured_thresholds(processing: Any, where: str) -> Thresholds:
    """core/post_processing.py: multiclass_non_max_suppression, or class_agnostic_non_max_suppression."""
    nms = processing.batch_non_max_suppression
    if processing.logit_scale != 1.0:
        raise CheckpointError(f"{where}: logit_scale {processing.logit_scale}, which is not done here")
    return within_limits(
        THRESHOLDS,
        where,
        score_min=nms.score_threshold,
        nms_iou=nms.iou_threshold,
        keep_per_class=None if nms.use_class_agnostic_nms else nms.max_detections_per_class,
        keep=nms.max_total_detections,
        class_agnostic=nms.use_class_agnostic_nms,
        background_competes=not nms.use_class_agnostic_nms,
        activation="softmax" if processing.score_converter == 2 else "sigmoid",
    )


# ------------------------------------------------------------------------------------------------------ the graph


def _from_graph(graph: GraphDef, thresholds: Thresholds, where: str) -> dict[str, Any]:
    """Found by what nodes do and the scopes they are in, since their names differ between versions."""
    known: dict[str, Any] = {"scopes": _graph_scopes(graph)}
    sides = _graph_size(graph)
    if sides is not None:
        known["size"] = _size(*sides, where)
    boxes = _graph_boxes(graph)
    if boxes:
        known["boxes"] = boxes
    known["clipped"] = any(
        "AnchorGenerator" in n.name and "ClipToWindow" in n.name for n in graph.of("Minimum", "Maximum")
    )
    found: dict[str, Any] = {}
    for node in graph.of("Sigmoid", "Softmax", within="convert_scores"):
        found["activation"] = node.op.lower()
    scales = [
        float(value)
        for node in graph.of("RealDiv", "Div", within="Postprocessor/Decode")
        if len(node.inputs) == 2
        and graph.op(node.inputs[0]) in ("Unpack", "Unstack")
        and (value := graph.constant(node.inputs[1])) is not None
        and value.shape == ()
    ]
    if len(scales) == 4:
        known["variances"] = _variances(scales, where)
    known["thresholds"] = within_limits(thresholds, where, **found, **_graph_suppression(graph))
    for node in graph.of(OPERATOR):
        options = {name: getattr(node.attrs[name], kind) for name, kind in _OPTIONS.items() if name in node.attrs}
        if {"nms_score_threshold", "nms_iou_threshold", "max_detections"} <= set(options):
            known["thresholds"] = of_operator(options, known["thresholds"].activation, where)
        coding = [node.attrs[f"{side}_scale"].f for side in "yxhw" if f"{side}_scale" in node.attrs]
        if len(coding) == 4:
            known["variances"] = _variances(coding, where)
        if len(node.inputs) == 3 and (anchors := graph.constant(node.inputs[2])) is not None:
            known["anchors"] = anchors.astype(np.float64)
    known["explicit_padding"] = any(
        node.attrs["padding"].s == b"VALID" and 2 in node.attrs["strides"].list.i
        for node in graph.of("Conv2D", "DepthwiseConv2dNative", within="FeatureExtractor")
        if {"padding", "strides"} <= set(node.attrs)
    )
    return known


def _graph_scopes(graph: GraphDef) -> dict[str, Block]:
    """What batch normalisation and activation each layer has, by the layer's name."""
    epsilons: dict[str, float] = {}
    for node in graph.of("FusedBatchNorm", "FusedBatchNormV2", "FusedBatchNormV3"):
        if "epsilon" in node.attrs:
            epsilons[scope_of(node.name)] = node.attrs["epsilon"].f
    for node in graph.of("Const", within="/batchnorm/add/y"):
        if shape_of(node) == ():
            epsilons[scope_of(node.name)] = float(graph.value(node))
    relus = {scope_of(node.name): node.op.lower() for node in graph.of("Relu", "Relu6")}
    return {
        scope: Block(relus.get(scope, "relu6"), _epsilon(epsilon))
        for scope, epsilon in (dict.fromkeys(relus, 0.001) | epsilons).items()
    }


def scope_of(name: str) -> str:
    """The layer that a variable or an operation belongs to: its name without the last parts and without the scope that
    operations have twice."""
    name = re.sub(r"(/BatchNorm(/.*)?|/Relu6?(_\d+)?)$", "", name)
    name = re.sub(r"(?<=/fpn)/top_down(?=/)", "", name)
    return re.sub(r"(?<=/)(Mobilenet\w+|InceptionV\d|resnet_v1_\d+)/\1(?=/)", r"\1", name)


def _graph_size(graph: GraphDef) -> tuple[int, int] | None:
    """Height and width that images are resized to; None where they are not."""
    for node in graph.of("ResizeBilinear", "ResizeNearestNeighbor", "ResizeBicubic", "ResizeArea"):
        if "Preprocessor" in node.name and len(node.inputs) == 2:
            sides = graph.constant(node.inputs[1])
            if sides is None or sides.shape != (2,):
                raise CheckpointError(f"{graph.where}: images are not resized to one fixed size; want one that does so")
            return int(sides[0]), int(sides[1])
    for node in graph.of("Placeholder"):
        shape = shape_of(node)
        if shape is not None and len(shape) == 4 and min(shape[1:]) > 0 and shape[3] == 3:
            return shape[1], shape[2]
    return None


def _graph_boxes(graph: GraphDef) -> tuple[Anchors, ...] | None:
    """grid_anchor_generator.py, tile_anchors: heights are a constant of scales over the root of one of ratios."""
    found = []
    for node in graph.of("RealDiv", "Div"):
        root = graph.nodes.get(node.inputs[1]) if len(node.inputs) == 2 else None
        if root is None or root.op != "Sqrt" or len(root.inputs) != 1:
            continue
        scales, ratios = graph.constant(node.inputs[0]), graph.constant(root.inputs[0])
        if scales is None or ratios is None or scales.ndim != 1 or scales.shape != ratios.shape:
            return None
        if not len(scales) or len(scales) > 64 or min(scales.min(), ratios.min()) <= 0:
            return None
        found.append(tuple((float(scale), float(ratio)) for scale, ratio in zip(scales, ratios, strict=True)))
    return tuple(found) or None


def _graph_suppression(graph: GraphDef) -> dict[str, Any]:
    """core/post_processing.py, multiclass_non_max_suppression."""
    found: dict[str, Any] = {}
    for node in graph.of("NonMaxSuppression"):
        if "iou_threshold" in node.attrs:
            found["nms_iou"] = node.attrs["iou_threshold"].f
    for node in graph.of("NonMaxSuppressionV2", "NonMaxSuppressionV3", "NonMaxSuppressionV4", "NonMaxSuppressionV5"):
        limit = graph.constant(node.inputs[3]) if len(node.inputs) > 3 else None
        if limit is not None and limit.shape == ():
            found["nms_iou"] = float(limit)
    for node in graph.of("Greater", within="FilterGreaterThan"):
        limit = graph.constant(node.inputs[1]) if len(node.inputs) == 2 else None
        if limit is not None and limit.shape == ():
            found["score_min"] = float(limit)
    counts = set()
    for node in graph.of("Minimum", within="MultiClassNonMaxSuppression"):
        values = [graph.constant(name) for name in node.inputs]
        counts |= {int(v) for v in values if v is not None and v.shape == () and v.dtype.kind == "i" and v > 0}
    if counts and len(counts) <= 2:
        found |= {"keep_per_class": min(counts), "keep": max(counts)}
    return found


# ----------------------------------------------------------------------------------------------------- both


def _size(height: int, width: int, where: str) -> int:
    if height != width or not 32 <= height <= 4096:
        raise CheckpointError(f"{where}: images of {width} x {height} pixels: want a square of 32 to 4096")
    return height


def _epsilon(value: float) -> float:
    return min(max(0.0, value), 1.0)  # in this order, NaN becomes 0


def _variances(scales: Sequence[float], where: str) -> tuple[float, float]:
    """box_coders/faster_rcnn_box_coder.py: y x h w are multiplied by these when encoded."""
    if min(scales) <= 0 or scales[0] != scales[1] or scales[2] != scales[3] or not math.isfinite(sum(scales)):
        raise CheckpointError(f"{where}: box coder scales {printable(scales, 60)}: want the same for x and y, w and h")
    return 1.0 / scales[0], 1.0 / scales[2]
