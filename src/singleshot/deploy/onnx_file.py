"""The exported file: one ONNX model with normalisation, decoding and NMS inside and its description in the metadata."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from singleshot.deploy.onnx_network import consumers_of, network_model
from singleshot.deploy.onnx_post import decode_model, select_model
from singleshot.model_info import KEY, ModelInfo
from singleshot.models import SSD

if TYPE_CHECKING:
    import onnx

DETECTIONS = ("boxes", "scores", "labels", "counts")


def detector_model(
    model: SSD, info: ModelInfo, raw: bool = False, tensorrt_compatible: bool = False
) -> onnx.ModelProto:
    """The one file of a model: images uint8 [N, H, W, C] -> boxes, scores, labels, counts (see onnx_post).

    Args:
        model: The network, its priors and its input rule.
        info: What the description says of it; its thresholds are those of the selection.
        raw: Stop at offsets [N, P, 4] and logits [N, P, C + 1].
        tensorrt_compatible: Without branches, with a fixed number of rows.

    Raises:
        ConfigError: The thresholds keep more boxes than TensorRT sorts out.
    """
    return attach_postprocess(network_model(model), model, info, raw, tensorrt_compatible)


def attach_postprocess(
    network: onnx.ModelProto,
    model: SSD,
    info: ModelInfo,
    raw: bool = False,
    tensorrt_compatible: bool = False,
    precision: str = "float32",
    about: Mapping[str, Any] | None = None,
) -> onnx.ModelProto:
    """A network, as exported or quantised, with decoding and selection behind it (unless raw) and its description.

    Args:
        network: From images to offsets and logits; it may be changed.
        model: Where the network comes from: its priors and classes.
        info, raw, tensorrt_compatible: As `detector_model` takes them.
        precision: What the description says of the weights.
        about: What else the description says.

    Raises:
        ConfigError: The thresholds keep more boxes than TensorRT sorts out.
    """
    _normalise_rows(network.graph)
    proto = network if raw else _with_selection(network, model, info, tensorrt_compatible)
    proto.graph.name = "singleshot"
    proto.producer_name, proto.producer_version = "singleshot", info.version
    del proto.metadata_props[:]
    entry = proto.metadata_props.add()
    entry.key, entry.value = KEY, description(info, raw, precision, about)
    return proto


def _normalise_rows(graph: onnx.GraphProto) -> None:
    """Normalise the images as they come, [N, H, W, C], and turn them to channels first afterwards, in place.

    Engines then drop the turn, for their convolutions take channels last: 4 to 7 % of the MobileNets' time in int8, 3 %
    in float. Constants are spread to [W, C], since rows of three numbers would cost what the turn did. TensorRT has no
    other use for bytes than conversion either (onnx-tensorrt docs/operators.md: UINT8 is only supported as input).
    """
    from onnx import numpy_helper

    constants = {tensor.name: tensor for tensor in graph.initializer}
    chain = _preparation(graph, constants)
    if [node.op_type for node in chain[:2]] != ["Transpose", "Cast"]:
        return
    door = next(value for value in graph.input if value.name == "images").type.tensor_type.shape
    width, channels = (dim.dim_value for dim in door.dim[2:])
    normals = {name for node in chain for name in node.input[1:]}
    for name in normals:
        row = numpy_helper.to_array(constants[name]).reshape(1, channels)
        constants[name].CopyFrom(numpy_helper.from_array(np.repeat(row, width, axis=0), name))
    names = ["images", *(node.output[0] for node in chain)]
    moved = [copy.deepcopy(node) for node in (*chain[1:], chain[0])]
    for place, node, taken, given in zip(chain, moved, names, names[1:], strict=False):
        place.CopyFrom(node)
        place.input[0], place.output[0] = taken, given
    # What is between them has other shapes now.
    kept = [value for value in graph.value_info if value.name not in normals | set(names[:-1])]
    del graph.value_info[:]
    graph.value_info.extend(kept)


def _preparation(graph: onnx.GraphProto, constants: Mapping[str, onnx.TensorProto]) -> list[onnx.NodeProto]:
    """The nodes from the images on, one after another, that turn, convert and normalise them by three constants."""
    takers, name = consumers_of(graph), "images"
    chain: list[onnx.NodeProto] = []
    while len(after := takers.get(name, [])) == 1:
        (node,) = after
        others = [constants.get(other) for other in node.input[1:]]
        if node.op_type not in (("Cast", "Sub", "Div") if chain else ("Transpose",)):
            break
        if any(tensor is None or list(tensor.dims[1:]) != [1, 1] for tensor in others):
            break
        chain.append(node)
        name = node.output[0]
    return chain


def _with_selection(
    network: onnx.ModelProto, model: SSD, info: ModelInfo, tensorrt_compatible: bool
) -> onnx.ModelProto:
    from onnx import compose

    rules = info.thresholds
    spec = model.prior_spec
    decode = decode_model(model.priors.cpu().numpy(), spec.variances, model.num_classes, rules)
    select = select_model(spec.count, model.num_classes, rules, tensorrt_compatible)
    names = [value.name for value in decode.graph.output]
    post = compose.merge_models(decode, select, io_map=[(name, name) for name in names])
    pairs = [(name, name) for name in ("offsets", "logits")]
    merged = compose.merge_models(network, post, io_map=pairs, outputs=list(DETECTIONS))
    del merged.opset_import[1:]  # one for each part, all the same
    return merged


def description(info: ModelInfo, raw: bool, precision: str = "float32", about: Mapping[str, Any] | None = None) -> str:
    """JSON with everything that the runtime half needs. about: what else to write."""
    return info.exported(raw, precision, about).to_json()
