"""The layers that SSD networks are put together from."""

from __future__ import annotations

import contextlib
from collections import OrderedDict
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn


class Part(NamedTuple):
    """A part of a backbone that can be frozen, and the stride of its map in pixels of the image."""

    module: nn.Module
    stride: int


class L2Norm(nn.Module):
    """Scale every position's channel vector to length `scale` (learned, per channel).

    ParseNet's normalisation of conv4_3, whose values are larger than those of the deeper maps (paper section 3.1;
    Caffe normalize_layer.cpp, across_spatial false, eps 1e-10 inside the root). In float32 whatever the precision
    around it: the squares of conv4_3 overflow float16.
    """

    def __init__(self, channels: int, scale: float = 20.0) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.full((channels,), float(scale)))

    def forward(self, x: Tensor) -> Tensor:
        """[B, C, H, W] -> [B, C, H, W]"""
        # "meta" holds no values and knows no precisions.
        with contextlib.nullcontext() if x.is_meta else torch.autocast(x.device.type, enabled=False):
            values = x.float()
            length = values.square().sum(dim=1, keepdim=True).add(1e-10).sqrt()
            return (values / length * self.weight.float().view(1, -1, 1, 1)).to(x.dtype)


def conv(
    in_channels: int,
    channels: int,
    kernel: int,
    stride: int = 1,
    padding: int = 0,
    dilation: int = 1,
    norm: bool = False,
) -> list[tuple[str, nn.Module]]:
    """Convolution, with `norm` a batch normalisation in place of its bias, and ReLU: named for a Sequential."""
    layer = nn.Conv2d(in_channels, channels, kernel, stride, padding, dilation, bias=not norm)
    layers: list[tuple[str, nn.Module]] = [("conv", layer)]
    if norm:
        layers.append(("bn", nn.BatchNorm2d(channels)))
    return [*layers, ("relu", nn.ReLU(inplace=True))]


