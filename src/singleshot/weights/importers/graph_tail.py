"""What a described network computes behind its last convolutions, run with numbers: turns, reshapes, joins, decoding.

Nothing is concluded from names and shapes: an importer puts numbers in place of the maps and looks at what comes out.
Operations as on the pages of OpenVINO's operation sets, whose kinds ONNX files are read as.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence

import numpy as np

from singleshot.errors import CheckpointError
from singleshot.weights.importers.fused_graph import needed_by
from singleshot.weights.importers.openvino_constants import Constants
from singleshot.weights.readers.openvino_ir import BadAttributeError, Node

MAX_NUMBERS, MAX_HELD = 20_000_000, 300_000_000  # of one array; of all that are held at once
_ARITHMETIC: dict[str, Callable[[np.ndarray, np.ndarray], np.ndarray]] = {
    "Add": np.add,
    "Subtract": np.subtract,
    "Multiply": np.multiply,
    "Divide": np.divide,
    "Maximum": np.maximum,
    "Minimum": np.minimum,
    "Power": np.power,
}
_OF_ONE: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "Exp": np.exp,
    "Sqrt": np.sqrt,
    "Negative": np.negative,
    "Ceil": np.ceil,
    "Floor": np.floor,
}
_REDUCED: dict[str, Callable[..., np.ndarray]] = {
    "ReduceMax": np.max,
    "ReduceMin": np.min,
    "ReduceSum": np.sum,
    "ReduceProd": np.prod,
}
_COMPARED = ("Greater", "GreaterEqual", "Less", "LessEqual")
ACTIVATIONS = {"SoftMax": "softmax", "Softmax": "softmax", "Sigmoid": "sigmoid"}
SUPPRESSION = "NonMaxSuppression"
Arrays = list[np.ndarray]


class Tail:
    """The nodes between maps and ends.

    nodes: of the network; ends: what is wanted, as (node, output); maps: where to begin, index of a node -> [C, H, W].
    Raises CheckpointError for a kind that is not known here.
    """

    def __init__(
        self,
        nodes: Sequence[Node],
        constants: Constants,
        ends: Iterable[tuple[int, int]],
        maps: Mapping[int, tuple[int, int, int]],
        shapes: Mapping[int, tuple[int, int, int]],
        sides: tuple[int, ...] = (),
    ) -> None:
        """shapes: of every map that the network has, for what asks for no more than that; sides: of the image, to which
        boxes in pixels are cut."""
        self.nodes, self.constants, self.where = nodes, constants, constants.where
        self.maps, self.shapes, self.edges = dict(maps), dict(shapes), (1.0, *map(float, sides))
        self.ends = list(ends)
        self.needed = self._needed()
        self.limits: list[tuple[float, float]] = []  # that results are cut to, which `run` leaves out
        self.touched = self._touched()
        for i in self.needed:
            if i not in constants and i not in self.maps and not self._is_known(i):
                raise CheckpointError(
                    f"{self.where}: {nodes[i]} stands between its maps and its boxes, which is not known here;"
                    " want the checkpoint that it was converted from"
                )

    def _is_known(self, i: int) -> bool:
        kind = self.nodes[i].kind
        known = (*_ARITHMETIC, *_OF_ONE, *_COMPARED, *ACTIVATIONS, *_KINDS, "Clamp")
        return kind in known or i in self.shapes or kind in ("Parameter", "Input")

    def _needed(self) -> list[int]:
        found: set[int] = set()
        todo = [i for i, _ in self.ends]
        while todo:
            i = todo.pop()
            if i < 0 or i in found:
                continue
            found.add(i)
            if i in self.constants or i in self.shapes:  # maps are among them
                continue
            if self._asks_shape(i):
                continue
            todo += [source for source, _ in self.nodes[i].takes]
        return sorted(found)

    def _asks_shape(self, i: int) -> bool:
        """Whether a node gives the shape of a map."""
        node = self.nodes[i]
        return node.kind == "ShapeOf" and any(source in self.shapes for source, _ in node.takes[:1])

    def _touched(self) -> frozenset[int]:
        """Nodes that depend on a map's numbers."""
        found = set(self.maps)
        for i in self.needed:
            if self.nodes[i].kind not in ("ShapeOf", *_COMPARED) and any(
                source in found for source, _ in self.nodes[i].takes
            ):
                found.add(i)
        return frozenset(found)

    def way_to(self, i: int) -> set[int]:
        """Nodes whose numbers a node's come from, itself among them."""
        return needed_by([i], lambda at: (source for source, _ in self.nodes[at].takes if source in self.touched))

    def is_active(self, i: int) -> bool:
        """Whether a softmax or sigmoid is on the way to a node."""
        return bool(self.activations(i))

    def activations(self, i: int) -> list[int]:
        """Nodes of softmax or sigmoid on the way from the maps to a node."""
        seen: set[int] = set()
        todo, found = [i], []
        while todo:
            at = todo.pop()
            if at < 0 or at in seen or at not in self.touched or at in self.maps:
                continue
            seen.add(at)
            if self.nodes[at].kind in ACTIVATIONS:
                found.append(at)
            todo += [source for source, _ in self.nodes[at].takes]
        return sorted(found)

    def run(self, given: Mapping[int, np.ndarray]) -> dict[tuple[int, int], np.ndarray]:
        """Every value, by node and output. given: arrays [1, C, H, W] in place of the maps.

        Softmax and sigmoid pass on what they take, and results are not cut to the image: numbers show where they went.
        """
        values: dict[tuple[int, int], np.ndarray] = {}
        self.limits, held = [], 0
        for i in self.needed:
            node = self.nodes[i]
            if i in given:
                values[i, 0] = given[i]
            elif i in self.constants:
                values[i, 0] = np.asarray(self.constants.value(i))
            elif i in self.shapes:
                values[i, 0] = np.broadcast_to(np.nan, (1, *self.shapes[i]))
            elif self._asks_shape(i):
                own = given.get(node.takes[0][0])
                shape = (1, *self.shapes[node.takes[0][0]]) if own is None else own.shape
                values[i, 0] = np.array(shape, np.int64)
            else:
                inputs = [values.get(place) for place in node.takes]
                try:
                    with np.errstate(all="ignore"):
                        results = self._computed(node, [x for x in inputs if x is not None])
                except (ValueError, IndexError, TypeError, KeyError, OverflowError, BadAttributeError) as error:
                    raise CheckpointError(f"{self.where}: {node} does not fit its inputs ({error})") from error
                for k, result in enumerate(results):
                    values[i, k] = result
                    held += result.size
                if held > MAX_HELD:
                    raise CheckpointError(f"{self.where}: what it computes of its boxes takes too much memory")
        return values

    def _computed(self, node: Node, x: Arrays) -> Arrays:
        kind = node.kind
        if kind in ACTIVATIONS:
            return [x[0]]
        if kind in _OF_ONE:
            return [_OF_ONE[kind](x[0].astype(np.float64))]
        if kind in _ARITHMETIC or kind in _COMPARED:
            return [self._of_two(kind, x)]
        if kind == "Clamp":
            low, high = node.number("min"), node.number("max")
            whole_image = low == 0 and high in self.edges
            self.limits.append((0.0, 1.0) if whole_image else (low, high))
            return [x[0]] if whole_image else [x[0].clip(low, high)]
        return _KINDS[kind](node, x)

    def _of_two(self, kind: str, x: Arrays) -> np.ndarray:
        if math.prod(np.broadcast_shapes(x[0].shape, x[1].shape)) > MAX_NUMBERS:
            raise ValueError(f"an array of more than {MAX_NUMBERS} numbers")
        if kind in _COMPARED:  # with a threshold: all are kept
            return np.ones(np.broadcast_shapes(x[0].shape, x[1].shape), np.int64)
        edges = {"Maximum": (0.0,), "Minimum": self.edges}.get(kind, ())
        if x[1].size == 1 and float(x[1].reshape(-1)[0]) in edges:
            self.limits.append((0.0, 1.0))
            return x[0]
        whole = all(values.dtype.kind in "iu" for values in x)
        found = _ARITHMETIC[kind](x[0], x[1])
        return np.trunc(found).astype(np.int64) if whole and kind == "Divide" else found


