"""The exported file: one ONNX model with normalisation, decoding and NMS inside and its description in the metadata."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from singleshot.deploy.onnx_network import network_model
from singleshot.deploy.onnx_post import decode_model, select_model
from singleshot.description import FORMAT, KEY
from singleshot.models import SSD
from singleshot.weights.checkpoint import ModelInfo

DETECTIONS = ("boxes", "scores", "labels", "counts")


def detector_model(model: SSD, info: ModelInfo, raw: bool = False, plain: bool = False) -> Any:
    """An onnx.ModelProto: images uint8 [N, S, S, 3] -> boxes, scores, labels, counts (see onnx_post); raw: -> offsets,
    logits. plain: without branches, for TensorRT."""
    return finished(network_model(model), model, info, raw, plain)


def finished(
    network: Any, model: SSD, info: ModelInfo, raw: bool = False, plain: bool = False,
    precision: str = "float32", about: Mapping[str, Any] | None = None,
) -> Any:  # fmt: skip
    """A network's onnx.ModelProto, as exported or quantised, with decoding and selection behind it (unless raw) and
    its description. The network may be changed. about: what else to write in the description."""
    if plain:
        _numbers_first(network)
    proto = network if raw else _with_selection(network, model, info, plain)
    proto.graph.name = "singleshot"
    proto.producer_name, proto.producer_version = "singleshot", info.version
    del proto.metadata_props[:]
    entry = proto.metadata_props.add()
    entry.key, entry.value = KEY, description(info, raw, precision, about)
    return proto


def _numbers_first(network: Any) -> None:
    """Convert the images' bytes before anything else is done with them, in place: TensorRT has no other use for them
    (onnx-tensorrt docs/operators.md: UINT8 is only supported as network input)."""
    nodes = network.graph.node
    turn = next((node for node in nodes if node.op_type == "Transpose" and list(node.input) == ["images"]), None)
    takers = [node for node in nodes if turn is not None and turn.output[0] in node.input]
    if turn is None or len(takers) != 1 or takers[0].op_type != "Cast":
        return
    cast = takers[0]
    turn_says, cast_says = list(turn.attribute), list(cast.attribute)
    turn.op_type, cast.op_type = "Cast", "Transpose"
    for node, attributes in ((turn, cast_says), (cast, turn_says)):
        copies = [type(one).FromString(one.SerializeToString()) for one in attributes]
        del node.attribute[:]
        node.attribute.extend(copies)
    values = [value for value in network.graph.value_info if value.name != turn.output[0]]
    del network.graph.value_info[:]
    network.graph.value_info.extend(values)


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
    """JSON that tells the runtime half everything it needs."""
    return json.dumps({
        "format": FORMAT, "version": info.version, "model": info.model, "classes": list(info.class_names),
        "input": info.input_spec.to_dict(), "thresholds": asdict(info.thresholds), "priors": info.priors.to_dict(),
        "outputs": "raw" if raw else "detections", "metrics": dict(info.metrics), "precision": precision,
        **(about or {}),
    }, ensure_ascii=False)  # fmt: skip
