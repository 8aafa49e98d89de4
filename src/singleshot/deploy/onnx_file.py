"""The exported file: one ONNX model with normalisation, decoding and NMS inside and its description in the metadata."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from singleshot.deploy.onnx_network import consumers_of, network_model
from singleshot.deploy.onnx_post import decode_model, select_model
from singleshot.model_info import KEY, ModelInfo
from singleshot.models import SSD

DETECTIONS = ("boxes", "scores", "labels", "counts")


def detector_model(model: SSD, info: ModelInfo, raw: bool = False, plain: bool = False) -> Any:
    """An onnx.ModelProto: images uint8 [N, S, S, 3] -> boxes, scores, labels, counts (see onnx_post); raw: -> offsets,
    logits. plain: without branches, for TensorRT."""
    return attach_postprocess(network_model(model), model, info, raw, plain)


def attach_postprocess(
    network: Any, model: SSD, info: ModelInfo, raw: bool = False, plain: bool = False,
    precision: str = "float32", about: Mapping[str, Any] | None = None,
) -> Any:  # fmt: skip
    """A network's onnx.ModelProto, as exported or quantised, with decoding and selection behind it (unless raw) and
    its description. The network may be changed. about: what else to write in the description."""
    _normalise_rows(network)
    proto = network if raw else _with_selection(network, model, info, plain)
    proto.graph.name = "singleshot"
    proto.producer_name, proto.producer_version = "singleshot", info.version
    del proto.metadata_props[:]
    entry = proto.metadata_props.add()
    entry.key, entry.value = KEY, description(info, raw, precision, about)
    return proto


def _normalise_rows(network: Any) -> None:
    """Normalise the images as they come, [N, S, S, 3], and turn them to channels first afterwards, in place.

    Engines then drop the turn, for their convolutions take channels last: 4 to 7 % of the MobileNets' time in int8, 3 %
    in float. Constants are spread to [S, 3], since rows of three numbers would cost what the turn did. TensorRT has no
    other use for bytes than conversion either (onnx-tensorrt docs/operators.md: UINT8 is only supported as input).
    """
    from onnx import numpy_helper

    graph = network.graph
    constants = {tensor.name: tensor for tensor in graph.initializer}
    takers = consumers_of(graph)
    (turn, *others) = takers.get("images", [None])
    if turn is None or turn.op_type != "Transpose" or others:
        return
    chain: list[Any] = []
    while len(after := takers.get((chain[-1] if chain else turn).output[0], [])) == 1:
        node = after[0]
        spread = [constants.get(name) for name in node.input[1:]]
        if node.op_type not in ("Cast", "Sub", "Div") or any(c is None or list(c.dims) != [3, 1, 1] for c in spread):
            break
        chain.append(node)
    if not chain or chain[0].op_type != "Cast":
        return
    side = next(value for value in graph.input if value.name == "images").type.tensor_type.shape.dim[2].dim_value
    normals = {name for node in chain for name in node.input[1:]}
    for name in normals:
        row = numpy_helper.to_array(constants[name]).reshape(1, 3)
        constants[name].CopyFrom(numpy_helper.from_array(np.repeat(row, side, axis=0), name))
    last = chain[-1].output[0]
    moved = {turn.output[0], *(node.output[0] for node in chain), *normals}
    chain[0].input[0] = "images"
    chain[-1].output[0] = turn.input[0] = f"{last}_rows"
    turn.output[0] = last
    nodes = [node for node in graph.node if node is not turn]
    place = next(i for i, node in enumerate(nodes) if node.output[0] == f"{last}_rows")
    nodes.insert(place + 1, turn)
    kept = [value for value in graph.value_info if value.name not in moved]
    for field, values in ((graph.node, nodes), (graph.value_info, kept)):
        del field[:]
        field.extend(values)


def _with_selection(network: Any, model: SSD, info: ModelInfo, plain: bool) -> Any:
    from onnx import compose

    rules = info.thresholds
    spec = model.prior_spec
    decode = decode_model(model.priors.cpu().numpy(), spec.variances, model.num_classes, rules)
    select = select_model(spec.count, model.num_classes, rules, plain)
    names = [value.name for value in decode.graph.output]
    post = compose.merge_models(decode, select, io_map=[(name, name) for name in names])
    pairs = [(name, name) for name in ("offsets", "logits")]
    merged = compose.merge_models(network, post, io_map=pairs, outputs=list(DETECTIONS))
    del merged.opset_import[1:]  # one for each part, all the same
    return merged


def description(info: ModelInfo, raw: bool, precision: str = "float32", about: Mapping[str, Any] | None = None) -> str:
    """JSON with everything that the runtime half needs. about: what else to write."""
    return info.exported(raw, precision, about).to_json()
