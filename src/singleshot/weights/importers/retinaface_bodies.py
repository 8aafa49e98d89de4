"""What RetinaFace's pyramids stand on: from the image to three maps, of strides 8, 16 and 32."""

from __future__ import annotations

from collections.abc import Callable
from itertools import chain, pairwise
from typing import NamedTuple

from singleshot.weights.foreign_state import ForeignState
from singleshot.weights.importers.batch_statistics import negative_slope
from singleshot.weights.importers.mobilenet_blocks import (
    V1_STRIDES,
    mobilenet_v2,
    nested_parts,
    v3_block,
    v3_rest_of_block,
)
from singleshot.weights.importers.torch_blocks import Activation, TorchBuilder

_BLOCKS = (5, 6, 2)  # of V1_STRIDES in stage1 to stage3; stage1 begins with a convolution
_NAMES = [[f"body.stage{stage}.{i + (stage == 1)}" for i in range(n)] for stage, n in enumerate(_BLOCKS, 1)]
_V3_EPS, _V3_MOMENTUM = 0.001, 0.01  # torchvision, models/mobilenetv3.py: norm_layer


class Body(NamedTuple):
    """add: adds the body's layers, the activation of MobileNetV1's given, and returns its three maps; first: its first
    convolution and the normalisation behind it, by name."""

    add: Callable[[TorchBuilder, Activation], list[str]]
    first: tuple[str, str]


class _V3(NamedTuple):
    """A MobileNetV3 of torchvision's. strided: blocks that halve the map; hardswish: the first block with it; ends:
    blocks behind which the maps are taken; late: a block that halves the map in its projection, 0 for none."""

    strided: tuple[int, ...]
    hardswish: int
    ends: tuple[int, int, int]
    late: int


# Where sglee487/Pytorch_Retinaface takes its maps (data/config.py, return_layers; models/retinaface.py).
_LARGE = _V3((2, 4, 7, 13), 7, (6, 10, 15), 0)
_SMALL = _V3((1, 2, 4), 4, (3, 4, 7), 7)


def is_leaky(tensors: ForeignState) -> bool:
    """Whether MobileNetV1's activations are Pytorch_Retinaface's, which the names do not say."""
    norms = [("body.stage1.0.1", _NAMES[0][0]), *((f"{a}.4", b) for a, b in pairwise(chain(*_NAMES)))]
    slope = negative_slope(tensors, ((norm, f"{block}.0", f"{block}.1") for norm, block in norms))
    return not abs(slope) < _NO_LEAK


_NO_LEAK = 0.02  # the most that the statistics may say of a ReLU


def _mobilenet_v1(net: TorchBuilder, activation: Activation) -> list[str]:
    x = net.conv_norm(net.image, "body.stage1.0.0", "body.stage1.0.1", activation, 3, 2)
    strides, maps = iter(V1_STRIDES), []
    for blocks in _NAMES:
        for block in blocks:
            x = net.separable_norm(x, block, activation, next(strides))
        maps.append(x)
    return maps


def _mobilenet_v2(net: TorchBuilder, activation: Activation) -> list[str]:
    """yakhyo/retinaface-pytorch, models/retinaface.py: the layers of its features of these numbers."""
    maps = mobilenet_v2(net, "body.features", nested_parts)
    return [maps["6"], maps["13"], maps["18"]]


def v3_kind(tensors: ForeignState) -> str:
    """ "Large" or "Small" """
    return "Large" if f"body.{_LARGE.ends[-1]}.block.0.0.weight" in tensors else "Small"


def _mobilenet_v3(net: TorchBuilder, activation: Activation) -> list[str]:
    kind = _LARGE if v3_kind(net.tensors) == "Large" else _SMALL
    usual = net.eps, net.momentum
    net.eps, net.momentum = _V3_EPS, _V3_MOMENTUM
    x, maps = net.conv_norm(net.image, "body.0.0", "body.0.1", "hardswish", 3, 2), []
    for i in range(1, kind.ends[-1] + 1):
        name, act = f"body.{i}.block", "hardswish" if i >= kind.hardswish else "relu"
        if i == kind.late:
            x = net.conv_norm(x, f"{name}.0.0", f"{name}.0.1", act, kernel=1)
            x = v3_rest_of_block(net, x, name, 1, act, 1, last_stride=2)
        else:
            x = v3_block(net, x, name, act, 2 if i in kind.strided else 1, expands=i > 1)
        maps += [x] if i in kind.ends else []
    net.eps, net.momentum = usual
    return maps


def _resnet(net: TorchBuilder, activation: Activation) -> list[str]:
    x = net.conv_norm(net.image, "body.conv1", "body.bn1", "relu", 7, 2, 3)
    x = net.add("body.maxpool", "maxpool", x, kernel=3, stride=2, padding=1)
    deep, maps = "body.layer1.0.conv3.weight" in net.tensors, []
    for stage in (1, 2, 3, 4):
        x, _ = net.residual_stage(x, f"body.layer{stage}", bottleneck=deep, stride=1 if stage == 1 else 2)
        maps.append(x)
    return maps[1:]


MOBILENET_V1 = Body(_mobilenet_v1, ("body.stage1.0.0", "body.stage1.0.1"))
MOBILENET_V2 = Body(_mobilenet_v2, ("body.features.0.0", "body.features.0.1"))
MOBILENET_V3 = Body(_mobilenet_v3, ("body.0.0", "body.0.1"))
RESNET = Body(_resnet, ("body.conv1", "body.bn1"))
