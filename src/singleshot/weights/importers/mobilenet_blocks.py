"""What SSDs on MobileNets have in common, whatever their checkpoints call it: blocks, trunks, and heads."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor

from singleshot.weights.foreign_state import ForeignState
from singleshot.weights.importers.torch_blocks import TorchBuilder

# MobileNet paper, table 1: strides of the 13 blocks after the first convolution.
V1_STRIDES = (1, 2, 1, 2, 1, 2, 1, 1, 1, 1, 1, 2, 1)
# MobileNetV2 paper, table 2: strides of the 17 blocks between the first and the last convolution.
V2_STRIDES = (1, 2, 1, 2, 1, 1, 2, 1, 1, 1, 1, 1, 1, 2, 1, 1, 1)
V2_WIDTHS = (16, 24, 24, 32, 32, 32, 64, 64, 64, 64, 96, 96, 96, 160, 160, 160, 320)
EXPAND_14 = "expand 14"

# Of one block: (convolution, normalisation) of expansion, depthwise and projection; without expansion two pairs.
Parts = Callable[[ForeignState, str], list[tuple[str, str]]]
# What a convolution and its normalisation are called in a unit of torchvision's and of mmdetection's.
UNITS = (("0", "1"), ("conv", "bn"))
Order = Callable[[Tensor, int], Tensor]  # outputs of a head and boxes of a cell -> the same outputs in another order


def nested_parts(tensors: ForeignState, name: str) -> list[tuple[str, str]]:
    """torchvision's names: conv.0.0, conv.0.1, conv.1.0, conv.1.1, conv.2, conv.3."""
    wide = f"{name}.conv.3.weight" in tensors
    pairs = [(f"{name}.conv.{i}.0", f"{name}.conv.{i}.1") for i in range(1 + wide)]
    return [*pairs, (f"{name}.conv.{1 + wide}", f"{name}.conv.{2 + wide}")]


def flat_parts(tensors: ForeignState, name: str) -> list[tuple[str, str]]:
    """tonylins' names: conv.0, conv.1, conv.3, conv.4, conv.6, conv.7."""
    places = (0, 3, 6) if f"{name}.conv.6.weight" in tensors else (0, 3)
    return [(f"{name}.conv.{i}", f"{name}.conv.{i + 1}") for i in places]


def inverted_residual(net: TorchBuilder, x: str, name: str, stride: int, parts: Parts) -> tuple[str, str | None]:
    """(the block's output, what its expansion gives or None); every width as the weights have it."""
    start, expanded = x, None
    *first, depthwise, project = parts(net.tensors, name)
    if first:
        x = expanded = net.conv_norm(x, *first[0], "relu6", 1)
    x = net.conv_norm(x, *depthwise, "relu6", 3, stride, depthwise=True)
    x = net.conv_norm(x, *project, kernel=1)
    if stride == 1 and net.channels[start] == net.channels[x]:
        x = net.add(f"{name}.add", "add", start, x)
    return x, expanded


def lite_extra(net: TorchBuilder, x: str, parts: list[tuple[str, str]]) -> str:
    """An extra layer of SSDLite: 1x1, depthwise 3x3 of stride 2, 1x1; parts: their convolutions and normalisations."""
    first, depthwise, last = parts
    x = net.conv_norm(x, *first, "relu6", 1)
    x = net.conv_norm(x, *depthwise, "relu6", 3, 2, depthwise=True)
    return net.conv_norm(x, *last, "relu6", 1)


def mobilenet_v2(net: TorchBuilder, prefix: str, parts: Parts) -> dict[str, str]:
    """Layers by their number in the source's list ("0" .. "18"), and EXPAND_14."""
    x = net.conv_norm(net.image, f"{prefix}.0.0", f"{prefix}.0.1", "relu6", 3, 2)
    maps = {"0": x}
    for i, stride in enumerate(V2_STRIDES, 1):
        x, expanded = inverted_residual(net, x, f"{prefix}.{i}", stride, parts)
        maps[str(i)] = x
        if i == 14 and expanded is not None:
            maps[EXPAND_14] = expanded
    last = len(V2_STRIDES) + 1
    maps[str(last)] = net.conv_norm(x, f"{prefix}.{last}.0", f"{prefix}.{last}.1", "relu6", 1)
    return maps


