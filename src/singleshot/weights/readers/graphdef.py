"""TensorFlow's frozen graphs (frozen_inference_graph.pb, or a SavedModel whose constants are in it), read without it.

A graph is nodes by name; the variables that it was frozen from are constants among them. Nothing in it is run: apart
from looking constants up, those of 8 bits become the numbers that they stand for, and batch normalisations that a tool
has folded are followed along the graph.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from singleshot.errors import CheckpointError, printable
from singleshot.weights.readers.protobuf import parse_binary
from singleshot.weights.readers.reading import read_bytes
from singleshot.weights.readers.tf_tensors import BFLOAT16, DTYPES, HALF, dequantised, flat_values, from_bfloat16

MAX_BYTES = 2**30
MAX_VALUES = 2**26  # of all constants together: 256 MB of floats
MAX_NAME = 1000
_MAX_STEPS = 16  # nodes passed on the way to a constant, or along what was folded

_FLOATS = (1, 2, BFLOAT16, HALF)
_ROUNDED = (11, 12, 13)  # types.proto: DT_QINT8, DT_QUINT8, DT_QINT32
_DEQUANTIZE = "Dequantize"  # (values, what the lowest stands for, what the highest stands for)
_CONVS = ("Conv2D", "DepthwiseConv2dNative")
_PASSED = ("Identity", "StopGradient", "FakeQuantWithMinMaxVars", "FakeQuantWithMinMaxArgs", "Enter")
_NORMS = ("FusedBatchNorm", "FusedBatchNormV2", "FusedBatchNormV3")
# What tf.contrib.slim and tf.contrib.layers call their variables.
_KERNELS = ("weights", "depthwise_weights", "pointwise_weights")
_PARTS = (*_KERNELS, "biases", "gamma", "beta", "moving_mean", "moving_variance")
_CONV_OP = re.compile(r"(/BatchNorm)?/(Conv2D|convolution|depthwise|separable_conv2d|batchnorm/mul_1)$")


class Node(NamedTuple):
    """op: of TensorFlow's; inputs: names of nodes, without those that it only waits for; attrs: Attr messages."""

    name: str
    op: str
    inputs: tuple[str, ...]
    attrs: dict[str, Any]


