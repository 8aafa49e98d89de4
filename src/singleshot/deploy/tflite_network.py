"""A network's ONNX graph as TensorFlow Lite's operators: channels last, one image, in float32 or int8.

Maps of four dimensions lie channels last in the file; a Transpose to or from that order costs nothing. In int8 every
map has the range that it had on the calibration images; what is in float stands between DEQUANTIZE and QUANTIZE.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np

from singleshot.deploy.tflite_builder import Quantum
from singleshot.deploy.tflite_tensors import TO_FIRST, TO_LAST, GraphTensors, Squares, StoredMap
from singleshot.errors import ConfigError, printable
from singleshot.weights.graph_builder import same_padding

if TYPE_CHECKING:
    import onnx

_NONE, _RELU, _RELU6 = 0, 1, 3  # schema.fbs, enum ActivationFunctionType
_SAME, _VALID = 0, 1


class NetworkConverter(GraphTensors):
    """Adds an ONNX graph to a builder, node by node."""

    def _in_int8(self, node: onnx.NodeProto) -> bool:
        return self._int8 is not None and node.name not in self._int8.floats

    def _as_it_is(self, node: onnx.NodeProto) -> bool:
        """Whether the map that a node takes is in int8 already: for nodes that compute nothing of their own."""
        return (self._name(node.input[0]), True) in self._stored

    # ------------------------------------------------------------------------------------------ the walk

    def run(self) -> None:
        """Add every node. Raises ConfigError for what TensorFlow Lite cannot say."""
        for node in self._nodes:
            if node.output[0] in self._done:
                continue
            rule = _RULES.get(node.op_type)
            if rule is None:
                raise ConfigError(
                    f"--to tflite: the network has {printable(node.op_type, 40)}, which is not written; want one of"
                    f" {', '.join(sorted(_RULES))}"
                )
            rule(self, node)

    def _refuse(self, node: onnx.NodeProto, why: str) -> ConfigError:
        return ConfigError(f"--to tflite: {node.op_type} {printable(node.name, 60)} {why}")

    def _fused(self, node: onnx.NodeProto) -> tuple[str, int]:
        """The name behind a node and the activation that goes into it: that of its only taker, where it is one."""
        name = node.output[0]
        takers = self._takers.get(name, [])
        if len(takers) == 1 and name not in self._outputs:
            kind = self._activation(takers[0])
            if kind is not None:
                self._done.add(takers[0].output[0])
                return takers[0].output[0], kind
        return name, _NONE

    def _activation(self, node: onnx.NodeProto) -> int | None:
        if node.op_type == "Relu":
            return _RELU
        limits = self._limits(node) if node.op_type == "Clip" else None
        return {(0.0, 6.0): _RELU6, (0.0, np.inf): _RELU}.get(limits) if limits else None

    def _limits(self, node: onnx.NodeProto) -> tuple[float, float]:
        names = [*node.input[1:], "", ""][:2]
        if any(name and name not in self._constants for name in names):
            raise self._refuse(node, "has computed limits")
        low, high = (float(self._constants[n]) if n else e for n, e in zip(names, (-np.inf, np.inf), strict=True))
        return low, high

    # ------------------------------------------------------------------------------------------ convolutions, pooling

    def _padding(
        self, node: onnx.NodeProto, kernel: tuple[int, int], x: int, exact: bool
    ) -> tuple[int, list[list[int]]]:
        """SAME or VALID, and rows and columns to pad with before. exact: as much as the output needs, as pooling wants,
        which leaves out what it pads with."""
        attributes = self._attributes[node.output[0]]
        if attributes.get("auto_pad", b"NOTSET") not in (b"NOTSET", b"VALID"):
            raise self._refuse(node, "pads by itself")
        pads, strides = attributes.get("pads", [0] * 4), attributes.get("strides", [1, 1])
        dilations = attributes.get("dilations", [1, 1])
        sides, outs = self.builder.shapes[x][1:3], self._shapes[node.output[0]][2:]
        amounts, same = [], True
        for i in range(2):
            begin, reach = pads[i], dilations[i] * (kernel[i] - 1) + 1
            needed = (outs[i] - 1) * strides[i] + reach - sides[i] - begin
            amounts.append([begin, max(needed, 0) if exact else pads[2 + i]])
            same &= same_padding(sides[i], kernel[i], strides[i], dilations[i]) == (begin, max(needed, 0))
            same &= outs[i] == -(-sides[i] // strides[i])
        if not any(map(any, amounts)):
            return _VALID, []
        return (_SAME, []) if same else (_VALID, amounts)

    def _conv(self, node: onnx.NodeProto) -> None:
        attributes, weight = self._attributes[node.output[0]], self._constants.get(node.input[1])
        if weight is None or weight.ndim != 4:
            raise self._refuse(node, "has no constant weights of two dimensions")
        int8 = self._in_int8(node)
        x = self._tensor(node.input[0], int8)
        groups, outputs = int(attributes.get("group", 1)), weight.shape[0]
        depthwise = groups > 1 and groups == self.builder.shapes[x][3]
        name, activation = self._fused(node)
        padding, amounts = self._padding(node, weight.shape[2:], x, False)
        x = self._padded(x, amounts)
        bias = self._constants[node.input[2]] if len(node.input) > 2 else np.zeros(outputs, np.float32)
        values = weight[:, 0].transpose(1, 2, 0)[None] if depthwise else weight.transpose(0, 2, 3, 1)
        y = self._new(self._result(node, node.input[0], name), int8)
        parts = self.weights(node.output[0], x, values, bias, 3 if depthwise else 0)
        (stride_h, stride_w), (dilate_h, dilate_w) = (attributes.get(n, [1, 1]) for n in ("strides", "dilations"))
        options = {
            "padding": padding, "strideH": stride_h, "strideW": stride_w, "dilationHFactor": dilate_h,
            "dilationWFactor": dilate_w, "fusedActivationFunction": activation,
        }  # fmt: skip
        if depthwise:
            options["depthMultiplier"] = outputs // groups
            self.builder.op("DEPTHWISE_CONV_2D", [x, *parts], [y], "DepthwiseConv2DOptions", **options)
        else:
            self.builder.op("CONV_2D", [x, *parts], [y], "Conv2DOptions", **options)

    def _pool(self, node: onnx.NodeProto) -> None:
        attributes, highest = self._attributes[node.output[0]], node.op_type == "MaxPool"
        int8 = self._as_it_is(node) if highest else self._in_int8(node)
        x = self._tensor(node.input[0], int8)
        kernel = tuple(attributes["kernel_shape"])
        if set(attributes.get("dilations", [1])) != {1}:
            raise self._refuse(node, "is dilated")
        padding, amounts = self._padding(node, kernel, x, True)
        if not highest and (padding == _SAME or amounts):
            counted = attributes.get("count_include_pad", 0)
            if (amounts and not counted) or attributes.get("ceil_mode", 0):
                raise self._refuse(node, "averages over a border in a way that is not written")
            if padding == _SAME and counted:  # SAME leaves the border out
                padding, amounts = _VALID, [attributes["pads"][0::2], attributes["pads"][1::2]]
        x = self._padded(x, amounts, -np.inf if highest else None)
        y = self._new(self._result(node, node.input[0]), int8, self.builder.quantum(x))
        strides = attributes.get("strides", [1, 1])
        self.builder.op(
            "MAX_POOL_2D" if highest else "AVERAGE_POOL_2D", [x], [y], "Pool2DOptions",
            padding=padding, strideH=strides[0], strideW=strides[1], filterHeight=kernel[0], filterWidth=kernel[1],
        )  # fmt: skip

    def _mean(self, node: onnx.NodeProto) -> None:
        attributes = self._attributes[node.output[0]]
        axes = self._constants[node.input[1]].tolist() if len(node.input) > 1 else [2, 3]
        kept = attributes.get("keepdims", 1) or node.op_type == "GlobalAveragePool"
        if sorted(a % 4 for a in axes) != [2, 3] or not kept or not self._maps[self._name(node.input[0])].last:
            raise self._refuse(node, "is not over height and width")
        int8 = self._in_int8(node)
        x = self._tensor(node.input[0], int8)
        y = self._new(self._result(node, node.input[0]), int8)
        rows = self.builder.constant(f"{node.output[0]}/axes", [1, 2], np.int32)
        self.builder.op("MEAN", [x, rows], [y], "ReducerOptions", keepDims=True)

    # ------------------------------------------------------------------------------------------ point by point

    def _unary(self, node: onnx.NodeProto) -> None:
        kind = {"Sigmoid": "LOGISTIC", "HardSwish": "HARD_SWISH", "Relu": "RELU", "Round": "ROUND"}[node.op_type]
        int8 = self._in_int8(node) and kind != "ROUND"
        x = self._tensor(node.input[0], int8)
        fixed = Quantum(1 / 256, -128) if kind == "LOGISTIC" else None  # as the kernel wants it
        y = self._new(self._result(node, node.input[0]), int8, fixed)
        self.builder.op(kind, [x], [y], *(["HardSwishOptions"] if kind == "HARD_SWISH" else []))

    def _clip(self, node: onnx.NodeProto) -> None:
        x, name = self._tensor(node.input[0], False), self._result(node, node.input[0])
        if self._activation(node) == _RELU6:
            self.builder.op("RELU6", [x], [self._new(name, False)])
            return
        low, high = self._limits(node)
        for kind, limit in (("MAXIMUM", low), ("MINIMUM", high)):
            if np.isfinite(limit):
                y = self.builder.tensor(f"{name}/{kind.lower()}", self._maps[name].stored)
                bound = self.builder.constant(f"{name}/{kind.lower()}/limit", limit)
                x = self.builder.op(kind, [x, bound], [y], "MaximumMinimumOptions")
        self._stored[name, False] = x

    def _hard_sigmoid(self, node: onnx.NodeProto) -> None:
        """x / 6 + 1/2, limited to 0..1: (relu6 of x + 3) / 6."""
        slope, shift = (self._attributes[node.output[0]].get(n, d) for n, d in (("alpha", 0.2), ("beta", 0.5)))
        if not np.isclose(slope, 1 / 6) or not np.isclose(shift, 0.5):
            raise self._refuse(node, f"of slope {slope:g} is not written")
        x, name = self._tensor(node.input[0], False), self._result(node, node.input[0])
        y = self.builder.tensor(f"{name}/six", self._maps[name].stored)
        three, sixth = (self.builder.constant(f"{name}/{n}", v) for n, v in (("three", 3), ("sixth", 1 / 6)))
        self.builder.op("ADD", [x, three], [y], "AddOptions", fusedActivationFunction=_RELU6)
        self.builder.op("MUL", [y, sixth], [self._new(name, False)], "MulOptions")

    def _arithmetic(self, node: onnx.NodeProto) -> None:
        if node.op_type == "Div" and node.input[1] in self._squares:
            return self._normalise(node)
        constant = next((i for i, name in enumerate(node.input) if name in self._constants), None)
        map_name = node.input[1 if constant == 0 else 0]
        kind = node.op_type.upper()
        if node.input[0] in self._squares:  # what is added inside the root
            addend = float(self._constants.get(node.input[1], np.float32(np.nan)))
            if kind != "ADD" or not np.isfinite(addend):
                raise self._refuse(node, "of squares is not written")
            self._squares[node.output[0]] = self._squares[node.input[0]]._replace(addend=addend)
            return None
        int8 = constant is None and kind in ("ADD", "MUL") and self._in_int8(node)
        inputs = []
        for name in node.input:
            if name in self._constants:
                inputs.append(self.builder.constant(f"{node.output[0]}/{name}", self._beside(name, map_name)))
            else:
                inputs.append(self._tensor(name, int8))
        name, activation = self._fused(node)
        y = self._new(self._result(node, map_name, name), int8)
        self.builder.op(kind, inputs, [y], f"{kind.capitalize()}Options", fusedActivationFunction=activation)
        return None

    def _square(self, node: onnx.NodeProto) -> None:
        """Pow, ReduceSum and Sqrt of L2Norm, whose division is written as one operator."""
        source = node.input[0]
        if node.op_type == "Pow" and float(self._constants.get(node.input[1], np.float32(0))) == 2:
            self._squares[node.output[0]] = Squares(self._name(source))
        elif node.op_type != "Pow" and source in self._squares:
            axes = self._constants[node.input[1]].tolist() if node.op_type == "ReduceSum" else [1]
            if axes != [1] or not self._maps[self._squares[source].of].last:
                raise self._refuse(node, "is not over channels")
            self._squares[node.output[0]] = self._squares[source]
        else:
            raise self._refuse(node, "is written as a part of L2 normalisation alone")

    def _normalise(self, node: onnx.NodeProto) -> None:
        if self._squares[node.input[1]].of != self._name(node.input[0]):
            raise self._refuse(node, "divides by the length of another map")
        x, name = self._tensor(node.input[0], False), self._result(node, node.input[0])
        map_shape = self.builder.shapes[x]
        # Not L2_NORMALIZATION, which has another least length than ours.
        squares = self.builder.tensor(f"{name}/squares", map_shape)
        total, more, length = (
            self.builder.tensor(f"{name}/{n}", (*map_shape[:3], 1)) for n in ("sum", "more", "rsqrt")
        )
        axis = self.builder.constant(f"{name}/axis", [3], np.int32)
        epsilon = self.builder.constant(f"{name}/epsilon", self._squares[node.input[1]].addend)
        self.builder.op("MUL", [x, x], [squares], "MulOptions")
        self.builder.op("SUM", [squares, axis], [total], "ReducerOptions", keepDims=True)
        self.builder.op("ADD", [total, epsilon], [more], "AddOptions")
        self.builder.op("RSQRT", [more], [length])
        self.builder.op("MUL", [x, length], [self._new(name, False)], "MulOptions")

    # ------------------------------------------------------------------------------------------ form

    def _concat(self, node: onnx.NodeProto) -> None:
        first = self._maps[self._name(node.input[0])]
        int8 = self._in_int8(node) and first.last  # offsets and logits of the maps keep their own scales
        name = self._result(node, node.input[0])
        axis = self._attributes[name]["axis"] % len(first.shape)
        y = self._new(name, int8)
        inputs = [self._scaled_as(y, self._tensor(one, int8)) for one in node.input]
        axis = TO_LAST.index(axis) if first.last else axis
        self.builder.op("CONCATENATION", inputs, [y], "ConcatenationOptions", axis=axis)

    def _transpose(self, node: onnx.NodeProto) -> None:
        source, order = self._maps[self._name(node.input[0])], list(self._attributes[node.output[0]]["perm"])
        if len(source.shape) != 4 or order != (TO_LAST if source.last else TO_FIRST):
            raise self._refuse(node, f"to {order} is not written")
        name = self._name(node.input[0])
        copy = f"{name}/turned" if source.last else name
        for int8 in (False, True):
            if (name, int8) in self._stored:
                self._stored[copy, int8] = self._stored[name, int8]
        if self._int8 is not None and name in self._int8.ranges and copy not in self._int8.ranges:
            self._int8 = self._int8._replace(ranges={**self._int8.ranges, copy: self._int8.ranges[name]})
        self._maps[copy] = StoredMap(self._shapes[node.output[0]], not source.last)
        self._origin[node.output[0]] = copy

    def _reshape(self, node: onnx.NodeProto) -> None:
        source = self._name(node.input[0])
        if self._maps[source].last:
            raise self._refuse(node, "of a map, channels first, is not written")
        int8 = (source, True) in self._stored
        x = self._tensor(source, int8)
        name = node.output[0]
        self._maps[name] = StoredMap(self._shapes[name], False)
        y = self._new(name, int8, self.builder.quantum(x))
        shape = np.array(self._shapes[name], np.int32)
        form = self.builder.constant(f"{name}/shape", shape, np.int32)
        self.builder.op("RESHAPE", [x, form], [y], "ReshapeOptions", newShape=shape)

    def _pad(self, node: onnx.NodeProto) -> None:
        pads = self._constants[node.input[1]].tolist() if node.input[1] in self._constants else []
        value = float(self._constants[node.input[2]]) if len(node.input) > 2 and node.input[2] else 0.0
        mode = self._attributes[node.output[0]].get("mode", b"constant")
        lowest = value < -1e30  # before a maximum
        if len(pads) != 8 or any(pads[:2] + pads[4:6]) or mode != b"constant" or not (lowest or value == 0):
            raise self._refuse(node, "is not around height and width, by zeros")
        x = self._tensor(node.input[0], self._as_it_is(node))
        name = self._result(node, node.input[0])
        y = self._padded(x, [[pads[2], pads[6]], [pads[3], pads[7]]], -np.inf if lowest else None)
        self._stored[name, self.builder.quantum(x) is not None] = y

    def _resize(self, node: onnx.NodeProto) -> None:
        attributes = self._attributes[node.output[0]]
        (height, width), (rows, columns) = (self._shapes[n][2:] for n in (node.input[0], node.output[0]))
        way = attributes.get("mode", b"nearest")
        if way != b"nearest" or rows % height or columns % width:
            raise self._refuse(node, f"by {way.decode()} is not written; want nearest, to a multiple")
        int8 = self._as_it_is(node)
        x = self._tensor(node.input[0], int8)
        y = self._new(self._result(node, node.input[0]), int8, self.builder.quantum(x))
        size = self.builder.constant(f"{node.output[0]}/size", [rows, columns], np.int32)
        self.builder.op("RESIZE_NEAREST_NEIGHBOR", [x, size], [y], "ResizeNearestNeighborOptions")

    def _identity(self, node: onnx.NodeProto) -> None:
        self._alias(node.output[0], node.input[0])


_C = NetworkConverter
_RULES: dict[str, Callable[[NetworkConverter, Any], None]] = {
    "Conv": _C._conv, "MaxPool": _C._pool, "AveragePool": _C._pool, "ReduceMean": _C._mean,
    "GlobalAveragePool": _C._mean, "Sigmoid": _C._unary, "HardSwish": _C._unary, "Relu": _C._unary, "Round": _C._unary,
    "Clip": _C._clip, "HardSigmoid": _C._hard_sigmoid, "Add": _C._arithmetic, "Sub": _C._arithmetic,
    "Mul": _C._arithmetic, "Div": _C._arithmetic, "Pow": _C._square, "ReduceSum": _C._square, "Sqrt": _C._square,
    "Concat": _C._concat, "Transpose": _C._transpose, "Reshape": _C._reshape, "Pad": _C._pad, "Resize": _C._resize,
    "Identity": _C._identity,
}  # fmt: skip
