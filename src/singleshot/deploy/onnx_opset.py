"""ONNX models for earlier opsets, as TensorRT 8 and OpenCV's dnn read them, and for a fixed number of images.

The `onnx` package's own version converter stops at operators that merely gained number formats (Sub, Pow). What has
changed for the operators here is little: where axes stand, and a few that earlier opsets have to put together.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from singleshot.deploy.onnx_builder import OPSET
from singleshot.errors import ConfigError, printable

if TYPE_CHECKING:
    import onnx

OPSETS = range(11, OPSET + 1)
# Of the detections: GatherND by image (batch_dims) and the maximum of whole numbers came with 12.
DETECTIONS_FROM = 12
INT8_FROM = 13  # QuantizeLinear with a scale for each channel
_Constants = Mapping[str, "onnx.TensorProto"]


def to_opset(proto: onnx.ModelProto, opset: int) -> None:
    """Rewrite a model of OPSET for an earlier opset, in place. Raises ConfigError where its operators cannot be."""
    import onnx
    from onnx import helper

    if opset == OPSET:
        return
    _lower(proto.graph, opset, {tensor.name: tensor for tensor in proto.graph.initializer})
    proto.opset_import[0].version = opset
    proto.ir_version = helper.find_min_ir_version_for(list(proto.opset_import))
    _drop_unused(proto.graph)
    try:
        onnx.checker.check_model(proto, full_check=True)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as error:
        reason = printable(str(error).strip().splitlines()[0], 160)
        raise ConfigError(f"--opset {opset}: this network cannot be written in it ({reason}); want {OPSET}") from error


def fix_batch(proto: onnx.ModelProto, images: int) -> None:
    """Fix the number of images that a model takes, in place."""
    from onnx import shape_inference

    open_batch = {"batch", proto.graph.input[0].type.tensor_type.shape.dim[0].dim_param}
    for graph in _graphs(proto.graph):
        del graph.value_info[:]
        for value in (*graph.input, *graph.output):
            dims = value.type.tensor_type.shape.dim
            if dims and dims[0].dim_param in open_batch:
                dims[0].dim_value = images
    proto.CopyFrom(shape_inference.infer_shapes(proto, data_prop=True))


def _graphs(graph: onnx.GraphProto) -> Iterator[onnx.GraphProto]:
    """The graph and those of its branches."""
    yield graph
    for node in graph.node:
        for attribute in node.attribute:
            if attribute.HasField("g"):
                yield from _graphs(attribute.g)


def _lower(graph: onnx.GraphProto, opset: int, constants: _Constants) -> None:
    nodes: list[onnx.NodeProto] = []
    shapes = {value.name: value.type.tensor_type.shape.dim for value in (*graph.input, *graph.value_info)}
    for node in graph.node:
        for attribute in node.attribute:
            if attribute.HasField("g"):
                _lower(attribute.g, opset, constants)
        made = [node]
        for since, kinds, rule in _RULES:
            if opset < since and node.op_type in kinds:
                made = rule(node, constants) if rule is not _softmax else _softmax(node, shapes)
                break
        nodes.extend(made)
    del graph.node[:]
    graph.node.extend(nodes)


def _attributes(node: onnx.NodeProto) -> dict[str, Any]:
    from onnx import helper

    return {attribute.name: helper.get_attribute_value(attribute) for attribute in node.attribute}


def _axes_inside(node: onnx.NodeProto, constants: _Constants, name: str = "axes") -> list[onnx.NodeProto]:
    """The second input, a constant, as an attribute."""
    from onnx import helper, numpy_helper

    attributes = _attributes(node)
    for later in ("noop_with_empty_axes", "num_outputs"):
        attributes.pop(later, None)
    if len(node.input) > 1 and node.input[1] in constants:
        attributes[name] = numpy_helper.to_array(constants[node.input[1]]).reshape(-1).tolist()
    elif len(node.input) > 1 and node.input[1]:
        raise ConfigError(f"--opset: {node.op_type} with computed {name} cannot be written for it; want {OPSET}")
    return [helper.make_node(node.op_type, node.input[:1], list(node.output), name=node.name, **attributes)]


def _sizes_inside(node: onnx.NodeProto, constants: _Constants) -> list[onnx.NodeProto]:
    return _axes_inside(node, constants, "split")


def _keep_attributes(node: onnx.NodeProto, drop: Callable[[onnx.AttributeProto], bool]) -> list[onnx.NodeProto]:
    kept = [attribute for attribute in node.attribute if not drop(attribute)]
    del node.attribute[:]
    node.attribute.extend(kept)
    return [node]


def _reshape(node: onnx.NodeProto, constants: _Constants) -> list[onnx.NodeProto]:
    """What a zero in the shape means matters only where there is one; the check refuses that."""
    from onnx import numpy_helper

    known = node.input[1] in constants and bool(numpy_helper.to_array(constants[node.input[1]]).all())
    return _keep_attributes(node, lambda one: one.name == "allowzero" and (known or not one.i))


def _resize(node: onnx.NodeProto, constants: _Constants) -> list[onnx.NodeProto]:
    """Without what says that earlier opsets' way is meant; the check refuses the other."""
    usual = {"antialias": 0, "keep_aspect_ratio_policy": b"stretch"}
    return _keep_attributes(node, lambda one: one.name in usual and (one.s or one.i) == usual[one.name])