class GraphDef:
    """The nodes of a graph by name. where: what messages call the file."""

    def __init__(self, message: Any, where: str) -> None:
        self.where = where
        self.nodes: dict[str, Node] = {}
        self._values = 0
        for node in message.node:
            if not 0 < len(node.name) <= MAX_NAME or node.name in self.nodes:
                raise CheckpointError(f"{where}: node {printable(node.name, 80)!r} has no name or is there twice")
            inputs = tuple(name.partition(":")[0] for name in node.input if not name.startswith("^"))
            attrs = {entry.key: entry.value for entry in node.attr}
            self.nodes[node.name] = Node(node.name, node.op, inputs, attrs)

    @cached_property
    def consumers(self) -> dict[str, list[Node]]:
        """Name -> the nodes that take what it makes."""
        found: dict[str, list[Node]] = {}
        for node in self.nodes.values():
            for name in dict.fromkeys(node.inputs):
                found.setdefault(name, []).append(node)
        return found

    def of(self, *ops: str, within: str = "") -> Iterator[Node]:
        """Nodes that do one of these, with that text in their names, in the order of the numbers in their names."""
        found = [node for node in self.nodes.values() if node.op in ops and within in node.name]
        yield from sorted(
            found, key=lambda n: [int(p) if i % 2 else p for i, p in enumerate(re.split(r"(\d+)", n.name))]
        )

    def op(self, name: str) -> str:
        """What that node does; "" where there is none."""
        return self.nodes[name].op if name in self.nodes else ""

    def source(self, name: str) -> Node | None:
        """The constant that this node hands on, itself included; None when it computes something."""
        for _ in range(_MAX_STEPS):
            node = self.nodes.get(name)
            if node is None or self.is_constant(node):
                return node
            if node.op not in _PASSED or not node.inputs:
                return None
            name = node.inputs[0]
        return None

    def is_constant(self, node: Node) -> bool:
        """Whether it is a constant, or the numbers that one of 8 bits stands for."""
        if node.op == "Const":
            return True
        return node.op == _DEQUANTIZE and len(node.inputs) == 3 and all(self.op(i) == "Const" for i in node.inputs)

    def constant(self, name: str) -> np.ndarray | None:
        """Its value; also of scalars that are packed into a vector (an image size, say)."""
        node = self.nodes.get(name)
        if node is not None and node.op in ("Pack", "Stack"):
            parts = [self.source(part) for part in node.inputs[:8]]
            if not all(part is not None and self.shape(part) == () for part in parts):
                return None
            return np.array([self.value(part) for part in parts if part is not None])
        found = self.source(name)
        return None if found is None else self.value(found)

    def value(self, node: Node) -> np.ndarray:
        """What a constant holds. Raises CheckpointError for a declared shape that the values do not have."""
        what = f"{self.where}: {printable(node.name, 80)}"
        if node.op == _DEQUANTIZE:
            return self._dequantised(node, what)
        if "value" not in node.attrs:
            raise CheckpointError(f"{what}: a constant without a value")
        tensor, shape = node.attrs["value"].tensor, shape_of(node)
        if tensor.dtype not in DTYPES:
            raise CheckpointError(f"{what}: values of TensorFlow's type {tensor.dtype}, which is not read")
        if shape is None or math.prod(shape) > MAX_VALUES:
            raise CheckpointError(f"{what}: a constant of shape {printable(shape, 60)}: more than is read")
        count = math.prod(shape)
        self._values += count
        if self._values > MAX_VALUES:
            raise CheckpointError(f"{self.where}: constants of more than {MAX_VALUES} values together")
        values = flat_values(tensor, tensor.dtype)
        values = from_bfloat16(values) if tensor.dtype == BFLOAT16 else values
        # Fewer values than the shape says: the last one goes on to the end, and none at all are zeros.
        if len(values) > count or (tensor.tensor_content and len(values) != count):
            raise CheckpointError(f"{what}: {len(values)} values for shape {printable(shape, 60)}")
        if len(values) <= 1:
            return np.broadcast_to(values[0] if len(values) else np.zeros((), values.dtype), shape)  # takes no memory
        if len(values) < count:
            values = np.concatenate([values, np.full(count - len(values), values[-1])])
        return values.reshape(shape)

    def shape(self, node: Node) -> tuple[int, ...] | None:
        """As `shape_of`, of a constant of 8 bits too."""
        if node.op != _DEQUANTIZE:
            return shape_of(node)
        values = self.nodes.get(node.inputs[0]) if node.inputs else None
        return None if values is None else shape_of(values)

    def _dequantised(self, node: Node, what: str) -> np.ndarray:
        values, low, high = (self.value(self.nodes[name]) for name in node.inputs)
        mode = node.attrs["mode"].s.decode(errors="replace") if "mode" in node.attrs else "MIN_COMBINED"
        plain = all(v.size == 1 and v.dtype.kind == "f" for v in (low, high)) and values.dtype.kind in "iu"
        found = dequantised(values, float(low.flat[0]), float(high.flat[0]), mode) if plain else None
        if found is None or (found.size and not np.isfinite(found).all()):
            raise CheckpointError(
                f"{what}: numbers of 8 bits that are scaled in a way that is not read (mode {printable(mode, 40)});"
                " want the graph before quantize_weights"
            )
        return found


def shape_of(node: Node) -> tuple[int, ...] | None:
    """Declared shape of a Const's value or of a Placeholder; None where it has none; -1 for an open side."""
    stored = node.attrs["value"].tensor.tensor_shape if "value" in node.attrs else None
    if stored is None and "shape" in node.attrs:
        stored = node.attrs["shape"].shape
    if stored is None or stored.unknown_rank or len(stored.dim) > 16:
        return None
    shape = tuple(dim.size for dim in stored.dim)
    return None if node.op == "Const" and min(shape, default=0) < 0 else shape


def looks_like_graph(first: bytes) -> bool:
    """By a file's first bytes, since there is no magic: a node with a name and an operation, or a SavedModel."""
    if first[:3] == b"\x08\x01\x12":  # schema version 1, then a graph
        return True
    start = re.match(rb"\x0a[\x80-\xff]{0,4}[\x00-\x7f]\x0a([\x00-\x7f]|[\x80-\xff][\x00-\x7f])", first, re.DOTALL)
    if start is None:
        return False
    length = sum((byte & 127) << 7 * i for i, byte in enumerate(start[1]))
    name, rest = first[start.end() : start.end() + length], first[start.end() + length :]
    operation = re.match(rb"\x12([\x01-\x7f])([A-Za-z0-9_>.]+)", rest)
    return (
        name.isascii()
        and name.decode().isprintable()
        and operation is not None
        and len(operation[2]) >= operation[1][0]
    )


def read_graph(path: Path, where: str) -> GraphDef:
    """Raises CheckpointError: cut off, no graph, or larger than is read; MissingExtraError without protobuf."""
    data = read_bytes(path, where, MAX_BYTES)
    if data[:1] != b"\x08":
        return GraphDef(parse_binary("tensorflow.GraphDef", data, where), where)
    graphs = parse_binary("tensorflow.SavedModel", data, where).meta_graphs
    if len(graphs) != 1:
        raise CheckpointError(f"{where}: a SavedModel of {len(graphs)} graphs: want one")
    return GraphDef(graphs[0].graph_def, where)


