"""A Caffe network's layers -> our graph: everything before the last convolutions of each map.

Layers take and give blobs by name, and a layer that gives what it takes works in place; here every layer is an `Op`
with the ops it takes, so that names no longer matter. BatchNorm and Scale are taken into the convolution before them.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, NamedTuple

import torch
from torch import Tensor

from singleshot.errors import printable
from singleshot.models.graph_layers import MAX_KERNEL
from singleshot.weights.foreign_state import ForeignState
from singleshot.weights.importers.fused_graph import IMAGE_OP, NOTHING, Convert, FusedGraph, Shape, Windows, count_uses
from singleshot.weights.readers.caffe import CaffeNet

_SAME = ("Dropout", "Split")  # give what they take
CONVOLUTIONS = ("Convolution", "DepthwiseConvolution", "ConvolutionDepthwise")  # forks have layers of their own for it


class Op(NamedTuple):
    """One layer. takes: index of an op for each bottom, IMAGE_OP or NOTHING."""

    layer: Any
    takes: tuple[int, ...]

    @property
    def name(self) -> str:
        """The file's own."""
        return str(self.layer.name)

    def __str__(self) -> str:
        return f"layer {printable(self.layer.name, 60)} of type {printable(self.layer.type, 40)}"


def in_phase(net: CaffeNet, test: bool) -> tuple[Any, ...]:
    """The layers that are there in that phase (src/caffe/net.cpp, FilterNet and StateMeetsRule; no stage, level 0)."""

    def meets(rule: Any) -> bool:
        phase = not rule.HasField("phase") or rule.phase == int(test)
        return phase and rule.min_level <= 0 <= rule.max_level and not rule.stage

    def there(layer: Any) -> bool:
        return any(map(meets, layer.include)) if layer.include else not any(map(meets, layer.exclude))

    return tuple(layer for layer in net.layers if there(layer))


def link(layers: Iterable[Any], images: Iterable[str]) -> list[Op]:
    """Ops in running order. images: names of the blobs that hold the image; layers that read data are left out."""
    made = dict.fromkeys(images, IMAGE_OP)
    ops: list[Op] = []
    for layer in layers:
        takes = tuple(made.get(name, NOTHING) for name in layer.bottom)
        if layer.type in _SAME and takes:
            made.update(dict.fromkeys(layer.top, takes[0]))
        elif takes:
            made.update(dict.fromkeys(layer.top, len(ops)))
            ops.append(Op(layer, takes))
    return ops


