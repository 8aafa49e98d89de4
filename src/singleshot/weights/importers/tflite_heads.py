"""The heads of a TensorFlow Lite network: the convolutions that boxes and scores are put together from."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from singleshot.errors import CheckpointError, printable
from singleshot.weights.graph_builder import swap_xy, widened, with_background
from singleshot.weights.importers.tflite_graph import SAME_VALUES, GraphImport
from singleshot.weights.readers.tflite import Operation


class Head(NamedTuple):
    """One map. location, confidence: its last convolutions; sides: its height and width; boxes: of a cell."""

    location: Operation
    confidence: Operation
    sides: tuple[int, int]
    boxes: int

    @property
    def priors(self) -> int:
        """Of boxes in all cells."""
        return self.sides[0] * self.sides[1] * self.boxes


def outputs_of(graph: GraphImport, boxes: int, scores: int, columns: int, raw: bool = False) -> tuple[list[Head], str]:
    """The maps' last convolutions, largest map first, and what makes scores of logits, of the tensors with these
    indices: [1, P, 4] and [1, P, columns]. raw: scores may be logits, "" then, and maps of any
    proportions. Raises CheckpointError."""
    locations, _ = _pieces(graph, boxes)
    confidences, activation = _pieces(graph, scores)
    if not activation and not raw:
        raise CheckpointError(f"{graph.where}: neither LOGISTIC nor SOFTMAX makes scores of its logits")
    if len(locations) != len(confidences):
        raise CheckpointError(f"{graph.where}: {len(locations)} maps for boxes, {len(confidences)} for scores")
    return _heads(graph, locations, confidences, columns, raw), activation


def paired_heads(graph: GraphImport, operations: Sequence[Operation], columns: int) -> list[Head]:
    """The maps' last convolutions, of boxes and of scores by turns, as heads. Raises CheckpointError."""
    return _heads(graph, operations[::2], operations[1::2], columns)


def _heads(
    graph: GraphImport,
    locations: Sequence[Operation],
    confidences: Sequence[Operation],
    columns: int,
    raw: bool = False,
) -> list[Head]:
    heads = []
    for location, confidence in zip(locations, confidences, strict=True):
        sides = [graph.side(part.outputs[0]) for part in (location, confidence)]
        (height, width, outputs), (height2, width2, _) = sides
        ours = raw or graph.network.description is not None
        if (height, width) != (height2, width2) or not (ours or height == width):
            raise CheckpointError(f"{graph.where}: a head of {height}x{width} and {height2}x{width2}: want squares")
        if outputs % 4 or sides[1][2] != outputs // 4 * columns:
            raise CheckpointError(f"{graph.where}: a head of {outputs} and {sides[1][2]} outputs for {columns} scores")
        heads.append(Head(location, confidence, (height, width), outputs // 4))
    return heads


def _pieces(graph: GraphImport, index: int) -> tuple[list[Operation], str]:
    """The convolutions that a tensor [1, P, n] is put together from, and the activation on the way, "" for none."""
    found: list[Operation] = []
    activation = ""
    stack, steps = [index], 0
    while stack:
        index, steps = stack.pop(), steps + 1
        op = graph.producers.get(index)
        if op is None or steps > 10_000:
            name = printable(graph.value(index).name, 80)
            raise CheckpointError(f"{graph.where}: what its detection takes is not computed ({name})")
        if op.kind == "CONV_2D":
            found.append(op)
        elif op.kind in ("LOGISTIC", "SOFTMAX"):
            activation = "sigmoid" if op.kind == "LOGISTIC" else "softmax"
            stack.append(graph.input(op, 0))
        elif op.kind == "CONCATENATION" and op.options["axis"] in (1, -2):
            stack += reversed(op.inputs)
        elif op.kind in SAME_VALUES or _is_cap(graph, op):
            stack.append(graph.input(op, 0))
        else:
            raise CheckpointError(f"{graph.where}: boxes or scores come from {printable(op.kind, 60)}, want CONV_2D")
    return found, activation


def _is_cap(graph: GraphImport, op: Operation) -> bool:
    """Whether it makes zeros of all scores but a class's best, as singleshot's own files cap them."""
    mask = graph.producers.get(graph.input(op, 1)) if op.kind == "MUL" else None
    return graph.network.description is not None and mask is not None and mask.kind == "CAST"


def run_heads(
    graph: GraphImport, heads: list[Head], num_classes: int, columns: int, scales: Mapping[str, float] | None = None
) -> None:
    """Add all layers up to the heads, and these. scales: of TensorFlow's order ty tx th tw; None for x y w h."""
    graph.run([part.inputs[0] for head in heads for part in (head.location, head.confidence)])
    for head in heads:
        _add_head(graph, head, num_classes, columns, scales)


def _add_head(
    graph: GraphImport, head: Head, num_classes: int, columns: int, scales: Mapping[str, float] | None
) -> None:
    parts = [_last_conv(graph, op) for op in (head.location, head.confidence)]
    side = max(weight.shape[-1] for weight, _ in parts)
    (location, location_bias), (confidence, confidence_bias) = ((widened(w, side), b) for w, b in parts)
    if scales is not None:
        # dx dy dw dh with one variance for both: what TensorFlow scales apart goes into the weights.
        factors = torch.tensor([1.0, scales["x"] / scales["y"], 1.0, scales["w"] / scales["h"]]).repeat(head.boxes)
        location = swap_xy(location, head.boxes) * factors.view(-1, 1, 1, 1)
        location_bias = swap_xy(location_bias, head.boxes) * factors
    if columns == num_classes:
        confidence, confidence_bias = with_background(confidence, confidence_bias, head.boxes)
    seen = [graph.layers.get(op.inputs[0]) for op in (head.location, head.confidence)]
    if seen[0] is None or seen[1] is None:
        raise CheckpointError(f"{graph.where}: a head takes a map that is not computed")
    graph.assembly.head(seen[0], seen[1], location, location_bias, confidence, confidence_bias)


def _last_conv(graph: GraphImport, op: Operation) -> tuple[Tensor, Tensor]:
    """Weight [outputs, inputs, k, k] and bias of a head's convolution; CheckpointError for one that heads cannot be."""
    weight, bias, groups = graph.weights(op)
    kernel, options = tuple(weight.shape[2:]), op.options
    steps = {options[f"{what}_{axis}"] for what in ("stride", "dilation") for axis in "hw"}
    kept = kernel == (1, 1) or (kernel == (3, 3) and options["padding"] == 0)
    if not kept or steps != {1} or groups != 1 or options["activation"] != "none":
        raise CheckpointError(f"{graph.where}: a head of kernel {kernel}, steps {sorted(steps)}, {groups} groups")
    return weight, torch.zeros(len(weight)) if bias is None else bias
