"""The layers that a described network may have, with all their numbers within bounds.

Options come from files: each kind checks its own and raises ConfigError.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from singleshot.errors import ConfigError, printable
from singleshot.models.blocks import L2Norm
from singleshot.models.graph_spec import MAX_CHANNELS, Layer

MAX_KERNEL = 64

Pads = tuple[int, int, int, int]  # left, right, top, bottom, as torch's pad takes them


def make_layer(layer: Layer) -> nn.Module:
    """The module of a layer, freshly initialised. Raises ConfigError for an unknown kind or impossible options."""
    what = f"network: layer {printable(layer.name, 60)}"
    if layer.kind not in KINDS:
        raise ConfigError(f"{what}: kind {printable(layer.kind, 40)}: want one of {', '.join(KINDS)}")
    try:
        return KINDS[layer.kind](**layer.options)
    except (TypeError, ValueError, OverflowError) as error:
        raise ConfigError(f"{what}: {printable(error, 80)}") from error


def _whole(name: str, value: object, low: int, high: int) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or not low <= value <= high:
        raise ConfigError(f"network: {name} {printable(value, 40)}: want {low} to {high}")
    return value


def _channels(value: object) -> int:
    return _whole("channels", value, 1, MAX_CHANNELS)


def _pair(name: str, value: object, low: int, high: int) -> tuple[int, int]:
    both = value if isinstance(value, (tuple, list)) else (value, value)
    if len(both) != 2:
        raise ConfigError(f"network: {name} {printable(value, 40)}: want one number or two")
    return _whole(name, both[0], low, high), _whole(name, both[1], low, high)


def _pads(value: object) -> tuple[tuple[int, int], Pads | None]:
    """Padding at top and left where the other sides have the same, and else all four, which torch cannot take itself"""
    sides = value if isinstance(value, (tuple, list)) else (value,) * 4
    if len(sides) != 4:
        raise ConfigError(f"network: padding {printable(value, 40)}: want one number, or left, right, top, bottom")
    left, right, top, bottom = (_whole("padding", v, 0, 4 * MAX_KERNEL) for v in sides)
    even = (left, top) == (right, bottom)
    return ((top, left), None) if even else ((0, 0), (left, right, top, bottom))


class Conv(nn.Conv2d):
    """A convolution that may be padded unevenly, as TensorFlow's SAME is at stride 2."""

    def __init__(
        self,
        inputs: int,
        outputs: int,
        kernel: object,
        stride: object = 1,
        padding: object = 0,
        dilation: object = 1,
        groups: int = 1,
        bias: bool = True,
    ) -> None:
        even, uneven = _pads(padding)
        inputs, outputs = _channels(inputs), _channels(outputs)
        groups = _whole("groups", groups, 1, inputs)
        if inputs % groups or outputs % groups:
            raise ConfigError(f"network: {inputs} to {outputs} channels in {groups} groups")
        kernel, stride = _pair("kernel", kernel, 1, MAX_KERNEL), _pair("stride", stride, 1, MAX_KERNEL)
        dilation = _pair("dilation", dilation, 1, MAX_KERNEL)
        super().__init__(inputs, outputs, kernel, stride, even, dilation, groups, bool(bias))
        self.uneven = uneven

    def forward(self, x: Tensor) -> Tensor:
        """[B, inputs, H, W] -> [B, outputs, h, w]"""
        return super().forward(F.pad(x, self.uneven) if self.uneven else x)


class MaxPool(nn.Module):
    """Max pooling that may be padded unevenly. round_up: Caffe's and pool3's ceil mode."""

    def __init__(self, kernel: object, stride: object = None, padding: object = 0, round_up: bool = False) -> None:
        super().__init__()
        self.kernel = _pair("kernel", kernel, 1, MAX_KERNEL)
        self.stride = self.kernel if stride is None else _pair("stride", stride, 1, MAX_KERNEL)
        self.padding, self.uneven = _pads(padding)
        self.round_up = bool(round_up)

    def forward(self, x: Tensor) -> Tensor:
        """[B, C, H, W] -> [B, C, h, w]"""
        if self.uneven:
            x = F.pad(x, self.uneven, value=-torch.inf)
        return F.max_pool2d(x, self.kernel, self.stride, self.padding, ceil_mode=self.round_up)


