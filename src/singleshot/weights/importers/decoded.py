"""Networks that decode their boxes operation by operation -> our models: ONNX files, and OpenVINO's without
DetectionOutput."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from singleshot.errors import CheckpointError, ConfigError
from singleshot.inputs import InputSpec
from singleshot.prior_boxes import PriorSpec, prior_table
from singleshot.weights.class_names import usual_names
from singleshot.weights.foreign_state import ForeignState
from singleshot.weights.imported_model import ImportedModel, Importer
from singleshot.weights.importers.caffe_heads import End, Map, build
from singleshot.weights.importers.decoded_end import DecodedEnd, EndReader
from singleshot.weights.importers.decoded_places import end_places, last_maps, nodes_needed, scores_multiplied
from singleshot.weights.importers.fused_graph import IMAGE_OP, Shape
from singleshot.weights.importers.known_boxes import (
    KnownBoxes,
    assumed_boxes,
    boxes_note,
    known_boxes,
    names_by_project,
)
from singleshot.weights.importers.openvino_constants import Constants
from singleshot.weights.importers.openvino_graph import IrOp, graph_up_to
from singleshot.weights.importers.openvino_image import read_image
from singleshot.weights.importers.openvino_patterns import simplified
from singleshot.weights.importers.openvino_priors import check_table, rows_of_table
from singleshot.weights.importers.prior_rows import spec_of_rows
from singleshot.weights.other_layouts import mediapipe_detector
from singleshot.weights.readers.openvino_ir import BadAttributeError, IrNetwork

_SAME_BOXES = 6e-4  # of the image's side: files of half precision round a centre by 2.4e-4, and a size


def import_decoded(tensors: ForeignState, about: str, says_pixels: bool) -> ImportedModel:
    """about: the file, in words; says_pixels: whether its kind of file says how pixels come. Raises CheckpointError."""
    network, where = tensors.structure, tensors.where
    assert isinstance(network, IrNetwork)
    if named := _mediapipe(network):
        raise CheckpointError(f"{where}: {named}")
    network, opened = _with_size(network, tensors.given_size)
    constants = Constants(network, tensors)
    network = network._replace(nodes=simplified(network.nodes, constants))
    places, suppressing, sorting = end_places(network)
    needed = nodes_needed(network, [i for i, _ in places])
    maps = [i for i in last_maps(network, constants) if i in needed]
    if not maps:
        raise CheckpointError(f"{where}: not an SSD: no boxes and scores behind convolutions")
    if any(scores_multiplied(network, constants, i) for i in needed):
        raise CheckpointError(
            f"{where}: not an SSD: its scores are products of two outputs, class and centreness, as ATSS's and FCOS's"
            " are, which no model here has"
        )
    image = read_image(network, constants, where)
    graph = graph_up_to(network, constants, tensors, image.shape, image.nodes, maps)
    shapes = {i: shape for i, shape in graph.shapes.items() if i != IMAGE_OP}
    shapes |= {i: Shape(*given[1:]) for i, given in image.nodes.items() if len(given) == 4 and given[0] == 1}
    end = EndReader(network, constants, shapes, maps, image.shape).read()
    known = _known(end, image.shape, shapes)
    notes = list(image.notes if says_pixels else ())
    if end.table is None:
        known, priors = assumed_boxes(known, tensors.given_priors, where)
        factors = [torch.ones(4).double()] * len(end.heads)
        notes += boxes_note(known, tensors.given_priors)
    else:
        priors, factors = _priors(end, end.table, known[0] if known else None, image.shape, shapes, where)
    thresholds = end.thresholds
    if known and not suppressing and known[0].thresholds is not None:
        thresholds = replace(known[0].thresholds, activation=end.thresholds.activation)
    elif not suppressing:
        how = "how boxes are suppressed is not read of the file" if sorting else "the file does not suppress boxes"
        notes.append(f"{how}: Caffe's thresholds")
    spec = image.spec
    if not says_pixels:
        spec, note = _pixels(spec, known)
        notes.append(note)
    op = IrOp(network.nodes[end.heads[0].location], ())
    last = End(op, end.columns, end.background, False, thresholds.activation, thresholds)
    ordered = [Map(h.location, h.confidence, h.location, None, (h.location_rows, h.confidence_rows)) for h in end.heads]
    model = build(ordered, last, graph, (priors, factors), spec)
    if not all(bool(torch.isfinite(values).all()) for values in model.parameters()):
        raise CheckpointError(f"{where}: weights become infinite; the file is damaged")
    tensors.ignore(*tensors)
    names = usual_names(model.num_classes)
    if names is None:
        names, assumed = names_by_project(known, model.num_classes)
        notes += assumed
    fixed = tuple(name for name, own in (("size", not opened), ("priors", end.table is not None)) if own)
    return ImportedModel(model, about, names, thresholds, tuple(notes), fixed)


def _mediapipe(network: IrNetwork) -> str:
    """What it is by the shapes of its outputs, [1, P, values] and [1, P, 1], one pair or one of each map."""
    shapes = [shape for node in network.nodes if node.kind == "Result" for shape in node.shapes if len(shape) == 3]
    counts = {count: values for _, count, values in shapes if values > 1}
    scores = [count for _, count, values in shapes if values == 1]
    if len(set(counts.values())) != 1 or sorted(scores) != sorted(counts):
        return ""
    return mediapipe_detector(next(iter(counts.values())), 1, sum(scores))


def _with_size(network: IrNetwork, size: int | None) -> tuple[IrNetwork, bool]:
    """The network with sides that its image leaves open as the user says, and whether there are such."""
    nodes, opened = list(network.nodes), False
    for i, node in enumerate(nodes):
        dims = node.shapes[0] if node.kind == "Parameter" and node.shapes else ()
        if len(dims) not in (3, 4) or min(dims[-3:]) > 0:
            continue
        opened = True
        if size is not None:
            nodes[i] = node._replace(shapes=((*dims[:-3], *(side if side > 0 else size for side in dims[-3:])),))
    return network._replace(nodes=tuple(nodes)), opened


def _known(end: DecodedEnd, image: Shape, shapes: dict[int, Shape]) -> list[KnownBoxes]:
    """Projects with these default boxes, or where the file has none with as many on the same maps."""
    grids = tuple((shapes[h.location].height, shapes[h.location].width) for h in end.heads)
    found = known_boxes(grids, end.per_cell, (image.height, image.width), end.points)
    return found if end.table is None else [known for known in found if _same_boxes(known.priors, end.table)]


def _same_boxes(spec: PriorSpec, table: np.ndarray) -> bool:
    boxes = prior_table(spec).astype(np.float64)
    made = np.concatenate([boxes[:, :2] - boxes[:, 2:] / 2, boxes[:, :2] + boxes[:, 2:] / 2], axis=1)
    return bool(np.abs(made - table[0].reshape(-1, 4)).max() < _SAME_BOXES)


def _priors(
    end: DecodedEnd, table: np.ndarray, known: KnownBoxes | None, image: Shape, shapes: dict[int, Shape], where: str
) -> tuple[PriorSpec, list[Tensor]]:
    """The default boxes, and by how much each map's offsets grow."""
    if known is not None:
        x, width = known.priors.variances
        factor = torch.from_numpy(table[1][:4] / np.array([x, x, width, width]))
        return known.priors, [factor] * len(end.heads)
    maps, sides = [shapes[h.location] for h in end.heads], (image.height, image.width)
    found = rows_of_table(table, maps, end.per_cell, sides, False, where)
    # Sums of float32 leave traces in the seventh digit.
    rows = [row._replace(shapes=tuple((round(w, 4), round(h, 4)) for w, h in row.shapes)) for row in found]
    spec, factors = spec_of_rows(rows, maps, sides, where)
    check_table(spec, table, where)
    return spec, factors