# ---------------------------------------------------------------------------------------------- kinds


def _axes(values: np.ndarray) -> tuple[int, ...]:
    return tuple(int(n) for n in values.reshape(-1))


def _reshape(node: Node, x: Arrays) -> Arrays:
    if node.kind == "Flatten":
        axis = node.whole("axis", 1)
        rows = math.prod(x[0].shape[:axis])
        return [x[0].reshape(rows, -1)]
    zero = node.flag("special_zero")
    target = [x[0].shape[i] if zero and not n else n for i, n in enumerate(_axes(x[1]))]
    return [x[0].reshape(target)]


def _squeeze(node: Node, x: Arrays) -> Arrays:
    axes = _axes(x[1]) if len(x) > 1 else None
    return [np.squeeze(x[0], axes) if node.kind == "Squeeze" else np.expand_dims(x[0], axes or ())]


def _transpose(node: Node, x: Arrays) -> Arrays:
    order = node.numbers("order") if node.kind == "Permute" else x[1].reshape(-1) if len(x) > 1 else ()
    return [x[0].transpose([int(n) for n in order] or None)]


def _concat(node: Node, x: Arrays) -> Arrays:
    if sum(values.size for values in x) > MAX_NUMBERS:
        raise ValueError(f"an array of more than {MAX_NUMBERS} numbers")
    return [np.concatenate(x, axis=node.whole("axis", 1))]