class AvgPool(nn.Module):
    """Average pooling; kernel 0: over the whole map. count_padding: whether padding counts as zeros; round_up: as in
    MaxPool."""

    def __init__(
        self,
        kernel: object = 0,
        stride: object = None,
        padding: object = 0,
        count_padding: bool = False,
        round_up: bool = False,
    ) -> None:
        super().__init__()
        self.round_up = bool(round_up)
        self.kernel = _pair("kernel", kernel, 0, MAX_KERNEL)
        self.stride = self.kernel if stride is None else _pair("stride", stride, 1, MAX_KERNEL)
        self.padding, self.count_padding = _pair("padding", padding, 0, MAX_KERNEL), bool(count_padding)

    def forward(self, x: Tensor) -> Tensor:
        """[B, C, H, W] -> [B, C, h, w]"""
        if self.kernel == (0, 0):
            return x.mean(dim=(2, 3), keepdim=True)
        return F.avg_pool2d(x, self.kernel, self.stride, self.padding, self.round_up, self.count_padding)


class Norm(nn.BatchNorm2d):
    """Batch normalisation. momentum: how much of a batch's mean and variance goes into the kept ones."""

    def __init__(self, channels: int, eps: float = 1e-5, momentum: float = 0.1) -> None:
        eps, momentum = (min(max(float(value), 0.0), 1.0) for value in (eps, momentum))
        super().__init__(_channels(channels), eps, momentum)