def _pixels(spec: InputSpec, known: list[KnownBoxes]) -> tuple[InputSpec, str]:
    """How pixels come, of a kind of file that does not say, and a note on what is assumed."""
    bare = set(spec.mean) == {0.0} and set(spec.std) == {1.0}
    if bare and known:
        own = known[0].input
        given = {name: getattr(own, name) for name in ("resize", "colour_order", "mean", "std")}
        others = "".join(f" or {project}" for project in dict.fromkeys(k.project for k in known[1:] if k.input != own))
        if len(own.mean) == spec.channels:
            return replace(spec, **given), (
                f"pixels are assumed to come as those of {known[0].project}{others}, whose default boxes these are"
                " (--mean, --std, --colour-order)"
            )
    note = "colours are assumed to come red first, since the file does not say (--colour-order)"
    if not bare and max(spec.std) <= 1 and min(spec.mean) >= 0 and max(spec.mean) <= 1:
        mean, std = (tuple(round(255 * v, 4) for v in part) for part in (spec.mean, spec.std))
        spec = replace(spec, mean=mean, std=std)
        note = (
            "pixels are assumed to be divided by 255 before, by the file's mean and scale, and to come red first"
            " (--mean, --std, --colour-order)"
        )
    elif bare:
        note = (
            "pixels are assumed to come as 0 to 255, red first, since the file does not say"
            " (--mean, --std, --colour-order)"
        )
    order = "rgb" if spec.colour_order == "bgr" or spec.channels == 1 else "bgr"
    return replace(spec, colour_order=order, mean=spec.mean[::-1], std=spec.std[::-1]), note


def _convert(tensors: ForeignState) -> ImportedModel:
    assert isinstance(tensors.structure, IrNetwork)
    name = tensors.structure.name or "without a name"
    try:
        return import_decoded(tensors, f"ONNX network {name}", says_pixels=False)
    except (ConfigError, BadAttributeError) as error:
        raise CheckpointError(f"{tensors.where}: {error}") from error


IMPORTERS = (Importer("onnx", _convert, "onnx", lambda tensors: tensors.kind == "onnx"),)
