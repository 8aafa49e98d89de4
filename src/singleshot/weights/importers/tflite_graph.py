"""Operators of a TensorFlow Lite network -> layers of ours, with dequantised weights."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterable, Sequence

import torch
from torch import Tensor

from singleshot.errors import CheckpointError, printable
from singleshot.models.graph_layers import Pads
from singleshot.weights.foreign_state import ForeignState
from singleshot.weights.graph_builder import GraphBuilder, same_padding
from singleshot.weights.readers.tflite import SPARSE, Network, Operation, Value

# What leaves values as they are: maps keep their meaning through it.
SAME_VALUES = ("RESHAPE", "SQUEEZE", "EXPAND_DIMS", "QUANTIZE", "DEQUANTIZE")
_RANGES = {"none": (-math.inf, math.inf), "relu": (0.0, math.inf), "relu6": (0.0, 6.0), "relu_n1_to_1": (-1.0, 1.0)}
_NO_PADS: Pads = (0, 0, 0, 0)


class GraphImport:
    """Turns what is needed of a network into layers of `assembly`, whose names `layers` has by index of tensor.

    Maps are [1, H, W, C] in the file. Quantisation: the weights become what they stand for; the values between layers
    are not rounded but limited to what their tensors can hold, which a converter takes for ReLU6 where the range is 0
    to 6, and which a network that was trained for quantisation has learnt.
    """

    def __init__(self, tensors: ForeignState) -> None:
        assert isinstance(tensors.structure, Network)
        self.tensors, self.network, self.where = tensors, tensors.structure, tensors.where
        self.producers = {index: op for op in self.network.operations for index in op.outputs}
        self.assembly = GraphBuilder()
        self.layers: dict[int, str] = {self.network.inputs[0]: GraphBuilder.image} if self.network.inputs else {}
        self._padded: dict[int, tuple[int, Pads]] = {}
        self._steps: dict[int, tuple[int, int]] = {}  # behind SPACE_TO_BATCH_ND: the dilation that it stands for
        self._spread: dict[int, int] = {}  # a map of shape [1, H, 1, W, 1, C] -> the tensor whose layer it is
        self._stacked: dict[int, int] = {}  # a map in rows or columns that repeat -> the map itself
        self._names: set[str] = set()
        self._lengths: dict[int, str] = {}  # on the way to the length of a map's channels: of which layer
        self._kinds: dict[str, Callable[[Operation], None]] = {
            "CONV_2D": self._conv,
            "DEPTHWISE_CONV_2D": self._conv,
            "ADD": self._arithmetic,
            "MUL": self._arithmetic,
            "SUB": self._arithmetic,
            "RELU": self._elementwise,
            "RELU6": self._elementwise,
            "RELU_N1_TO_1": self._elementwise,
            "HARD_SWISH": self._elementwise,
            "LOGISTIC": self._elementwise,
            "QUANTIZE": self._elementwise,
            "DEQUANTIZE": self._elementwise,
            "CONCATENATION": self._concatenation,
            "MAX_POOL_2D": self._pool,
            "AVERAGE_POOL_2D": self._pool,
            "MEAN": self._mean,
            "REDUCE_MAX": self._mean,
            "PAD": self._pad,
            "SPACE_TO_BATCH_ND": self._spread_out,
            "BATCH_TO_SPACE_ND": self._gathered,
            "SUM": self._length,
            "RSQRT": self._length,
            "RESIZE_NEAREST_NEIGHBOR": self._resize,
            "PACK": self._pack,
            "RESHAPE": self._reshape,
        }

    # ------------------------------------------------------------------------------------------ the walk

    def run(self, wanted: Iterable[int]) -> None:
        """Add the layers that the tensors of these indices need, in the file's order. Raises CheckpointError."""
        needed = self._needed(wanted)
        unknown = Counter(op.kind for op in needed if op.kind not in self._kinds)
        if unknown:
            names = ", ".join(f"{printable(kind, 60)} ({count})" for kind, count in sorted(unknown.items())[:5])
            raise CheckpointError(f"{self.where}: it needs operators that cannot be imported: {names}")
        for op in needed:
            self._kinds[op.kind](op)

    def _needed(self, wanted: Iterable[int]) -> list[Operation]:
        reached: set[int] = set()
        stack = list(wanted)
        while stack:
            index = stack.pop()
            if index in reached or index < 0 or index in self.layers:
                continue
            reached.add(index)
            op = self.producers.get(index)
            if op is not None and self.network.values[index].data is None:
                stack += op.inputs
        constant = {i for i in reached if self._is_constant(i)}
        return [op for op in self.network.operations if any(i in reached and i not in constant for i in op.outputs)]

    def value(self, index: int) -> Value:
        """A tensor by index; CheckpointError where the operator has left it out."""
        if index < 0:
            raise CheckpointError(f"{self.where}: an operator lacks an input")
        return self.network.values[index]

    def input(self, op: Operation, number: int) -> int:
        """Index of an operator's input; CheckpointError where it has fewer."""
        if number >= len(op.inputs) or not op.outputs:
            raise CheckpointError(f"{self.where}: {printable(op.kind, 60)} with {len(op.inputs)} inputs")
        return op.inputs[number]

    def _layer(self, index: int, op: Operation) -> str:
        if index not in self.layers:
            what = printable(self.value(index).name, 80)
            raise CheckpointError(f"{self.where}: {op.kind} takes {what}, which is no map that is computed before it")
        return self.layers[index]

    def side(self, index: int) -> tuple[int, int, int]:
        """Height, width and channels of a map."""
        shape = self.value(index).shape
        if len(shape) != 4 or (shape[0] != 1 and index not in self._steps) or min(shape) < 1:
            name = printable(self.value(index).name, 80)
            raise CheckpointError(f"{self.where}: {name} has shape {shape}, want [1, H, W, C]")
        return shape[1], shape[2], shape[3]

    def _is_constant(self, index: int) -> bool:
        if index < 0 or self.network.values[index].data is not None:
            return index >= 0
        op = self.producers.get(index)  # weights in half precision come through DEQUANTIZE
        return op is not None and op.kind == "DEQUANTIZE" and len(op.inputs) == 1 and self._holds_data(op.inputs[0])

    def _holds_data(self, index: int) -> bool:
        return index >= 0 and self.network.values[index].data is not None

    def constant(self, index: int) -> Tensor:
        """A constant's real numbers, float32, or whole numbers where they are not quantised."""
        if not self._is_constant(index):
            name, sparse = printable(self.value(index).name, 80), self.value(index).dtype == SPARSE
            what = "stored as a sparse one, which is not read" if sparse else "computed, want a constant"
            raise CheckpointError(f"{self.where}: {name} is {what}")
        if not self._holds_data(index):
            index = self.producers[index].inputs[0]
        value = self.network.values[index]
        return self.tensors.take(value.name, *[None] * len(value.shape)) if value.shape else self.tensors[value.name]

    # ------------------------------------------------------------------------------------------ operators

    def weights(self, op: Operation) -> tuple[Tensor, Tensor | None, int]:
        """Weight [outputs, inputs / groups, kh, kw], bias [outputs] and groups of a convolution."""
        weight = self.constant(self.input(op, 1))
        if weight.dim() != 4 or not weight.is_floating_point():
            raise CheckpointError(f"{self.where}: a convolution with weights {tuple(weight.shape)} {weight.dtype}")
        channels = self.side(self.input(op, 0))[2]
        if op.kind == "DEPTHWISE_CONV_2D":
            weight, groups = weight.permute(3, 0, 1, 2), channels  # [1, kh, kw, outputs]
        else:
            weight = weight.permute(0, 3, 1, 2)  # [outputs, kh, kw, inputs / groups]
            groups = channels // weight.shape[1] if weight.shape[1] else 0
        if groups * weight.shape[1] != channels or groups < 1:
            raise CheckpointError(f"{self.where}: weights {tuple(weight.shape)} on a map of {channels} channels")
        bias = None
        if len(op.inputs) > 2 and op.inputs[2] >= 0:
            bias = self.constant(op.inputs[2])
            if not bias.is_floating_point():  # whole numbers in units of what they are added to
                value, kernel = self.value(op.inputs[0]), self.value(op.inputs[1])
                units = float(value.scales[0]) * torch.tensor(kernel.scales) if len(value.scales) else torch.ones(1)
                bias = bias * units
            if bias.shape != weight.shape[:1]:
                raise CheckpointError(f"{self.where}: {len(bias)} biases for {weight.shape[0]} channels")
        return weight.contiguous(), bias, groups

    def padding(self, op: Operation, x: int, kernel: Sequence[int], dilation: Sequence[int] = (1, 1)) -> Pads:
        """left, right, top, bottom of a convolution or a pooling: TensorFlow's SAME, or none. kernel: height, width."""
        if op.options["padding"] == 1:
            return _NO_PADS
        height, width, _ = self.side(x)
        strides = max(1, op.options["stride_h"]), max(1, op.options["stride_w"])
        top, bottom = same_padding(height, kernel[0], strides[0], dilation[0])
        left, right = same_padding(width, kernel[1], strides[1], dilation[1])
        return left, right, top, bottom

    def _conv(self, op: Operation) -> None:
        index = self.input(op, 0)
        x, before = self._unpadded(index, op)
        weight, bias, groups = self.weights(op)
        options = op.options
        dilation = self._steps.get(index, (options["dilation_h"], options["dilation_w"]))
        pads = self.padding(op, index, weight.shape[2:], dilation)
        left, right, top, bottom = (a + b for a, b in zip(before, pads, strict=True))
        strides, padding = (options["stride_h"], options["stride_w"]), (left, right, top, bottom)
        name = self.assembly.conv(self._name(op), x, weight, bias, strides, padding, dilation, groups)
        self._done(op, name)

    def _unpadded(self, index: int, op: Operation) -> tuple[str, Pads]:
        """The layer, and what a PAD before the operator adds to its own padding."""
        if index in self._padded:
            source, pads = self._padded[index]
            return self._layer(source, op), pads
        return self._layer(index, op), _NO_PADS

    def _name(self, op: Operation) -> str:
        names = filter(
            None, self.value(op.outputs[0]).name.split(";")
        )  # of all that it was made of, the first may be ""
        return self._unique(next(names, op.kind.lower())[-80:])

    def _unique(self, name: str) -> str:
        while name in self._names or name == GraphBuilder.image:
            name = f"{name}#{len(self._names)}"
        self._names.add(name)
        return name

    def _done(self, op: Operation, name: str) -> None:
        """Note the layer of an operator's output, limited by its activation and by what its tensor can hold."""
        activation = op.options.get("activation", "none")
        if activation not in _RANGES:
            raise CheckpointError(f"{self.where}: activation {activation} cannot be imported")
        low, high = _RANGES[activation]
        least, greatest = self.value(op.outputs[0]).limits
        self.layers[op.outputs[0]] = self._limited(name, max(low, least), min(high, greatest))

    def _limited(self, name: str, low: float, high: float) -> str:
        if low == -math.inf and high == math.inf:
            return name
        new = self._unique(f"{name}|range")
        if abs(low) < 1e-6 and high == math.inf:
            return self.assembly.add(new, "relu", name)
        if abs(low) < 1e-6 and abs(high - 6) < 0.01:  # 255 steps seldom end at 6 to the last digit
            return self.assembly.add(new, "relu6", name)
        return self.assembly.add(new, "clamp", name, low=low, high=high)

    def _elementwise(self, op: Operation) -> None:
        x = self._layer(self.input(op, 0), op)
        kinds = {"HARD_SWISH": "hardswish", "LOGISTIC": "sigmoid", "RELU": "relu", "RELU6": "relu6"}
        if op.kind in kinds:
            x = self.assembly.add(self._name(op), kinds[op.kind], x)
        elif op.kind == "RELU_N1_TO_1":
            x = self.assembly.add(self._name(op), "clamp", x, low=-1.0, high=1.0)
        elif op.kind in ("QUANTIZE", "DEQUANTIZE") and self.value(op.outputs[0]).limits == self._limits_of(op):
            self.layers[op.outputs[0]] = x
            return
        if op.kind == "QUANTIZE" and x == GraphBuilder.image:  # the pixels themselves, counted from another zero
            self.layers[op.outputs[0]] = x
            return
        self._done(op, x)

    def _limits_of(self, op: Operation) -> tuple[float, float]:
        return self.value(op.inputs[0]).limits

    def _arithmetic(self, op: Operation) -> None:
        a, b = self.input(op, 0), self.input(op, 1)
        kind = op.kind.lower()
        if self._of_length(op, a, b):
            return None
        if not self._is_constant(a) and not self._is_constant(b):
            if kind == "sub":
                raise CheckpointError(f"{self.where}: SUB of two maps cannot be imported")
            maps = [self._layer(i, op) for i in (a, b)]
            channels = max(self.assembly.channels[m] for m in maps)
            return self._done(op, self.assembly.add(self._name(op), kind, *maps, channels=channels))
        x, constant = (b, self.constant(a)) if self._is_constant(a) else (a, self.constant(b))
        if kind == "mul" and x in self._spread and bool((constant == 1).all()):
            self._stacked[op.outputs[0]] = self._spread[x]  # so many rows and columns of the same
            return None
        channels = self.side(x)[2]
        values = constant.float().reshape(-1)
        if len(values) not in (1, channels):
            raise CheckpointError(f"{self.where}: {op.kind} of {len(values)} constants on {channels} channels")
        values = values.expand(channels).clone()
        weight, bias = torch.ones(channels), torch.zeros(channels)
        if kind == "mul":
            weight = values
        elif kind == "add":
            bias = values
        else:
            weight, bias = (-weight, values) if self._is_constant(a) else (weight, -values)
        return self._done(op, self.assembly.scale(self._name(op), self._layer(x, op), weight, bias))

    def _of_length(self, op: Operation, a: int, b: int) -> bool:
        """Note the squares of a map and what is added to their sum; a map times its length's inverse is L2Norm."""
        if op.kind == "MUL" and a == b:
            self._lengths[op.outputs[0]] = self._layer(a, op)
        elif op.kind == "ADD" and a in self._lengths and self._is_constant(b):
            self._lengths[op.outputs[0]] = self._lengths[a]
            self.constant(b)
        elif op.kind == "MUL" and b in self._lengths and self.layers.get(a) == self._lengths[b]:
            ones = torch.ones(self.side(a)[2])
            self._done(op, self.assembly.l2norm(self._name(op), self._layer(a, op), ones))
        else:
            return False
        return True

    def _length(self, op: Operation) -> None:
        index = self.input(op, 0)
        axes = [3] if op.kind == "RSQRT" else self.constant(self.input(op, 1)).reshape(-1).tolist()
        if index not in self._lengths or [a % 4 for a in axes] != [3]:
            raise CheckpointError(f"{self.where}: {op.kind} is imported as a part of L2 normalisation alone")
        self._lengths[op.outputs[0]] = self._lengths[index]

    def _concatenation(self, op: Operation) -> None:
        if op.options["axis"] not in (3, -1) or not op.inputs:
            raise CheckpointError(f"{self.where}: maps put together along axis {op.options['axis']}, want channels")
        maps = [self._layer(i, op) for i in op.inputs]
        channels = sum(self.assembly.channels[m] for m in maps)
        self._done(op, self.assembly.add(self._name(op), "concat", *maps, channels=channels))

    def _pool(self, op: Operation) -> None:
        index = self.input(op, 0)
        x, before = self._unpadded(index, op)
        kernel, stride = ((op.options[f"{what}_h"], op.options[f"{what}_w"]) for what in ("kernel", "stride"))
        pads = self.padding(op, index, kernel)
        if before != _NO_PADS:
            raise CheckpointError(f"{self.where}: PAD before a pooling cannot be imported")
        if op.kind == "MAX_POOL_2D":
            return self._done(
                op, self.assembly.add(self._name(op), "maxpool", x, kernel=kernel, stride=stride, padding=pads)
            )
        left, right, top, bottom = pads
        if (left, top) != (right, bottom):
            raise CheckpointError(f"{self.where}: average pooling with uneven padding cannot be imported")
        name = self.assembly.add(self._name(op), "avgpool", x, kernel=kernel, stride=stride, padding=(top, left))
        return self._done(op, name)

    def _mean(self, op: Operation) -> None:
        """MEAN or REDUCE_MAX over a map's cells."""
        index = self.input(op, 0)
        axes = self.constant(self.input(op, 1)).reshape(-1).tolist()
        if sorted(a % 4 for a in axes) != [1, 2] or not op.options["keep_dims"]:
            raise CheckpointError(
                f"{self.where}: {op.kind} over axes {printable(axes, 60)}: want height and width, kept"
            )
        x = self._layer(index, op)
        if op.kind == "REDUCE_MAX":
            return self._done(op, self.assembly.add(self._name(op), "maxpool", x, kernel=self.side(index)[:2]))
        return self._done(op, self.assembly.add(self._name(op), "avgpool", x, kernel=0))

    def _pad(self, op: Operation) -> None:
        index = self.input(op, 0)
        amounts = self.constant(self.input(op, 1))
        rows = amounts.tolist() if amounts.shape == (4, 2) and not amounts.is_floating_point() else []
        if not rows or any(rows[0] + rows[3]) or index in self._padded:
            raise CheckpointError(f"{self.where}: PAD by {printable(rows, 60)}: want height and width alone")
        self._layer(index, op)
        self._padded[op.outputs[0]] = index, (rows[2][0], rows[2][1], rows[1][0], rows[1][1])

    def _spread_out(self, op: Operation) -> None:
        """The beginning of a convolution with dilation, which pads and gives its steps."""
        index = self.input(op, 0)
        inner = [o for o in self.network.operations if op.outputs[0] in o.inputs]
        last = [o for o in self.network.operations if inner and inner[0].outputs and inner[0].outputs[0] in o.inputs]
        if not (len(inner) == len(last) == 1 and last[0].kind == "BATCH_TO_SPACE_ND"):
            raise CheckpointError(f"{self.where}: {op.kind} that is not the beginning of a convolution with dilation")
        steps, pads, ends = (self.constant(self.input(o, i)) for o, i in ((op, 1), (op, 2), (last[0], 2)))
        if steps.shape != (2,) or pads.shape != (2, 2) or ends.shape != (2, 2) or steps.is_floating_point():
            raise CheckpointError(f"{self.where}: {op.kind} in {tuple(steps.shape)} directions, want two")
        (top, bottom), (left, right) = (pads - ends).int().tolist()  # what makes whole blocks is cut off again
        if min(top, bottom, left, right) < 0 or inner[0].options.get("padding") != 1:
            raise CheckpointError(f"{self.where}: {op.kind} with the padding {printable(pads.tolist(), 60)}")
        source, before = self._padded.get(index, (index, _NO_PADS))
        self._layer(source, op)
        both = before[0] + left, before[1] + right, before[2] + top, before[3] + bottom
        self._padded[op.outputs[0]] = source, both
        self._steps[op.outputs[0]] = int(steps[0]), int(steps[1])

    def _gathered(self, op: Operation) -> None:
        self._done(op, self._layer(self.input(op, 0), op))

    def _resize(self, op: Operation) -> None:
        if op.options["align_corners"]:
            raise CheckpointError(f"{self.where}: {op.kind} with align_corners cannot be imported")
        self._enlarged(self.input(op, 0), op)

    def _enlarged(self, index: int, op: Operation) -> None:
        """The output as the map of that index in whole multiples."""
        (height, width, channels), (rows, columns, same) = self._cells(index), self.side(op.outputs[0])
        if rows % height or columns % width or channels != same:
            raise CheckpointError(
                f"{self.where}: {op.kind} of {height} x {width} to {rows} x {columns}: want multiples"
            )
        x, scale = self._layer(index, op), (rows // height, columns // width)
        x = self.assembly.add(self._name(op), "upsample", x, scale=scale)
        self._done(op, self._recounted(x, op))

    def _cells(self, index: int) -> tuple[int, int, int]:
        """As `side`, of a map of shape [1, H, 1, W, 1, C] too."""
        shape = self.value(index).shape
        return (shape[1], shape[3], shape[5]) if len(shape) == 6 else self.side(index)

    def _recounted(self, x: str, op: Operation) -> str:
        """Behind a RESHAPE, which copies whole numbers: real ones change where they count otherwise than before."""
        before, after = self.value(op.inputs[0]), self.value(op.outputs[0])
        if op.kind != "RESHAPE" or math.inf in (before.limits[1], after.limits[1]):
            return x
        ones, step = torch.ones(self.assembly.channels[x]), float(after.scales[0])
        factor, shift = step / float(before.scales[0]), (int(before.zeros[0]) - int(after.zeros[0])) * step
        if (factor, shift) == (1, 0):
            return x
        return self.assembly.scale(self._unique(f"{x}|steps"), x, ones * factor, ones * shift)

    def _pack(self, op: Operation) -> None:
        """ops.nearest_neighbor_upsampling of the Object Detection API: a map put next to itself in columns, reshaped,
        and in rows, reshaped."""
        index, axis = self.input(op, 0), op.options["axis"]
        if len(set(op.inputs)) > 1 or axis != (2 if index in self._stacked else 3):
            raise CheckpointError(f"{self.where}: PACK that is not the enlarging of a map cannot be imported")
        self._stacked[op.outputs[0]] = self._stacked.get(index, index)

    def _reshape(self, op: Operation) -> None:
        index = self.input(op, 0)
        if index not in self._stacked:
            shapes = [self.value(i).shape for i in (index, op.outputs[0])]
            if len(shapes[0]) != len(shapes[1]):  # [1, H, 1, W, 1, C] on the way to enlarge a map
                shapes = [tuple(n for n in shape if n != 1) for shape in shapes]
            if shapes[0] != shapes[1]:
                raise CheckpointError(f"{self.where}: a RESHAPE between maps cannot be imported")
            self.layers[op.outputs[0]] = self._recounted(self._layer(index, op), op)
            if len(self.value(op.outputs[0]).shape) == 6:
                self._spread[op.outputs[0]] = op.outputs[0]
        elif len(self.value(index).shape) == 5 and self.side(op.outputs[0])[0] == self._cells(self._stacked[index])[0]:
            self._stacked[op.outputs[0]] = self._stacked[index]  # columns are there, rows follow
        else:
            self._enlarged(self._stacked[index], op)