def _split(node: Node, x: Arrays) -> Arrays:
    axis = int(x[1].reshape(-1)[0])
    if node.kind == "Split":
        parts = node.whole("num_splits")
        if not 1 <= parts <= x[0].shape[axis]:
            raise ValueError(f"{parts} parts of {x[0].shape[axis]}")
        return np.split(x[0], parts, axis)
    lengths = list(_axes(x[2]))
    side = x[0].shape[axis]
    lengths = [side - sum(n for n in lengths if n > 0) if n < 0 else n for n in lengths]
    if sum(lengths) != side or min(lengths) < 0:
        raise ValueError(f"parts {lengths} of {side}")
    return np.split(x[0], np.cumsum(lengths)[:-1], axis)


def _slice(node: Node, x: Arrays) -> Arrays:
    starts, stops, steps = (_axes(values) for values in x[1:4])
    axes = _axes(x[4]) if len(x) > 4 else tuple(range(len(starts)))
    places = [slice(None)] * x[0].ndim
    for axis, start, stop, step in zip(axes, starts, stops, steps, strict=True):
        # Beyond the first place, backwards: None is how NumPy says it.
        places[axis] = slice(start, None if step < 0 and stop < -x[0].shape[axis] else stop, step)
    return [x[0][tuple(places)]]


def _strided_slice(node: Node, x: Arrays) -> Arrays:
    starts, stops = _axes(x[1]), _axes(x[2])
    steps = _axes(x[3]) if len(x) > 3 else (1,) * len(starts)
    masks = {
        key: [*(n == 1 for n in node.numbers(f"{key}_mask")), *[False] * len(starts)]
        for key in ("begin", "end", "new_axis", "shrink_axis", "ellipsis")
    }
    places: list[slice | int | None] = []
    for k, (start, stop, step) in enumerate(zip(starts, stops, steps, strict=True)):
        if masks["ellipsis"][k]:
            raise ValueError("an ellipsis")
        if masks["new_axis"][k]:
            places.append(None)
        elif masks["shrink_axis"][k]:
            places.append(start)
        else:
            places.append(slice(None if masks["begin"][k] else start, None if masks["end"][k] else stop, step))
    return [x[0][tuple(places)]]


