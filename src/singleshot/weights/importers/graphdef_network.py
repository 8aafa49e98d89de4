"""A frozen graph's network as TensorFlow Lite's operators, which `GraphImport` makes layers of.

For graphs whose layers no importer knows by name: what counts is what the nodes between the image and a detector's
heads compute. Normalisations, biases and factors of channels go into the convolutions before them.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from singleshot.errors import CheckpointError, printable
from singleshot.weights.foreign_state import ForeignState
from singleshot.weights.importers.graphdef_patterns import (
    NORMS,
    OF_CONSTANTS,
    affine,
    arithmetic,
    divides_by_six,
    hard_sigmoid,
    hard_swish,
)
from singleshot.weights.importers.tflite_graph import GraphImport
from singleshot.weights.readers.graphdef import GraphDef, Node
from singleshot.weights.readers.tflite import Network, Operation, Value

_PASSED = ("Identity", "StopGradient", "FakeQuantWithMinMaxVars", "FakeQuantWithMinMaxArgs", "Snapshot")
_CONVS = {"Conv2D": "CONV_2D", "DepthwiseConv2dNative": "DEPTHWISE_CONV_2D"}
_POOLS = {"MaxPool": "MAX_POOL_2D", "AvgPool": "AVERAGE_POOL_2D"}
_ALONE = {"Relu": "RELU", "Relu6": "RELU6", "Sigmoid": "LOGISTIC"}
_SPREAD, _GATHERED = "SpaceToBatchND", "BatchToSpaceND"  # around a convolution with dilation
_OF_ONE_MAP = ("Pad", "PadV2", "Mean", "Sum", _SPREAD, _GATHERED)  # with constants that say how
_OF_LENGTH = ("Square", "Sum", "Maximum", "Rsqrt")  # on the way to a length's inverse, as tf.nn.l2_normalize has it
_MAX_DEPTH = 16  # of arithmetic with constants
_TINY = 1e-5  # the most that keeps a length from being zero
_DAMAGE = (LookupError, ValueError, TypeError, ArithmeticError, AttributeError)
MAX_NODES = 20_000  # between the image and the heads


class GraphHeads(NamedTuple):
    """graph: with the layers to come; operations: the convolutions that were asked for, in their order."""

    graph: GraphImport
    operations: tuple[Operation, ...]


def heads_of(graph: GraphDef, size: int | tuple[int, int], ends: Sequence[str], image: str = "") -> GraphHeads:
    """The network up to these convolutions, for an image of `size` pixels: of each side, or height and width.

    ends: names of nodes; image: that of the node which gives the image, or "" for what the first convolutions take,
    those of three inputs. Raises CheckpointError for a node that is not understood, by name.
    """
    converter = _Converter(graph, size, image)
    try:
        return converter.convert(ends)
    except _DAMAGE as error:
        raise CheckpointError(
            f"{graph.where}: its nodes do not fit together ({printable(error, 80)}); the file is damaged"
        ) from error


class _Converter:
    def __init__(self, graph: GraphDef, size: int | tuple[int, int], image: str) -> None:
        self.graph, self.where, self.image = graph, graph.where, image
        sides = (size, size) if isinstance(size, int) else size
        self.values: list[Value] = [Value("image", (1, *sides, 3), "<f4")]
        self.operations: list[Operation] = []
        self.places: dict[str, int] = {}  # name of a node -> index of the value that it gives
        self.convs: dict[int, int] = {}  # value -> the operation of a convolution that may take in what follows
        self.dilated: dict[str, tuple[int, int]] = {}  # a convolution between such nodes -> steps down and across
        self.found: dict[str, np.ndarray | None] = {}

    def convert(self, ends: Sequence[str]) -> GraphHeads:
        order = self._order(ends)
        self.taken = Counter(source for name in order for source in dict.fromkeys(self._data(self.graph.nodes[name])))
        ops: dict[str, int] = {}
        for name in order:
            if name in self.places:
                continue
            self._node(self.graph.nodes[name])
            if name in ends:
                index = self.convs.pop(self.places[name], -1)
                if index < 0:
                    raise self._refuse(self.graph.nodes[name], "is no convolution")
                ops[name] = index
                self._absorb_bias(name, index)
        network = Network(tuple(self.values), tuple(self.operations), (0,), ())
        values = {v.name: v for v in self.values if v.data is not None}
        state = ForeignState(values, self.where, "tflite", network)
        return GraphHeads(GraphImport(state), tuple(self.operations[ops[name]] for name in ends))

    # ------------------------------------------------------------------------------------------ the walk

    def _order(self, ends: Sequence[str]) -> list[str]:
        """Nodes that the ends need, each behind what it takes."""
        done: dict[str, bool] = {}
        stack, order = [(name, False) for name in reversed(ends)], []
        while stack:
            name, ready = stack.pop()
            if ready:
                order.append(name)
                done[name] = True
                continue
            if name in done or name in self.places:
                continue
            if len(done) > MAX_NODES:
                raise CheckpointError(f"{self.where}: more than {MAX_NODES} nodes up to its heads")
            done[name] = False
            node = self.graph.nodes.get(name)
            if node is None:
                raise CheckpointError(f"{self.where}: no node {printable(name, 80)}")
            stack.append((name, True))
            stack += [(source, False) for source in reversed(self._data(node)) if not self._is_image(node, source)]
        return order

    def _is_image(self, node: Node, source: str) -> bool:
        """Whether a node takes the image from that one, which is then noted."""
        if self.image:
            self.places[self.image] = 0
            return source == self.image
        weight = self.constant(node.inputs[1]) if node.op == "Conv2D" and len(node.inputs) > 1 else None
        if weight is None or weight.ndim != 4 or weight.shape[2] != 3:
            return False
        if self.graph.op(source) in ("Pad", "PadV2") and self._amounts(self.graph.nodes[source]) is not None:
            source = self.graph.nodes[source].inputs[0]
            self.places[source] = 0
            return False
        self.places[source] = 0
        return True

    def _data(self, node: Node) -> list[str]:
        """What a node takes that is no constant."""
        if node.op in _OF_ONE_MAP:
            return list(node.inputs[:1])
        return [name for name in node.inputs if self.constant(name) is None]

    def constant(self, name: str, depth: int = 0) -> np.ndarray | None:
        """Its value, computed where a tool has left arithmetic with constants in the graph; None for what is none."""
        if name not in self.found:
            self.found[name] = None  # against circles
            value = self.graph.constant(name)
            node = self.graph.nodes.get(name)
            if value is None and node is not None and depth < _MAX_DEPTH:
                value = self._computed(node, depth + 1)
            self.found[name] = value
        return self.found[name]

    def _computed(self, node: Node, depth: int) -> np.ndarray | None:
        """What a node makes of constants alone, None for what it takes from the image."""
        if node.op in _PASSED and node.inputs:
            return self.constant(node.inputs[0], depth)
        return arithmetic(node, [self.constant(i, depth) for i in node.inputs] if node.op in OF_CONSTANTS else [])

    def _refuse(self, node: Node, reason: str) -> CheckpointError:
        return CheckpointError(f"{self.where}: {printable(node.name, 80)} ({printable(node.op, 40)}) {reason}")

    # ------------------------------------------------------------------------------------------ nodes

    def _node(self, node: Node) -> None:
        data = self._data(node)
        if node.op in _PASSED and data:
            self._alias(node, self.places[data[0]])
        elif node.op in _CONVS:
            self._conv(node)
        elif node.op in NORMS or node.op in ("BiasAdd", "Add", "AddV2", "Sub", "Mul", "RealDiv", "Neg"):
            self._arithmetic(node, data)
        elif node.op in _ALONE:
            self._add(node, _ALONE[node.op], [self.places[data[0]]], self._shape(data[0]), {})
        elif node.op in ("ConcatV2", "Concat"):
            self._concat(node, data)
        elif node.op in _POOLS:
            self._pool(node, data[0])
        elif node.op == "Mean":
            self._mean(node)
        elif node.op in ("Pad", "PadV2"):
            self._pad(node)
        elif node.op in (_SPREAD, _GATHERED):
            self._spread(node)
        elif node.op in _OF_LENGTH:
            self._length(node, data[0])
        else:
            raise self._refuse(node, "stands in its network and is not understood")

    def _alias(self, node: Node, index: int) -> None:
        self.places[node.name] = index

    def _shape(self, name: str) -> tuple[int, ...]:
        return self.values[self.places[name]].shape

    def _value(self, name: str, shape: tuple[int, ...], data: np.ndarray | None = None) -> int:
        dtype = "<i4" if data is not None and data.dtype.kind in "iu" else "<f4"
        data = None if data is None else np.ascontiguousarray(data, dtype)
        self.values.append(Value(f"{name}#{len(self.values)}", shape, dtype, data))
        return len(self.values) - 1

    def _add(self, node: Node, kind: str, inputs: list[int], shape: tuple[int, ...], options: Mapping[str, Any]) -> int:
        """The operation's index."""
        index = self._value(node.name, shape)
        known = {"activation": "none"} if kind not in _ALONE.values() else {}
        self.operations.append(Operation(kind, tuple(inputs), (index,), {**known, **options}))
        self.places[node.name] = index
        return len(self.operations) - 1

    def _spread(self, node: Node) -> None:
        """A dilated convolution, as TensorFlow 1 wrote it: what it is padded by and the steps come before it."""
        if len(node.inputs) != 3:
            raise self._refuse(node, "has inputs that are not understood")
        if node.op == _GATHERED:
            return self._alias(node, self.places[node.inputs[0]])
        steps, amounts = (self.constant(name) for name in node.inputs[1:])
        inner = self.graph.consumers.get(node.name, [])
        outer = self.graph.consumers.get(inner[0].name, []) if len(inner) == 1 else []
        ends = self.constant(outer[0].inputs[2]) if len(outer) == 1 and outer[0].op == _GATHERED else None
        if steps is None or amounts is None or ends is None or steps.shape != (2,):
            raise self._refuse(node, "is not the beginning of a convolution with dilation")
        pads = np.zeros((4, 2), np.int32)
        pads[1:3] = amounts - ends  # what makes whole blocks is cut off again
        if pads.min() < 0 or pads.max() >= 64 or not all(1 <= n <= 64 for n in steps):
            raise self._refuse(node, f"pads by {printable(amounts.tolist(), 60)}")
        self.dilated[inner[0].name] = int(steps[0]), int(steps[1])
        return self._padded(node, pads)

    def _length(self, node: Node, source: str) -> None:
        """Squares, their sum over channels, no less than a tiny number, and the inverse root."""
        x, index = self._shape(source), self.places[source]
        if node.op == "Square":
            self._add(node, "MUL", [index, index], x, {})
        elif node.op == "Sum":
            axes = self.constant(node.inputs[1]) if len(node.inputs) > 1 else None
            if axes is None or [int(a) % 4 for a in axes.reshape(-1)] != [3]:
                raise self._refuse(node, "is no sum over channels")
            self._add(node, "SUM", [index, self._value(f"{node.name}/axes", (1,), np.array([3]))], (*x[:3], 1), {})
        elif node.op == "Maximum":
            least = next((v for v in map(self.constant, node.inputs) if v is not None), None)
            if least is None or least.size != 1 or not 0 <= float(least.reshape(-1)[0]) < _TINY:
                raise self._refuse(node, "is no limit against dividing by zero")
            self._add(node, "ADD", [index, self._value(f"{node.name}/y", (1,), least.reshape(1))], x, {})
        else:
            self._add(node, "RSQRT", [index], x, {})

    def _windows(self, node: Node, x: tuple[int, ...], kernel: Sequence[int]) -> tuple[dict[str, int], tuple[int, int]]:
        """Options of a convolution or pooling, and the sides of what comes out."""
        attrs = node.attrs
        layout = attrs["data_format"].s if "data_format" in attrs else b"NHWC"
        strides = list(attrs["strides"].list.i) if "strides" in attrs else [1, 1, 1, 1]
        dilations = list(attrs["dilations"].list.i) if "dilations" in attrs else []
        dilations = dilations if len(dilations) == 4 else [1, 1, 1, 1]
        dilations[1:3] = self.dilated.get(node.name, dilations[1:3])
        padding = attrs["padding"].s if "padding" in attrs else b"SAME"
        if layout not in (b"", b"NHWC") or len(strides) != 4 or padding not in (b"SAME", b"VALID"):
            raise self._refuse(
                node,
                f"has the layout {printable(layout.decode(errors='replace'), 20)} and the padding"
                f" {printable(padding.decode(errors='replace'), 20)}: want NHWC, SAME or VALID",
            )
        if not all(1 <= n <= 1024 for n in (*strides, *dilations, *kernel)):
            raise self._refuse(node, f"has a kernel of {list(kernel)}, strides {strides}")
        sides = []
        for i in (0, 1):
            span = (kernel[i] - 1) * dilations[i + 1] + 1
            whole = x[i + 1] + strides[i + 1] - 1 if padding == b"SAME" else x[i + 1] - span + strides[i + 1]
            sides.append(whole // strides[i + 1])
        if min(sides) < 1:
            raise self._refuse(node, f"leaves nothing of a map of {x[1]} x {x[2]}")
        options = {
            "padding": int(padding == b"VALID"),
            "stride_h": strides[1],
            "stride_w": strides[2],
            "dilation_h": dilations[1],
            "dilation_w": dilations[2],
        }
        return options, (sides[0], sides[1])

    def _conv(self, node: Node) -> None:
        source, weight = node.inputs[0], self.constant(node.inputs[1]) if len(node.inputs) > 1 else None
        x = self._shape(source)
        if weight is None or weight.ndim != 4 or weight.dtype.kind != "f" or len(x) != 4:
            raise self._refuse(node, "has no weights that are constant")
        kh, kw, inputs, outputs = weight.shape
        deep = node.op == "DepthwiseConv2dNative"
        if inputs != x[3] and (deep or x[3] % max(inputs, 1)):
            raise self._refuse(node, f"takes {inputs} channels of {x[3]}")
        options, sides = self._windows(node, x, (kh, kw))
        weight = weight.astype(np.float64)
        weight = weight.reshape(1, kh, kw, inputs * outputs) if deep else weight.transpose(3, 0, 1, 2)
        channels = inputs * outputs if deep else outputs
        kernel, bias = self._value(f"{node.name}/kernel", weight.shape, weight), self._zeros(node, channels)
        shape = (1, *sides, channels)
        op = self._add(node, _CONVS[node.op], [self.places[source], kernel, bias], shape, options)
        self.convs[self.places[node.name]] = op

    def _zeros(self, node: Node, channels: int) -> int:
        return self._value(f"{node.name}/bias", (channels,), np.zeros(channels, np.float32))

    def _arithmetic(self, node: Node, data: list[str]) -> None:
        if len(data) == 2 or (len(node.inputs) == 2 and node.inputs[0] == node.inputs[1] == (data or [""])[0]):
            return self._of_maps(node, list(node.inputs))
        if len(data) != 1:
            raise self._refuse(node, "has inputs that are not understood")
        channels = self._shape(data[0])[-1]
        factor, shift = self._affine(node, channels)
        index = self.places[data[0]]
        if index in self.convs and self.taken.get(data[0], 0) == 1:
            self._absorb(self.convs[index], factor, shift)
            return self._alias(node, index)
        if divides_by_six(node, self.constant) and (x := hard_swish(self.graph, data[0], self.constant)) is not None:
            self._add(node, "HARD_SWISH", [self.places[x]], self._shape(x), {})
            return None
        shape = self._shape(data[0])
        if not np.all(factor == 1):
            part = self._value(f"{node.name}/factor", (channels,), factor)
            self._add(node, "MUL", [index, part], shape, {})
            index = self.places[node.name]
        if np.any(shift) or np.all(factor == 1):
            part = self._value(f"{node.name}/shift", (channels,), shift)
            self._add(node, "ADD", [index, part], shape, {})
        return None

    def _affine(self, node: Node, channels: int) -> tuple[np.ndarray, np.ndarray]:
        found = affine(node, [self.constant(name) for name in node.inputs], channels)
        if isinstance(found, str):
            raise self._refuse(node, found)
        return found

    def _absorb(self, index: int, factor: np.ndarray, shift: np.ndarray) -> None:
        """Channels times factor plus shift, into a convolution's weights and bias."""
        op = self.operations[index]
        kernel, bias = (self.values[i] for i in op.inputs[1:3])
        assert kernel.data is not None and bias.data is not None
        by = factor if op.kind == "DEPTHWISE_CONV_2D" else factor.reshape(-1, 1, 1, 1)
        self._replace(op.inputs[1], kernel.data.astype(np.float64) * by)
        self._replace(op.inputs[2], bias.data.astype(np.float64) * factor + shift)

    def _replace(self, index: int, data: np.ndarray) -> None:
        old = self.values[index]
        self.values[index] = Value(old.name, old.shape, old.dtype, data.astype(np.float32))

    def _absorb_bias(self, name: str, index: int) -> None:
        """The arithmetic behind a head's convolution, which is not on the way to it."""
        channels = self.values[self.places[name]].shape[-1]
        for _ in range(_MAX_DEPTH):
            nexts = self.graph.consumers.get(name, [])
            if len(nexts) != 1 or nexts[0].op not in (*NORMS, "BiasAdd", "Add", "AddV2", "Mul", "Identity"):
                break
            node = nexts[0]
            if node.op != "Identity":
                if self._data(node) != [name]:
                    break
                self._absorb(index, *self._affine(node, channels))
            name = node.name

    def _of_maps(self, node: Node, data: list[str]) -> None:
        kind = {"Add": "ADD", "AddV2": "ADD", "Mul": "MUL"}.get(node.op)
        shapes = [self._shape(name) for name in data]
        if kind == "MUL" and shapes[0][-1] == 1 < shapes[1][-1]:
            data, shapes = data[::-1], shapes[::-1]
        alike = shapes[0][-1] == shapes[1][-1] or (kind == "MUL" and shapes[1][-1] == 1)
        if kind is None or not alike:
            raise self._refuse(node, f"of maps of {shapes[0]} and {shapes[1]} is not understood")
        for a, b in (data, data[::-1]):
            if kind == "MUL" and hard_sigmoid(self.graph, b, self.constant) == a:
                self._add(node, "HARD_SWISH", [self.places[a]], self._shape(a), {})
                return
        shape = max(shapes, key=math.prod)
        self._add(node, kind, [self.places[name] for name in data], shape, {})

    def _concat(self, node: Node, data: list[str]) -> None:
        axis = self.constant(node.inputs[-1] if node.op == "ConcatV2" else node.inputs[0])
        shapes = [self._shape(name) for name in data]
        if axis is None or axis.size != 1 or int(axis.reshape(-1)[0]) not in (3, -1):
            raise self._refuse(node, "puts maps together along another axis than the channels")
        if len({shape[:3] for shape in shapes}) != 1:
            raise self._refuse(node, f"puts together maps of {shapes[0]} and others")
        shape = (*shapes[0][:3], sum(s[3] for s in shapes))
        self._add(node, "CONCATENATION", [self.places[name] for name in data], shape, {"axis": 3})

    def _pool(self, node: Node, source: str) -> None:
        x = self._shape(source)
        ksize = list(node.attrs["ksize"].list.i) if "ksize" in node.attrs else []
        if len(ksize) != 4 or len(x) != 4:
            raise self._refuse(node, f"has windows of {ksize}")
        options, sides = self._windows(node, x, ksize[1:3])
        if node.op == "AvgPool" and sides == (1, 1) and tuple(ksize[1:3]) == x[1:3] and options["padding"] == 1:
            return self._mean_of(node, source)
        options |= {"kernel_h": ksize[1], "kernel_w": ksize[2]}
        self._add(node, _POOLS[node.op], [self.places[source]], (1, *sides, x[3]), options)
        return None

    def _mean(self, node: Node) -> None:
        axes = self.constant(node.inputs[1]) if len(node.inputs) > 1 else None
        keep = "keep_dims" in node.attrs and node.attrs["keep_dims"].b
        if axes is None or sorted(int(a) % 4 for a in axes.reshape(-1)) != [1, 2] or not keep:
            raise self._refuse(node, "is no mean over a map's cells")
        self._mean_of(node, node.inputs[0])

    def _mean_of(self, node: Node, source: str) -> None:
        axes = self._value(f"{node.name}/axes", (2,), np.array([1, 2], np.int32))
        shape = (1, 1, 1, self._shape(source)[3])
        self._add(node, "MEAN", [self.places[source], axes], shape, {"keep_dims": 1})

    def _amounts(self, node: Node) -> np.ndarray | None:
        found = self.constant(node.inputs[1]) if len(node.inputs) > 1 else None
        return found if found is not None and found.shape == (4, 2) and 0 <= found.min() <= found.max() < 64 else None

    def _pad(self, node: Node) -> None:
        amounts = self._amounts(node)
        if amounts is None:
            raise self._refuse(node, "pads by numbers that are not constant")
        self._padded(node, amounts)

    def _padded(self, node: Node, amounts: np.ndarray) -> None:
        x = self._shape(node.inputs[0])
        shape = (1, x[1] + int(amounts[1].sum()), x[2] + int(amounts[2].sum()), x[3])
        part = self._value(f"{node.name}/amounts", (4, 2), amounts.astype(np.int32))
        self._add(node, "PAD", [self.places[node.inputs[0]], part], shape, {})
