"""Numbers that an OpenVINO network computes from its constants alone: weights in half precision or of 8 bits, sizes."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from singleshot.errors import CheckpointError
from singleshot.weights.foreign_state import ForeignState
from singleshot.weights.readers.openvino_ir import IrNetwork, Node

_MAX_BYTES, _MAX_DEPTH = 4 * 2**30, 64
_SIZES = ("ShapeOf", "Gather", "StridedSlice", "Concat", "ReduceProd")  # of what a network says of its shapes
_ARITHMETIC: dict[str, Callable[[np.ndarray, np.ndarray], np.ndarray]] = {
    "Add": np.add,
    "Subtract": np.subtract,
    "Multiply": np.multiply,
    "Divide": np.divide,
}
_FOLDED = ("Convert", "Reshape", "Squeeze", "Unsqueeze", "Transpose", "FakeQuantize", *_ARITHMETIC, *_SIZES)


class Constants:
    """Which nodes are constant, and their values."""

    def __init__(self, network: IrNetwork, tensors: ForeignState) -> None:
        self.network, self.tensors, self.where = network, tensors, tensors.where
        self._values: dict[int, np.ndarray] = {}
        self._bytes = 0
        self._constant: set[int] = set()
        for i, node in enumerate(network.nodes):
            if node.kind == "ShapeOf":
                known = self._shape_of(node) is not None
            else:
                known = node.kind in _FOLDED and all(source in self._constant for source, _ in node.takes)
            if (node.kind == "Const" and "value" in node.blobs) or (known and node.takes):
                self._constant.add(i)

    def __contains__(self, i: int) -> bool:
        return i in self._constant

    def input(self, node: Node, number: int) -> np.ndarray:
        """Value of an input; CheckpointError where it is none, or is computed from the image."""
        source = node.takes[number][0] if 0 <= number < len(node.takes) else -1
        if source not in self._constant:
            raise CheckpointError(f"{self.where}: {node} takes no constant as its input {number}, which it needs here")
        return self.value(source)

    def value(self, i: int, depth: int = 0) -> np.ndarray:
        """Of a constant node: numbers with a point as float64, others as they are. What is in between is let go of."""
        if i in self._values:
            return self._values[i]
        node = self.network.nodes[i]
        if depth > _MAX_DEPTH:
            raise CheckpointError(f"{self.where}: {node} is computed in more than {_MAX_DEPTH} steps")
        if node.kind == "Const":
            tensor = self.tensors.take(node.blobs["value"], *[None] * len(self.tensors.shape(node.blobs["value"])))
            found = tensor.numpy()
        elif node.kind == "ShapeOf":
            found = np.array(self._shape_of(node), np.int64)
        else:
            inputs = [self.value(source, depth + 1) for source, _ in node.takes]
            try:
                found = self._computed(node, inputs)
            except (ValueError, IndexError, TypeError, KeyError) as error:
                raise CheckpointError(f"{self.where}: {node} has constants that do not fit ({error})") from error
        if found.dtype.kind == "f":
            found = found.astype(np.float64)
        self._bytes += found.nbytes
        if self._bytes > _MAX_BYTES:
            raise CheckpointError(f"{self.where}: its constants take more than {_MAX_BYTES // 2**30} GB")
        self._values[i] = found
        return found

    def _shape_of(self, node: Node) -> tuple[int, ...] | None:
        """The shape that a ShapeOf gives, as the file says; None where a side is open."""
        if not node.takes or node.takes[0][0] < 0:
            return None
        source, output = node.takes[0]
        shapes = self.network.nodes[source].shapes  # which ONNX files do not give
        shape = shapes[output] if output < len(shapes) else (-1,)
        return shape if min(shape, default=1) >= 0 else None

    def _computed(self, node: Node, x: list[np.ndarray]) -> np.ndarray:
        kind = node.kind
        if kind == "Convert":
            whole = node.attributes.get("destination_type", "")[:1] in ("i", "u")
            return x[0].astype(np.int64 if whole else np.float64)
        if kind == "Reshape" and len(x) == 1:  # versions before 10 have its shape in the layer itself
            return x[0].reshape(node.shapes[0])
        if kind in ("Reshape", "Squeeze", "Unsqueeze"):
            return _reshaped(kind, x)
        if kind == "Transpose":
            return x[0].transpose([int(n) for n in x[1]])
        if kind in _SIZES:
            return _size(node, x)
        most = max(values.size for values in x)
        if np.broadcast_shapes(*(values.shape for values in x)) not in {v.shape for v in x if v.size == most}:
            raise ValueError(f"shapes {[values.shape for values in x]} make a larger one")
        if kind == "FakeQuantize":
            return quantised(node, x)
        return _ARITHMETIC[kind](x[0], x[1])


def _reshaped(kind: str, x: list[np.ndarray]) -> np.ndarray:
    values = x[0]
    if kind == "Reshape":
        target = [int(n) or values.shape[i] for i, n in enumerate(x[1].reshape(-1))]
        return values.reshape(target)
    axes = tuple(int(n) for n in x[1].reshape(-1)) if len(x) > 1 else ()
    if kind == "Squeeze":
        return np.squeeze(values, axes or None)
    return np.expand_dims(values, axes)


def _size(node: Node, x: list[np.ndarray]) -> np.ndarray:
    """Of arrays of a few whole numbers."""
    if any(values.size > 64 for values in x):
        raise ValueError("want a shape")
    if node.kind == "Gather":
        return x[0].take(x[1].astype(np.int64), axis=int(x[2]) if len(x) > 2 else 0)
    if node.kind == "Concat":
        return np.concatenate(x, axis=node.whole("axis", 0))
    if node.kind == "ReduceProd":
        return np.array([x[0].prod()])
    masks = {key: node.attributes.get(f"{key}_mask", "") for key in ("begin", "end", "new_axis", "shrink_axis")}
    if x[0].ndim != 1 or any(len(values) != 1 for values in x[1:]) or "1" in masks["new_axis"]:
        raise ValueError("want a slice of one axis")
    begin = None if "1" in masks["begin"] else int(x[1][0])
    end = None if "1" in masks["end"] else int(x[2][0])
    if "1" in masks["shrink_axis"]:
        return np.array(x[0][begin or 0])
    return x[0][begin : end : int(x[3][0]) if len(x) > 3 else 1]


def quantised(node: Node, x: list[np.ndarray]) -> np.ndarray:
    """FakeQuantize (its page in OpenVINO's operation sets): the values and low and high of inputs and of outputs."""
    levels = node.whole("levels")
    values, low, high, out_low, out_high = x
    if levels < 2 or not bool((high > low).all()):
        raise ValueError(f"{levels} levels, from {low.min()} to {high.max()}")
    steps = np.round((values.clip(low, high) - low) / (high - low) * (levels - 1))
    found: np.ndarray = steps / (levels - 1) * (out_high - out_low) + out_low
    return found
