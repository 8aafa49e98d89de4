"""SSDs as OpenVINO's intermediate representation (.xml and .bin): what ends in DetectionOutput.

Open Model Zoo's detectors, and Caffe's, PyTorch's and TensorFlow's that a converter wrote so. Attributes as on the
pages of DetectionOutput-1 and -8; what they do: openvino/core/reference, detection_output.hpp.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from singleshot.errors import CheckpointError, ConfigError, printable
from singleshot.prior_boxes import PriorSpec
from singleshot.thresholds import NO_CAP, Thresholds
from singleshot.weights.class_names import usual_names
from singleshot.weights.foreign_state import ForeignState
from singleshot.weights.imported_model import ImportedModel, Importer
from singleshot.weights.importers.caffe_heads import End, Map, build, check_boxes
from singleshot.weights.importers.caffe_vgg import as_preset
from singleshot.weights.importers.decoded import import_decoded
from singleshot.weights.importers.fused_graph import Shape
from singleshot.weights.importers.graph_tail import SUPPRESSION
from singleshot.weights.importers.openvino_constants import Constants
from singleshot.weights.importers.openvino_graph import IrGraph, IrOp, graph_up_to
from singleshot.weights.importers.openvino_image import ImageInput, read_image
from singleshot.weights.importers.openvino_priors import PRIOR_KINDS, check_table, row_of, rows_of_table
from singleshot.weights.importers.prior_rows import spec_of_rows
from singleshot.weights.readers.openvino_ir import BadAttributeError, IrNetwork, Node

_END = "DetectionOutput"
_SAME_VALUES = ("Reshape", "Flatten", "Squeeze", "Unsqueeze", "Convert")
_ACTIVATIONS = {"SoftMax": "softmax", "Softmax": "softmax", "Sigmoid": "sigmoid"}
_NHWC = (0, 2, 3, 1)
# Open Model Zoo, models/intel/*/README.md, by the beginning of the model's name.
_ZOO = {
    "face-detection-": ("face",),
    "person-detection-": ("person",),
    "pedestrian-detection-": ("pedestrian",),
    "vehicle-detection-": ("vehicle",),
    "pedestrian-and-vehicle-detector-": ("vehicle", "pedestrian"),
    "person-vehicle-bike-detection-200": ("vehicle", "person", "bike"),
    "person-vehicle-bike-detection-crossroad-0078": ("person", "vehicle", "bike"),
    "person-vehicle-bike-detection-crossroad-1016": ("non-vehicle", "vehicle", "person"),
}


def _convert(tensors: ForeignState) -> ImportedModel:
    try:
        return _Detector(tensors).imported()
    except (ConfigError, BadAttributeError) as error:
        raise CheckpointError(f"{tensors.where}: {error}") from error


class _Heads(NamedTuple):
    """What a DetectionOutput's first two inputs are joined from: indices of the ops that give maps."""

    locations: list[int]
    confidences: list[int]
    activation: str


