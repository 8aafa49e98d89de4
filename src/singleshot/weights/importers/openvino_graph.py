"""Layers of an OpenVINO network -> our graph: everything before the last convolutions of each map."""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from singleshot.errors import CheckpointError, printable
from singleshot.models.graph_layers import MAX_KERNEL, Pads
from singleshot.weights.foreign_state import ForeignState
from singleshot.weights.importers.fused_graph import (
    IMAGE_OP,
    NOTHING,
    Convert,
    FusedGraph,
    Shape,
    Windows,
    ancestors,
    count_uses,
)
from singleshot.weights.importers.openvino_constants import Constants
from singleshot.weights.importers.openvino_patterns import resized_sides
from singleshot.weights.readers.openvino_ir import IrNetwork, Node

_PLAIN = {"ReLU": "relu", "Sigmoid": "sigmoid", "HSwish": "hardswish", "HSigmoid": "hardsigmoid"}


class IrOp(NamedTuple):
    """One layer. takes: the maps among its inputs, as index of an op or IMAGE_OP."""

    node: Node
    takes: tuple[int, ...]

    @property
    def name(self) -> str:
        """The file's own."""
        return self.node.name

    def __str__(self) -> str:
        return str(self.node)


class IrGraph(FusedGraph):
    """An OpenVINO network's ops in a graph. quantised: how many of its maps are rounded to 8 bits in the file."""

    def __init__(
        self, ops: Sequence[IrOp], uses: dict[int, int], image: Shape, constants: Constants, tensors: ForeignState
    ) -> None:
        super().__init__(ops, uses, image, tensors.where)
        self.ops: Sequence[IrOp] = ops
        self.constants, self.tensors, self.network = constants, tensors, constants.network
        self.quantised = 0
        self._unit: dict[int, int] = {}  # NormalizeL2 whose scale comes with the layer behind it

    def convert(self, needed: Sequence[int]) -> None:
        """Add these ops, in running order. Raises CheckpointError for what cannot be."""
        unknown = [self.ops[i] for i in needed if self._method(self.ops[i].node.kind) is None]
        if unknown:
            kinds = ", ".join(sorted({printable(op.node.kind, 40) for op in unknown})[:5])
            raise self.refuse(unknown[0], f"cannot be imported (kinds that are not known here: {kinds})")
        for i in needed:
            op = self.ops[i]
            if not op.takes or any(take not in self.shapes for take in op.takes):
                raise self.refuse(op, "takes something that is no map of the image")
            method = self._method(op.node.kind)
            assert method is not None
            method(i, op, self.shapes[op.takes[0]])

    def _method(self, kind: str) -> Convert | None:
        if kind in _PLAIN:
            return self._to_plain
        found: Convert | None = getattr(self, f"_to_{kind.lower()}", None) if kind in _KINDS else None
        return found

    # ---------------------------------------------------------------------------------------- constants

    def channel_values(self, op: IrOp, values: np.ndarray, channels: int) -> Tensor:
        """Constants [1, C, 1, 1], [C, 1, 1] or one number -> [C], float64."""
        shape = values.shape
        fits = values.size == 1 or (len(shape) >= 3 and shape[-3] == channels == values.size)
        if not fits or not bool(np.isfinite(values).all()):
            raise self.refuse(
                op, f"has constants of shape {shape} on {channels} channels: want finite ones, one or [C]"
            )
        return torch.from_numpy(np.array(values, np.float64)).reshape(-1).expand(channels).clone()

    def _blob(self, op: IrOp, part: str, *shape: int) -> Tensor:
        """A blob of a layer of versions before 10, float64."""
        key = op.node.blobs.get(part)
        if key is None or math.prod(self.tensors.shape(key)) != math.prod(shape):
            found = "no" if key is None else str(math.prod(self.tensors.shape(key)))
            raise self.refuse(op, f"has {found} {part}, want {' x '.join(map(str, shape))}")
        return self.tensors.take(key, None).reshape(shape).double()

    def affine_of(self, op: IrOp, channels: int) -> tuple[Tensor, Tensor] | None:
        """Factor and shift [C] of a layer that does that to each channel; None for others."""
        node, ones, zeros = op.node, torch.ones(channels).double(), torch.zeros(channels).double()
        if node.kind == "ScaleShift":
            shift = self._blob(op, "biases", channels) if "biases" in node.blobs else zeros
            return self._blob(op, "weights", channels), shift
        if node.kind == "Power" and node.number("power", 1) == 1 and len(node.takes) == 1:
            return ones * node.number("scale", 1), ones * node.number("shift", 0)
        if node.kind == "Negative":
            return -ones, zeros
        if node.kind not in ("Add", "Subtract", "Multiply", "Divide") or len(node.takes) != 2 or len(op.takes) != 1:
            return None
        first = node.takes[0][0] in self.constants
        values = self.channel_values(op, self.constants.input(node, 0 if first else 1), channels)
        if node.kind == "Add":
            return ones, values
        if node.kind == "Multiply":
            return values, zeros
        if node.kind == "Subtract":
            return (-ones, values) if first else (ones, -values)
        if first or not bool((values != 0).all()):
            raise self.refuse(op, "divides by what it should not")
        return 1 / values, zeros

    # ---------------------------------------------------------------------------------------- convolutions

    def _windows(self, op: IrOp, x: Shape, kernel: tuple[int, int]) -> Windows:
        attributes = op.node.attributes
        stride, dilation = self._pair(op, "strides", (1, 1)), self._pair(op, "dilations", (1, 1))
        begin, end = self._pair(op, "pads_begin", (0, 0)), self._pair(op, "pads_end", (0, 0))
        auto = attributes.get("auto_pad", "explicit")
        if auto == "valid":
            begin = end = (0, 0)
        elif auto in ("same_upper", "same_lower"):
            totals = [
                max(0, (-(-n // max(s, 1)) - 1) * s + d * (k - 1) + 1 - n)
                for n, s, d, k in zip((x.height, x.width), stride, dilation, kernel, strict=True)
            ]
            small, large = (totals[0] // 2, totals[1] // 2), (-(-totals[0] // 2), -(-totals[1] // 2))
            begin, end = (small, large) if auto == "same_upper" else (large, small)
        elif auto not in ("explicit", "notset", ""):
            raise self.refuse(op, f"has auto_pad {printable(auto, 40)}, which is not known here")
        pads: Pads = (begin[1], end[1], begin[0], end[0])
        return Windows(kernel, stride, pads, dilation)

    def _pair(self, op: IrOp, name: str, default: tuple[int, int]) -> tuple[int, int]:
        """Height and width of an attribute; of the oldest files two attributes, across and down."""
        text = op.node.attributes.get(name)
        if text is None:
            old = {"strides": "stride", "kernel": "kernel", "dilations": "dilation", "pads_begin": "pad"}
            axes = [op.node.attributes.get(f"{old.get(name, 'pad')}-{axis}") for axis in "yx"]
            if None in axes:
                return default
            text = ",".join(map(str, axes))
        try:
            first, second = (int(n) for n in text.split(","))
        except ValueError as error:
            raise self.refuse(op, f"has {name} {printable(text, 40)}: want two numbers") from error
        return first, second

    def _to_convolution(self, i: int, op: IrOp, x: Shape) -> None:
        if "weights" in op.node.blobs:
            kernel = self._pair(op, "kernel", (0, 0))
            outputs, groups = (op.node.whole(key, 1) for key in ("output", "group"))
            windows = self._windows(op, x, kernel)
            self._check_windows(op, x, outputs, windows, groups)
            weight = self._blob(op, "weights", outputs, x.channels // groups, *kernel)
            bias = self._blob(op, "biases", outputs) if "biases" in op.node.blobs else None
        else:
            values = self.constants.input(op.node, 1)
            if op.node.kind == "GroupConvolution":
                values = values.reshape(-1, *values.shape[2:]) if values.ndim == 5 else values[:0]
                groups = int(self.constants.input(op.node, 1).shape[0])
            else:
                groups = 1
            if values.ndim != 4 or not values.size or values.shape[1] * groups != x.channels:
                raise self.refuse(op, f"has weights of shape {values.shape} on {x.channels} channels")
            weight, bias = torch.from_numpy(np.array(values, np.float64)), None
            windows = self._windows(op, x, (values.shape[2], values.shape[3]))
            self._check_windows(op, x, len(weight), windows, groups)
        self._convolve(i, op, weight, bias, windows, groups)

    _to_groupconvolution = _to_convolution

    def _to_add(self, i: int, op: IrOp, x: Shape) -> None:
        affine = self.affine_of(op, x.channels)
        if affine is not None:
            source = op.takes[0]
            if source in self._unit and not bool(affine[1].any()):
                self._names[i] = self.assembly.l2norm(
                    self._free_name(self.ops[source].name), self.value(self._unit[source]), affine[0].float()
                )
                self.shapes[i] = x
                return
            self._affine(i, op, source, *affine)
            return
        kind = {"Add": "add", "Multiply": "mul"}.get(op.node.kind)
        if op.node.kind == "Eltwise":
            coefficients = op.node.numbers("coeff")
            kind = {"sum": "add", "mul": "mul"}.get(op.node.attributes.get("operation", ""))
            kind = None if any(n != 1 for n in coefficients) else kind
        shapes = [self.shapes[take] for take in op.takes]
        largest = max(shapes, key=math.prod)
        wide = all(shape in (largest, Shape(largest.channels, 1, 1)) for shape in shapes)
        if kind is None or len(op.takes) < 2 or not wide:
            raise self.refuse(op, "is known as sum and product of maps of one shape, and with constants of channels")
        self._add(i, op, kind, largest)

    _to_negative = _to_multiply = _to_subtract = _to_divide = _to_scaleshift = _to_power = _to_eltwise = _to_add

    def _to_batchnorminference(self, i: int, op: IrOp, x: Shape) -> None:
        parts = [self.channel_values(op, v.reshape(-1, 1, 1), x.channels) for v in self._constants_behind(op, 4)]
        gamma, beta, mean, variance = parts
        factor = gamma * torch.rsqrt(variance + op.node.number("epsilon", 1e-5))
        self._affine(i, op, op.takes[0], factor, beta - mean * factor)

    def _constants_behind(self, op: IrOp, count: int) -> list[np.ndarray]:
        """The last inputs of a node whose other input is a map."""
        return [self.constants.input(op.node, len(op.node.takes) - count + k) for k in range(count)]

    # ---------------------------------------------------------------------------------------- one map to another

    def _to_plain(self, i: int, op: IrOp, x: Shape) -> None:
        slope = op.node.number("negative_slope", 0)
        if slope:
            self._leaky(i, op, torch.full((x.channels,), slope))
        else:
            self._add(i, op, _PLAIN[op.node.kind], x)

    def _to_prelu(self, i: int, op: IrOp, x: Shape) -> None:
        if "weights" in op.node.blobs:
            shared = op.node.flag("channel_shared")
            slopes = self._blob(op, "weights", 1 if shared else x.channels).expand(x.channels)
        else:
            values = self.constants.input(op.node, 1)
            slopes = self.channel_values(op, values.reshape(-1, 1, 1) if values.ndim < 3 else values, x.channels)
        self._leaky(i, op, slopes.float().clone())

    def _to_clamp(self, i: int, op: IrOp, x: Shape) -> None:
        low, high = (op.node.number(key) for key in ("min", "max"))
        if not low <= high:
            raise self.refuse(op, f"limits to {low}..{high}")
        if (low, high) == (0.0, 6.0):
            self._add(i, op, "relu6", x)
        else:
            self._add(i, op, "clamp", x, low=low, high=high)

    def _to_elu(self, i: int, op: IrOp, x: Shape) -> None:
        self._add(i, op, "elu", x, alpha=op.node.number("alpha", 1))

    def _to_swish(self, i: int, op: IrOp, x: Shape) -> None:
        if len(op.node.takes) > 1 and float(self.constants.input(op.node, 1)) != 1:
            raise self.refuse(op, "is known with beta 1 alone")
        self._add(i, op, "silu", x)

    def _to_convert(self, i: int, op: IrOp, x: Shape) -> None:
        """Half precision and back: the same numbers here."""
        self._affine(i, op, op.takes[0], torch.ones(x.channels).double(), None)

    def _to_concat(self, i: int, op: IrOp, x: Shape) -> None:
        shapes = [self.shapes[take] for take in op.takes]
        if op.node.attributes.get("axis") not in ("1", "-3") or len(op.takes) != len(op.node.takes):
            raise self.refuse(op, "is known along channels alone")
        if any(shape[1:] != x[1:] for shape in shapes):
            raise self.refuse(op, "joins maps of several sizes")
        self._add(i, op, "concat", x._replace(channels=sum(shape.channels for shape in shapes)))

    def _to_normalizel2(self, i: int, op: IrOp, x: Shape) -> None:
        old = op.node.kind == "Normalize"
        eps = op.node.number("eps", 1e-10)
        across = op.node.flag("across_spatial")
        named = [] if old else [1] if len(op.node.takes) == 1 else self.constants.input(op.node, 1).reshape(-1).tolist()
        axes = [1] if old and not across else named
        if [int(axis) % 4 for axis in axes] != [1] or not 0 <= eps <= 1e-6:
            raise self.refuse(op, "is known over channels alone, with eps under 1e-6")
        if old:
            shared = op.node.flag("channel_shared")
            self._l2norm(i, op, self._blob(op, "weights", 1 if shared else x.channels).expand(x.channels))
            return
        takers = [other for other in self.ops if i in other.takes]
        if self._uses[i] == 1 and len(takers) == 1 and takers[0].node.kind == "Multiply" and len(takers[0].takes) == 1:
            self._unit[i], self.shapes[i] = op.takes[0], x
        else:
            self._l2norm(i, op, torch.ones(x.channels))

    _to_normalize = _to_normalizel2

    def _to_fakequantize(self, i: int, op: IrOp, x: Shape) -> None:
        """Limits to the range, as in a network that was trained for it; what lies between is not rounded."""
        low, high, out_low, out_high = (self.channel_values(op, v, x.channels) for v in self._constants_behind(op, 4))
        if op.node.whole("levels", 0) < 16 or not bool((high > low).all()):
            raise self.refuse(
                op, f"rounds to {printable(op.node.attributes.get('levels', ''), 20)} levels, want 16 or more"
            )
        self.quantised += 1
        source, name = self.value(op.takes[0]), op.name
        same = torch.equal(low, out_low) and torch.equal(high, out_high)
        if same and bool((low == low[0]).all() and (high == high[0]).all()):
            x_name = self.assembly.add(self._free_name(name), "clamp", source, low=float(low[0]), high=float(high[0]))
        else:
            span = high - low
            unit = self.assembly.scale(
                self._free_name(f"{name}/unit"), source, (1 / span).float(), (-low / span).float()
            )
            part = self.assembly.add(self._free_name(f"{name}/range"), "clamp", unit, low=0.0, high=1.0)
            x_name = self.assembly.scale(self._free_name(name), part, (out_high - out_low).float(), out_low.float())
        self._names[i], self.shapes[i] = x_name, x

    # ---------------------------------------------------------------------------------------- pooling

    def _to_maxpool(self, i: int, op: IrOp, x: Shape) -> None:
        node = op.node
        average = node.kind == "AvgPool" or node.attributes.get("pool-method") == "avg"
        windows = self._windows(op, x, self._pair(op, "kernel", (0, 0)))
        if not all(1 <= n <= MAX_KERNEL for n in (*windows.kernel, *windows.stride)) or windows.dilation != (1, 1):
            raise self.refuse(op, f"goes over {windows.kernel} in steps of {windows.stride}")
        left, right, top, bottom = windows.pads
        if not all(0 <= p < k for p, k in zip((left, top), windows.kernel[::-1], strict=True)):
            raise self.refuse(op, f"is padded {windows.pads} under windows of {windows.kernel}")
        up = node.attributes.get("rounding_type", node.attributes.get("rounding-type", "floor")) in (
            "ceil",
            "ceil_torch",
        )
        sides = windows.sides(x)
        if up:
            sides = (
                self._ceiled(x.height, top, bottom, windows.kernel[0], windows.stride[0]),
                self._ceiled(x.width, left, right, windows.kernel[1], windows.stride[1]),
            )
        shape = Shape(x.channels, *sides)
        said = node.shapes[0] if node.shapes else ()
        if min(shape) < 1 or (len(said) == 4 and min(said) > 0 and said[1:] != tuple(shape)):
            raise self.refuse(op, f"gives {said[1:]}, where {tuple(shape)} is computed here")
        options = {"kernel": windows.kernel, "stride": windows.stride}
        # Rounded up or not is the same where every window is whole; Caffe's name for it keeps known networks known.
        if not average:
            self._add(i, op, "maxpool", shape, **options, padding=windows.pads, round_up=up)
            return
        if windows.kernel == (x.height, x.width) and not any(windows.pads):
            self._add(i, op, "avgpool", Shape(x.channels, 1, 1), kernel=0)
            return
        outside = not node.flag("exclude-pad", True)
        if (left, top) != (right, bottom) or (up and sides != windows.sides(x)):
            raise self.refuse(op, "is known with the same padding on both sides, and whole windows")
        self._add(i, op, "avgpool", shape, **options, padding=(top, left), count_padding=outside)

    _to_avgpool = _to_pooling = _to_maxpool

    @staticmethod
    def _ceiled(side: int, before: int, after: int, kernel: int, stride: int) -> int:
        """As torch rounds up: no window starts beyond the map and its first padding."""
        count = -(-(side + before + after - kernel) // stride) + 1
        return count - 1 if (count - 1) * stride >= side + before else count

    def _to_interpolate(self, i: int, op: IrOp, x: Shape) -> None:
        """Each cell as so many rows and columns of the same, or between it and the next."""
        node = op.node
        shapes = {k: shape for k, shape in self.shapes.items() if k >= 0}
        sides = resized_sides(self.network.nodes, self.constants, node, (x.height, x.width), shapes)
        scale = sides / (x.height, x.width) if sides.size == 2 else np.zeros(2)
        mode, corners = node.attributes.get("mode", ""), node.attributes.get("coordinate_transformation_mode", "")
        linear = mode in ("linear", "linear_onnx") and corners in ("half_pixel", "pytorch_half_pixel", "align_corners")
        nearest = mode == "nearest" and corners != "align_corners"
        if not (nearest or linear) or not all(n == round(n) and 1 <= n <= MAX_KERNEL for n in scale):
            how = printable(f"{mode} {corners}", 40)
            raise self.refuse(
                op, f"enlarges by {scale[0]:g} x {scale[1]:g}, {how}: want whole numbers, nearest or linear"
            )
        rows, columns = (round(n) for n in scale)
        between: Any = {"linear": "corners" if corners == "align_corners" else "centres"} if linear else {}
        self._names[i] = self.assembly.add(
            self._free_name(op.name), "upsample", self.value(op.takes[0]), scale=(rows, columns), **between
        )
        self.shapes[i] = Shape(x.channels, x.height * rows, x.width * columns)

    def _to_reducemean(self, i: int, op: IrOp, x: Shape) -> None:
        axes = sorted(int(a) % 4 for a in self.constants.input(op.node, 1).reshape(-1))
        if axes != [2, 3] or not op.node.flag("keep_dims"):
            raise self.refuse(op, f"is known over height and width, kept, not over {axes}")
        self._add(i, op, "avgpool", Shape(x.channels, 1, 1), kernel=0)


_KINDS = (
    *(
        "Convolution",
        "GroupConvolution",
        "Add",
        "Subtract",
        "Multiply",
        "Divide",
        "BatchNormInference",
        "PReLU",
        "Clamp",
    ),
    *("Elu", "Swish", "Convert", "Concat", "NormalizeL2", "FakeQuantize", "MaxPool", "AvgPool", "ReduceMean"),
    *("Negative", "Interpolate"),
    *("ScaleShift", "Power", "Eltwise", "Normalize", "Pooling"),  # before version 10
)


def graph_up_to(
    network: IrNetwork,
    constants: Constants,
    tensors: ForeignState,
    image: Shape,
    prepared: Collection[int],
    ends: Sequence[int],
) -> IrGraph:
    """The network up to these nodes, in layers. prepared: nodes that give the image. Raises CheckpointError."""
    ops: list[IrOp] = []
    for node in network.nodes:
        takes = node.takes[:1] if node.kind == "Interpolate" else node.takes  # and how large it is to become
        sources = [source for source, _ in takes if source not in constants]
        ops.append(IrOp(node, tuple(IMAGE_OP if s in prepared else s if s >= 0 else NOTHING for s in sources)))
    needed = [i for i in ancestors(ops, ends) if i not in constants and i not in prepared]
    graph = IrGraph(ops, count_uses(ops, needed, ends), image, constants, tensors)
    graph.convert(needed)
    for i in ends:
        if i not in graph.shapes:
            raise CheckpointError(f"{tensors.where}: {ops[i]} is taken for a head, but is no map of the image")
    return graph
