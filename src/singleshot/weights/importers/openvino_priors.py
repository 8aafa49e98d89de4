"""Default boxes of OpenVINO networks: PriorBox and PriorBoxClustered, or the constants that a converter made of them.

What the layers compute: openvino/core/reference, prior_box.hpp and prior_box_clustered.hpp. Unlike Caffe's, sizes are
not cut to whole pixels, and without a step centres are in the middle of cells whatever the offset.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from singleshot.errors import CheckpointError, printable
from singleshot.prior_boxes import PriorSpec, Shapes, prior_table
from singleshot.weights.importers.fused_graph import Shape
from singleshot.weights.importers.prior_rows import PriorRow, Variances, dense_boxes, four_variances
from singleshot.weights.readers.openvino_ir import Node

PRIOR_KINDS = ("PriorBox", "PriorBoxClustered")
_MAX_SIZES = 256  # of one layer
_UNIT: Variances = (1.0, 1.0, 1.0, 1.0)


def row_of(node: Node, image: tuple[int, int], grid: tuple[int, int], unit: bool, where: str) -> PriorRow:
    """The boxes of one layer. image: height and width; grid: rows and columns of its map; unit: variances are not used.

    Raises CheckpointError.
    """
    what = f"{where}: {node}"
    for name, side in (("img_h", image[0]), ("img_w", image[1])):
        own = node.whole(name, 0) or node.whole("img_size", 0)
        if own not in (0, side):
            raise CheckpointError(f"{what} is for images of another size ({name} {own}, not {side})")
    variances = _UNIT if unit else four_variances(node.numbers("variance"), where)
    if node.numbers("fixed_size"):
        return _dense(node, what, image, grid, variances)
    clustered = node.kind == "PriorBoxClustered"
    clip, offset = node.flag("clip", clustered), round(node.number("offset"), 6)
    if clustered:
        widths, heights = node.numbers("width"), node.numbers("height")
        shapes: Shapes = tuple(zip(widths, heights, strict=False))
        steps = [node.number(f"step_{axis}", 0) or node.number("step", 0) for axis in "hw"]
        bad = len(widths) != len(heights)
    else:
        shapes, bad = _box_shapes(node, what, image[0]), False
        steps = [_box_step(node, image[0], grid[0])] * 2
        offset = offset if any(steps) else 0.5
    if bad or not 1 <= len(shapes) <= _MAX_SIZES or not all(0 < v < 1e6 for shape in shapes for v in shape):
        raise CheckpointError(f"{what} has boxes of {printable(shapes, 80)}: want a positive width and height each")
    if not all(0 <= step < 1e6 for step in steps) or not abs(offset) <= 100:
        raise CheckpointError(f"{what} has steps of {steps} pixels and offset {offset}")
    return PriorRow(shapes, (round(steps[0], 4), round(steps[1], 4)), offset, clip, variances)


def _dense(node: Node, what: str, image: tuple[int, int], grid: tuple[int, int], variances: Variances) -> PriorRow:
    """Several boxes of a size in a cell, cut to the image."""
    others = [ratio for ratio in node.numbers("aspect_ratio") if ratio != 1]
    if node.numbers("min_size") or node.numbers("fixed_ratio") or others or not node.flag("scale_all_sizes", True):
        raise CheckpointError(f"{what} has fixed sizes and others, want one kind")
    step, offset = node.number("step", 0), round(node.number("offset"), 6)
    steps = (step, step) if step > 0 else (image[0] / grid[0], image[1] / grid[1])
    offset = offset if step > 0 else 0.5
    shapes, centres = dense_boxes(node.numbers("fixed_size"), node.numbers("density"), offset, steps, what)
    return PriorRow(shapes, (step, step), offset, True, variances, centres)


def _box_step(node: Node, height: int, rows: int) -> float:
    step = node.number("step", 0)
    if node.flag("scale_all_sizes", True):
        return step
    return height / rows if step == -1 else step * height


def _box_shapes(node: Node, what: str, height: int) -> Shapes:
    """PriorBox's boxes of a cell in its order."""
    low, high, given = node.numbers("min_size"), node.numbers("max_size"), node.numbers("aspect_ratio")
    if max(len(low), len(high), len(given)) > _MAX_SIZES or not all(0 < v < 1e6 for v in (*low, *high, *given)):
        raise CheckpointError(f"{what} has sizes or ratios that are not positive, or more than {_MAX_SIZES}")
    ratios: list[float] = []
    for ratio in given:
        if all(abs(ratio - other) >= 1e-6 for other in (1.0, *ratios)):
            ratios += [ratio, 1 / ratio] if node.flag("flip") else [ratio]
    ratios = [ratio for ratio in ratios if abs(ratio - 1) >= 1e-6]
    every, squares_first = node.flag("scale_all_sizes", True), node.flag("min_max_aspect_ratios_order", True)
    sizes = low if every else [size * height for size in low]
    found: list[tuple[float, float]] = []
    for i, size in enumerate(sizes):
        between = [math.sqrt(size * high[i])] if i < len(high) else []
        squares = [(side, side) for side in between]
        base = size if every else sizes[0]
        wide = [(base * math.sqrt(r), base / math.sqrt(r)) for r in ratios] if every or i == len(sizes) - 1 else []
        found += [(size, size), *squares, *wide] if squares_first else [(size, size), *wide, *squares]
    return tuple(found)