def _split(node: onnx.NodeProto, constants: _Constants) -> list[onnx.NodeProto]:
    """Into as many equal parts as there are outputs, which needs no number."""
    return _keep_attributes(node, lambda one: one.name == "num_outputs")


def _hard_swish(node: onnx.NodeProto, constants: _Constants) -> list[onnx.NodeProto]:
    from onnx import helper

    gate = f"{node.output[0]}_gate"
    return [
        helper.make_node("HardSigmoid", list(node.input), [gate], name=f"{node.name}_gate", alpha=1 / 6, beta=0.5),
        helper.make_node("Mul", [node.input[0], gate], list(node.output), name=node.name),
    ]


def _hard_sigmoid(node: onnx.NodeProto, constants: _Constants) -> list[onnx.NodeProto]:
    """By a slope that is one unit in the last place off: OpenCV takes a map times a gate of slope 1/6 for hard swish,
    whatever the gate is computed of (onnx_graph_simplifier.cpp)."""
    for attribute in node.attribute:
        if attribute.name == "alpha" and np.float32(attribute.f) == np.float32(1 / 6):
            attribute.f = float(np.nextafter(np.float32(1 / 6), np.float32(1)))
    return [node]


def _first_side(node: onnx.NodeProto, constants: _Constants) -> list[onnx.NodeProto]:
    """Shape from start to end, as a Slice of the whole shape."""
    from onnx import helper

    attributes = _attributes(node)
    if not attributes:
        return [node]
    name, whole = node.output[0], f"{node.output[0]}_whole"
    edges = {"starts": attributes.get("start", 0), "ends": attributes.get("end", np.iinfo(np.int64).max)}
    made = [helper.make_node("Shape", list(node.input), [whole], name=f"{node.name}_whole")]
    for edge, value in edges.items():
        tensor = helper.make_tensor(f"{name}_{edge}", 7, [1], [value])  # int64
        made.append(helper.make_node("Constant", [], [tensor.name], value=tensor))
    inputs = [whole, *(f"{name}_{edge}" for edge in edges)]
    return [*made, helper.make_node("Slice", inputs, [name], name=node.name)]


def _softmax(node: onnx.NodeProto, shapes: Mapping[str, Any]) -> list[onnx.NodeProto]:
    """Before 13 all axes from the given one on are one: the same along the last axis alone."""
    from onnx import helper

    axis = _attributes(node).get("axis", -1)
    name, x = node.output[0], node.input[0]
    if axis in (-1, len(shapes.get(x, ())) - 1):
        return [node]
    most, low, power, total = (f"{name}_{part}" for part in ("most", "low", "power", "total"))
    return [
        helper.make_node("ReduceMax", [x], [most], axes=[axis], keepdims=1),
        helper.make_node("Sub", [x, most], [low]),
        helper.make_node("Exp", [low], [power]),
        helper.make_node("ReduceSum", [power], [total], axes=[axis], keepdims=1),
        helper.make_node("Div", [power, total], [name], name=node.name),
    ]


def _drop_unused(graph: onnx.GraphProto) -> None:
    taken = {name for one in _graphs(graph) for node in one.node for name in node.input}
    kept = [tensor for tensor in graph.initializer if tensor.name in taken]
    del graph.initializer[:]
    graph.initializer.extend(kept)


# Operators that changed with an opset and how the earlier form is made (onnx docs/Changelog.md); the first that fits.
_RULES: tuple[tuple[int, tuple[str, ...], Callable[..., list[onnx.NodeProto]]], ...] = (
    (13, ("Split",), _sizes_inside),
    (18, ("Split",), _split),
    (18, ("HardSigmoid",), _hard_sigmoid),
    (18, ("ReduceMax", "ReduceMin", "ReduceMean", "ReduceProd", "ReduceL2", "ReduceSumSquare"), _axes_inside),
    (18, ("Resize",), _resize),
    (15, ("Shape",), _first_side),
    (14, ("HardSwish",), _hard_swish),
    (14, ("Reshape",), _reshape),
    (13, ("ReduceSum", "Squeeze", "Unsqueeze"), _axes_inside),
    (13, ("Softmax",), _softmax),
)
