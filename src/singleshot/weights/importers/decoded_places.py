"""Where a network that decodes its own boxes ends: the maps of its heads, and what is made of them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from singleshot.weights.importers.fused_graph import needed_by
from singleshot.weights.importers.graph_tail import SUPPRESSION
from singleshot.weights.importers.openvino_constants import Constants
from singleshot.weights.readers.openvino_ir import IrNetwork, Node

_CONVOLUTIONS = ("Convolution", "GroupConvolution")
# What puts numbers elsewhere, or (Sqrt, Power) changes them one by one.
_PASSES = (
    *("Reshape", "Transpose", "Squeeze", "Unsqueeze", "Concat", "StridedSlice", "Slice", "Gather", "Tile"),
    *("Broadcast", "Convert", "Split", "VariadicSplit", "Sqrt", "Power", "Clamp"),
)
_AFTER = ("Add", "Subtract", "Multiply", "Divide", "BatchNormInference", "FakeQuantize", "ScaleShift")


def last_maps(network: IrNetwork, constants: Constants) -> list[int]:
    """Nodes that give maps which no convolution takes any more, biases and normalisation behind them included."""
    nodes = network.nodes
    takers: dict[int, list[int]] = {}
    for i, node in enumerate(nodes):
        for source in dict.fromkeys(source for source, _ in node.takes):
            takers.setdefault(source, []).append(i)
    convolutions = [i for i, node in enumerate(nodes) if node.kind in _CONVOLUTIONS and i not in constants]
    before = nodes_needed(network, [source for i in convolutions for source, _ in nodes[i].takes[:1]])
    found = []
    for i in convolutions:
        if i in before:
            continue
        last = i
        while len(after := takers.get(last, [])) == 1 and _keeps_map(nodes[after[0]], constants):
            last = after[0]
        found.append(last)
    return found


def _keeps_map(node: Node, constants: Constants) -> bool:
    """Whether a node does something to each channel of a map, with constants [1, C, 1, 1] or its own."""
    if node.kind not in _AFTER:
        return False
    given = [source for source, _ in node.takes if source in constants]
    return len(given) == len(node.takes) - 1 and (
        node.kind not in _AFTER[:4] or all(constants.value(source).ndim == 4 for source in given)
    )


def nodes_needed(network: IrNetwork, of: Sequence[int]) -> set[int]:
    """Nodes that these need, themselves among them."""
    return needed_by(of, lambda i: (source for source, _ in network.nodes[i].takes))


def scores_multiplied(network: IrNetwork, constants: Constants, i: int) -> bool:
    """Whether a node multiplies two outputs of sigmoids, neither of which is the other's input (as SiLU's is)."""
    node = network.nodes[i]
    sources = [source for source, _ in node.takes if source >= 0 and source not in constants]
    if node.kind != "Multiply" or len(sources) != 2:
        return False
    found = [_sigmoid_behind(network, constants, source) for source in sources]
    return None not in found and found[0] != found[1]


def _sigmoid_behind(network: IrNetwork, constants: Constants, i: int) -> int | None:
    """The node of the sigmoid (the first one where several are joined) whose numbers this one hands on."""
    seen: set[int] = set()
    todo = [i]
    while todo:
        i = todo.pop()
        node = network.nodes[i]
        if node.kind == "Sigmoid":
            return i
        if i in seen or node.kind not in _PASSES:
            continue
        seen.add(i)
        first = node.takes if node.kind == "Concat" else node.takes[:1]
        todo += [source for source, _ in first if source >= 0 and source not in constants]
    return None


class EndPlaces(NamedTuple):
    """What a network ends in. places: as (node, output): results, or boxes and scores by turns where `pairs`, which
    suppression takes; suppressing: nodes of NonMaxSuppression; sorting: those that sort scores before it."""

    places: list[tuple[int, int]]
    suppressing: list[Node]
    sorting: list[Node]

    @property
    def pairs(self) -> bool:
        """Whether places are boxes and scores by turns."""
        return bool(self.suppressing or self.sorting)


def end_places(network: IrNetwork) -> EndPlaces:
    """What is suppressed, class by class; what is sorted and its boxes with it (torchvision's exports, whose
    suppression lies in a branch of the graph); or the results."""
    chosen = [node for node in network.nodes if node.kind == SUPPRESSION and len(node.takes) >= 2]
    if chosen:
        return EndPlaces([place for node in chosen for place in node.takes[:2]], chosen, [])
    places, sorting = [], []
    for i, node in enumerate(network.nodes):
        if node.kind != "TopK" or len(node.takes) < 2:
            continue
        boxes = [other.takes[0] for other in network.nodes if other.kind == "Gather" and (i, 1) in other.takes[1:]]
        if len(boxes) == 1:
            places += [boxes[0], node.takes[0]]
            sorting.append(node)
    if sorting:
        return EndPlaces(places, [], sorting)
    results = [n.takes[0] for n in network.nodes if n.kind == "Result" and n.takes and n.takes[0][0] >= 0]
    last = network.nodes[results[0][0]] if len(results) == 1 else None
    if last is not None and last.kind == "Concat" and last.whole("axis", 1) in (2, -1):
        return EndPlaces(list(last.takes), [], [])  # one output of columns: boxes, scores and what else there is
    return EndPlaces(results, [], [])