def _gather(node: Node, x: Arrays) -> Arrays:
    axis = int(x[2].reshape(-1)[0]) if len(x) > 2 else 0
    if node.whole("batch_dims", 0) or x[1].size * max(x[0].size // max(x[0].shape[axis], 1), 1) > MAX_NUMBERS:
        raise ValueError("batches, or too many numbers")
    return [x[0].take(x[1].astype(np.int64), axis=axis)]


def _convert(node: Node, x: Arrays) -> Arrays:
    whole = node.attributes.get("destination_type", "")[:1] in ("i", "u")
    return [x[0].astype(np.int64 if whole else np.float64)]


def _broadcast(node: Node, x: Arrays) -> Arrays:
    target = _axes(x[1])
    if math.prod(target) > MAX_NUMBERS:
        raise ValueError(f"an array of more than {MAX_NUMBERS} numbers")
    return [np.broadcast_to(x[0], np.broadcast_shapes(x[0].shape, target))]


def _range(node: Node, x: Arrays) -> Arrays:
    start, stop, step = (float(values.reshape(-1)[0]) for values in x)
    if not step or not abs((stop - start) / step) <= MAX_NUMBERS:
        raise ValueError(f"{start:g} to {stop:g} in steps of {step:g}")
    return [np.arange(start, stop, step)]


def _tile(node: Node, x: Arrays) -> Arrays:
    if x[0].size * math.prod(_axes(x[1])) > MAX_NUMBERS:
        raise ValueError(f"an array of more than {MAX_NUMBERS} numbers")
    return [np.tile(x[0], _axes(x[1]))]


def _gather_nd(node: Node, x: Arrays) -> Arrays:
    places = x[1].astype(np.int64)
    depth = places.shape[-1]
    each = math.prod(x[0].shape[depth:])
    if node.whole("batch_dims", 0) or depth > x[0].ndim or places.size * each > MAX_NUMBERS * depth:
        raise ValueError("batches, or too many numbers")
    return [x[0][tuple(np.moveaxis(places, -1, 0))]]


def _reduce(node: Node, x: Arrays) -> Arrays:
    axes = _axes(x[1]) if len(x) > 1 else ()
    return [np.asarray(_REDUCED[node.kind](x[0], axis=axes or None, keepdims=node.flag("keep_dims")))]


def _pad(node: Node, x: Arrays) -> Arrays:
    amounts = np.array(_axes(x[1])).reshape(2, -1).T
    if amounts.shape[0] != x[0].ndim or amounts.any():
        raise ValueError("padding")
    return [x[0]]


def _non_zero(node: Node, x: Arrays) -> Arrays:
    return [np.array(np.nonzero(x[0]), np.int64)]


def _shape_of(node: Node, x: Arrays) -> Arrays:
    return [np.array(x[0].shape, np.int64)]


_KINDS: dict[str, Callable[[Node, Arrays], Arrays]] = {
    "ShapeOf": _shape_of,
    "Reshape": _reshape,
    "Flatten": _reshape,
    "Squeeze": _squeeze,
    "Unsqueeze": _squeeze,
    "Transpose": _transpose,
    "Permute": _transpose,
    "Concat": _concat,
    "Split": _split,
    "VariadicSplit": _split,
    "Slice": _slice,
    "StridedSlice": _strided_slice,
    "Gather": _gather,
    "Convert": _convert,
    "Broadcast": _broadcast,
    "NonZero": _non_zero,
    "Range": _range,
    "Tile": _tile,
    "GatherND": _gather_nd,
    "Pad": _pad,
    **dict.fromkeys(_REDUCED, _reduce),
}
