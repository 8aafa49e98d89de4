"""How well a table of default boxes meets the objects of a data set: the best IoU of each object, exactly and fast.

A prior is the product of an interval in x, which its column decides, and one in y, which its row decides. So is a
box, and so is their overlap. For one shape of one feature map the areas are the same everywhere, the IoU grows with
the overlap, and the largest overlap is the product of the largest in x and the largest in y: those of the nearest
column and the nearest row. Only priors that were cut at the border need the whole map.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from singleshot.prior_boxes import PriorSpec, prior_table

# What matching takes by default (singleshot.matching.match): paper, section 2.2.
IOU_MIN = 0.5
# Where a model's own priors match less of the objects than this, others are fitted to them, if there are so many
# objects: of fewer, those of other images may fit a model's own better. Where its own match nearly all, fitted ones
# were worse: common sizes get many times the matches of rare ones (benchmarks/).
MATCHED_ENOUGH = 0.95
FITTED_FROM = 50
# Numbers in the largest array that is made at once: what stays in a core's cache is twice as fast as 16 MB.
_CHUNK = 300_000

REASONS = {
    "small": "too small",
    "large": "too large",
    "wide": "too wide",
    "tall": "too tall",
    "between": "between the priors' places",
}


class PriorGrid(NamedTuple):
    """The priors of one shape on one feature map: all pairs of a column and a row.

    x: float64 [columns, 2] left and right, y: float64 [rows, 2] top and bottom, in parts of the input, from left to
    right and from top to bottom; cut: they have not all the same size.
    """

    x: np.ndarray
    y: np.ndarray
    cut: bool


def prior_grids(spec: PriorSpec) -> list[PriorGrid]:
    """The priors of a table as grids; together exactly those of `prior_table`."""
    priors = prior_table(spec).astype(np.float64)
    grids, start = [], 0
    for (rows, columns), shapes in zip(spec.grids, spec.per_cell, strict=True):
        stop = start + rows * columns * shapes
        level = priors[start:stop]  # -> row, column, shape, cx cy w h
        if spec.order == "location":
            level = level.reshape(rows, columns, shapes, 4)
        else:
            level = level.reshape(shapes, rows, columns, 4).transpose(1, 2, 0, 3)
        for k in range(shapes):
            (cx, w), (cy, h) = level[0, :, k, ::2].T, level[:, 0, k, 1::2].T
            x, y = np.stack((cx - w / 2, cx + w / 2), 1), np.stack((cy - h / 2, cy + h / 2), 1)
            grids.append(PriorGrid(x, y, cut=bool(np.ptp(w) > 0 or np.ptp(h) > 0)))
        start = stop
    return grids


def prior_shapes(spec: PriorSpec) -> np.ndarray:
    """float64 [shapes, 2]: width and height of every kind of prior where it is largest, in parts of the square."""
    return np.array([[np.ptp(grid.x, axis=1).max(), np.ptp(grid.y, axis=1).max()] for grid in prior_grids(spec)])


def best_iou(boxes: np.ndarray, grids: Sequence[PriorGrid]) -> np.ndarray:
    """float64 [M]: for each of the boxes [M, 4] (corner form, parts of the square) its largest IoU with any prior.

    Equal, up to rounding, to the maximum over the whole table of IoUs; memory is bounded, whatever M is.
    """
    boxes = np.asarray(boxes, np.float64).reshape(-1, 4)
    best = np.zeros(len(boxes))
    for grid in grids:
        rows = max(1, _CHUNK // (len(grid.x) * len(grid.y) if grid.cut else 8))
        meet = _whole_map if grid.cut else _nearest
        for start in range(0, len(boxes), rows):
            part = best[start : start + rows]
            np.maximum(part, meet(boxes[start : start + rows], grid), out=part)
    return best


def _nearest(boxes: np.ndarray, grid: PriorGrid) -> np.ndarray:
    """[M] best IoU with priors of one size: that of the nearest centre."""
    inter = _nearest_overlap(boxes[:, 0::2], grid.x) * _nearest_overlap(boxes[:, 1::2], grid.y)
    size = float(np.ptp(grid.x[0]) * np.ptp(grid.y[0]))
    return _ratio(inter, size + _areas(boxes) - inter)


def _nearest_overlap(spans: np.ndarray, ranges: np.ndarray) -> np.ndarray:
    """[M] overlap of spans [M, 2] with the one of the equally long ranges [f, 2] whose centre is nearest."""
    centres = ranges.mean(axis=1)
    near = ranges[np.searchsorted((centres[1:] + centres[:-1]) / 2, spans.mean(axis=1))]
    overlap: np.ndarray = np.minimum(spans[:, 1], near[:, 1]) - np.maximum(spans[:, 0], near[:, 0])
    return overlap.clip(0, None)


def _whole_map(boxes: np.ndarray, grid: PriorGrid) -> np.ndarray:
    """[M] best IoU with priors of different sizes: every column with every row."""
    over_x = _overlaps(boxes[:, 0::2], grid.x)[:, None, :]
    over_y = _overlaps(boxes[:, 1::2], grid.y)[:, :, None]
    inter = over_x * over_y
    union = np.ptp(grid.y, axis=1)[:, None] * np.ptp(grid.x, axis=1) + _areas(boxes)[:, None, None]
    union -= inter
    best: np.ndarray = _ratio(inter, union).max(axis=(1, 2))
    return best


def _overlaps(spans: np.ndarray, ranges: np.ndarray) -> np.ndarray:
    """[M, f] overlap of every span [M, 2] with every range [f, 2]."""
    overlap: np.ndarray = np.minimum(spans[:, 1:], ranges[:, 1]) - np.maximum(spans[:, :1], ranges[:, 0])
    return overlap.clip(0, None)


def _areas(boxes: np.ndarray) -> np.ndarray:
    areas: np.ndarray = (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])
    return areas


def _ratio(inter: np.ndarray, union: np.ndarray) -> np.ndarray:
    # Two boxes without area have IoU 0, as in singleshot.boxes.iou.
    ratio: np.ndarray = inter / np.maximum(union, np.finfo(np.float64).tiny)
    return ratio


def why_unmatched(boxes: np.ndarray, shapes: np.ndarray, iou_min: float = IOU_MIN) -> np.ndarray:
    """For boxes [M, 4] that no prior of the shapes [S, 2] matches, a key of REASONS each, as an array of str.

    A box that a prior would match if it lay around the same centre falls between the priors' places. One whose square
    of the same area would be matched is too wide or too tall; the rest is too small or too large.
    """
    boxes = np.asarray(boxes, np.float64).reshape(-1, 4)
    width, height = boxes[:, 2] - boxes[:, 0], boxes[:, 3] - boxes[:, 1]
    area = width * height
    fits = _concentric(width, height, shapes) >= iou_min
    side = np.sqrt(area)
    square_fits = _concentric(side, side, shapes) >= iou_min
    middle = np.median(shapes.prod(axis=1))
    flat = np.where(width >= height, "wide", "tall")
    scale = np.where(area < middle, "small", "large")
    return np.where(fits, "between", np.where(square_fits, flat, scale))


def _concentric(width: np.ndarray, height: np.ndarray, shapes: np.ndarray) -> np.ndarray:
    """[M] the best IoU with any shape around the same centre."""
    best = np.zeros(len(width))
    for w, h in shapes.tolist():
        inter = np.minimum(width, w) * np.minimum(height, h)
        np.maximum(best, _ratio(inter, w * h + width * height - inter), out=best)
    return best
