"""The tensors of an ONNX graph in a TensorFlow Lite network, in float32 or int8 and channels last."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from singleshot.deploy.onnx_network import consumers_of
from singleshot.deploy.tflite_builder import Quantum, TFLiteBuilder
from singleshot.errors import ConfigError, printable

if TYPE_CHECKING:
    import onnx

Ranges = Mapping[str, tuple[float, float]]
TO_LAST, TO_FIRST = [0, 2, 3, 1], [0, 3, 1, 2]


class Int8(NamedTuple):
    """ranges: least and greatest value of each map, by its ONNX name; floats: names of nodes that stay in float."""

    ranges: Ranges
    floats: frozenset[str] = frozenset()


class StoredMap(NamedTuple):
    """A tensor of the ONNX graph. shape: as ONNX has it; last: whether it lies channels last in the file."""

    shape: tuple[int, ...]
    last: bool

    @property
    def stored(self) -> tuple[int, ...]:
        """The shape that is written, channels last where the map is so."""
        return tuple(self.shape[i] for i in TO_LAST) if self.last else self.shape


class Squares(NamedTuple):
    """What is computed on the way to the length of a map's channels. addend: what is added inside the root."""

    of: str
    addend: float = 0.0


class GraphTensors:
    """Which tensor of the file holds which of the graph.

    Args:
        proto: From a normalised image [1, C, H, W] on, every shape known.
        builder: What the operators are added to.
        int8: How it is quantised; None for float32.
    """

    def __init__(self, proto: onnx.ModelProto, builder: TFLiteBuilder, int8: Int8 | None = None) -> None:
        from onnx import helper, numpy_helper, shape_inference

        graph = shape_inference.infer_shapes(proto, data_prop=True).graph
        self.builder, self._int8 = builder, int8
        self._nodes = list(graph.node)
        self._takers = consumers_of(graph)
        self._constants = {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.initializer}
        self._shapes = {
            value.name: tuple(dim.dim_value for dim in value.type.tensor_type.shape.dim)
            for value in (*graph.input, *graph.value_info, *graph.output)
        }
        self._outputs = {value.name for value in graph.output}
        self._attributes = {
            node.output[0]: {a.name: helper.get_attribute_value(a) for a in node.attribute} for node in graph.node
        }
        self._maps: dict[str, StoredMap] = {}
        self._stored: dict[tuple[str, bool], int] = {}  # by name and whether in int8
        self._origin: dict[str, str] = {}  # what a name of the same values is called in the file
        self._squares: dict[str, Squares] = {}
        self._done: set[str] = set()

    # ------------------------------------------------------------------------------------------ tensors

    def start(self, name: str, index: int) -> None:
        """The image: an input of the graph and the tensor that holds it, channels last."""
        self._maps[name] = StoredMap(self._shapes[name], True)
        self._stored[name, self.builder.quantum(index) is not None] = index

    def output(self, name: str) -> int:
        """A tensor of the graph in float."""
        return self._tensor(name, False)

    def quantum(self, name: str) -> Quantum:
        """How a map is scaled in int8, by its range."""
        assert self._int8 is not None
        return Quantum.of(*self._int8.ranges[name])

    def _name(self, name: str) -> str:
        return self._origin.get(name, name)

    def _tensor(self, name: str, int8: bool) -> int:
        """A map in that form, converted from the other one where it has that alone."""
        name = self._name(name)
        if name in self._constants:
            return self.builder.constant(name, self._constants[name])
        if (name, int8) not in self._stored:
            if (name, not int8) not in self._stored:
                raise ConfigError(f"--to tflite: {printable(name, 60)} is not computed in a way that can be written")
            index = self._new(name, int8)
            self.builder.op("QUANTIZE" if int8 else "DEQUANTIZE", [self._stored[name, not int8]], [index])
        return self._stored[name, int8]

    def _new(self, name: str, int8: bool, quantum: Quantum | None = None) -> int:
        """A computed map's tensor."""
        scaled = (quantum or self.quantum(name)) if int8 else None
        suffix = "" if (name, not int8) not in self._stored else "/int8" if int8 else "/float"
        index = self.builder.tensor(name + suffix, self._maps[name].stored, "int8" if int8 else "float32", scaled)
        self._stored[name, int8] = index
        return index

    def _result(self, node: onnx.NodeProto, like: str, name: str = "") -> str:
        """Note the map that a node gives, stored as that of `like` is; its name."""
        name = name or node.output[0]
        self._maps[name] = StoredMap(self._shapes[name], self._maps[self._name(like)].last)
        return name

    def _alias(self, name: str, of: str) -> None:
        self._origin[name] = self._name(of)

    def _padded(self, x: int, amounts: list[list[int]], value: float | None = None) -> int:
        """x with zeros around it, or with its least value."""
        if not amounts:
            return x
        _, height, width, channels = self.builder.shapes[x]
        (top, bottom), (left, right) = amounts
        quantum = self.builder.quantum(x)
        shape = (1, height + top + bottom, width + left + right, channels)
        name = f"padded {len(self.builder.shapes)}"
        y = self.builder.tensor(name, shape, "float32" if quantum is None else "int8", quantum)
        rows = self.builder.constant(f"{name}/amounts", [[0, 0], *amounts, [0, 0]], np.int32)
        if value is None:
            return self.builder.op("PAD", [x, rows], [y], "PadOptions")
        if quantum is None:
            least = self.builder.constant(f"{name}/least", [np.finfo(np.float32).min])
        else:
            least = self.builder.constant(f"{name}/least", [-128], np.int8, [quantum.scale])
        return self.builder.op("PADV2", [x, rows, least], [y], "PadV2Options")

    def weights(self, name: str, x: int, values: np.ndarray, bias: np.ndarray, axis: int) -> tuple[int, int]:
        """Weights and bias for a convolution of x, in int8 by channel where x is."""
        quantum = self.builder.quantum(x)
        names = f"{name}/weight", f"{name}/bias"
        if quantum is None:
            return self.builder.constant(names[0], values), self.builder.constant(names[1], bias)
        others = tuple(i for i in range(4) if i != axis)
        # A bias must fit into 32 bits of its own scale.
        scales = np.maximum(np.abs(values).max(axis=others) / 127, np.abs(bias) / (quantum.scale * 2**30))
        scales = np.maximum(scales, 1e-12).astype(np.float32)
        shape = [-1 if i == axis else 1 for i in range(4)]
        whole = np.clip(np.round(values / scales.reshape(shape)), -127, 127)
        steps = (scales * np.float32(quantum.scale)).astype(np.float32)
        biases = np.round(bias.astype(np.float64) / steps)
        return (
            self.builder.constant(names[0], whole, np.int8, scales, axis),
            self.builder.constant(names[1], biases, np.int32, steps),
        )

    def _beside(self, constant: str, map_name: str) -> np.ndarray:
        """A constant that goes with a map, in the map's order of dimensions."""
        values = self._constants[constant].astype(np.float32)
        if values.ndim and self._maps[self._name(map_name)].last:
            values = values.reshape((1,) * (4 - values.ndim) + values.shape).transpose(TO_LAST)
        return np.ascontiguousarray(values)

    def _scaled_as(self, y: int, x: int) -> int:
        """x in the scale of y."""
        quantum = self.builder.quantum(y)
        if quantum is None or quantum == self.builder.quantum(x):
            return x
        scaled = self.builder.tensor(f"scaled {len(self.builder.shapes)}", self.builder.shapes[x], "int8", quantum)
        return self.builder.op("QUANTIZE", [x], [scaled])