def variables(graph: GraphDef) -> dict[str, np.ndarray]:
    """Name -> value of the variables that the graph was frozen from, as the checkpoint has them.

    Where a tool has folded a batch normalisation, the convolution's weights and biases are what it made of them.
    Raises CheckpointError when there are none.
    """
    _refuse_quantised(graph)
    values: dict[str, np.ndarray] = {}
    for node in graph.nodes.values():
        if graph.is_constant(node) and _is_variable(graph, node):
            values[node.name] = graph.value(node)
    for node in graph.of(*_CONVS):
        _add_folded(graph, node, values)
    if not values:
        raise CheckpointError(
            f"{graph.where}: a TensorFlow graph of {len(graph.nodes)} nodes without weights; want a frozen one"
            " (frozen_inference_graph.pb), or the checkpoint next to it"
        )
    return values


def _refuse_quantised(graph: GraphDef) -> None:
    """Raise CheckpointError for a graph that computes in 8 bits, or where what numbers stand for is not constant."""
    read = {node.inputs[0] for node in graph.of(_DEQUANTIZE) if graph.is_constant(node)}
    rounded = sum(
        node.op == "Const" and node.attrs["value"].tensor.dtype in _ROUNDED and node.name not in read
        for node in graph.nodes.values()
        if "value" in node.attrs
    )
    if rounded:
        raise CheckpointError(
            f"{graph.where}: a graph that computes in 8 bits (quantize_nodes): {rounded} constants of which it does not"
            " say plainly what they stand for; that form is not read: want the graph before that"
        )


def _is_variable(graph: GraphDef, node: Node) -> bool:
    if node.op == "Const" and ("value" not in node.attrs or node.attrs["value"].tensor.dtype not in _FLOATS):
        return False
    if node.name.rpartition("/")[2] in _PARTS:
        return True
    read = graph.nodes.get(f"{node.name}/read")
    return read is not None and read.op == "Identity" and bool(graph.shape(node))


def _add_folded(graph: GraphDef, conv: Node, values: dict[str, np.ndarray]) -> None:
    """A convolution's weights and biases under the names they should have, unless the variables are there."""
    if len(conv.inputs) < 2 or (source := graph.source(conv.inputs[1])) is None:
        return
    scope, _, part = source.name.rpartition("/")
    if part not in _KERNELS:
        scope, part = _CONV_OP.sub("", conv.name), "depthwise_weights" if conv.op == _CONVS[1] else "weights"
    # feature_0: of the first of several levels that share the convolution, each with its own normalisation
    if any(f"{scope}/{n}" in values for n in ("BatchNorm/moving_mean", "BatchNorm/feature_0/moving_mean", "biases")):
        return
    weight = values[f"{scope}/{part}"] if f"{scope}/{part}" in values else graph.value(source)
    if weight.ndim != 4:
        return
    outputs = weight.shape[2] * weight.shape[3] if part == "depthwise_weights" else weight.shape[3]
    factor, bias = _follow(graph, conv.name, outputs)
    shape = weight.shape[2:] if part == "depthwise_weights" else (outputs,)
    if source.name != f"{scope}/{part}":
        values.pop(source.name, None)
    values[f"{scope}/{part}"] = (weight * factor.reshape(shape)).astype(np.float32)
    if bias is not None:
        values[f"{scope}/biases"] = bias.astype(np.float32)


def _follow(graph: GraphDef, name: str, outputs: int) -> tuple[np.ndarray, np.ndarray | None]:
    """Factor and bias [outputs], in float64, of the arithmetic with constants that follows a convolution."""
    factor, bias = np.ones(outputs), None
    for _ in range(_MAX_STEPS):
        nexts = graph.consumers.get(name, [])
        if len(nexts) != 1:
            break
        node = nexts[0]
        if len(node.inputs) > 5:
            break
        others = [graph.constant(i) for i in node.inputs if i != name]
        vectors = [v.reshape(-1).astype(np.float64) for v in others if v is not None and v.size == outputs]
        if node.op in ("BiasAdd", "Add", "AddV2") and len(vectors) == len(others) == 1:
            bias = vectors[0] + (0.0 if bias is None else bias)
        elif node.op == "Sub" and len(vectors) == len(others) == 1 and node.inputs[0] == name:
            bias = -vectors[0] + (0.0 if bias is None else bias)
        elif node.op == "Mul" and len(vectors) == len(others) == 1:
            factor, bias = factor * vectors[0], None if bias is None else bias * vectors[0]
        elif node.op in _NORMS and len(vectors) == len(others) == 4 and node.inputs[0] == name:
            gamma, beta, mean, variance = vectors
            eps = node.attrs["epsilon"].f if "epsilon" in node.attrs else 1e-4
            by = gamma / np.sqrt(variance + eps)
            factor, bias = factor * by, beta + ((0.0 if bias is None else bias) - mean) * by
        elif node.op != "Identity":
            break
        name = node.name
    return factor, bias
