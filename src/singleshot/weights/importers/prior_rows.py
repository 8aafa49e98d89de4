"""Default boxes as Caffe's and OpenVINO's layers describe them, a layer for each map -> one PriorSpec."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import torch
from torch import Tensor

from singleshot.errors import CheckpointError, printable
from singleshot.prior_boxes import PriorSpec, Shapes, Step, from_shapes
from singleshot.weights.importers.fused_graph import Shape

Variances = tuple[float, float, float, float]  # of x, y, width and height


class PriorRow(NamedTuple):
    """The boxes of one map.

    shapes: of a cell, in pixels; step: from one cell to the next, down and across, 0 for that of the map; offset: of
    the first centre, in cells; clip: whether corners are cut to the image; centres: (x, y) of every box in its cell, in
    cells, in place of offset; None for all in one place.
    """

    shapes: Shapes
    step: tuple[float, float]
    offset: float
    clip: bool
    variances: Variances
    centres: Shapes | None = None


def dense_boxes(
    sizes: Sequence[float],
    densities: Sequence[float],
    offset: float,
    step: tuple[float, float],
    what: str,
) -> tuple[Shapes, Shapes]:
    """FaceBoxes' boxes (its paper, section 3.2): of each size so many in a row and a column of the cell. As
    openvino/core/reference, prior_box.hpp, fixed_size.

    Args:
        sizes: In pixels.
        densities: Of each size.
        offset: Of the cell's middle, in cells.
        step: Pixels between cells, down and across.
        what: The file and the layer.

    Returns:
        Widths and heights in pixels, and (x, y) of every box, in cells.

    Raises:
        CheckpointError: Numbers that such boxes cannot have.
    """
    if len(sizes) != len(densities) or not all(1 <= d <= 16 and d == int(d) for d in densities) or min(step) <= 0:
        raise CheckpointError(f"{what} has {len(sizes)} fixed sizes of densities {printable(densities, 60)}")
    shapes, centres = [], []
    for size, density in zip(map(int, sizes), map(int, densities), strict=True):
        shift = size // density
        for row in range(density):
            for column in range(density):
                x, y = (k * shift + shift / 2 - size // 2 for k in (column, row))  # half a pixel cut off
                shapes.append((float(size), float(size)))
                centres.append((offset + x / step[1], offset + y / step[0]))
    return tuple(shapes), tuple(centres)


def spec_of_rows(
    rows: Sequence[PriorRow], maps: Sequence[Shape], image: tuple[int, int], where: str
) -> tuple[PriorSpec, list[Tensor]]:
    """The spec, and for each map by how much dx dy dw dh of its weights grow, which is 1 where the variances are those
    of the spec. image: height and width. Raises CheckpointError where one spec cannot say it."""
    clip = "corners" if one([row.clip for row in rows], "clip", where) else "none"
    offset = one([row.offset for row in rows], "offset", where)
    sides = [(shape.height, shape.width) for shape in maps]
    steps: list[Step] = []
    if any(row.step != (0, 0) for row in rows):
        steps = [_step(row, grid, image) for row, grid in zip(rows, sides, strict=True)]
    spec = from_shapes(image, sides, [row.shapes for row in rows], steps, clip)
    if any(row.centres is not None for row in rows):
        centres = tuple(row.centres or ((row.offset,) * 2,) * len(row.shapes) for row in rows)
        spec = replace(spec, centres=centres)
    x, _, width, _ = rows[0].variances
    used = torch.tensor([x, x, width, width]).double()
    factors = [torch.tensor(row.variances).double() / used for row in rows]
    return replace(spec, variances=(x, width), offset=offset), factors


def _step(row: PriorRow, grid: tuple[int, int], image: tuple[int, int]) -> Step:
    down, across = (step or side / cells for step, side, cells in zip(row.step, image, grid, strict=True))
    return down if down == across else (down, across)


def one(values: Sequence[Any], name: str, where: str) -> Any:
    """What all maps have. Raises CheckpointError where they differ."""
    if len(set(values)) != 1:
        raise CheckpointError(f"{where}: PriorBox with another {name} on each map ({printable(values, 60)}): want one")
    return values[0]


def four_variances(values: Sequence[float], where: str) -> Variances:
    """Of x, y, width and height, from four numbers, one for all or none (0.1). Raises CheckpointError."""
    rounded = [round(float(v), 6) for v in values] or [0.1]
    rounded = rounded * 4 if len(rounded) == 1 else rounded
    if len(rounded) != 4 or not all(0 < v < 1e3 for v in rounded):
        raise CheckpointError(f"{where}: PriorBox with variance {printable(rounded, 60)}: want one or four numbers")
    return rounded[0], rounded[1], rounded[2], rounded[3]
