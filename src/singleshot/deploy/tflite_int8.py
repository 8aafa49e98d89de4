"""A TensorFlow Lite network in int8: ranges of its maps on calibration images, and layers kept in float where average
precision needs them, as `int8` does it for ONNX."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from singleshot.datasets.dataset import Dataset
from singleshot.deploy.check_images import PreprocessedImages, spread
from singleshot.deploy.engines import engines_for
from singleshot.deploy.export import need_onnx
from singleshot.deploy.int8 import CALIBRATION, VALIDATION, Report, Say, keep_precision, map50
from singleshot.deploy.int8_layers import RawArrays, rank_by_error
from singleshot.deploy.onnx_network import OUTPUTS, tail_model
from singleshot.deploy.tflite_file import QuantisedTFLite, tflite_file
from singleshot.deploy.tflite_tensors import Int8, Ranges
from singleshot.extras import require
from singleshot.inputs import InputSpec
from singleshot.models import SSD
from singleshot.runtime.postprocess_numpy import RawDecoder
from singleshot.weights.checkpoint import ModelInfo

if TYPE_CHECKING:
    import onnx

    from singleshot.runtime.engines.table import FileEngine

_LAYERS = ("Conv", "Add", "Mul", "Concat", "AveragePool", "ReduceMean", "GlobalAveragePool", "HardSwish", "Sigmoid")


def map_ranges(proto: onnx.ModelProto, squares: Sequence[np.ndarray], spec: InputSpec) -> Ranges:
    """Least and greatest value of each map of a `tail_model`: the mean of them over the images, so that one odd image
    does not make the steps of all others coarse; of what the heads give the least and greatest of all.

    squares: uint8 [H, W, C] each, as `spec` says.
    """
    import onnx
    import onnxruntime

    proto = onnx.shape_inference.infer_shapes(proto, data_prop=True)
    kinds = {value.name: value.type.tensor_type.elem_type for value in (*proto.graph.value_info, *proto.graph.output)}
    names = [name for node in proto.graph.node for name in node.output if kinds.get(name) == onnx.TensorProto.FLOAT]
    del proto.graph.output[:]
    proto.graph.output.extend(onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, None) for name in names)
    session = onnxruntime.InferenceSession(proto.SerializeToString(), providers=["CPUExecutionProvider"])
    limits = []
    for square in squares:
        image = (square.astype(np.float32) - np.array(spec.mean, np.float32)) / np.array(spec.std, np.float32)
        image = image[..., ::-1] if spec.colour_order == "bgr" else image
        found = session.run(names, {"image": np.ascontiguousarray(image.transpose(2, 0, 1)[None])})
        limits.append([(float(values.min()), float(values.max())) for values in found])
    lows, highs = np.moveaxis(np.array(limits), 2, 0)  # [images, maps] each
    heads = _of_heads(proto)
    return {
        name: (float(low.min()), float(high.max())) if name in heads else (float(low.mean()), float(high.mean()))
        for name, low, high in zip(names, lows.T, highs.T, strict=True)
    }


def _of_heads(proto: onnx.ModelProto) -> set[str]:
    """Maps whose values are offsets or logits."""
    makers = {name: node for node in proto.graph.node for name in node.output}
    found, stack = set(OUTPUTS), list(OUTPUTS)
    while stack:
        node = makers.get(stack.pop())
        if node is not None and node.op_type in ("Concat", "Reshape", "Transpose"):
            inputs = list(node.input) if node.op_type == "Concat" else [node.input[0]]
            found.update(inputs)
            stack += inputs
    return found


def float_layers(proto: onnx.ModelProto) -> dict[str, str]:
    """What can stay in float, in the order of the network: a name that says where it is -> name of its node."""
    weights = {tensor.name for tensor in proto.graph.initializer}
    layers = {}
    for node in proto.graph.node:
        with_constant = node.op_type in ("Add", "Mul") and weights & set(node.input)  # in float always
        if node.op_type in _LAYERS and not with_constant and node.output[0] not in OUTPUTS:
            own = next((name for name in node.input[1:] if name in weights and name.endswith(".weight")), None)
            name = own or f"{node.op_type.lower()} {node.output[0]}"
            layers[name.removeprefix("model.").removesuffix(".weight")] = node.name
    return layers


def quantise_tflite(
    model: SSD,
    info: ModelInfo,
    calibration: Dataset,
    validation: Dataset,
    split: str = "val",
    raw: bool = False,
    say: Say = lambda line: None,
) -> tuple[QuantisedTFLite, Report]:
    """The model's network in int8 and how it fares by LiteRT; arguments as `int8.quantise`; raw: as it is exported.

    Raises:
        ConfigError: mAP50 cannot be kept, or the model finds nothing to begin with.
        MissingExtraError: A package is missing.
    """
    need_onnx("int8")
    require("export", "int8", "onnxruntime")
    require("litert", "int8 for TensorFlow Lite", "ai_edge_litert")
    network = tail_model(model)
    feed = PreprocessedImages(calibration, model, tiling=info.tiling, most=CALIBRATION)
    judged = PreprocessedImages(validation.subset(spread(len(validation), VALIDATION)), model, tiling=info.tiling)
    say(f"calibrating on {len(feed)} {'images' if info.tiling is None else 'tiles'}")
    ranges = map_ranges(network, [feed[i].square for i in range(len(feed))], model.input_spec)
    layers = float_layers(network)

    def quantised(names: Sequence[str]) -> QuantisedTFLite:
        return QuantisedTFLite(network, Int8(ranges, frozenset(layers[name] for name in names)))

    def engine(one: QuantisedTFLite, raw: bool) -> FileEngine:
        with tempfile.TemporaryDirectory(prefix="singleshot-") as folder:
            path = Path(folder, "network.tflite")
            path.write_bytes(tflite_file(one, model, info, raw))
            made = engines_for(path, first=True)["litert"]
        if raw:
            decoder = RawDecoder(model.prior_spec, info.thresholds)
            made.decode = lambda found: decoder(*(found[name] for name in OUTPUTS))
        return made

    def rank(some: np.ndarray) -> list[str]:
        def outputs(one: QuantisedTFLite) -> RawArrays:
            found = engine(one, True).outputs(some)
            return found["offsets"], found["logits"]

        floating, activation = outputs(QuantisedTFLite(network)), info.thresholds.activation
        return rank_by_error(list(layers), floating, lambda name: outputs(quantised([name])), activation)

    outcome = keep_precision(
        map50(engine(QuantisedTFLite(network), raw), judged),
        lambda names, floor: map50(engine(quantised(names), raw), judged),
        rank,
        len(layers),
        (feed, judged),
        say,
    )
    report = Report(outcome, len(layers), len(feed), len(judged.dataset), len(validation), split)
    return quantised(outcome.float_layers)._replace(about={"quantisation": report.to_dict()}), report
