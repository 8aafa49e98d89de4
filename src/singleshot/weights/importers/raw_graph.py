"""Frozen graphs and whole Keras models that no other importer knows: what stands up to their last convolutions is read
node by node, and these are offsets and logits. Their default boxes are those of a known project with as many on the
same maps, or what the user says."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch

from singleshot.errors import CheckpointError, printable
from singleshot.inputs import InputSpec
from singleshot.prior_boxes import PriorSpec
from singleshot.prior_files import read_priors
from singleshot.weights.class_names import usual_names
from singleshot.weights.foreign_state import ForeignState
from singleshot.weights.imported_model import ImportedModel, Importer
from singleshot.weights.importers.graphdef_network import GraphHeads, heads_of
from singleshot.weights.importers.keras_graph import KerasGraph
from singleshot.weights.importers.known_boxes import KnownBoxes, boxes_note, known_boxes, names_by_project
from singleshot.weights.importers.tf_detection_settings import Settings
from singleshot.weights.importers.tflite_heads import Head, run_heads
from singleshot.weights.readers.graphdef import GraphDef, Node, shape_of
from singleshot.weights.readers.tf_companions import Companions
from singleshot.weights.readers.tflite import Operation

_CONVS = ("Conv2D", "DepthwiseConv2dNative")
_BOXES = ("loc", "reg", "box", "offset")  # what heads of boxes are called
_KEPT = ("Identity", "Pad", "PadV2", "Cast")  # before the first convolutions: what leaves pixels as they are
_HALF = 127.5
_MAX_ENDS = 64


class _Reading(NamedTuple):
    """How the last convolutions may be understood. columns: scores of a box, background among them."""

    heads: tuple[Head, ...]
    columns: int

    @property
    def grids(self) -> tuple[tuple[int, int], ...]:
        return tuple(head.sides for head in self.heads)

    @property
    def per_cell(self) -> tuple[int, ...]:
        return tuple(head.boxes for head in self.heads)


def _graph(tensors: ForeignState) -> GraphDef | None:
    if isinstance(tensors.structure, Companions):
        return tensors.structure.graph
    if tensors.kind != "keras" or not isinstance(tensors.structure, dict):
        return None
    try:
        return KerasGraph(tensors)
    except CheckpointError:
        return None


def _sides(graph: GraphDef) -> tuple[int, int] | None:
    """Height and width of the image; None where the file does not say."""
    if isinstance(graph, KerasGraph):
        return graph.network.sides()
    found = [shape for node in _images(graph) if (shape := shape_of(node)) is not None]
    return (found[0][1], found[0][2]) if len(found) == 1 and min(found[0][1:3]) > 0 else None


def _images(graph: GraphDef) -> list[Node]:
    """The nodes that an image goes into."""
    found = list(graph.of("Placeholder"))
    if isinstance(graph, KerasGraph):
        return found
    shapes = [shape_of(node) for node in found]
    return [n for n, shape in zip(found, shapes, strict=True) if shape and len(shape) == 4 and shape[3] == 3]


def _of_pixels(graph: GraphDef) -> list[str]:
    """Kinds of the nodes between the image and the first convolutions, which are left out."""
    behind: set[str] = set()
    stack = [node.name for node in _images(graph)]
    while stack:
        more = [n.name for n in graph.consumers.get(stack.pop(), ()) if n.name not in behind and n.op not in _CONVS]
        behind.update(more)
        stack += more
    stack = [name for node in graph.nodes.values() if node.op in _CONVS for name in node.inputs[:1]]
    kinds: dict[str, None] = {}
    while stack:
        name = stack.pop()
        if name in behind:
            behind.remove(name)
            kinds[graph.nodes[name].op.removeprefix("Keras ")] = None
            stack += graph.nodes[name].inputs
    return [kind for kind in kinds if kind not in _KEPT]


def _ends(graph: GraphDef) -> list[str]:
    """Convolutions behind which there is no other; none where one of them is depthwise."""
    convs = [node for node in graph.nodes.values() if node.op in _CONVS]
    before: set[str] = set()
    stack = [name for node in convs for name in node.inputs[:1]]
    while stack:
        name = stack.pop()
        if name not in before:
            before.add(name)
            stack += graph.nodes[name].inputs if name in graph.nodes else ()
    ends = [node for node in convs if node.name not in before]
    return [node.name for node in ends] if all(node.op == _CONVS[0] for node in ends) else []


def _matches(tensors: ForeignState) -> bool:
    if tensors.kind not in ("graphdef", "keras"):
        return False
    graph = _graph(tensors)
    return graph is not None and 2 <= len(_ends(graph)) <= _MAX_ENDS and _sides(graph) is not None


def _readings(found: GraphHeads, names: Sequence[str]) -> list[_Reading]:
    """Both ways to take each pair of convolutions on the same map, where numbers of outputs allow it on all maps."""
    maps: dict[tuple[int, int], list[tuple[str, Operation, int]]] = {}
    for name, op in zip(names, found.operations, strict=True):
        height, width, outputs = found.graph.side(op.outputs[0])
        maps.setdefault((height, width), []).append((name, op, outputs))
    pairs = sorted(maps.items(), reverse=True)
    if any(len(pair) != 2 for _, pair in pairs):
        return []
    readings = []
    (_, _, first), (_, _, second) = pairs[0][1]
    for columns in {4 * second // first, 4 * first // second}:
        heads = []
        for sides, pair in pairs:
            ways = [(a, b) for a, b in (pair, pair[::-1]) if a[2] % 4 == 0 and b[2] * 4 == a[2] * columns]
            ways.sort(key=lambda way: not any(part in way[0][0].lower() for part in _BOXES))
            heads += [Head(a[1], b[1], sides, a[2] // 4) for a, b in ways[:1]]
        if len(heads) == len(pairs) and columns > 1:
            readings.append(_Reading(tuple(heads), columns))
    return readings


def _convert(tensors: ForeignState) -> ImportedModel:
    graph, given = _graph(tensors), tensors.given_priors
    sides = None if graph is None else _sides(graph)
    if graph is None or sides is None:
        raise CheckpointError(f"{tensors.where}: no network of an image whose size it gives")
    ends = _ends(graph)
    found = heads_of(graph, sides, ends)
    reading, known, priors = _chosen(_readings(found, ends), sides, given, tensors.where, found, ends)
    net = found.graph
    num_classes = reading.columns - 1
    spec = known[0].input if known else InputSpec(height=sides[0], width=sides[1], mean=(_HALF,) * 3, std=(_HALF,) * 3)
    whose = f"come as those of {known[0].project}" if known else "be -1..1, red first"
    notes = boxes_note(known, given)
    unread = printable(", ".join(_of_pixels(graph)), 80)
    why = f"what the file does with them first is not read ({unread})" if unread else "the file does not say"
    notes.append(f"pixels are assumed to {whose}, since {why} (--mean, --std, --colour-order)")
    rule = known[0].thresholds if known else None
    notes.append("the file does not suppress boxes: " + ("the same project's thresholds" if rule else "common ones"))
    run_heads(net, list(reading.heads), num_classes, reading.columns)
    tensors.ignore(*tensors)
    model = net.assembly.build(num_classes, priors, spec, "custom")
    if not all(bool(torch.isfinite(values).all()) for values in model.parameters()):
        raise CheckpointError(f"{tensors.where}: weights become infinite; the file is damaged")
    names = usual_names(num_classes)
    if names is None:
        names, assumed = names_by_project(known, num_classes)
        notes += assumed
    about = f"{'Keras' if isinstance(graph, KerasGraph) else 'frozen'} network, input {spec.size_text}"
    return ImportedModel(model, about, names, rule or Settings().thresholds, tuple(notes), ("size",))


def _chosen(
    readings: list[_Reading],
    sides: tuple[int, int],
    given: str | None,
    where: str,
    found: GraphHeads,
    ends: Sequence[str],
) -> tuple[_Reading, list[KnownBoxes], PriorSpec]:
    """The reading that the default boxes fit, whose they are, and the boxes."""
    table = None if given is None else read_priors(given)
    if table is not None:
        readings = [r for r in readings if (r.grids, r.per_cell) == (table.grids, table.per_cell)] or readings[:1]
    for reading in readings:
        known = known_boxes(reading.grids, reading.per_cell, sides)
        if table is not None:
            return reading, [k for k in known if k.table == given or k.priors == table], table
        if known:
            return reading, known, known[0].priors
    if not readings:
        outputs = ", ".join(
            f"{h}x{w}: {n}" for h, w, n in (found.graph.side(o.outputs[0]) for o in found.operations[:8])
        )
        raise CheckpointError(
            f"{where}: no layout that is known: its {len(ends)} last convolutions are no pairs of boxes and scores"
            f" (outputs {outputs}); an SSD that is not among those of singleshot import --list is read when it is"
            " exported to ONNX"
        )
    rows = ", ".join(f"{h}x{w} cells of {n}" for (h, w), n in zip(readings[0].grids, readings[0].per_cell, strict=True))
    raise CheckpointError(
        f"{where}: boxes and scores of default boxes that are in its project's code and not in the file ({rows}, image"
        f" {sides[1]} x {sides[0]}): give --priors, or the checkpoint that it was made from"
    )


IMPORTERS = (Importer("raw-graph", _convert, "", _matches),)
