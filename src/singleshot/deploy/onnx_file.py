"""The exported file: one ONNX model with normalisation, decoding and NMS inside and its description in the metadata."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from singleshot.deploy.onnx_network import network_model
from singleshot.deploy.onnx_post import decode_model, select_model
from singleshot.models import SSD
from singleshot.weights.checkpoint import ModelInfo

KEY = "singleshot"
FORMAT = 1
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
    its description. about: what else to write in the description."""
    proto = network if raw else _with_selection(network, model, info, plain)
    proto.graph.name = "singleshot"
    proto.producer_name, proto.producer_version = "singleshot", info.version
    del proto.metadata_props[:]
    entry = proto.metadata_props.add()
    entry.key, entry.value = KEY, description(info, raw, precision, about)
    return proto


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
