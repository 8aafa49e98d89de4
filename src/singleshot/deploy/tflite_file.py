"""A detector as one .tflite file: bytes in, TFLite_Detection_PostProcess at the end, names and description inside."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from singleshot.deploy.onnx_file import description
from singleshot.deploy.onnx_network import OUTPUTS
from singleshot.deploy.tflite_builder import Quantum, TFLiteBuilder
from singleshot.deploy.tflite_metadata import NAME, detector_metadata, with_labels
from singleshot.deploy.tflite_network import NetworkConverter
from singleshot.deploy.tflite_tensors import Int8
from singleshot.errors import ConfigError
from singleshot.model_info import KEY, ModelInfo
from singleshot.models import SSD
from singleshot.runtime.engines.litert import OPERATOR_OUTPUTS
from singleshot.thresholds import Thresholds
from singleshot.weights.importers.tflite import NORMALISED

if TYPE_CHECKING:
    import onnx

OPERATOR = "TFLite_Detection_PostProcess"


def check_thresholds(rules: Thresholds) -> None:
    """Raise ConfigError for thresholds that the operator has not (tensorflow/lite/kernels/detection_postprocess.cc)."""
    fails = {
        "clips boxes before NMS": rules.clip,
        f"caps what enters NMS at {rules.candidates} of all classes": rules.candidates is not None,
        "takes each box's best class alone, and NMS by class": rules.best_class and not rules.class_agnostic,
        "lets the background win a box in NMS over all classes": rules.class_agnostic and rules.first_column == 0,
    }
    for why, fault in fails.items():
        if fault:
            raise ConfigError(f"--to tflite: this model's rule {why}, which {OPERATOR} cannot; export with --raw")


class QuantisedTFLite(NamedTuple):
    """network: `onnx_network.tail_model` of a model; int8: how it is quantised, None for float32; about: what the
    description says of that."""

    network: onnx.ModelProto
    int8: Int8 | None = None
    about: Mapping[str, Any] = MappingProxyType({})


def tflite_file(network: QuantisedTFLite, model: SSD, info: ModelInfo, raw: bool = False) -> bytes:
    """The file of a model.

    Args:
        network: Of the model.
        model, info: What is exported.
        raw: Stop at offsets and logits.

    Raises:
        ConfigError: The network or the thresholds cannot be said.
    """
    builder, int8 = TFLiteBuilder(), network.int8
    proto = network.network if raw else _boxes_by_height(network.network)
    converter = NetworkConverter(proto, builder, int8)
    image = builder.tensor("image", (1, *model.input_spec.shape), "uint8", None if int8 is None else Quantum(1.0, 0))
    converter.start("image", _normalised(converter, model, image, int8))
    converter.run()
    offsets, logits = (converter.output(name) for name in OUTPUTS)
    outputs = [offsets, logits] if raw else _detections(builder, offsets, logits, model, info.thresholds)
    written = description(info, raw, "float32" if int8 is None else "int8", network.about)
    metadata = {KEY: written.encode()}
    if not raw:
        metadata[NAME] = detector_metadata(model.name, info.version, model.input_spec.channels)
    data = builder.file([image], outputs, metadata, f"singleshot {info.version}")
    return with_labels(data, info.class_names)


def _normalised(converter: NetworkConverter, model: SSD, image: int, int8: Int8 | None) -> int:
    """The image's mean taken off, divided and its colours turned, by one convolution of one pixel."""
    spec, builder = model.input_spec, converter.builder
    rows = list(range(spec.channels))[:: -1 if spec.colour_order == "bgr" else 1]
    mean, std = np.array(spec.mean), np.array(spec.std)
    weight = np.zeros((spec.channels, 1, 1, spec.channels))
    weight[np.arange(spec.channels), 0, 0, rows] = 1 / std[rows]
    bias = (-mean / std)[rows]
    scaled = None if int8 is None else Quantum.of(float(bias.min()), float((bias + 255 / std[rows]).max()))
    dtype = "float32" if int8 is None else "int8"
    pixels = builder.tensor("pixels", (1, *spec.shape), dtype, None if int8 is None else Quantum(1.0, -128))
    if int8 is None:
        builder.op("CAST", [image], [pixels], "CastOptions", inDataType=3, outDataType=0)
    else:
        builder.op("QUANTIZE", [image], [pixels])
    normalised = builder.tensor(NORMALISED, (1, *spec.shape), dtype, scaled)
    parts = converter.weights("normalised", pixels, weight, bias, 0)
    return builder.op("CONV_2D", [pixels, *parts], [normalised], "Conv2DOptions", padding=1, strideH=1, strideW=1)


