"""A network described by data, for models that no preset has the shape of: imported ones above all.

A `Graph` is a list of layers in the order in which they run, and which of them the heads look at. It travels in the
checkpoint as JSON, so it is read with suspicion: few kinds of layers, all numbers within bounds, nothing executed.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from singleshot.errors import ConfigError, printable
from singleshot.inputs import InputSpec
from singleshot.models.blocks import Head, L2Norm
from singleshot.models.ssd import SSD
from singleshot.priors import PriorSpec

IMAGE = "image"  # what the first layers take: [B, 3, S, S], normalised
MAX_LAYERS, MAX_CHANNELS, MAX_KERNEL = 5_000, 16_384, 64
MAX_VALUES = 2**28  # of one map: a gigabyte

Pads = tuple[int, int, int, int]  # left, right, top, bottom, as torch's pad takes them


class Layer(NamedTuple):
    """One layer. name: of its own, and of its parameters; kind: see KINDS; inputs: names of layers before it, or IMAGE;
    options: keyword arguments of the kind."""

    name: str
    kind: str
    inputs: tuple[str, ...]
    options: Mapping[str, Any]


class HeadInput(NamedTuple):
    """What one map's last convolutions see. location, confidence: layers, the same one in most networks; channels of
    each; kernel: 1 or 3, at stride 1 and padded to keep the side; bias: whether they have one."""

    location: str
    confidence: str
    channels: tuple[int, int]
    kernel: int = 3
    bias: bool = True


@dataclass(frozen=True)
class Graph:
    """layers in running order; heads: one for each map, largest map first. Raises ConfigError when it cannot be."""

    layers: tuple[Layer, ...]
    heads: tuple[HeadInput, ...]

    def __post_init__(self) -> None:
        if not self.heads or len(self.layers) > MAX_LAYERS:
            raise ConfigError(f"network: {len(self.layers)} layers and {len(self.heads)} heads: want 1 to {MAX_LAYERS}")
        known = {IMAGE}
        for layer in self.layers:
            what = f"network: layer {printable(layer.name, 60)}"
            if layer.kind not in KINDS:
                raise ConfigError(f"{what}: kind {printable(layer.kind, 40)}: want one of {', '.join(KINDS)}")
            if not layer.name or layer.name in known:
                raise ConfigError(f"{what}: the name is empty or there twice")
            missing = [name for name in layer.inputs if name not in known]
            if missing or not layer.inputs:
                raise ConfigError(f"{what}: input {printable(missing, 80)} is no layer before it")
            known.add(layer.name)
        for head in self.heads:
            for name in (head.location, head.confidence):
                if name not in known:
                    raise ConfigError(f"network: a head looks at {printable(name, 60)}, which is no layer")
            if head.kernel not in (1, 3) or not all(1 <= c <= MAX_CHANNELS for c in head.channels):
                raise ConfigError(f"network: a head of kernel {head.kernel} on {head.channels} channels")

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        layers = [[x.name, x.kind, list(x.inputs), dict(x.options)] for x in self.layers]
        return {"layers": layers, "heads": [h._asdict() for h in self.heads]}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Graph:
        """Inverse of `to_dict`; ConfigError for anything else."""
        try:
            layers = tuple(
                Layer(str(name), str(kind), tuple(map(str, inputs)), {str(k): _plain(v) for k, v in options.items()})
                for name, kind, inputs, options in values["layers"]
            )
            heads = tuple(
                HeadInput(str(h["location"]), str(h["confidence"]), (int(h["channels"][0]), int(h["channels"][1])),
                          int(h["kernel"]), bool(h["bias"]))
                for h in values["heads"]
            )  # fmt: skip
        except (KeyError, TypeError, ValueError, AttributeError, IndexError) as error:
            raise ConfigError(
                f"network: cannot be read ({printable(f'{type(error).__name__}: {error}', 80)})"
            ) from error
        return cls(layers, heads)


def _plain(value: Any) -> Any:
    return tuple(map(_plain, value)) if isinstance(value, list) else value


# ---------------------------------------------------------------------------------------------- kinds of layers


def _whole(name: str, value: Any, low: int, high: int) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or not low <= value <= high:
        raise ConfigError(f"network: {name} {printable(value, 40)}: want {low} to {high}")
    return value


def _pair(name: str, value: Any, low: int, high: int) -> tuple[int, int]:
    both = value if isinstance(value, (tuple, list)) else (value, value)
    if len(both) != 2:
        raise ConfigError(f"network: {name} {printable(value, 40)}: want one number or two")
    return _whole(name, both[0], low, high), _whole(name, both[1], low, high)


def _pads(value: Any) -> Pads:
    sides = value if isinstance(value, (tuple, list)) else (value,) * 4
    if len(sides) != 4:
        raise ConfigError(f"network: padding {printable(value, 40)}: want one number, or left, right, top, bottom")
    left, right, top, bottom = (_whole("padding", v, 0, 4 * MAX_KERNEL) for v in sides)
    return left, right, top, bottom


class Conv(nn.Conv2d):
    """A convolution that may be padded unevenly, as TensorFlow's SAME is at stride 2."""

    def __init__(
        self, inputs: int, outputs: int, kernel: Any, stride: Any = 1, padding: Any = 0, dilation: Any = 1,
        groups: int = 1, bias: bool = True,
    ) -> None:  # fmt: skip
        left, right, top, bottom = _pads(padding)
        self.uneven: Pads | None = None if (left, top) == (right, bottom) else (left, right, top, bottom)
        inputs, outputs = _whole("channels", inputs, 1, MAX_CHANNELS), _whole("channels", outputs, 1, MAX_CHANNELS)
        groups = _whole("groups", groups, 1, inputs)
        if inputs % groups or outputs % groups:
            raise ConfigError(f"network: {inputs} to {outputs} channels in {groups} groups")
        super().__init__(
            inputs, outputs, _pair("kernel", kernel, 1, MAX_KERNEL), _pair("stride", stride, 1, MAX_KERNEL),
            0 if self.uneven else (top, left), _pair("dilation", dilation, 1, MAX_KERNEL), groups, bool(bias),
        )  # fmt: skip

    def forward(self, x: Tensor) -> Tensor:
        """[B, inputs, H, W] -> [B, outputs, h, w]"""
        return super().forward(F.pad(x, self.uneven) if self.uneven else x)