class Body(FusedGraph):
    """A Caffe network's ops in a graph; BatchNorm and Scale go into the convolution before them."""

    def __init__(self, ops: list[Op], needed: list[int], ends: Iterable[int], image: Shape, tensors: ForeignState):
        """needed: ops to convert, in running order; ends: those whose value is wanted."""
        super().__init__(ops, count_uses(ops, needed, ends), image, tensors.where)
        self.ops: list[Op] = ops
        self.tensors = tensors
        for i in needed:
            self._convert(i)

    # ---------------------------------------------------------------------------------------- one op after another

    def _convert(self, i: int) -> None:
        op = self.ops[i]
        kind = "Convolution" if op.layer.type in CONVOLUTIONS else op.layer.type
        method: Convert | None = getattr(self, f"_to_{kind.lower()}", None)
        if kind not in _KINDS or method is None:
            raise self.refuse(op, "is not known")
        for name, take in zip(op.layer.bottom, op.takes, strict=True):
            if take not in self.shapes:
                raise self.refuse(op, f"takes {printable(name, 60)}, which no layer before it makes")
        method(i, op, self.shapes[op.takes[0]])

    def _take(self, op: Op, blob: int, *shape: int) -> Tensor:
        """A blob of that shape, float64. Refused at once if it is another: numbers of a prototxt reserve no memory."""
        key = f"{op.layer.name}[{blob}]"
        if key not in self.tensors:
            raise self.refuse(op, f"has no weights in this file ({printable(key, 80)} is missing)")
        found = self.tensors.shape(key)
        if found != shape:
            want = "x".join(map(str, shape))
            raise self.refuse(op, f"does not fit: {printable(key, 80)} is {'x'.join(map(str, found))}, want {want}")
        return self.tensors.take(key, *shape).double()

    # ---------------------------------------------------------------------------------------- convolutions and norms

    def _to_convolution(self, i: int, op: Op, x: Shape) -> None:
        p = op.layer.convolution_param
        kernel = _pair(p.kernel_size, p, "kernel", 0)
        stride, pad, dilation = _pair(p.stride, p, "stride", 1), _pair(p.pad, p, "pad", 0), _pair(p.dilation, p, "", 1)
        groups = p.group
        if op.layer.type != "Convolution" and not p.HasField("group"):
            groups = x.channels
        windows = Windows(kernel, stride, (pad[1], pad[1], pad[0], pad[0]), dilation)
        self._check_windows(op, x, p.num_output, windows, groups)
        weight = self._take(op, 0, p.num_output, x.channels // groups, *kernel)
        self._convolve(i, op, weight, self._take(op, 1, p.num_output) if p.bias_term else None, windows, groups)

    def _to_batchnorm(self, i: int, op: Op, x: Shape) -> None:
        mean, variance = self._take(op, 0, x.channels), self._take(op, 1, x.channels)
        if f"{op.layer.name}[2]" in self.tensors:
            # How much the moving sums weigh; both count as nothing where it is zero (batch_norm_layer.cpp).
            weight = float(self._take(op, 2, 1))
            mean, variance = (v * (0.0 if weight == 0 else 1.0 / weight) for v in (mean, variance))
        if bool((variance < 0).any()):
            raise self.refuse(op, "has a negative variance; the file is damaged")
        factor = torch.rsqrt(variance + max(op.layer.batch_norm_param.eps, 1e-12))
        shift = -mean * factor
        if f"{op.layer.name}[4]" in self.tensors:  # NVIDIA's Caffe keeps scale and bias in the same layer
            gamma, beta = self._take(op, 3, x.channels), self._take(op, 4, x.channels)
            factor, shift = factor * gamma, shift * gamma + beta
        self._affine(i, op, op.takes[0], factor, shift)

    def _to_scale(self, i: int, op: Op, x: Shape) -> None:
        p = op.layer.scale_param
        if len(op.takes) == 2 and not p.bias_term:
            self._add(i, op, "mul", x)
            return
        if len(op.takes) != 1 or p.axis not in (1, -3) or p.num_axes != 1:
            raise self.refuse(op, "is not known with several inputs or on another axis than channels")
        bias = self._take(op, 1, x.channels) if p.bias_term else None
        self._affine(i, op, op.takes[0], self._take(op, 0, x.channels), bias)

    def _to_bias(self, i: int, op: Op, x: Shape) -> None:
        self._affine(i, op, op.takes[0], torch.ones(x.channels).double(), self._take(op, 0, x.channels))

    def _to_power(self, i: int, op: Op, x: Shape) -> None:
        p = op.layer.power_param
        if p.power != 1:
            raise self.refuse(op, "is known with power 1 alone")
        ones = torch.ones(x.channels).double()
        self._affine(i, op, op.takes[0], ones * p.scale, ones * p.shift)

    def _to_normalize(self, i: int, op: Op, x: Shape) -> None:
        p = op.layer.norm_param
        if p.across_spatial or p.eps > 1e-6:
            raise self.refuse(op, "is known over channels alone, with eps under 1e-6")
        count = 1 if p.channel_shared else x.channels
        key = f"{op.layer.name}[0]"
        scalar = p.channel_shared and self.tensors.get(key) is not None and self.tensors.shape(key) == ()
        weight = (self._take(op, 0) if scalar else self._take(op, 0, count)).float().reshape(-1).expand(x.channels)
        self._l2norm(i, op, weight)

    # ---------------------------------------------------------------------------------------- everything else

    def _to_relu(self, i: int, op: Op, x: Shape) -> None:
        slope = op.layer.relu_param.negative_slope
        if slope:
            self._leaky(i, op, torch.full((x.channels,), slope))
        else:
            self._add(i, op, "relu", x)

    def _to_prelu(self, i: int, op: Op, x: Shape) -> None:
        slopes = self._take(op, 0, 1 if op.layer.prelu_param.channel_shared else x.channels)
        self._leaky(i, op, slopes.float().expand(x.channels).clone())

    def _to_relu6(self, i: int, op: Op, x: Shape) -> None:
        self._add(i, op, "relu6", x)

    def _to_sigmoid(self, i: int, op: Op, x: Shape) -> None:
        self._add(i, op, "sigmoid", x)

    def _to_concat(self, i: int, op: Op, x: Shape) -> None:
        p = op.layer.concat_param
        if (p.axis if p.HasField("axis") or not p.HasField("concat_dim") else p.concat_dim) not in (1, -3):
            raise self.refuse(op, "is known along channels alone")
        total = sum(self.shapes[take].channels for take in op.takes)
        self._add(i, op, "concat", x._replace(channels=total))

    def _to_eltwise(self, i: int, op: Op, x: Shape) -> None:
        p = op.layer.eltwise_param
        kind = {0: "mul", 1: "add"}.get(p.operation)
        if kind is None or any(self.shapes[take] != x for take in op.takes):
            raise self.refuse(op, "is known as sum and product of maps of one shape")
        if kind == "mul" or not p.coeff or set(p.coeff) == {1.0}:
            self._add(i, op, kind, x)
            return
        if len(p.coeff) != len(op.takes):
            raise self.refuse(op, f"has {len(p.coeff)} coefficients for {len(op.takes)} maps")
        zeros, parts = torch.zeros(x.channels), []
        for n, (take, factor) in enumerate(zip(op.takes, p.coeff, strict=True)):
            name = self._free_name(f"{op.layer.name}/{n}")
            parts.append(self.assembly.scale(name, self.value(take), torch.full((x.channels,), factor), zeros))
        self._names[i] = self.assembly.add(self._free_name(op.layer.name), "add", *parts)
        self.shapes[i] = x

    def _to_pooling(self, i: int, op: Op, x: Shape) -> None:
        p = op.layer.pooling_param
        side = (x.height, x.width)
        kernel = side if p.global_pooling else _pair([p.kernel_size], p, "kernel", 0)
        stride, pad = _pair([p.stride], p, "stride", 1), _pair([p.pad], p, "pad", 0)
        if p.pool == 1 and p.global_pooling:
            self._add(i, op, "avgpool", Shape(x.channels, 1, 1), kernel=0)
            return
        if p.pool > 1 or not all(1 <= n <= MAX_KERNEL for n in (*kernel, *stride)) or pad[0] >= kernel[0]:
            raise self.refuse(op, f"is known as maximum and average, not over {kernel}, stride {stride}, padding {pad}")
        up = p.ceil_mode and p.round_mode == 0
        rows = [_pooled(*row, up) for row in zip(side, kernel, stride, pad, strict=True)]
        if None in rows:
            raise self.refuse(op, "has a window beyond its map")
        shape = Shape(x.channels, int(rows[0] or 0), int(rows[1] or 0))
        if p.pool == 0:
            padding = (pad[1], pad[1], pad[0], pad[0])
            self._add(i, op, "maxpool", shape, kernel=kernel, stride=stride, padding=padding, round_up=up)
            return
        # Caffe's average counts padding as zeros, but not what a last window has beyond it: nor does ours.
        more = {"round_up": True} if up and shape != Shape(x.channels, *_floored(side, kernel, stride, pad)) else {}
        self._add(i, op, "avgpool", shape, kernel=kernel, stride=stride, padding=pad, count_padding=True, **more)


_KINDS = (
    *("Convolution", "BatchNorm", "Scale", "Bias", "Power", "Normalize", "ReLU", "PReLU", "ReLU6", "Sigmoid", "Concat"),
    *("Eltwise", "Pooling"),
)


def _pair(values: Iterable[int], p: Any, name: str, default: int) -> tuple[int, int]:
    """(height, width) of a kernel, stride or padding: one number or two, or name_h and name_w."""
    if name and (p.HasField(f"{name}_h") or p.HasField(f"{name}_w")):
        return getattr(p, f"{name}_h"), getattr(p, f"{name}_w")
    row = list(values) or [default]
    return (row[0], row[0]) if len(row) == 1 else (row[0], row[1])


def _pooled(side: int, kernel: int, stride: int, pad: int, up: bool) -> int | None:
    """Side of a pooled map (pooling_layer.cpp, Reshape); None where a window would see nothing, or none fits."""
    spare = side + 2 * pad - kernel
    if spare < 0 and not up:
        return None
    count = (-(-spare // stride) if up else spare // stride) + 1
    if pad and (count - 1) * stride >= side + pad:
        count -= 1
    return count if count >= 1 and (count - 1) * stride < side + pad else None


def _floored(
    side: tuple[int, int], kernel: tuple[int, int], stride: tuple[int, int], pad: tuple[int, int]
) -> tuple[int, int]:
    """Sides without a last window that is not whole."""
    a, b = ((n + 2 * q - k) // s + 1 for n, k, s, q in zip(side, kernel, stride, pad, strict=True))
    return a, b
