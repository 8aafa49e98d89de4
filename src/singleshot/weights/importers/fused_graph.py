"""Layers of a described network -> our graph, as Caffe's and OpenVINO's importers share it.

Every layer is an op with the ops that it takes. Scales and shifts of channels, batch normalisation among them, go into
the convolution before them where that is theirs alone.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor

from singleshot.errors import CheckpointError
from singleshot.models.graph_layers import MAX_KERNEL, Pads
from singleshot.models.graph_spec import IMAGE, MAX_CHANNELS
from singleshot.weights.graph_builder import GraphBuilder

IMAGE_OP, NOTHING = -1, -2  # what an op may take apart from other ops: the image; something that no layer makes


class AnyOp(Protocol):
    """One layer of a foreign network; as text for messages."""

    @property
    def name(self) -> str:
        """The file's own."""

    @property
    def takes(self) -> tuple[int, ...]:
        """Index of an op for each input, IMAGE_OP or NOTHING."""


class Shape(NamedTuple):
    """Channels, height and width of a map."""

    channels: int
    height: int
    width: int


class Pending(NamedTuple):
    """A convolution, or channels times weight plus bias, that may still take in the layer behind it."""

    op: AnyOp
    source: int
    weight: Tensor  # convolution [outputs, inputs, kh, kw], float64; else [C]
    bias: Tensor | None  # [C], float64
    options: dict[str, Any]  # stride, padding, dilation, groups of a convolution


class Windows(NamedTuple):
    """How a convolution or a pooling goes over its map: (height, width) each; pads: left, right, top, bottom."""

    kernel: tuple[int, int]
    stride: tuple[int, int]
    pads: Pads
    dilation: tuple[int, int] = (1, 1)

    def sides(self, x: Shape) -> tuple[int, int]:
        """Height and width of what comes out, without windows that are not whole."""
        left, right, top, bottom = self.pads
        spans = [d * (k - 1) + 1 for d, k in zip(self.dilation, self.kernel, strict=True)]
        rows = (x.height + top + bottom - spans[0]) // self.stride[0] + 1
        return rows, (x.width + left + right - spans[1]) // self.stride[1] + 1


def ancestors(ops: Sequence[AnyOp], of: Iterable[int]) -> list[int]:
    """These ops and all that they need, in running order."""
    return sorted(needed_by(of, lambda i: ops[i].takes))


def needed_by(of: Iterable[int], takes: Callable[[int], Iterable[int]]) -> set[int]:
    """These and all that they need. takes: of one, the numbers of those that it takes directly, negative for none."""
    needed: set[int] = set()
    todo = list(of)
    while todo:
        i = todo.pop()
        if i >= 0 and i not in needed:
            needed.add(i)
            todo.extend(takes(i))
    return needed


