"""pierluigiferrari/ssd_keras: SSD7, seven convolutions of any input size (models/keras_ssd7.py)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import torch
from torch import Tensor

from singleshot.conventions import SSD_KERAS
from singleshot.errors import CheckpointError
from singleshot.importable import importable
from singleshot.prior_boxes import PriorSpec
from singleshot.prior_files import read_priors
from singleshot.weights.class_names import usual_names
from singleshot.weights.foreign_state import ForeignState
from singleshot.weights.graph_builder import GraphBuilder
from singleshot.weights.imported_model import ImportedModel, Importer, classes_of
from singleshot.weights.importers.keras import KerasNetwork, short_names

_FIRST_HEAD, _USUAL = 4, 4  # the first convolution that boxes are predicted from, and how many of them there are
_MOST_HEADS = 12
_FIRST, _HALF = "lambda1", 127.5  # the normalisation of its first versions: x / 127.5 - 1
# Of layers in the versions whose heads had no padding: commit 8c49088 brought it and spelt the second one right.
_UNPADDED = (_FIRST, "idendity_layer")
_EPS, _MOMENTUM = 0.001, 0.01  # of Keras' BatchNormalization, and of the network's own .99


def _matches(tensors: ForeignState) -> bool:
    names = short_names(tensors)
    return all(name in names for name in importable()["keras-ssd7"].signature)


def _heads(names: Mapping[str, str]) -> list[int]:
    """Numbers of the convolutions that boxes are predicted from: one behind the other."""
    last = _FIRST_HEAD
    while f"boxes{last + 1}/kernel" in names and last < _MOST_HEADS:
        last += 1
    return list(range(_FIRST_HEAD, last + 1))


def _given(tensors: ForeignState, heads: list[int]) -> PriorSpec:
    """What the user says of a copy with other maps. Raises CheckpointError where that is nothing."""
    if tensors.given_priors is None:
        raise CheckpointError(
            f"{tensors.where}: SSD7 with {len(heads)} maps, not {_USUAL}: a changed copy, whose weights do not say its"
            " input and default boxes; give them with --priors FILE (a JSON file such as `singleshot priors show"
            " ssd480-keras-ssd7 --json` prints)"
        )
    return read_priors(tensors.given_priors)


def _for_maps(usual: PriorSpec, image: tuple[int, int], maps: tuple[tuple[int, int], ...]) -> PriorSpec:
    """The usual boxes for other maps, of which the layers say more."""
    rows = {name: (getattr(usual, name) * len(maps))[: len(maps)] for name in ("min_sizes", "max_sizes", "ratios")}
    shapes = None if usual.shapes is None else (usual.shapes * len(maps))[: len(maps)]
    return replace(usual, image_size=image, maps=maps, steps=None, shapes=shapes, **rows)


def _unchanged(conv: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
    """Weight and bias of the 1x1 convolution that hands on what that one gives."""
    count = len(conv[1])
    return torch.eye(count).view(count, count, 1, 1), torch.zeros(count)


def _convert(tensors: ForeignState) -> ImportedModel:
    names = short_names(tensors)
    heads = _heads(names)
    input_spec, priors = SSD_KERAS.inputs["ssd7"], SSD_KERAS.prior_spec("ssd7")
    fixed: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    border = int(any(name in tensors.groups for name in _UNPADDED))  # of a map that its head does not see
    normalised_by_code = _FIRST in tensors.groups
    height, width = input_spec.sides
    network = None
    if tensors.kind == "keras" and tensors.structure is not None:
        network = KerasNetwork(tensors.structure, tensors.where)
        height, width = network.sides() or (height, width)
        border = network.same("padding", "valid", [f"{part}{i}" for part in ("boxes", "classes") for i in heads])
        normalised_by_code = _FIRST in network.layers
    elif len(heads) != _USUAL:
        priors = _given(tensors, heads)
        height, width = priors.image
        input_spec = replace(input_spec, height=height, width=width)
    maps = tuple((height // 2 ** (i - 1) - 2 * border, width // 2 ** (i - 1) - 2 * border) for i in heads)
    if min(map(min, maps)) < 1:
        raise CheckpointError(f"{tensors.where}: SSD7 on images of {height} x {width}: too small for its last map")
    if len(heads) == _USUAL:
        priors = replace(priors, maps=maps)
    if network is not None:
        anchors = [f"anchors{i}" for i in heads]
        priors = network.priors(_for_maps(priors, (height, width), maps), anchors)
        input_spec, fixed = network.input(replace(input_spec, height=height, width=width)), ("size", "priors")
    if normalised_by_code:
        input_spec = replace(input_spec, mean=(_HALF,) * 3, std=(_HALF,) * 3)
        notes = (f"its layer {_FIRST} is code, which is not looked at: taken to bring pixels to -1..1 (--mean, --std)",)

    def take(layer: str, part: str, *shape: int | None) -> Tensor:
        return tensors.take(names.get(f"{layer}/{part}", f"{layer}/{part}"), *shape)

    net = GraphBuilder()
    x, seen = net.image, []
    for i in range(1, heads[-1] + 1):
        if i > 1:
            x = net.add(f"pool{i - 1}", "maxpool", x, kernel=2)
        kernel = 5 if i == 1 else 3
        weight = take(f"conv{i}", "kernel", kernel, kernel, net.channels[x], None).permute(3, 2, 0, 1).contiguous()
        bias = take(f"conv{i}", "bias", len(weight))
        x = net.conv(f"conv{i}", x, weight, bias, padding=kernel // 2)
        gamma, beta, mean, variance = (
            take(f"bn{i}", part, len(weight)) for part in ("gamma", "beta", "moving_mean", "moving_variance")
        )
        x = net.norm(f"bn{i}", x, gamma, beta, mean, variance, _EPS, _MOMENTUM)
        x = net.add(f"elu{i}", "elu", x)
        if i in heads:
            seen.append(x)
    outputs = tensors.shape(names.get("classes4/bias", "classes4/bias"))
    columns = outputs[0] // priors.per_cell[0] if outputs else 0
    for i, x, boxes in zip(heads, seen, priors.per_cell, strict=True):

        def head(part: str, count: int, x: str = x, i: int = i) -> tuple[Tensor, Tensor]:
            name = f"{part}{i}"
            weight = take(name, "kernel", 3, 3, net.channels[x], count).permute(3, 2, 0, 1).contiguous()
            return weight, take(name, "bias", count)

        location, confidence = head("boxes", 4 * boxes), head("classes", columns * boxes)
        if border:  # heads here see all of their map: these layers come before ones that change nothing
            ends = [net.conv(f"{n}{i}", x, *w) for n, w in (("boxes", location), ("classes", confidence))]
            net.head(ends[0], ends[1], *_unchanged(location), *_unchanged(confidence))
        else:
            net.head(x, x, *location, *confidence)
    source = "pierluigiferrari/ssd_keras SSD7"
    tensors.finish(source)
    num_classes = classes_of(columns, tensors.where)
    model = net.build(num_classes, priors, input_spec, "custom")
    return ImportedModel(model, source, usual_names(num_classes), SSD_KERAS.detection["ssd_keras"], notes, fixed)


IMPORTERS = (Importer("keras-ssd7", _convert, "keras", _matches),)
