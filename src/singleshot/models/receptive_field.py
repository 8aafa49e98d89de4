"""What part of the input a cell of a feature map can see, by its layers, and what part it goes by, by its gradient."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, fx
from torch.fx.experimental.proxy_tensor import make_fx

from singleshot.models.ssd import SSD

# The part of a gradient that its box holds, of each axis: two standard deviations of a normal distribution, which the
# gradient of a deep map resembles (Luo et al., Understanding the Effective Receptive Field, NeurIPS 2016, section 3).
GRADIENT_PART = 0.9545

Span = tuple[int, int]  # first and last index along an axis
Back = Callable[[Span, int], Span]  # of an output's span along axis 0 (rows) or 1 (columns): the span of the input


class Cell(NamedTuple):
    """One cell of a feature map."""

    map: int
    row: int
    column: int


class _Step(NamedTuple):
    """A layer: the value it makes, those it takes, and how a span of its output goes back to its input."""

    output: str
    inputs: tuple[str, ...]
    back: Back


class ReceptiveFields:
    """The theoretical receptive field of each cell of a model's feature maps, those that its heads look at.

    The model is run once on values that do not exist (nothing is computed) to record its layers; a cell's span is then
    followed back through them to the input: kernel, stride, dilation and padding of convolutions and pooling, the cell
    that an enlarging layer repeats, the whole map of a global pooling. What lies beyond the input is padding.
    """

    def __init__(self, model: SSD) -> None:
        rows, columns = self._sides = model.input_spec.sides
        images = torch.zeros(1, model.input_spec.channels, rows, columns, device=model.mean.device)
        with torch.no_grad():
            recorded = make_fx(_maps_of(model), tracing_mode="fake", _allow_non_fake_inputs=True)(images)
        nodes = list(recorded.graph.nodes)
        self._image = nodes[0].name
        (maps,) = nodes[-1].args
        self._maps = [tuple(one.name for one in (m if isinstance(m, (list, tuple)) else (m,))) for m in maps]
        self._steps = list(reversed(_steps(nodes)))
        self._known: dict[Cell, tuple[int, int, int, int] | None] = {}

    def of(self, cell: Cell) -> tuple[int, int, int, int] | None:
        """x0 y0 x1 y1 in pixels of the input, beyond its edges too where the field is padded there.

        None where a layer is in the way that cannot be followed.
        """
        if cell not in self._known:
            spans = [self._back(cell.map, index, axis) for axis, index in enumerate((cell.row, cell.column))]
            (y0, y1), (x0, x1) = (span or (0, -1) for span in spans)
            self._known[cell] = None if None in spans else (x0, y0, x1 + 1, y1 + 1)
        return self._known[cell]

    def _back(self, number: int, index: int, axis: int) -> Span | None:
        spans = dict.fromkeys(self._maps[number], (index, index))
        for step in self._steps:
            if step.output not in spans:
                continue
            try:
                low, high = step.back(spans[step.output], axis)
            except NotImplementedError:
                return None
            for name in step.inputs:
                other = spans.get(name, (low, high))
                spans[name] = min(low, other[0]), max(high, other[1])
        return spans.get(self._image)


def _maps_of(model: SSD) -> Callable[[Tensor], list[Any]]:
    def maps(images: Tensor) -> list[Any]:  # a plain function: what is recorded counts the arguments of its code
        return model.feature_maps(images)

    return maps


def _steps(nodes: Sequence[fx.Node]) -> list[_Step]:
    """The layers that the image goes through."""
    seen, steps = {nodes[0].name}, []
    for node in nodes[1:-1]:
        inputs = tuple(one.name for one in node.all_input_nodes if one.name in seen)
        if inputs:
            seen.add(node.name)
            steps.append(_Step(node.name, inputs, _back_of(node)))
    return steps


def _back_of(node: fx.Node) -> Back:
    name = str(node.target).removeprefix("aten.").partition(".")[0].rstrip("_")
    arguments: list[Any] = list(node.args)
    if name == "convolution" and not arguments[6]:
        _, weight, _, stride, padding, dilation, *_ = arguments
        return _window(_shape(weight)[2:], stride, padding, dilation)
    if name in ("max_pool2d_with_indices", "avg_pool2d"):
        kernel, stride, padding, dilation = (arguments[1:5] + [[], [], [0], [1]][len(arguments) - 1 :])[:4]
        dilation = dilation if name.startswith("max") else [1]
        return _window(kernel, stride or kernel, padding, dilation)
    if name == "constant_pad_nd":
        pads = [*arguments[1], 0, 0]  # left, right, top, bottom
        return lambda span, axis: (span[0] - pads[2 * (1 - axis)], span[1] - pads[2 * (1 - axis)])
    sources = [_shape(one) for one in node.all_input_nodes]
    own = _shape(node)
    if own and any(len(shape) == 4 and shape[2:] not in (own[2:], (1, 1)) for shape in sources):
        (shape,) = [shape for shape in sources if len(shape) == 4][:1]
        if name == "upsample_nearest2d":
            return lambda span, axis: tuple(math.floor(i * shape[2 + axis] / own[2 + axis]) for i in span)  # type: ignore[return-value]
        if name == "upsample_bilinear2d":
            return lambda span, axis: _between(span, shape[2 + axis], own[2 + axis])
        if own[2:] == (1, 1):  # over the whole map
            return lambda span, axis: (0, shape[2 + axis] - 1)
        return _unknown
    return lambda span, axis: span


def _between(span: Span, before: int, after: int) -> Span:
    """Cells next to the places that linear enlarging takes: by centres or by corners, whichever is further."""
    places = [(i + 0.5) * before / after - 0.5 for i in span]
    corners = [i * (before - 1) / max(after - 1, 1) for i in span]
    return max(0, math.floor(min(places[0], corners[0]))), min(before - 1, math.ceil(max(places[1], corners[1])))


def _unknown(span: Span, axis: int) -> Span:
    raise NotImplementedError


def _shape(value: Any) -> tuple[int, ...]:
    """Of a recorded value, () where it is several."""
    return tuple(getattr(value.meta.get("val"), "shape", ())) if isinstance(value, fx.Node) else ()


def _window(kernel: Sequence[int], stride: Sequence[int], padding: Sequence[int], dilation: Sequence[int]) -> Back:
    """Of a window that moves over the map."""
    k, s, p, d = ([*values] * (2 // len(values)) for values in (kernel, stride, padding, dilation))

    def back(span: Span, axis: int) -> Span:
        low = span[0] * s[axis] - p[axis]
        return low, span[1] * s[axis] - p[axis] + d[axis] * (k[axis] - 1)

    return back


def gradient_fields(
    model: SSD, images: Tensor, cells: Sequence[Cell], part: float = GRADIENT_PART
) -> list[tuple[int, int, int, int] | None]:
    """The box x0 y0 x1 y1 in pixels of the input that holds `part` of the gradient of each cell, along each axis.

    The gradient is that of the sum of the magnitudes of all channels of the cell, by each pixel of this image, summed
    over the image's channels by magnitude. None where nothing has a gradient: a map of zeros.

    Args:
        model: In eval mode.
        images: [1, C, H, W], values 0..255.
        cells: Of which maps.
        part: What part of the gradient's magnitude lies between the edges, the rest on both sides alike.
    """
    pixels = images.float().detach().requires_grad_()
    with torch.enable_grad():
        maps = model.feature_maps(pixels)
        sums = [_magnitude(maps[cell.map], cell) for cell in cells]
    found = []
    for number, one in enumerate(sums):
        (gradient,) = torch.autograd.grad(one, pixels, retain_graph=number + 1 < len(sums))
        strength = gradient[0].abs().sum(dim=0)
        spans = [_holding(strength.sum(dim=axis), part) for axis in (0, 1)]
        (x0, x1), (y0, y1) = (span or (0, 0) for span in spans)
        found.append(None if None in spans else (x0, y0, x1, y1))
    return found


def _magnitude(maps: Tensor | Sequence[Tensor], cell: Cell) -> Tensor:
    """Of one map, or of the two that a head's halves look at."""
    values = [maps] if isinstance(maps, Tensor) else maps
    return torch.stack([one[0, :, cell.row, cell.column].abs().sum() for one in values]).sum()


def _holding(strength: Tensor, part: float) -> Span | None:
    """The first index and the one past the last between which that part of the values lies."""
    share = strength.double().cumsum(dim=0)
    total = float(share[-1])
    if not (total > 0 and math.isfinite(total)):
        return None
    edges = torch.tensor([(1 - part) / 2 * total, (1 + part) / 2 * total], dtype=share.dtype, device=share.device)
    first, last = torch.searchsorted(share, edges).tolist()
    return first, min(last, len(share) - 1) + 1