class FusedGraph:
    """Adds ops to a GraphBuilder. `value(i)` is the name of the layer that gives what op i gives."""

    def __init__(self, ops: Sequence[AnyOp], uses: Mapping[int, int], image: Shape, where: str) -> None:
        """uses: how often each op's value, and the image's, is wanted."""
        self.ops, self.where, self.assembly = ops, where, GraphBuilder(image.channels)
        self.shapes: dict[int, Shape] = {IMAGE_OP: image}
        self._names: dict[int, str] = {IMAGE_OP: IMAGE}
        self._pending: dict[int, Pending] = {}
        self._uses = dict(uses)

    def value(self, i: int) -> str:
        """Name of the layer; a pending convolution is added now."""
        if i in self._pending:
            held = self._pending.pop(i)
            source, name = self.value(held.source), self._free_name(held.op.name)
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

    def refuse(self, op: AnyOp, reason: str) -> CheckpointError:
        """The error that names the file and the layer, for the caller to raise."""
        return CheckpointError(f"{self.where}: {op} {reason}")

    # ---------------------------------------------------------------------------------------- for those that convert

    def _free_name(self, name: str) -> str:
        """The layer's name, or with a number behind it where it is taken."""
        wanted, n = name or "layer", 1
        while wanted in self.assembly.channels:
            wanted, n = f"{name}_{n}", n + 1
        return wanted

    def _add(self, i: int, op: AnyOp, kind: str, shape: Shape, **options: Any) -> None:
        inputs = [self.value(take) for take in op.takes]
        name = self._free_name(op.name)
        self._names[i] = self.assembly.add(name, kind, *inputs, channels=shape.channels, **options)
        self.shapes[i] = shape

    def _check_windows(self, op: AnyOp, x: Shape, outputs: int, windows: Windows, groups: int) -> None:
        """Raise CheckpointError for a convolution that cannot be, before its weights are asked for."""
        whole = (*windows.kernel, *windows.stride, *windows.dilation)
        if not (1 <= outputs <= MAX_CHANNELS and all(1 <= n <= MAX_KERNEL for n in whole)):
            kernel, stride, dilation = windows.kernel, windows.stride, windows.dilation
            raise self.refuse(op, f"has {outputs} outputs of {kernel}, stride {stride}, dilation {dilation}")
        fits = 1 <= groups <= x.channels and not x.channels % groups and not outputs % groups
        if not fits or not all(0 <= pad <= MAX_KERNEL * 4 for pad in windows.pads):
            reason = f"has {x.channels} inputs and {outputs} outputs in {groups} groups, padded {windows.pads[1::2]}"
            raise self.refuse(op, reason)

    def _convolve(self, i: int, op: AnyOp, weight: Tensor, bias: Tensor | None, windows: Windows, groups: int) -> None:
        """weight: [outputs, inputs / groups, kh, kw], float64."""
        source = op.takes[0]
        options = {
            "stride": windows.stride,
            "padding": windows.pads,
            "dilation": windows.dilation,
            "groups": groups,
        }
        shape = Shape(len(weight), *windows.sides(self.shapes[source]))
        self._hold(i, Pending(op, source, weight, bias, options), shape)

    def _hold(self, i: int, held: Pending, shape: Shape) -> None:
        if min(shape) < 1:
            raise self.refuse(held.op, f"leaves a map of {shape.height}x{shape.width}")
        self.value(held.source)
        self._pending[i], self.shapes[i] = held, shape

    def _affine(self, i: int, op: AnyOp, source: int, factor: Tensor, shift: Tensor | None) -> None:
        """Channels times factor plus shift: into what is before it, or a layer of its own that may take in the next."""
        before = self._pending.get(source)
        if before is None or self._uses[source] > 1:
            self._hold(i, Pending(op, source, factor, shift, {}), self.shapes[source])
            return
        del self._pending[source]
        weight = before.weight * factor.view(-1, *[1] * (before.weight.dim() - 1))
        bias = shift if before.bias is None else before.bias * factor + (0 if shift is None else shift)
        self._hold(i, before._replace(weight=weight, bias=bias), self.shapes[source])

    def _leaky(self, i: int, op: AnyOp, slopes: Tensor) -> None:
        """relu(x) - slope * relu(-x), of the layers that there are. slopes: [C]"""
        x = self.shapes[op.takes[0]]
        name, source, zeros = op.name, self.value(op.takes[0]), torch.zeros(x.channels)
        add, free = self.assembly.add, self._free_name
        turned = self.assembly.scale(free(f"{name}/turned"), source, -torch.ones(x.channels), zeros)
        below = self.assembly.scale(free(f"{name}/slope"), add(free(f"{name}/below"), "relu", turned), -slopes, zeros)
        self._names[i] = add(free(name), "add", add(free(f"{name}/above"), "relu", source), below)
        self.shapes[i] = x

    def _l2norm(self, i: int, op: AnyOp, weight: Tensor) -> None:
        """conv4_3's normalisation over channels. weight: [C]"""
        name = self._free_name(op.name)
        self._names[i] = self.assembly.l2norm(name, self.value(op.takes[0]), weight.float().clone())
        self.shapes[i] = self.shapes[op.takes[0]]


def count_uses(ops: Sequence[AnyOp], needed: Iterable[int], ends: Iterable[int]) -> dict[int, int]:
    """How often each of the needed ops, and the image, is taken by another or wanted at the end."""
    needed = list(needed)
    uses = dict.fromkeys([*needed, IMAGE_OP], 0)
    for taken in [*(take for i in needed for take in ops[i].takes), *ends]:
        uses[taken] = uses.get(taken, 0) + 1
    return uses


Convert = Callable[[int, Any, Shape], None]  # index, op, shape of what its first input gives
