"""bubbliiiing/retinaface-keras (nets/retinaface.py, nets/mobilenet.py): RetinaFace on MobileNetV1 0.25 with
TensorFlow's padding."""

from __future__ import annotations

import re
from collections.abc import Sequence

from torch import Tensor

from singleshot.conventions_faces import RETINAFACE_KERAS
from singleshot.errors import CheckpointError
from singleshot.importable import importable
from singleshot.weights.foreign_state import ForeignState
from singleshot.weights.graph_builder import GraphBuilder, same_padding
from singleshot.weights.imported_model import ImportedModel, Importer, classes_of
from singleshot.weights.importers.faces import face_model
from singleshot.weights.importers.keras import short_names

_NAME = "keras-retinaface"
_STRIDES = (1, 2, 1, 2, 1, 2, 1, 1, 1, 1, 1, 2, 1)  # nets/mobilenet.py: of blocks 1 to 13
_SEEN = (5, 11, 13)
_EPS, _MOMENTUM, _LEAK = 1e-3, 0.01, 0.1  # of Keras' BatchNormalization, and the pyramid's
_CONTEXTS, _HEADS = 5, 3  # convolutions of an SSH module; heads: boxes, classes, points
_LEVELS = 3


def _matches(tensors: ForeignState) -> bool:
    names = short_names(tensors)
    return all(name in names for name in importable()[_NAME].signature)


