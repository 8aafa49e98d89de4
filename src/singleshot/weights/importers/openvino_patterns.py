"""Several layers of a network that are one of ours: normalisation over channels that is written out, sizes."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import numpy as np

from singleshot.weights.importers.graph_tail import Tail
from singleshot.weights.importers.openvino_constants import Constants
from singleshot.weights.readers.openvino_ir import Node

_ARITHMETIC = ("Add", "Subtract", "Multiply", "Divide")
_TINY = 1e-5  # under a root, or a smallest length: no division by nothing


def simplified(nodes: Iterable[Node], constants: Constants) -> tuple[Node, ...]:
    """The nodes, with NormalizeL2 in place of a map that is divided by its own length, and without spreading of what
    the layers behind it spread themselves."""
    found = list(nodes)
    takers: dict[int, set[str]] = {}
    for node in found:
        for source, _ in node.takes:
            takers.setdefault(source, set()).add(node.kind)
    spread = {
        i: node.takes[0]
        for i, node in enumerate(found)
        if node.kind == "Broadcast" and node.takes and takers.get(i, set()) <= set(_ARITHMETIC)
    }
    for i, node in enumerate(found):
        if node.kind in _ARITHMETIC:
            found[i] = node._replace(takes=tuple(spread.get(place[0], place) for place in node.takes))
        takes = found[i].takes
        if node.kind == "Divide" and len(takes) == 2 and _measured(found, constants, takes[1][0]) == takes[0]:
            found[i] = node._replace(kind="NormalizeL2", takes=takes[:1])
    return tuple(found)


def _measured(nodes: list[Node], constants: Constants, i: int) -> tuple[int, int] | None:
    """The map of whose cells a node gives the lengths over channels; None for other nodes."""
    squared, summed = False, False
    while i >= 0:
        node = nodes[i]
        first = node.takes[0] if node.takes else (-1, 0)
        if node.kind == "Clamp" and abs(node.number("min")) <= _TINY and node.number("max") > 1e6:
            i = first[0]
        elif node.kind in ("Add", "Maximum") and len(node.takes) == 2 and node.takes[1][0] in constants:
            if not bool((abs(constants.value(node.takes[1][0])) <= _TINY).all()):
                return None
            i = first[0]
        elif node.kind == "Sqrt" and not squared:
            squared, i = True, first[0]
        elif node.kind == "ReduceL2" and not squared and _over_channels(node, constants):
            return first
        elif node.kind == "ReduceSum" and squared and not summed and _over_channels(node, constants):
            summed, i = True, first[0]
        elif node.kind == "Multiply" and summed and len(node.takes) == 2 and node.takes[0] == node.takes[1]:
            return first
        elif node.kind == "Power" and summed and len(node.takes) == 2 and node.takes[1][0] in constants:
            return first if bool((constants.value(node.takes[1][0]) == 2).all()) else None
        else:
            return None
    return None


def _over_channels(node: Node, constants: Constants) -> bool:
    axes = constants.input(node, 1).reshape(-1).tolist() if node.takes[1][0] in constants else []
    return [int(axis) % 4 for axis in axes] == [1] and node.flag("keep_dims")


def resized_sides(
    nodes: tuple[Node, ...],
    constants: Constants,
    node: Node,
    sides: tuple[int, int],
    shapes: Mapping[int, tuple[int, int, int]],
) -> np.ndarray:
    """Height and width that an Interpolate gives of a map of these sides; shapes: of all maps. Empty where it does not
    say."""
    by = node.attributes.get("shape_calculation_mode", "sizes")
    number = 2 if by == "scales" and len(node.takes) > 3 else 1
    place = node.takes[number] if number < len(node.takes) else (-1, 0)
    values = Tail(nodes, constants, [place], {}, shapes).run({}).get(place, np.empty(0))
    target = np.array(values, np.float64).reshape(-1)[-2:]
    if target.size != 2:
        return np.empty(0)
    return target * sides if by == "scales" else target