class _Detector:
    """One file on its way to a model."""

    def __init__(self, tensors: ForeignState) -> None:
        assert isinstance(tensors.structure, IrNetwork)
        self.tensors, self.where = tensors, tensors.where
        self.network: IrNetwork = tensors.structure
        self.nodes = self.network.nodes
        self.constants = Constants(self.network, tensors)

    def imported(self) -> ImportedModel:
        if self._is_decoded():
            about = f"OpenVINO network {printable(self._name(), 60)}, IR version {self.network.version}"
            found = import_decoded(self.tensors, about, says_pixels=True)
            return found._replace(class_names=self._names(found.model.num_classes) or found.class_names)
        end_node = self._end()
        image = read_image(self.network, self.constants, self.where)
        heads = self._heads(end_node)
        end = self._read_end(end_node, heads.activation)
        graph = self._graph(image, heads)
        table = self._priors(end, heads, graph, image.shape)
        maps = [Map(a, b, a, None) for a, b in zip(heads.locations, heads.confidences, strict=True)]
        model = build(maps, end, graph, table, image.spec)
        if not all(bool(torch.isfinite(values).all()) for values in model.parameters()):
            raise CheckpointError(f"{self.where}: weights become infinite; the file is damaged")
        self.tensors.ignore(*self.tensors)  # a file may hold more than its detections need
        notes = list(image.notes)
        if graph.quantised:
            notes.append(
                f"quantised: {graph.quantised} maps are limited to the ranges of their 8 bits, but not rounded"
            )
        preset = as_preset(model)
        name = printable(self._name(), 60)
        about = f"OpenVINO network {name}, IR version {self.network.version}"
        return ImportedModel(preset or model, about, self._names(model.num_classes), end.thresholds, tuple(notes))

    # ------------------------------------------------------------------------------------------ the end

    def _is_decoded(self) -> bool:
        """Whether single operations decode its boxes: no DetectionOutput, and an exponential or what chooses boxes."""
        kinds = {node.kind for node in self.nodes}
        return _END not in kinds and bool(kinds & {"Exp", SUPPRESSION})

    def _end(self) -> Node:
        found = [node for node in self.nodes if node.kind == _END]
        if len(found) == 1:
            node = found[0]
            if len([source for source, _ in node.takes if source >= 0]) != 3:
                raise CheckpointError(
                    f"{self.where}: {node} takes {len(node.takes)} inputs; refined boxes (RefineDet) are not imported"
                )
            return node
        ends = [self.nodes[node.takes[0][0]] for node in self.nodes if node.kind == "Result" and node.takes]
        if "DetectionOutput" not in {node.kind for node in self.nodes} and self.network.version < 10:
            taken = {source for node in self.nodes for source, _ in node.takes}
            ends = [node for i, node in enumerate(self.nodes) if i not in taken]
        shown = printable(", ".join(str(node) for node in ends[:3]), 160) or "nothing"
        count = len(found) or "no"
        raise CheckpointError(
            f"{self.where}: not an SSD: {count} {_END} in its {len(self.nodes)} layers; it ends in {shown}"
        )

    def _read_end(self, node: Node, activation: str) -> End:
        """What DetectionOutput says. Raises CheckpointError for what our models cannot do."""
        what = f"{self.where}: {node}"
        unit, shared = node.flag("variance_encoded_in_target"), node.flag("share_location", True)
        classes = self._classes(node)
        background = node.whole("background_label_id", 0)
        code = node.attributes.get("code_type", "caffe.PriorBoxParameter.CORNER").rpartition(".")[2]
        check_boxes(what, classes, max(background, -1), code, shared)
        if not node.flag("normalized", self.network.version < 10):  # where old files do not say, it is so
            raise CheckpointError(f"{what} takes priors in pixels (normalized: false), want parts of the image")
        if node.number("eta", 1) != 1:
            raise CheckpointError(f"{what} lowers its NMS threshold as it goes (eta {node.number('eta'):g}), want 1")
        top, keep = (round(node.numbers(key)[0]) if node.numbers(key) else -1 for key in ("top_k", "keep_top_k"))
        top, keep = (n if 0 < n < NO_CAP else NO_CAP for n in (top, keep))
        best = node.flag("decrease_label_id")  # MXNet's way: a prior speaks for its likeliest class
        if best and background != 0:
            raise CheckpointError(f"{what} has decrease_label_id with background {background}, want 0")
        thresholds = Thresholds(
            score_min=round(max(node.number("confidence_threshold", 0), 0.0), 6),
            nms_iou=round(node.number("nms_threshold"), 6),
            per_class=NO_CAP if best else top,
            candidates=top if best and top < NO_CAP else None,
            keep=keep,
            activation=activation,
            clip=node.flag("clip_before_nms"),
            best_class=best,
        )
        return End(IrOp(node, ()), classes, max(background, -1), unit, activation, thresholds, not shared)

    def _classes(self, node: Node) -> int:
        """num_classes, or since version 8 what the sizes of scores and priors say."""
        if "num_classes" in node.attributes:
            return node.whole("num_classes")
        sizes = []
        for number in (1, 2):
            source, output = node.takes[number]
            sizes.append(self.nodes[source].shapes[output][-1] if self.nodes[source].shapes else 0)
        if min(sizes) < 4 or sizes[0] % (sizes[1] // 4):
            raise CheckpointError(f"{self.where}: {node} takes {sizes[0]} scores for {sizes[1] // 4} priors")
        return sizes[0] // (sizes[1] // 4)

    # ------------------------------------------------------------------------------------------ heads

    def _heads(self, node: Node) -> _Heads:
        locations, _ = self._pieces(node, 0, ())
        confidences, activation = self._pieces(node, 1, tuple(_ACTIVATIONS))
        if not activation:
            raise CheckpointError(f"{self.where}: {node} takes confidences without SoftMax or Sigmoid")
        if len(locations) != len(confidences):
            found = f"{len(locations)} locations and {len(confidences)} confidences"
            raise CheckpointError(f"{self.where}: {found} are joined")
        return _Heads(locations, confidences, activation)

    def _pieces(self, node: Node, number: int, through: tuple[str, ...]) -> tuple[list[int], str]:
        """Ops whose maps are turned to [H, W, channels], flattened and joined, and the activation on the way."""
        found: list[int] = []
        activations: set[str] = set()
        stack = [(node.takes[number][0], "")]
        for _ in range(20_000):
            if not stack:
                break
            i, activation = stack.pop()
            op = self.nodes[i] if i >= 0 else None
            if op is None or not op.takes:
                raise CheckpointError(f"{self.where}: {node} takes something that no layer makes")
            if op.kind == "Concat" and self._joins_priors(op):
                stack += [(source, activation) for source, _ in reversed(op.takes)]
            elif op.kind in through:
                self._check_softmax(op)
                stack.append((op.takes[0][0], _ACTIVATIONS[op.kind]))
            elif self._turned(op) is not None or (op.kind in _SAME_VALUES and self._is_one_cell(op.takes[0][0])):
                found.append(op.takes[0][0])
                activations.add(activation)
            elif op.kind in _SAME_VALUES:
                stack.append((op.takes[0][0], activation))
            else:
                raise CheckpointError(f"{self.where}: {node} takes {op}, want Transpose of order 0 2 3 1, flattened")
        if len(activations) != 1 or stack:
            raise CheckpointError(f"{self.where}: {node} takes scores of several kinds")
        return found, activations.pop()

    def _turned(self, op: Node) -> bool | None:
        """True for a Transpose to [H, W, channels], None for another layer; CheckpointError for another order."""
        if op.kind not in ("Transpose", "Permute"):
            return None
        order = op.numbers("order") if op.kind == "Permute" else self.constants.input(op, 1).reshape(-1)
        if tuple(int(n) for n in order) != _NHWC:
            raise CheckpointError(f"{self.where}: {op} has another order than 0 2 3 1")
        return True

    def _is_one_cell(self, i: int) -> bool:
        """Whether a node gives a map of 1 x 1, which needs no turning."""
        shape = self.nodes[i].shapes[0] if i >= 0 and self.nodes[i].shapes else ()
        return len(shape) == 4 and shape[0] == 1 and shape[2:] == (1, 1) and self.nodes[i].kind not in _SAME_VALUES

    def _joins_priors(self, op: Node) -> bool:
        """Whether what a Concat joins comes one after the other: all sides before its axis are 1."""
        shape = op.shapes[0] if op.shapes else ()
        axis = op.whole("axis")
        return len(shape) > 0 and all(side == 1 for side in shape[: axis % len(shape)])

    def _check_softmax(self, op: Node) -> None:
        if op.kind == "Sigmoid":
            return
        shape, axis = op.shapes[0] if op.shapes else (), op.whole("axis", 1)
        classes = self._classes(next(node for node in self.nodes if node.kind == _END))
        if not shape or axis % len(shape) != len(shape) - 1 or shape[-1] != classes:
            raise CheckpointError(f"{self.where}: {op} goes over axis {axis} of {shape}, want the {classes} classes")

    # ------------------------------------------------------------------------------------------ layers, priors

    def _graph(self, image: ImageInput, heads: _Heads) -> IrGraph:
        """The network up to the heads, in layers."""
        ends = [*heads.locations, *heads.confidences]
        return graph_up_to(self.network, self.constants, self.tensors, image.shape, image.nodes, ends)

    def _priors(self, end: End, heads: _Heads, graph: IrGraph, image: Shape) -> tuple[PriorSpec, list[Tensor]]:
        leaves = self._prior_leaves(self._end())
        maps = [graph.shapes[i] for i in heads.locations]
        sides, unit = (image.height, image.width), end.unit_variances
        if all(i in self.constants for i in leaves):
            table = np.concatenate([self.constants.value(i) for i in leaves], axis=-1)
            columns = 4 * (end.classes if end.box_of_each_class else 1)
            per_cell = [m.channels // columns for m in maps]
            rows = rows_of_table(table, maps, per_cell, sides, unit, self.where)
            spec, factors = spec_of_rows(rows, maps, sides, self.where)
            check_table(spec, table, self.where)
            return spec, factors
        if len(leaves) != len(maps):
            raise CheckpointError(f"{self.where}: {len(maps)} locations and {len(leaves)} priors are joined")
        rows = []
        for i, m in zip(leaves, maps, strict=True):
            node = self.nodes[i]
            if node.kind not in PRIOR_KINDS:
                raise CheckpointError(f"{self.where}: {end.op} takes priors from {node}, want PriorBox")
            grid, own = (self._sides(node, number) for number in (0, 1))
            if grid != (m.height, m.width) or own != sides:
                raise CheckpointError(
                    f"{self.where}: {node} is for a map of {grid} and an image of {own}, not {m[1:]} and {sides}"
                )
            rows.append(row_of(node, sides, grid, unit, self.where))
        return spec_of_rows(rows, maps, sides, self.where)

    def _prior_leaves(self, node: Node) -> list[int]:
        """What the priors are joined from, through what keeps their values."""
        leaves, stack = [], [node.takes[2][0]]
        while stack:
            i = stack.pop()
            if i < 0 or i in self.constants or self.nodes[i].kind not in (*_SAME_VALUES, "Concat"):
                leaves.append(i)
            elif self.nodes[i].kind == "Concat":
                shape = self.nodes[i].shapes[0] if self.nodes[i].shapes else (0,)
                if self.nodes[i].whole("axis") % len(shape) != len(shape) - 1:
                    raise CheckpointError(
                        f"{self.where}: {self.nodes[i]} joins priors along another axis than the last"
                    )
                stack += [source for source, _ in reversed(self.nodes[i].takes)]
            else:
                stack.append(self.nodes[i].takes[0][0])
            if len(leaves) + len(stack) > 1000:
                raise CheckpointError(f"{self.where}: {node} takes more than 1000 priors")
        if -1 in leaves:
            raise CheckpointError(f"{self.where}: {node} takes priors from something that no layer makes")
        return leaves

    def _sides(self, node: Node, number: int) -> tuple[int, int]:
        """Height and width that a PriorBox takes: as two numbers, or in old files as those of a map."""
        source, output = node.takes[number] if number < len(node.takes) else (-1, 0)
        if self.network.version < 10 and source >= 0:
            shape = self.nodes[source].shapes[output]
        else:
            shape = tuple(int(n) for n in self.constants.input(node, number).reshape(-1))
        if len(shape) < 2:
            raise CheckpointError(f"{self.where}: {node} does not say how large its map and its image are")
        return shape[-2], shape[-1]

    # ------------------------------------------------------------------------------------------ names

    def _name(self) -> str:
        about = self.network.about
        groups = ("conversion_parameters", "cli_parameters")
        return next((about[f"{g}/model_name"] for g in groups if about.get(f"{g}/model_name")), self.network.name)

    def _names(self, num_classes: int) -> tuple[str, ...] | None:
        """Of the file's own description, of Open Model Zoo's models by their name, or as usual for so many."""
        labels = tuple(self.network.about.get("model_info/labels", "").split())
        zoo = [names for start, names in _ZOO.items() for n in (self._name(), self.network.name) if n.startswith(start)]
        for names in (labels, *zoo):
            if len(names) == num_classes:
                return tuple(printable(name, 100) for name in names)
        return usual_names(num_classes)


IMPORTERS = (Importer("openvino", _convert, "openvino", lambda tensors: tensors.kind == "openvino"),)
