"""Pieces that many PyTorch networks are made of, added to an GraphBuilder under the names of their source."""

from __future__ import annotations

from singleshot.weights.foreign_state import ForeignState
from singleshot.weights.graph_builder import GraphBuilder


def conv_norm(
    net: GraphBuilder,
    tensors: ForeignState,
    x: str,
    conv: str,
    norm: str,
    activation: str = "",
    kernel: int | None = None,
    stride: int = 1,
    padding: int | None = None,
    depthwise: bool = False,
    eps: float = 1e-5,
) -> str:
    """A convolution without bias, its batch normalisation, and an activation ("" for none); the last layer's name.

    conv, norm: names in the checkpoint, and of the layers; kernel: None for that of the weight; padding: None for
    half the kernel, which keeps the side at stride 1; eps: of the normalisation.
    """
    channels = net.channels[x]
    shape = (channels, 1) if depthwise else (None, channels)
    weight = tensors.take(f"{conv}.weight", *shape, kernel, kernel)
    half = weight.shape[-1] // 2 if padding is None else padding
    groups = channels if depthwise else 1
    y = net.conv(conv, x, weight, stride=stride, padding=half, groups=groups)
    gamma, beta, mean, variance = (
        tensors.take(f"{norm}.{part}", weight.shape[0]) for part in ("weight", "bias", "running_mean", "running_var")
    )
    tensors.ignore(f"{norm}.num_batches_tracked")
    y = net.norm(norm, y, gamma, beta, mean, variance, eps)
    return net.add(f"{norm}.{activation}", activation, y) if activation else y


def conv_bias(
    net: GraphBuilder,
    tensors: ForeignState,
    x: str,
    conv: str,
    activation: str = "",
    kernel: int | None = None,
    stride: int = 1,
    padding: int = 0,
) -> str:
    """A convolution with bias, and an activation ("" for none); the last layer's name."""
    weight = tensors.take(f"{conv}.weight", None, net.channels[x], kernel, kernel)
    bias = tensors.take(f"{conv}.bias", weight.shape[0])
    y = net.conv(conv, x, weight, bias, stride=stride, padding=padding)
    return net.add(f"{conv}.{activation}", activation, y) if activation else y


def squeeze_excitation(net: GraphBuilder, tensors: ForeignState, x: str, name: str) -> str:
    """MobileNetV3's: the map times a gate per channel that two 1x1 layers (fc1, fc2) make of its mean."""
    pooled = net.add(f"{name}.avgpool", "avgpool", x)
    squeezed = conv_bias(net, tensors, pooled, f"{name}.fc1", "relu", kernel=1)
    gate = conv_bias(net, tensors, squeezed, f"{name}.fc2", "hardsigmoid", kernel=1)
    return net.add(f"{name}.mul", "mul", x, gate)