class _Builder(GraphBuilder):
    """Layers by their names in Keras. side: of the maps that strided layers take."""

    def __init__(self, tensors: ForeignState, side: int) -> None:
        super().__init__()
        self.tensors, self.side = tensors, side
        self.names = short_names(tensors)

    def numbered(self, kind: str) -> list[str]:
        """Layers that Keras named itself, in the order in which they were made: conv2d, conv2d_1, ..."""
        found = {m[0]: int(m[1] or 0) for name in self.names if (m := re.match(rf"{kind}(?:_(\d+))?(?=/)", name))}
        return sorted(found, key=lambda name: found[name])

    def take(self, layer: str, part: str, *shape: int | None) -> Tensor:
        name = f"{layer}/{part}"
        return self.tensors.take(self.names.get(name, name), *shape)

    def kernel(self, layer: str, x: str, side: int, depthwise: bool = False) -> Tensor:
        """[outputs, inputs, side, side]"""
        if depthwise:
            weight = self.take(layer, "depthwise_kernel", side, side, self.channels[x], 1)
            return weight.permute(2, 3, 0, 1).contiguous()
        return self.take(layer, "kernel", side, side, self.channels[x], None).permute(3, 2, 0, 1).contiguous()

    def unit(
        self, x: str, layer: str, norm: str, side: int, stride: int = 1, bias: bool = False, depthwise: bool = False
    ) -> str:
        """A convolution and its normalisation."""
        weight = self.kernel(layer, x, side, depthwise)
        shift = self.take(layer, "bias", len(weight)) if bias else None
        before, after = same_padding(self.side, side, stride) if stride > 1 else (side // 2, side // 2)
        self.side = -(-self.side // stride)
        groups = self.channels[x] if depthwise else 1
        y = self.conv(layer, x, weight, shift, stride, (before, after, before, after), groups=groups)
        gamma, beta, mean, variance = (
            self.take(norm, part, len(weight)) for part in ("gamma", "beta", "moving_mean", "moving_variance")
        )
        return self.norm(norm, y, gamma, beta, mean, variance, _EPS, _MOMENTUM)

    def leaky(self, x: str) -> str:
        """The pyramid's activation."""
        return self.add(f"{x}.leaky", "leakyrelu", x, slope=_LEAK)


def _mobilenet(net: _Builder) -> list[str]:
    x, maps = net.add("conv1_relu", "relu6", net.unit(net.image, "conv1", "conv1_bn", 3, 2)), []
    for i, stride in enumerate(_STRIDES, 1):
        for kind, side, step in (("dw", 3, stride), ("pw", 1, 1)):
            layer = f"conv_{kind}_{i}"
            x = net.unit(x, layer, f"{layer}_bn", side, step, depthwise=kind == "dw")
            x = net.add(f"{layer}_relu", "relu6", x)
        maps += [x] if i in _SEEN else []
    return maps


def _pyramid(net: _Builder, maps: list[str], norms: list[str]) -> list[str]:
    """norms: those of the three maps, then of the merged ones from the smaller up."""
    sides = [
        net.leaky(net.unit(x, f"C{i}_reduced", norm, 1, bias=True))
        for i, (x, norm) in enumerate(zip(maps, norms, strict=False), 3)
    ]
    for i, norm in zip((1, 0), norms[_LEVELS:], strict=True):
        up = net.add(f"P{i + 4}_upsampled", "enlarge", sides[i + 1], sides[i])
        x = net.add(f"P{i + 3}_merged", "add", up, sides[i])
        sides[i] = net.leaky(net.unit(x, f"Conv_P{i + 3}_merged", norm, 3, bias=True))
    return sides


def _context(net: _Builder, x: str, convs: Sequence[str], norms: Sequence[str], name: str) -> str:
    """SSH: 3x3, and 5x5 and 7x7 by 3x3 convolutions in a row."""
    layers = iter(zip(convs, norms, strict=True))

    def unit(x: str) -> str:
        return net.unit(x, *next(layers), 3, bias=True)

    plain = unit(x)
    shared = net.leaky(unit(x))
    parts = (plain, unit(shared), unit(net.leaky(unit(shared))))
    y = net.add(f"{name}.concat", "concat", *parts, channels=sum(net.channels[part] for part in parts))
    return net.add(f"{name}.relu", "relu", y)


def _fives(names: list[str]) -> list[list[str]]:
    """Those of each SSH module."""
    return [names[i : i + _CONTEXTS] for i in range(0, len(names), _CONTEXTS)]


def _convert(tensors: ForeignState) -> ImportedModel:
    priors = RETINAFACE_KERAS.prior_spec("retinaface640")
    net = _Builder(tensors, tensors.take_size(640))
    convs, norms = net.numbered("conv2d"), net.numbered("batch_normalization")
    merged, made = 2 * _LEVELS - 1, _LEVELS * (_CONTEXTS + _HEADS)
    if (len(convs), len(norms)) != (made, merged + _LEVELS * _CONTEXTS):
        raise CheckpointError(
            f"{tensors.where}: looks like {RETINAFACE_KERAS.project}, but has {len(convs)} convolutions and"
            f" {len(norms)} normalisations without names of their own, want {made} and {merged + _LEVELS * _CONTEXTS}"
        )
    sides = _pyramid(net, _mobilenet(net), norms[:merged])
    rows = zip(sides, _fives(convs[: _LEVELS * _CONTEXTS]), _fives(norms[merged:]), strict=True)
    seen = [_context(net, x, own, their, f"ssh{i}") for i, (x, own, their) in enumerate(rows, 1)]
    heads = convs[_LEVELS * _CONTEXTS :]
    boxes, classes, points = (heads[i * _LEVELS : (i + 1) * _LEVELS] for i in range(_HEADS))
    outputs = tensors.shape(net.names.get(f"{classes[0]}/bias", classes[0]))
    num_classes = classes_of(outputs[0] // priors.per_cell[0] if outputs else 0, tensors.where)
    for x, box, kind, cell in zip(seen, boxes, classes, priors.per_cell, strict=True):
        parts = []
        for layer, columns in ((box, 4), (kind, num_classes + 1)):
            weight = net.take(layer, "kernel", 1, 1, net.channels[x], cell * columns).permute(3, 2, 0, 1).contiguous()
            parts += [weight, net.take(layer, "bias", cell * columns)]
        net.head(x, x, *parts)
    tensors.ignore(*(net.names[f"{layer}/{part}"] for layer in points for part in ("kernel", "bias")))
    source = f"{RETINAFACE_KERAS.project} on MobileNetV1-0.25"
    tensors.finish(source)
    spec = RETINAFACE_KERAS.inputs["retinaface640"]
    model = net.build(num_classes, priors, spec, "retinaface640-keras-mobilenetv1-0.25")
    notes = ("its landmarks of a face are left out: boxes and scores alone",)
    return face_model(model, source, RETINAFACE_KERAS.detection[_NAME], notes)


IMPORTERS = (Importer(_NAME, _convert, "keras", _matches),)