class MaxPool(nn.Module):
    """Max pooling that may be padded unevenly. round_up: Caffe's and pool3's ceil mode."""

    def __init__(self, kernel: Any, stride: Any = None, padding: Any = 0, round_up: bool = False) -> None:
        super().__init__()
        self.kernel = _pair("kernel", kernel, 1, MAX_KERNEL)
        self.stride = self.kernel if stride is None else _pair("stride", stride, 1, MAX_KERNEL)
        left, right, top, bottom = _pads(padding)
        self.uneven: Pads | None = None if (left, top) == (right, bottom) else (left, right, top, bottom)
        self.padding, self.round_up = (0, 0) if self.uneven else (top, left), bool(round_up)

    def forward(self, x: Tensor) -> Tensor:
        """[B, C, H, W] -> [B, C, h, w]"""
        if self.uneven:
            x = F.pad(x, self.uneven, value=-torch.inf)
        return F.max_pool2d(x, self.kernel, self.stride, self.padding, ceil_mode=self.round_up)


class AvgPool(nn.Module):
    """Average pooling; kernel 0: over the whole map. count_padding: whether padding counts as zeros; round_up: as in
    MaxPool."""

    def __init__(
        self, kernel: Any = 0, stride: Any = None, padding: Any = 0, count_padding: bool = False, round_up: bool = False
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
        super().__init__(_whole("channels", channels, 1, MAX_CHANNELS), eps, momentum)


class Scale(nn.Module):
    """Each channel times a weight plus a bias: Caffe's Scale, or a normalisation that no convolution can take in."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        channels = _whole("channels", channels, 1, MAX_CHANNELS)
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


def _bare(module: type[nn.Module]) -> Callable[[], nn.Module]:
    """Without options: torch's `inplace` would spoil a map that another layer takes as well."""

    def make() -> nn.Module:
        return module()

    return make


# kind -> module, from keyword arguments
KINDS: dict[str, Any] = {
    "conv": Conv,
    "norm": Norm,
    "scale": Scale,
    "l2norm": lambda channels: L2Norm(_whole("channels", channels, 1, MAX_CHANNELS)),
    "relu": _bare(nn.ReLU),
    "relu6": _bare(nn.ReLU6),
    "hardswish": _bare(nn.Hardswish),
    "hardsigmoid": _bare(nn.Hardsigmoid),
    "sigmoid": _bare(nn.Sigmoid),
    "clamp": Clamp,
    "quantise": Quantise,
    "maxpool": MaxPool,
    "avgpool": AvgPool,
    "add": lambda: Join("add"),
    "mul": lambda: Join("mul"),
    "concat": lambda: Join("concat"),
}


class GraphNet(nn.Module):
    """Runs a graph's layers: [B, 3, S, S] -> for each head (what its location and its confidence convolutions see)."""

    def __init__(self, graph: Graph) -> None:
        super().__init__()
        self.graph = graph
        self.layers = nn.ModuleDict()
        for i, layer in enumerate(graph.layers):
            try:
                module = KINDS[layer.kind](**layer.options)
            except (TypeError, ValueError, OverflowError) as error:
                raise ConfigError(f"network: layer {printable(layer.name, 60)}: {printable(error, 80)}") from error
            self.layers[key_of(i, layer.name)] = module
        self._wanted = {name for head in graph.heads for name in (head.location, head.confidence)}
        # Where each map is used for the last time: it is let go of there.
        self._last = {name: i for i, layer in enumerate(graph.layers) for name in layer.inputs}

    def forward(self, x: Tensor) -> list[tuple[Tensor, Tensor]]:
        maps = {IMAGE: x}
        for i, (layer, module) in enumerate(zip(self.graph.layers, self.layers.values(), strict=True)):
            maps[layer.name] = module(*(maps[name] for name in layer.inputs))
            for name in set(layer.inputs):
                if self._last[name] == i and name not in self._wanted:
                    del maps[name]
        return [(maps[head.location], maps[head.confidence]) for head in self.graph.heads]


def key_of(index: int, name: str) -> str:
    """Where a layer's parameters are in the module: torch wants names without dots."""
    return f"{index:03d}_{''.join(c if c.isalnum() or c in '_-' else '_' for c in name)}"


class SplitHead(Head):
    """A head whose two convolutions may see different maps."""

    def __init__(self, spec: HeadInput, boxes: int, num_classes: int) -> None:
        nn.Module.__init__(self)
        self.columns = num_classes + 1
        self.location = _last_conv(spec.channels[0], boxes * 4, spec)
        self.confidence = _last_conv(spec.channels[1], boxes * self.columns, spec)

    def forward(self, maps: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:  # type: ignore[override]
        """As `Head`, of (what location sees, what confidence sees)."""
        return self.rows(self.location(maps[0]), self.confidence(maps[1]))


def _last_conv(channels: int, outputs: int, spec: HeadInput) -> nn.Conv2d:
    return nn.Conv2d(channels, outputs, spec.kernel, padding=spec.kernel // 2, bias=spec.bias)


def build_graph(graph: Graph, num_classes: int, priors: PriorSpec, input_spec: InputSpec, name: str = "custom") -> SSD:
    """The detector that a graph describes, with torch's own initial weights.

    Raises ConfigError when layers, heads and priors do not fit together, which is tried without computing anything.
    """
    if len(graph.heads) != len(priors.maps):
        raise ConfigError(f"network: {len(graph.heads)} heads, but priors for {len(priors.maps)} maps")

    def make() -> SSD:
        heads = [SplitHead(spec, boxes, num_classes) for spec, boxes in zip(graph.heads, priors.per_cell, strict=True)]
        norms = [nn.Identity() for _ in heads]
        return SSD(GraphNet(graph), norms, [], heads, priors, input_spec, num_classes, name)

    with torch.device("meta"):
        _try(make(), priors, input_spec.size)
    return make()


def _try(model: SSD, priors: PriorSpec, size: int) -> None:
    """Run shapes alone through a model on the "meta" device, which holds no values."""

    def bounded(module: nn.Module, _: Any, output: Any) -> None:
        if isinstance(output, Tensor) and output.numel() > MAX_VALUES:
            raise ConfigError(f"network: a map of {tuple(output.shape)}: larger than a gigabyte")

    for module in model.modules():
        module.register_forward_hook(bounded)
    try:
        maps = model.eval().feature_maps(torch.zeros(1, 3, size, size, device="meta"))
        raw = model.predict(maps)
    except (RuntimeError, ValueError, IndexError, TypeError) as error:
        said = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise ConfigError(f"network: its layers do not fit together ({printable(said, 120)})") from error
    sides = tuple((m[0].shape[-1], m[1].shape[-1], m[0].shape[-2]) for m in maps)
    if sides != tuple((side,) * 3 for side in priors.maps) or raw.offsets.shape[1] != priors.count:
        raise ConfigError(f"network: maps of {[s[0] for s in sides]} cells, but priors for {list(priors.maps)}")
