"""A Caffe network's layers -> our graph: everything before the last convolutions of each map.

Layers take and give blobs by name, and a layer that gives what it takes works in place; here every layer is an `Op`
with the ops it takes, so that names no longer matter. BatchNorm and Scale are taken into the convolution before them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import torch
from torch import Tensor

from singleshot.errors import CheckpointError, printable
from singleshot.models.graph_layers import MAX_KERNEL
from singleshot.models.graph_spec import IMAGE, MAX_CHANNELS
from singleshot.weights.foreign_state import ForeignState
from singleshot.weights.graph_builder import GraphBuilder
from singleshot.weights.readers.caffe import CaffeNet

IMAGE_OP, NOTHING = -1, -2  # what an op may take apart from other ops: the image; something that no layer makes
_SAME = ("Dropout", "Split")  # give what they take
CONVOLUTIONS = ("Convolution", "DepthwiseConvolution", "ConvolutionDepthwise")  # forks have layers of their own for it


class Op(NamedTuple):
    """One layer. takes: index of an op for each bottom, IMAGE_OP or NOTHING."""

    layer: Any
    takes: tuple[int, ...]

    def __str__(self) -> str:
        return f"layer {printable(self.layer.name, 60)} of type {printable(self.layer.type, 40)}"


class Shape(NamedTuple):
    """Channels, height and width of a map."""

    channels: int
    height: int
    width: int


class Pending(NamedTuple):
    """A convolution, or channels times weight plus bias, that may still take in the layer behind it."""

    op: Op
    source: int
    weight: Tensor  # convolution [outputs, inputs, kh, kw], float64; else [C]
    bias: Tensor | None  # [C], float64
    options: dict[str, Any]  # stride, padding, dilation, groups of a convolution


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


def ancestors(ops: list[Op], of: Iterable[int]) -> list[int]:
    """These ops and all that they need, in running order."""
    needed: set[int] = set()
    todo = list(of)
    while todo:
        i = todo.pop()
        if i >= 0 and i not in needed:
            needed.add(i)
            todo.extend(ops[i].takes)
    return sorted(needed)


class Body:
    """Adds ops to an GraphBuilder. `value(i)` afterwards is the name of the layer that gives what op i gives."""

    def __init__(self, ops: list[Op], needed: list[int], ends: Iterable[int], side: int, tensors: ForeignState) -> None:
        """needed: ops to convert, in running order; ends: those whose value is wanted; side: of the image."""
        self.ops, self.tensors, self.assembly = ops, tensors, GraphBuilder()
        self.shapes: dict[int, Shape] = {IMAGE_OP: Shape(3, side, side)}
        self._names: dict[int, str] = {IMAGE_OP: IMAGE}
        self._pending: dict[int, Pending] = {}
        self._uses = dict.fromkeys([*needed, IMAGE_OP], 0)
        for taken in [*(take for i in needed for take in ops[i].takes), *ends]:
            self._uses[taken] = self._uses.get(taken, 0) + 1
        for i in needed:
            self._convert(i)

    # ---------------------------------------------------------------------------------------- what others ask for

    def value(self, i: int) -> str:
        """Name of the layer; a pending convolution is added now."""
        if i in self._pending:
            held = self._pending.pop(i)
            source, name = self.value(held.source), self._free_name(held.op.layer.name)
            bias = None if held.bias is None else held.bias.float()
            if held.weight.dim() == 1:
                shift = torch.zeros(len(held.weight)) if bias is None else bias
                self._names[i] = self.assembly.scale(name, source, held.weight.float(), shift)
            else:
                self._names[i] = self.assembly.conv(name, source, held.weight.float(), bias, **held.options)
        return self._names[i]

    def pending(self, i: int) -> Pending | None:
        """The convolution that op i is, if it is one that nothing else has taken yet and only one op wants."""
        held = self._pending.get(i)
        return held if held is not None and held.weight.dim() == 4 and self._uses[i] == 1 else None

    def refuse(self, op: Op, reason: str) -> CheckpointError:
        """The error that names the file and the layer, for the caller to raise."""
        return CheckpointError(f"{self.tensors.where}: {op} {reason}")

    # ---------------------------------------------------------------------------------------- one op after another

    def _convert(self, i: int) -> None:
        op = self.ops[i]
        kind = "Convolution" if op.layer.type in CONVOLUTIONS else op.layer.type
        method: Callable[[int, Op, Shape], None] | None = getattr(self, f"_to_{kind.lower()}", None)
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

    def _free_name(self, name: str) -> str:
        """The layer's name, or with a number behind it where it is taken."""
        wanted, n = name or "layer", 1
        while wanted in self.assembly.channels:
            wanted, n = f"{name}_{n}", n + 1
        return wanted

    def _add(self, i: int, op: Op, kind: str, shape: Shape, **options: Any) -> None:
        inputs = [self.value(take) for take in op.takes]
        name = self._free_name(op.layer.name)
        self._names[i] = self.assembly.add(name, kind, *inputs, channels=shape.channels, **options)
        self.shapes[i] = shape

    # ---------------------------------------------------------------------------------------- convolutions and norms

    def _to_convolution(self, i: int, op: Op, x: Shape) -> None:
        p = op.layer.convolution_param
        kernel = _pair(p.kernel_size, p, "kernel", 0)
        stride, pad, dilation = _pair(p.stride, p, "stride", 1), _pair(p.pad, p, "pad", 0), _pair(p.dilation, p, "", 1)
        groups = p.group
        if op.layer.type != "Convolution" and not p.HasField("group"):
            groups = x.channels
        if not (1 <= p.num_output <= MAX_CHANNELS and all(1 <= n <= MAX_KERNEL for n in (*kernel, *stride, *dilation))):
            raise self.refuse(op, f"has {p.num_output} outputs of {kernel}, stride {stride}, dilation {dilation}")
        if not 1 <= groups <= x.channels or x.channels % groups or p.num_output % groups or max(pad) > MAX_KERNEL * 4:
            raise self.refuse(
                op, f"has {x.channels} inputs and {p.num_output} outputs in {groups} groups, padded {pad}"
            )
        weight = self._take(op, 0, p.num_output, x.channels // groups, *kernel)
        bias = self._take(op, 1, p.num_output) if p.bias_term else None
        pads = (pad[1], pad[1], pad[0], pad[0])
        options = {"stride": stride, "padding": pads, "dilation": dilation, "groups": groups}
        sides = [
            (n + 2 * q - d * (k - 1) - 1) // s + 1
            for n, q, d, k, s in zip((x.height, x.width), pad, dilation, kernel, stride, strict=True)
        ]
        self._hold(i, Pending(op, op.takes[0], weight, bias, options), Shape(p.num_output, sides[0], sides[1]))

    def _hold(self, i: int, held: Pending, shape: Shape) -> None:
        if min(shape) < 1:
            raise self.refuse(held.op, f"leaves a map of {shape.height}x{shape.width}")
        self.value(held.source)
        self._pending[i], self.shapes[i] = held, shape

    def _affine(self, i: int, op: Op, x: Shape, factor: Tensor, shift: Tensor | None) -> None:
        """Channels times factor plus shift: into what is before it, or a layer of its own that may take in the next."""
        before = self._pending.get(op.takes[0])
        if before is None or self._uses[op.takes[0]] > 1:
            self._hold(i, Pending(op, op.takes[0], factor, shift, {}), x)
            return
        del self._pending[op.takes[0]]
        weight = before.weight * factor.view(-1, *[1] * (before.weight.dim() - 1))
        bias = shift if before.bias is None else before.bias * factor + (0 if shift is None else shift)
        self._hold(i, before._replace(weight=weight, bias=bias), x)

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
        self._affine(i, op, x, factor, shift)

    def _to_scale(self, i: int, op: Op, x: Shape) -> None:
        p = op.layer.scale_param
        if len(op.takes) == 2 and not p.bias_term:
            self._add(i, op, "mul", x)
            return
        if len(op.takes) != 1 or p.axis not in (1, -3) or p.num_axes != 1:
            raise self.refuse(op, "is not known with several inputs or on another axis than channels")
        bias = self._take(op, 1, x.channels) if p.bias_term else None
        self._affine(i, op, x, self._take(op, 0, x.channels), bias)

    def _to_bias(self, i: int, op: Op, x: Shape) -> None:
        self._affine(i, op, x, torch.ones(x.channels).double(), self._take(op, 0, x.channels))

    def _to_power(self, i: int, op: Op, x: Shape) -> None:
        p = op.layer.power_param
        if p.power != 1:
            raise self.refuse(op, "is known with power 1 alone")
        ones = torch.ones(x.channels).double()
        self._affine(i, op, x, ones * p.scale, ones * p.shift)

    def _to_normalize(self, i: int, op: Op, x: Shape) -> None:
        p = op.layer.norm_param
        if p.across_spatial or p.eps > 1e-6:
            raise self.refuse(op, "is known over channels alone, with eps under 1e-6")
        count = 1 if p.channel_shared else x.channels
        key = f"{op.layer.name}[0]"
        scalar = p.channel_shared and self.tensors.get(key) is not None and self.tensors.shape(key) == ()
        weight = (self._take(op, 0) if scalar else self._take(op, 0, count)).float().reshape(-1).expand(x.channels)
        name = self._free_name(op.layer.name)
        self._names[i] = self.assembly.l2norm(name, self.value(op.takes[0]), weight.clone())
        self.shapes[i] = x

    # ---------------------------------------------------------------------------------------- everything else

    def _to_relu(self, i: int, op: Op, x: Shape) -> None:
        slope = op.layer.relu_param.negative_slope
        if slope:
            self._leaky(i, op, x, torch.full((x.channels,), slope))
        else:
            self._add(i, op, "relu", x)

    def _to_prelu(self, i: int, op: Op, x: Shape) -> None:
        slopes = self._take(op, 0, 1 if op.layer.prelu_param.channel_shared else x.channels)
        self._leaky(i, op, x, slopes.float().expand(x.channels).clone())

    def _leaky(self, i: int, op: Op, x: Shape, slopes: Tensor) -> None:
        """relu(x) - slope * relu(-x), of the layers that there are."""
        name, source, zeros = op.layer.name, self.value(op.takes[0]), torch.zeros(x.channels)
        add, free = self.assembly.add, self._free_name
        turned = self.assembly.scale(free(f"{name}/turned"), source, -torch.ones(x.channels), zeros)
        below = self.assembly.scale(free(f"{name}/slope"), add(free(f"{name}/below"), "relu", turned), -slopes, zeros)
        self._names[i] = add(free(name), "add", add(free(f"{name}/above"), "relu", source), below)
        self.shapes[i] = x

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