def _boxes_by_height(proto: onnx.ModelProto) -> onnx.ModelProto:
    """A copy whose heads give dy dx dh dw, as the operator takes them. Raises ConfigError."""
    from onnx import numpy_helper

    proto = copy.deepcopy(proto)
    makers = {name: node for node in proto.graph.node for name in node.output}
    tensors = {tensor.name: tensor for tensor in proto.graph.initializer}
    stack = ["offsets"]
    while stack:
        node = makers.get(stack.pop())
        if node is not None and node.op_type in ("Concat", "Reshape", "Transpose", "Identity"):
            stack += node.input if node.op_type == "Concat" else node.input[:1]
        elif node is not None and node.op_type == "Conv" and all(name in tensors for name in node.input[1:]):
            for name in node.input[1:]:
                values = numpy_helper.to_array(tensors[name])
                turned = values.reshape(-1, 4, *values.shape[1:])[:, [1, 0, 3, 2]].reshape(values.shape)
                tensors[name].CopyFrom(numpy_helper.from_array(np.ascontiguousarray(turned), name))
        else:
            raise ConfigError("--to tflite: the heads' last layers are not convolutions; export with --raw")
    return proto


def _detections(builder: TFLiteBuilder, offsets: int, logits: int, model: SSD, rules: Thresholds) -> list[int]:
    check_thresholds(rules)
    spec, classes = model.prior_spec, model.num_classes
    scores = builder.tensor("probabilities", (1, spec.count, classes + 1))
    if rules.activation == "softmax":
        builder.op("SOFTMAX", [logits], [scores], "SoftmaxOptions", beta=1.0)
    else:
        builder.op("LOGISTIC", [logits], [scores])
    if not rules.class_agnostic and rules.per_class < spec.count:
        scores = _best_of_class(builder, scores, rules.per_class)
    anchors = builder.constant("anchors", model.priors.cpu().numpy()[:, [1, 0, 3, 2]])
    most = min(rules.keep, spec.count * (1 if rules.class_agnostic else classes))
    centre, size = (1 / value for value in spec.variances)
    options = {
        "max_detections": most,
        "max_classes_per_detection": 1,
        "detections_per_class": min(rules.keep_per_class or rules.keep, spec.count),
        "use_regular_nms": not rules.class_agnostic,
        # The operator takes a score that is the limit, we one over it.
        "nms_score_threshold": float(np.nextafter(np.float32(rules.score_min), np.float32(2))),
        "nms_iou_threshold": float(rules.nms_iou),
        "num_classes": classes,
        **{f"{axis}_scale": centre for axis in "yx"},
        **{f"{axis}_scale": size for axis in "hw"},
    }
    shapes = ((1, most, 4), (1, most), (1, most), (1,))
    outputs = [builder.tensor(name, shape) for name, shape in zip(OPERATOR_OUTPUTS, shapes, strict=True)]
    builder.custom(OPERATOR, [offsets, scores, anchors], outputs, options)
    return outputs


def _best_of_class(builder: TFLiteBuilder, scores: int, count: int) -> int:
    """Scores [1, P, C + 1] with zeros for those under the count-th best of each class: the operator has no such cap."""
    _, priors, columns = builder.shapes[scores]
    turn = builder.constant("turn", [0, 2, 1], np.int32)
    rows = builder.tensor("score rows", (1, columns, priors))
    builder.op("TRANSPOSE", [scores, turn], [rows], "TransposeOptions")
    best = builder.tensor("best scores", (1, columns, count))
    where = builder.tensor("best places", (1, columns, count), "int32")
    builder.op("TOPK_V2", [rows, builder.constant("per class", count, np.int32)], [best, where], "TopKV2Options")
    last = builder.tensor("least scores", (1, columns, 1))
    axis = builder.constant("last axis", [2], np.int32)
    builder.op("REDUCE_MIN", [best, axis], [last], "ReducerOptions", keepDims=True)
    least = builder.tensor("least of class", (1, 1, columns))
    builder.op("TRANSPOSE", [last, turn], [least], "TransposeOptions")
    among = builder.tensor("among the best", (1, priors, columns), "bool")
    builder.op("GREATER_EQUAL", [scores, least], [among], "GreaterEqualOptions")
    mask = builder.tensor("mask", (1, priors, columns))
    builder.op("CAST", [among], [mask], "CastOptions", inDataType=6, outDataType=0)
    kept = builder.tensor("candidates", (1, priors, columns))
    return builder.op("MUL", [scores, mask], [kept], "MulOptions")