def conv_norm(
    in_channels: int, channels: int, kernel: int, stride: int = 1, groups: int = 1, bias: bool = False
) -> tuple[nn.Module, nn.Module]:
    """A convolution that keeps the map's size at stride 1, and its batch normalisation.

    As torchvision.ops.Conv2dNormActivation begins, which loads torch._dynamo: half of the time until a command detects.
    """
    layer = nn.Conv2d(in_channels, channels, kernel, stride, (kernel - 1) // 2, groups=groups, bias=bias)
    return layer, nn.BatchNorm2d(channels)


class _Depthwise(torch.autograd.Function):
    """Depthwise convolution whose gradient for its input is a plain convolution.

    In bfloat16 on a CPU that gradient has no fast kernel at stride 2: it takes 15 to 90 times as long as a depthwise
    convolution of the same size, and half of a MobileNet's training step. It is the correlation of the incoming
    gradient, at stride 2 spread out with zeros in between, with the turned kernel, which has one. Measured:
    benchmarks/depthwise.py.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, stride: int, padding: int) -> Tensor:
        """x: [B, C, H, W]; weight: [C, 1, k, k]; stride: 1 or 2; padding: under k."""
        ctx.save_for_backward(x, weight)
        ctx.stride, ctx.padding = stride, padding
        return nn.functional.conv2d(x, weight, None, stride, padding, 1, x.shape[1])

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, Tensor | None, None, None]:
        """Gradients for the input and the weight."""
        x, weight = ctx.saved_tensors
        channels, step, padding = x.shape[1], ctx.stride, ctx.padding
        kernel = weight.shape[-1]
        grad_x, grad_weight = None, None
        if ctx.needs_input_grad[0]:
            spread = grad
            if step == 2:
                rows, columns = (side + 2 * padding - kernel + 1 for side in x.shape[2:])
                size = *x.shape[:2], rows, columns
                spread = torch.empty(size, dtype=x.dtype, device=x.device, memory_format=memory_format(x)).zero_()
                spread[:, :, ::2, ::2] = grad
            grad_x = nn.functional.conv2d(spread, weight.flip(2, 3), None, 1, kernel - 1 - padding, 1, channels)
        if ctx.needs_input_grad[1]:
            grad_weight = _weight_gradient(grad, x, weight, step, padding)
        return grad_x, grad_weight, None, None


def _weight_gradient(grad: Tensor, x: Tensor, weight: Tensor, stride: int, padding: int) -> Tensor:
    """Of a depthwise convolution. That of a 3x3 kernel has a fast form on a CPU; one of a larger kernel, which has
    none, is put together from tiles of 3x3, each of the input from where the tile starts.
    """
    channels, kernel = x.shape[1], weight.shape[-1]
    if kernel <= 3:
        return _plain_weight_gradient(grad, x, weight, stride, padding)
    tiles = -(-kernel // 3)
    beyond = padding + 3 * tiles - kernel
    x = nn.functional.pad(x, (padding, beyond, padding, beyond))
    whole = weight.new_empty(channels, 1, 3 * tiles, 3 * tiles)
    rows, columns = (stride * (side - 1) + 3 for side in grad.shape[2:])
    lie, tile = memory_format(x), weight[:, :, :3, :3].contiguous()
    for i in range(0, 3 * tiles, 3):
        for j in range(0, 3 * tiles, 3):
            part = x[:, :, i : i + rows, j : j + columns].contiguous(memory_format=lie)
            whole[:, :, i : i + 3, j : j + 3] = _plain_weight_gradient(grad, part, tile, stride, 0)
    return whole[:, :, :kernel, :kernel].contiguous()


def _plain_weight_gradient(grad: Tensor, x: Tensor, weight: Tensor, stride: int, padding: int) -> Tensor:
    strides, pads, one, wanted = [stride, stride], [padding, padding], [1, 1], [False, True, False]
    gradient: Tensor = torch.ops.aten.convolution_backward(
        grad, x, weight, None, strides, pads, one, False, [0, 0], x.shape[1], wanted
    )[1]
    return gradient


def memory_format(x: Tensor) -> torch.memory_format:
    """How the values of a map [B, C, H, W] lie."""
    return torch.channels_last if x.is_contiguous(memory_format=torch.channels_last) else torch.contiguous_format


class DepthwiseConv2d(nn.Conv2d):
    """nn.Conv2d for depthwise layers: the same numbers, gradients faster in bfloat16 on a CPU."""

    def forward(self, x: Tensor) -> Tensor:
        """[B, C, H, W] -> [B, C, H / stride, W / stride]"""
        if self.training and x.shape[-1] == 1:
            return _in_float32(self, x)
        quick = self.training and x.device.type == "cpu" and torch.is_autocast_enabled("cpu")
        if not quick or torch.compiler.is_compiling():
            return super().forward(x)
        dtype = torch.get_autocast_dtype("cpu")
        padding = self.padding[0]
        assert isinstance(padding, int), padding
        maps: Tensor = _Depthwise.apply(x.to(dtype), self.weight.to(dtype), self.stride[0], padding)
        return maps


class HalvingConv2d(nn.Conv2d):
    """nn.Conv2d of stride 2: the same numbers, also where it is trained on a map of a single column."""

    def forward(self, x: Tensor) -> Tensor:
        """[B, C, H, W] -> [B, C, H / 2, W / 2]"""
        return _in_float32(self, x) if self.training and x.shape[-1] == 1 else super().forward(x)


def _in_float32(layer: nn.Conv2d, x: Tensor) -> Tensor:
    """Where a map has a single column, oneDNN's gradient in bfloat16 leaves the weights that only see padding as they
    lay in memory (stride 2; torch 2.14.1). Maps like that are small."""
    with torch.autocast(x.device.type, enabled=False):
        return nn.Conv2d.forward(layer, x.float())


class SamePad(nn.Module):
    """TensorFlow's SAME for a stride of 2: zeros at the lower and right edge first, (k - 2) of them at even sizes."""

    def __init__(self, kernel: int, stride: int) -> None:
        super().__init__()
        self.kernel, self.stride = kernel, stride

    def forward(self, x: Tensor) -> Tensor:
        """[B, C, H, W] -> [B, C, H + zeros, W + zeros]"""
        rows, columns = (self._zeros(side) for side in x.shape[-2:])
        return nn.functional.pad(x, (columns // 2, columns - columns // 2, rows // 2, rows - rows // 2))

    def _zeros(self, side: int) -> int:
        return max((-(-side // self.stride) - 1) * self.stride + self.kernel - side, 0)


def use_fast_depthwise(module: nn.Module) -> None:
    """Make a network quicker to train on a CPU, in place; it computes the same numbers.

    Depthwise convolutions become DepthwiseConv2d, those that halve a map HalvingConv2d. ReLU and ReLU6 write to a map
    of their own: in bfloat16 writing over their input takes a CPU twice as long. Measured: benchmarks/depthwise.py.
    """
    for layer in module.modules():
        if isinstance(layer, (nn.ReLU, nn.ReLU6)):
            layer.inplace = False
        if (
            type(layer) is nn.Conv2d
            and layer.groups == layer.in_channels == layer.out_channels > 1
            and layer.kernel_size in ((3, 3), (5, 5))
            and layer.padding in ((0, 0), (1, 1), (2, 2))
            and layer.dilation == (1, 1)
            and layer.stride in ((1, 1), (2, 2))
            and layer.bias is None
        ):
            layer.__class__ = DepthwiseConv2d
        elif (
            type(layer) is nn.Conv2d
            and layer.groups == 1
            and (layer.kernel_size, layer.padding) in (((3, 3), (1, 1)), ((5, 5), (2, 2)))
            and layer.dilation == (1, 1)
            and layer.stride == (2, 2)
        ):
            layer.__class__ = HalvingConv2d


class InvertedResidual(nn.Module):
    """MobileNetV2's block with any expansion, also under 1 (as SSDLite's extra layers have)."""

    def __init__(self, in_channels: int, channels: int, stride: int, expansion: float) -> None:
        super().__init__()
        hidden = round(in_channels * expansion)
        self.layers = nn.Sequential(
            OrderedDict(
                expand=nn.Sequential(*conv_norm(in_channels, hidden, 1), nn.ReLU6(inplace=True)),
                depthwise=nn.Sequential(*conv_norm(hidden, hidden, 3, stride, groups=hidden), nn.ReLU6(inplace=True)),
                project=nn.Sequential(*conv_norm(hidden, channels, 1)),
            )
        )
        self.shortcut = stride == 1 and in_channels == channels

    def forward(self, x: Tensor) -> Tensor:
        """[B, C, H, W] -> [B, channels, H / stride, W / stride]"""
        y: Tensor = self.layers(x)
        return x + y if self.shortcut else y


def init_he(*modules: nn.Module) -> None:
    """He et al. 2015 for convolutions before a normalisation and ReLU.

    On "meta", which holds no values, nothing is done: PyTorch would take the distribution apart in Python.
    """
    for module in modules:
        for layer in module.modules():
            if isinstance(layer, nn.Conv2d) and not layer.weight.is_meta:
                nn.init.kaiming_normal_(layer.weight, mode="fan_out", nonlinearity="relu")


def init_xavier(*modules: nn.Module) -> None:
    """Caffe's filler for every layer of SSD: xavier weights, zero biases."""
    for module in modules:
        for layer in module.modules():
            if isinstance(layer, nn.Conv2d):
                nn.init.xavier_uniform_(layer.weight)
                if layer.bias is not None:
                    nn.init.zeros_(layer.bias)