class Scale(nn.Module):
    """Each channel times a weight plus a bias: Caffe's Scale, or a normalisation that no convolution can take in."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        channels = _channels(channels)
        self.weight, self.bias = nn.Parameter(torch.ones(channels)), nn.Parameter(torch.zeros(channels))

    def forward(self, x: Tensor) -> Tensor:
        """[B, C, H, W] -> the same"""
        return x * self.weight.view(1, -1, 1, 1) + self.bias.view(1, -1, 1, 1)


class Clamp(nn.Module):
    """Limits of a value: ReLU6, and the ranges that a quantised network can hold."""

    def __init__(self, low: float, high: float) -> None:
        super().__init__()
        self.low, self.high = float(low), float(high)

    def forward(self, x: Tensor) -> Tensor:
        """Any shape."""
        return x.clamp(self.low, self.high)


class LeakyReLU(nn.LeakyReLU):
    """slope: what negative values are multiplied by, 0 to 1."""

    def __init__(self, slope: float = 0.01) -> None:
        super().__init__(min(max(float(slope), 0.0), 1.0))


class CReLU(nn.Module):
    """The positive parts of a map, then those of its negative: twice the channels (Shang et al. 2016)."""

    def forward(self, x: Tensor) -> Tensor:
        """[B, C, H, W] -> [B, 2 C, H, W]"""
        return torch.cat([x, -x], dim=1).relu()


class EnlargeTo(nn.Module):
    """The first map as large as the second one, by the nearest cell: how a feature pyramid goes up."""

    def forward(self, x: Tensor, like: Tensor) -> Tensor:
        """[B, C, h, w], [B, D, H, W] -> [B, C, H, W]"""
        return F.interpolate(x, size=like.shape[2:], mode="nearest")


class Upsample(nn.Module):
    """Each cell as so many rows and columns: of the same (TensorFlow's nearest_neighbor_upsampling), or linear between
    cells.

    Args:
        scale: rows and columns, or one number for both.
        linear: "" for the same; "centres" or "corners", which of the cells lie on those of the map before (PyTorch's
            align_corners=False and True).
    """

    def __init__(self, scale: object = 2, linear: str = "") -> None:
        super().__init__()
        rows, columns = _pair("scale", scale, 1, MAX_KERNEL)
        if linear not in ("", "centres", "corners"):
            raise ConfigError(f"upsample: linear {printable(linear, 40)}, want centres, corners or nothing")
        self.scale, self.linear = (float(rows), float(columns)), linear

    def forward(self, x: Tensor) -> Tensor:
        """[B, C, h, w] -> [B, C, rows h, columns w]"""
        if not self.linear:
            return F.interpolate(x, scale_factor=self.scale, mode="nearest")
        corners = self.linear == "corners"
        return F.interpolate(x, scale_factor=self.scale, mode="bilinear", align_corners=corners)


class MaxOut(nn.Module):
    """The largest of the first channels in their place (S3FD's max-out background).

    Args:
        first: how many channels become one.
    """

    def __init__(self, first: int) -> None:
        super().__init__()
        self.first = _whole("first channels", first, 1, MAX_CHANNELS)

    def forward(self, x: Tensor) -> Tensor:
        """[B, C, H, W] -> [B, C - first + 1, H, W]"""
        return torch.cat([x[:, : self.first].amax(dim=1, keepdim=True), x[:, self.first :]], dim=1)


class Quantise(nn.Module):
    """Rounds to the values that an 8-bit map can hold: scale * (0..255 - zero)."""

    def __init__(self, scale: float, zero: int, low: int = 0, high: int = 255) -> None:
        super().__init__()
        self.scale, self.zero = float(scale), _whole("zero point", zero, -(2**31), 2**31 - 1)
        self.low, self.high = _whole("limit", low, -(2**31), 2**31 - 1), _whole("limit", high, -(2**31), 2**31 - 1)
        if not 0 < self.scale < float("inf"):
            raise ConfigError(f"network: quantised with scale {scale}: want a positive number")

    def forward(self, x: Tensor) -> Tensor:
        """Any shape."""
        return ((x / self.scale).round().add(self.zero).clamp(self.low, self.high) - self.zero) * self.scale


class Join(nn.Module):
    """Two maps added or multiplied, or several put one behind the other along the channels; broadcasts."""

    def __init__(self, how: str) -> None:
        super().__init__()
        self.how = how

    def forward(self, *maps: Tensor) -> Tensor:
        """[B, C, H, W] each."""
        if self.how == "concat":
            return torch.cat(maps, dim=1)
        a, *rest = maps
        for b in rest:
            a = a + b if self.how == "add" else a * b
        return a


def _without_options(module: Callable[[], nn.Module]) -> Callable[[], nn.Module]:
    """torch's `inplace` would spoil a map that another layer takes as well."""

    def make() -> nn.Module:
        return module()

    return make


# kind -> module, from keyword arguments
KINDS: Mapping[str, Callable[..., nn.Module]] = {
    "conv": Conv,
    "norm": Norm,
    "scale": Scale,
    "l2norm": lambda channels: L2Norm(_channels(channels)),
    "relu": _without_options(nn.ReLU),
    "leakyrelu": LeakyReLU,
    "crelu": CReLU,
    "maxout": MaxOut,
    "relu6": _without_options(nn.ReLU6),
    "hardswish": _without_options(nn.Hardswish),
    "hardsigmoid": _without_options(nn.Hardsigmoid),
    "sigmoid": _without_options(nn.Sigmoid),
    "silu": _without_options(nn.SiLU),
    "elu": lambda alpha=1.0: nn.ELU(float(alpha)),
    "clamp": Clamp,
    "quantise": Quantise,
    "maxpool": MaxPool,
    "avgpool": AvgPool,
    "add": lambda: Join("add"),
    "mul": lambda: Join("mul"),
    "concat": lambda: Join("concat"),
    "enlarge": EnlargeTo,
    "upsample": Upsample,
}