# ---------------------------------------------------------------------------------------------- constants


def rows_of_table(
    table: np.ndarray, maps: Sequence[Shape], per_cell: Sequence[int], image: tuple[int, int], unit: bool, where: str
) -> list[PriorRow]:
    """From constants [2, P * 4], corners and variances, or [1, P * 4] corners alone: the grids that they follow."""
    counts = [m.height * m.width * n for m, n in zip(maps, per_cell, strict=True)]
    flat = table.reshape(-1, table.shape[-1])
    if flat.shape[1] != 4 * sum(counts) or len(flat) not in (1, 2) or (len(flat) == 1 and not unit):
        raise CheckpointError(f"{where}: priors of shape {table.shape} for {sum(counts)} boxes, want [1, 2, P * 4]")
    if not bool(np.isfinite(flat).all()):
        raise CheckpointError(f"{where}: priors that are not numbers; the file is damaged")
    corners = flat[0].reshape(-1, 4).astype(np.float64)
    clip = bool((corners >= 0).all() and (corners <= 1).all())
    rows, start = [], 0
    for m, n, count in zip(maps, per_cell, counts, strict=True):
        variances = _UNIT
        if not unit:
            given = flat[1].reshape(-1, 4)[start : start + count]
            if np.abs(given - given[0]).max() > 1e-6:
                raise CheckpointError(f"{where}: priors with another variance in each cell")
            variances = four_variances(given[0].tolist(), where)
        row = _fitted(corners[start : start + count].reshape(m.height, m.width, n, 4), clip, image)
        if row is None:
            what = f"its priors of a map of {m.height}x{m.width}"
            raise CheckpointError(f"{where}: {what} do not lie on a grid of its cells, with one set of shapes")
        rows.append(row._replace(variances=variances))
        start += count
    return rows


def _fitted(corners: np.ndarray, clip: bool, image: tuple[int, int]) -> PriorRow | None:
    """corners: [rows, columns, boxes, 4] in 0..1. The middles of cells are tried first, then a line through the centres
    of boxes that nothing cuts."""
    rows, columns, _, _ = corners.shape
    sides = np.array([image[1], image[0]] * 2, np.float64)
    pixels = corners * sides
    halves = bool((corners.astype(np.float16).astype(np.float64) == corners).all())
    tolerance = 1e-3 if halves else 2e-5
    own = (image[0] / rows, image[1] / columns)
    lines = [_line(pixels[..., n::2], sides[n], axis) for axis, n in ((0, 1), (1, 0))]
    offset = next((start / step for step, start in filter(None, lines) if step > 0), 0.5)
    offset = 0.5 if abs(offset - 0.5) < 0.01 else round(offset, 3)
    fitted = [line[0] if line else side for line, side in zip(lines, own, strict=True)]
    rounded = [round(step) if abs(step - round(step)) < 0.01 else step for step in fitted]
    for steps, start in ((own, 0.5), (tuple(rounded), offset), (tuple(fitted), offset)):
        cy, cx = ((np.arange(n) + start) * step for n, step in zip((rows, columns), steps, strict=True))
        centres = np.stack(np.broadcast_arrays(cx[None, :], cy[:, None]), axis=-1)[:, :, None]
        reach = np.maximum(centres - pixels[..., :2], pixels[..., 2:] - centres).max(axis=(0, 1))
        made = np.concatenate([centres - reach, centres + reach], axis=-1) / sides
        if np.abs((made.clip(0, 1) if clip else made) - corners).max() < tolerance and reach.min() > 0:
            shapes = tuple((2 * float(w), 2 * float(h)) for w, h in reach)
            return PriorRow(shapes, (0.0, 0.0) if steps == own else (steps[0], steps[1]), start, clip, _UNIT)
    return None


def _line(edges: np.ndarray, side: float, axis: int) -> tuple[float, float] | None:
    """Step and first centre, in pixels, of boxes whose low and high edges [rows, columns, boxes, 2] lie in the image;
    None where there are not two in a line."""
    inside = (edges[..., 0] > 0) & (edges[..., 1] < side)
    centres = edges.mean(axis=-1)
    if axis == 1:
        inside, centres = inside.swapaxes(0, 1), centres.swapaxes(0, 1)
    places = np.argwhere(inside)
    if len(np.unique(places[:, 0])) < 2:
        return None
    step, start = np.polyfit(places[:, 0], centres[inside], 1)
    return float(step), float(start)


def check_table(spec: PriorSpec, table: np.ndarray, where: str) -> None:
    """Raise CheckpointError where the spec does not give the constants back."""
    boxes = prior_table(spec).astype(np.float64)
    own = np.concatenate([boxes[:, :2] - boxes[:, 2:] / 2, boxes[:, :2] + boxes[:, 2:] / 2], axis=1)
    given = table.reshape(-1, table.shape[-1])[0].reshape(-1, 4)
    if np.abs(own - given).max() > 2e-3:
        raise CheckpointError(f"{where}: its priors do not lie on grids of its maps")