def v3_block(net: TorchBuilder, x: str, name: str, activation: str, stride: int, expands: bool = True) -> str:
    """One inverted residual of torchvision's MobileNetV3: expansion (not in the first), depthwise, squeeze-excitation,
    projection."""
    part, y = 0, x
    if expands:
        y = net.conv_norm(x, f"{name}.0.0", f"{name}.0.1", activation, kernel=1)
        part = 1
    y = v3_rest_of_block(net, y, name, part, activation, stride)
    if stride == 1 and net.channels[x] == net.channels[y]:
        return net.add(f"{name}.add", "add", x, y)
    return y


def v3_rest_of_block(
    net: TorchBuilder, x: str, name: str, part: int, activation: str, stride: int, last_stride: int = 1
) -> str:
    """A block from its depthwise layer on, which is the part of that number. last_stride: of its projection."""
    y = net.conv_norm(x, f"{name}.{part}.0", f"{name}.{part}.1", activation, stride=stride, depthwise=True)
    part += 1
    if f"{name}.{part}.fc1.weight" in net.tensors:
        y = net.squeeze_excitation(y, f"{name}.{part}")
        part += 1
    return net.conv_norm(y, f"{name}.{part}.0", f"{name}.{part}.1", kernel=1, stride=last_stride)


def as_it_is(weight: Tensor, boxes: int) -> Tensor:
    """An Order that changes nothing."""
    return weight


KEPT = (as_it_is, as_it_is)


def add_head(
    net: TorchBuilder,
    x: str,
    location: str,
    confidence: str,
    boxes: int,
    columns: int,
    orders: tuple[Order, Order] = KEPT,
) -> None:
    """One map's head.

    Args:
        net: Where it is added.
        x: The map.
        location: Name of a convolution, or of a depthwise separable one: "0" with bias, "1" its normalisation where
            there is one, then activation, and "3" (or "2") 1x1; or "0" a unit of both without bias, and "1" 1x1.
        confidence: The same.
        boxes: Of a cell.
        columns: Classes and background.
        orders: What brings outputs of location and of confidence into our order.
    """
    seen, last = [], []
    kernel = None  # both have one
    for name, outputs, order in ((location, boxes * 4, orders[0]), (confidence, boxes * columns, orders[1])):
        y, point = _separable(net, x, name)
        kernel = 1 if point != name else kernel
        weight = net.tensors.take(f"{point}.weight", outputs, net.channels[y], kernel, kernel)
        kernel = weight.shape[-1]
        seen.append(y)
        last += [order(weight, boxes), order(net.tensors.take(f"{point}.bias", outputs), boxes)]
    net.head(seen[0], seen[1], *last)


def _separable(net: TorchBuilder, x: str, name: str) -> tuple[str, str]:
    """(what the last convolution sees, its name)."""
    for conv, bn in UNITS:
        if f"{name}.0.{conv}.weight" in net.tensors:
            unit = f"{name}.0.{conv}", f"{name}.0.{bn}"
            return net.conv_norm(x, *unit, "relu6", 3, depthwise=True), f"{name}.1"
    if f"{name}.0.weight" not in net.tensors:
        return x, name
    norm = f"{name}.1.weight" in net.tensors
    y = depthwise_bias(net, x, f"{name}.0", f"{name}.1" if norm else "", "relu6" if norm else "relu")
    return y, f"{name}.{3 if norm else 2}"


def depthwise_bias(
    net: TorchBuilder, x: str, conv: str, norm: str, activation: str, stride: int = 1, padding: int = 1
) -> str:
    """A 3x3 depthwise convolution with bias, its normalisation ("" for none), an activation; the last layer's name."""
    channels, tensors = net.channels[x], net.tensors
    weight, bias = tensors.take(f"{conv}.weight", channels, 1, 3, 3), tensors.take(f"{conv}.bias", channels)
    y = net.conv(conv, x, weight, bias, stride, padding, groups=channels)
    return net.active(conv, net.batch_norm(y, norm) if norm else y, activation)
