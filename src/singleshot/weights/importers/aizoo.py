"""AIZOOTech/FaceMaskDetection: an SSD of 260 or 360 pixels for faces with and without a mask, in the forms in which it
was published: Keras weights, a frozen graph, Caffe, a .tflite, and PyTorch's state dict. All have the names of the
Keras network (models/face_mask_detection.json)."""

from __future__ import annotations

import re

from torch import Tensor

from singleshot.conventions_faces import AIZOO, MASKED
from singleshot.errors import CheckpointError
from singleshot.importable import importable
from singleshot.weights.foreign_state import ForeignState
from singleshot.weights.graph_builder import GraphBuilder, with_background
from singleshot.weights.imported_model import ImportedModel, Importer
from singleshot.weights.importers.keras import KerasNetwork
from singleshot.weights.importers.tflite_graph import GraphImport
from singleshot.weights.importers.tflite_heads import outputs_of, run_heads
from singleshot.weights.readers.caffe import CaffeNet
from singleshot.weights.readers.graphdef import shape_of
from singleshot.weights.readers.tf_companions import Companions
from singleshot.weights.readers.tflite import Network

# "conv2d_0/conv2d_0/kernel:0", "conv2d_0_1/weights" (a frozen graph), "conv2d_0.weight", "conv2d_0[0]" (Caffe)
_NAME = re.compile(
    r"(?:model_weights/)?((?:conv2d_\d|(?:cls|loc)_\d_(?:insert_conv2d|conv))(?:_bn)?)(?:_\d+)?"
    r"(?:/(?:.*/)?|\.|\[)(\w+)(?:\]|:0)?"
)
_PARTS = {"weights": "kernel", "weight": "kernel", "0": "kernel", "biases": "bias", "1": "bias"}
_NORM_PARTS = {"weight": "gamma", "bias": "beta", "running_mean": "moving_mean", "running_var": "moving_variance"}
_BOXES, _EPS, _MOMENTUM = 4, 0.001, 0.01  # of a cell; of Keras' BatchNormalization, and its .99
_SEEN = (3, 4, 5, 6, 7)  # the convolutions that boxes are predicted from


def _short_names(tensors: ForeignState) -> dict[str, str]:
    """Layer and part ("conv2d_0_bn/gamma") -> the name in the file."""
    names: dict[str, str] = {}
    for name in tensors:
        if (match := _NAME.fullmatch(name)) is not None:
            layer, part = match.groups()
            parts = _NORM_PARTS if layer.endswith("_bn") else _PARTS
            key = f"{layer}/{parts.get(part, part)}"
            tensors.ignore(names.get(key, ""))  # a frozen graph has biases as they were and as the reader gives them
            names[key] = name
    return names


def _matches(tensors: ForeignState) -> bool:
    if isinstance(tensors.structure, Network):
        outputs = [tensors.structure.values[index].name for index in tensors.structure.outputs]
        return [name.partition("_branch_concat")[0] for name in outputs] == ["loc", "cls"]
    names = _short_names(tensors)
    return all(name in names for name in importable()["aizoo"].signature)


def _side(tensors: ForeignState) -> int | None:
    """Of the input, where the file says it."""
    if isinstance(tensors.structure, Companions) and tensors.structure.graph is not None:
        shapes = [shape_of(node) for node in tensors.structure.graph.of("Placeholder")]
        return next((shape[1] for shape in shapes if shape is not None and len(shape) == 4), None)
    if isinstance(tensors.structure, CaffeNet):
        return next((shape[-1] for _, shape in tensors.structure.inputs if shape), None)
    if tensors.kind == "keras" and tensors.structure is not None:
        sides = KerasNetwork(tensors.structure, tensors.where).sides()
        return None if sides is None else sides[0]
    return None


def _convert(tensors: ForeignState) -> ImportedModel:
    fixed: tuple[str, ...] = ("size", "priors")
    if isinstance(tensors.structure, Network):
        graph = GraphImport(tensors)
        heads, _ = outputs_of(graph, tensors.structure.outputs[0], tensors.structure.outputs[1], len(MASKED))
        side = graph.side(tensors.structure.inputs[0])[0]
        run_heads(graph, heads, len(MASKED), len(MASKED))
        tensors.ignore(*tensors)
        net = graph.assembly
    else:
        known = _side(tensors)
        side = known or tensors.take_size(260)
        net = _network(tensors, side)
        fixed = () if known is None else fixed
    source = "AIZOOTech/FaceMaskDetection"
    tensors.finish(source)
    if f"ssd{side}" not in AIZOO.priors:
        raise CheckpointError(f"{tensors.where}: {source} of {side} pixels: want 260 or 360")
    name = f"ssd{side}"
    model = net.build(len(MASKED), AIZOO.prior_spec(name), AIZOO.inputs[name], "custom")
    return ImportedModel(model, source, MASKED, AIZOO.detection["aizoo"], fixed=fixed)


def _network(tensors: ForeignState, side: int) -> GraphBuilder:
    names, net = _short_names(tensors), GraphBuilder()

    def take(layer: str, part: str, *shape: int | None) -> Tensor:
        return tensors.take(names.get(f"{layer}/{part}", f"{layer}/{part}"), *shape)

    def kernel(layer: str, inputs: int, outputs: int | None = None) -> Tensor:
        if "/" in names.get(f"{layer}/kernel", "/"):
            return take(layer, "kernel", 3, 3, inputs, outputs).permute(3, 2, 0, 1).contiguous()
        return take(layer, "kernel", outputs, inputs, 3, 3)

    def unit(layer: str, x: str, padding: int = 1) -> str:
        weight, folded = kernel(layer, net.channels[x]), f"{layer}/bias" in names
        y = net.conv(layer, x, weight, take(layer, "bias", len(weight)) if folded else None, padding=padding)
        norm = [f"{layer}_bn/{part}" for part in ("gamma", "beta", "moving_mean", "moving_variance")]
        if folded:  # with its normalisation, which a frozen graph still has as well
            tensors.ignore(*(names[name] for name in norm if name in names))
        else:
            gamma, beta, mean, variance = (tensors.take(names.get(name, name), len(weight)) for name in norm)
            y = net.norm(f"{layer}_bn", y, gamma, beta, mean, variance, _EPS, _MOMENTUM)
            tensors.ignore(f"{layer}_bn.num_batches_tracked")
        return net.add(f"{layer}_activation", "relu", y)

    x, seen = net.image, []
    for i in range(8):
        if 1 <= i <= 6:  # "same" of a side that is odd: a cell behind
            odd, side = side % 2, -(-side // 2)
            x = net.add(f"maxpool2d_{i - 1}", "maxpool", x, kernel=2, padding=(0, odd, 0, odd))
        x = unit(f"conv2d_{i}", x, padding=int(i < 7))
        seen += [x] if i in _SEEN else []
    for i, x in enumerate(seen):
        location, confidence = (unit(f"{name}_{i}_insert_conv2d", x) for name in ("loc", "cls"))
        columns = len(MASKED) * _BOXES
        moves = kernel(f"loc_{i}_conv", net.channels[location], 4 * _BOXES), take(f"loc_{i}_conv", "bias", 4 * _BOXES)
        scores = kernel(f"cls_{i}_conv", net.channels[confidence], columns), take(f"cls_{i}_conv", "bias", columns)
        net.head(location, confidence, *moves, *with_background(*scores, _BOXES))
    return net


IMPORTERS = (Importer("aizoo", _convert, kind="", matches=_matches),)
