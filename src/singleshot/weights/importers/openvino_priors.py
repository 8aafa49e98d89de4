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
from singleshot.weights.importers.prior_rows import PriorRow, Variances, four_variances
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
    clip, offset = node.flag("clip"), round(node.number("offset", 0.5), 6)
    if node.kind == "PriorBoxClustered":
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


def _box_step(node: Node, height: int, rows: int) -> float:
    step = node.number("step", 0)
    if node.flag("scale_all_sizes", True):
        return step
    return height / rows if step == -1 else step * height


def _box_shapes(node: Node, what: str, height: int) -> Shapes:
    """PriorBox's boxes of a cell in its order."""
    low, high, given = node.numbers("min_size"), node.numbers("max_size"), node.numbers("aspect_ratio")
    if node.numbers("fixed_size"):
        raise CheckpointError(f"{what} has several centres in a cell (fixed_size, density), which no model here has")
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
    height, width = image
    counts = [m.height * m.width * n for m, n in zip(maps, per_cell, strict=True)]
    flat = table.reshape(-1, table.shape[-1])
    if flat.shape[1] != 4 * sum(counts) or len(flat) not in (1, 2) or (len(flat) == 1 and not unit):
        raise CheckpointError(f"{where}: priors of shape {table.shape} for {sum(counts)} boxes, want [1, 2, P * 4]")
    if not bool(np.isfinite(flat).all()):
        raise CheckpointError(f"{where}: priors that are not numbers; the file is damaged")
    corners = flat[0].reshape(-1, 4).astype(np.float64)
    boxes = np.concatenate([(corners[:, :2] + corners[:, 2:]) / 2, corners[:, 2:] - corners[:, :2]], axis=1)
    boxes *= np.array([width, height] * 2)
    rows, start = [], 0
    clipped = bool((corners >= -1e-6).all() and (corners <= 1 + 1e-6).all())
    for m, n, count in zip(maps, per_cell, counts, strict=True):
        part = boxes[start : start + count].reshape(m.height, m.width, n, 4)
        variances = _UNIT
        if not unit:
            given = flat[1].reshape(-1, 4)[start : start + count]
            if np.abs(given - given[0]).max() > 1e-6:
                raise CheckpointError(f"{where}: priors with another variance in each cell")
            variances = four_variances(given[0].tolist(), where)
        rows.append(_fitted(part, clipped, variances))
        start += count
    # A map of one cell says where it is, not how far the next would be: its offset is that of the others.
    known = [row.offset for row, m in zip(rows, maps, strict=True) if max(m.height, m.width) > 1]
    offset = known[0] if known else 0.5
    return [
        row._replace(offset=offset, step=(row.step[0] * row.offset / offset, row.step[1] * row.offset / offset))
        if max(m.height, m.width) == 1
        else row
        for row, m in zip(rows, maps, strict=True)
    ]


def _fitted(part: np.ndarray, clipped: bool, variances: Variances) -> PriorRow:
    """part: cx cy w h in pixels, [rows, columns, boxes, 4]. The smallest box is cut at the border least, or not."""
    sizes = part[..., 2:].max(axis=(0, 1))
    smallest = int(sizes.prod(axis=1).argmin())
    found = []
    for line in (part[:, part.shape[1] // 2, smallest, 1], part[part.shape[0] // 2, :, smallest, 0]):
        if len(line) == 1:
            found.append((float(line[0]) / 0.5, 0.5))
            continue
        inner = slice(1, -1) if len(line) > 3 else slice(None)
        places = np.arange(len(line))[inner]
        step, first = np.polyfit(places, line[inner], 1)
        found.append((float(step), float(first / step) if abs(step) > 1e-9 else 0.5))
    offset = found[0][1] if part.shape[0] > 1 else found[1][1]
    offset = 0.5 if abs(offset - 0.5) < 0.02 else round(offset, 3)
    shapes = tuple((float(w), float(h)) for w, h in sizes)
    steps = tuple(round(step * own / offset, 3) if offset else step for step, own in found)
    return PriorRow(shapes, (steps[0], steps[1]), offset, clipped, variances)


def check_table(spec: PriorSpec, table: np.ndarray, where: str) -> None:
    """Raise CheckpointError where the spec does not give the constants back."""
    boxes = prior_table(spec).astype(np.float64)
    own = np.concatenate([boxes[:, :2] - boxes[:, 2:] / 2, boxes[:, :2] + boxes[:, 2:] / 2], axis=1)
    given = table.reshape(-1, table.shape[-1])[0].reshape(-1, 4)
    halves = bool((given.astype(np.float16).astype(np.float64) == given).all())
    if np.abs(own - given).max() > (1e-3 if halves else 2e-5):
        raise CheckpointError(f"{where}: its priors do not lie on a grid of each map's cells, with one set of shapes")
