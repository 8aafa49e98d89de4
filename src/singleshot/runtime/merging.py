"""The stage after tiles: what was found in each becomes one result of the whole image."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

import numpy as np

from singleshot.records import ImageDetections
from singleshot.runtime.pixels import select
from singleshot.tiling import Window

NMS_IOU = 0.5
# Of the smaller of two boxes from different tiles: that much inside the other they are one object, seen at two scales.
NMS_INSIDE = 0.8
# A box that ends so near to a tile's inner border, as a share of the tile's side, is taken for cut by it.
MARGIN = 0.02
# That much of a cut box inside a box that is not cut: it is a part of that object.
PART = 0.6
# How far two parts of an object must agree along the border between them (IoU of the two intervals).
SAME_SPAN = 0.5


class TileBoxes(NamedTuple):
    """Boxes float64 [N, 4] in pixels of the image, scores float32 [N], labels int64 [N], and of each the window it was
    found in (int64 [N])."""

    boxes: np.ndarray
    scores: np.ndarray
    labels: np.ndarray
    windows: np.ndarray

    @classmethod
    def of(cls, found: ImageDetections, number: int, window: Window) -> TileBoxes:
        """What was found in a window, in pixels of it -> in pixels of the image."""
        boxes = found.boxes + np.array([*window[:2], *window[:2]], np.float64)
        return cls(boxes, found.scores, found.labels, np.full(len(boxes), number))

    @classmethod
    def joined(cls, parts: Iterable[TileBoxes]) -> TileBoxes:
        """All of several, one at least."""
        return cls(*(np.concatenate(values) for values in zip(*parts, strict=True)))

    def rows(self, index: np.ndarray) -> TileBoxes:
        """Those of an index array or a mask."""
        return TileBoxes(*(values[index] for values in self))


def merge_windows(found: Iterable[ImageDetections], windows: list[Window], width: int, height: int) -> ImageDetections:
    """What was found in each window of an image, in pixels of that window -> one result in pixels of the image."""
    found = (select(one, 0.0, None) for one in found)  # without boxes that have no area
    parts = [TileBoxes.of(one, number, window) for number, (window, one) in enumerate(zip(windows, found, strict=True))]
    boxes, scores, labels, _ = merge(TileBoxes.joined(parts), windows, width, height)
    return ImageDetections(boxes.astype(np.float32), scores, labels)


def merge(found: TileBoxes, windows: list[Window], width: int, height: int) -> TileBoxes:
    """One box for each object of an image of width x height, best first.

    Boxes that a tile's border cuts give way to the same object seen whole by a neighbour or in the whole image; what
    nobody saw whole is put together from its parts. Then NMS within each class, over all windows: by IoU, and between
    windows also by how much of the smaller box is inside the other.

    Args:
        found: In all windows.
        windows: What Tiling.windows gave.
        width: Of the image, in pixels.
        height: Likewise.
    """
    cut = _cut_sides(found, windows, width, height)
    parts = []
    for label in np.unique(found.labels):
        of_class = np.flatnonzero(found.labels == label)
        rows, sides = found.rows(of_class), cut[of_class]
        inner, outer = np.flatnonzero(~sides.any(axis=1)), np.flatnonzero(sides.any(axis=1))
        outer = outer[~_is_part(rows.rows(outer), rows.rows(inner))]
        parts.append(_suppress(TileBoxes.joined([rows.rows(inner), _stitch(rows.rows(outer), sides[outer])])))
    if not parts:
        return found
    merged = TileBoxes.joined(parts)
    return merged.rows(np.argsort(-merged.scores, kind="stable"))


def _cut_sides(found: TileBoxes, windows: list[Window], width: int, height: int) -> np.ndarray:
    """bool [N, 4]: whether each box ends at the left, top, right, bottom border of its window, inside the image."""
    table = np.array(windows, np.float64).reshape(-1, 4)
    own = table[found.windows]
    margin = np.maximum(MARGIN * (own[:, 2:] - own[:, :2]), 1.0)
    low = (found.boxes[:, :2] <= own[:, :2] + margin) & (own[:, :2] > 0)
    high = (found.boxes[:, 2:] >= own[:, 2:] - margin) & (own[:, 2:] < (width, height))
    return np.concatenate([low, high], axis=1)


def _area(boxes: np.ndarray) -> np.ndarray:
    areas: np.ndarray = (boxes[:, 2:] - boxes[:, :2]).clip(min=0).prod(axis=1)
    return areas


def _shared(box: np.ndarray, boxes: np.ndarray) -> np.ndarray:
    """Area that `box` [4] has in common with each of `boxes` [N, 4]."""
    low, high = np.maximum(box[:2], boxes[:, :2]), np.minimum(box[2:], boxes[:, 2:])
    areas: np.ndarray = (high - low).clip(min=0).prod(axis=1)
    return areas


def _is_part(cut: TileBoxes, whole: TileBoxes) -> np.ndarray:
    """bool [N]: for which cut boxes another window has a box that is whole and holds it."""
    areas = _area(cut.boxes)
    held = np.zeros(len(areas), bool)
    for k, box in enumerate(cut.boxes):
        over = _shared(box, whole.boxes) >= PART * max(areas[k], 1e-9)
        held[k] = bool((over & (whole.windows != cut.windows[k])).any())
    return held


def _stitch(parts: TileBoxes, sides: np.ndarray) -> TileBoxes:
    """Parts of one object that lie on both sides of a border become one box around them, with the best score.

    It counts as found in a window of its own (a negative number).
    """
    count = len(parts.scores)
    group = np.arange(count)
    for k in range(count):
        rest = np.arange(k + 1, count)
        same = rest[_continue(parts, sides, k, rest)]
        for other in same:
            group[group == group[other]] = group[k]
    boxes, scores, windows = [], [], []
    for number, root in enumerate(np.unique(group)):
        members = np.flatnonzero(group == root)
        around = parts.boxes[members]
        boxes.append(np.concatenate([around[:, :2].min(axis=0), around[:, 2:].max(axis=0)]))
        scores.append(parts.scores[members].max())
        windows.append(-1 - number if len(members) > 1 else parts.windows[members[0]])
    return TileBoxes(
        np.array(boxes, np.float64).reshape(-1, 4),
        np.array(scores, parts.scores.dtype),
        parts.labels[: len(scores)],
        np.array(windows, np.int64),
    )


def _continue(parts: TileBoxes, sides: np.ndarray, k: int, rest: np.ndarray) -> np.ndarray:
    """bool [M]: which of the `rest` goes on beyond the border where part k is cut."""
    box, others = parts.boxes[k], parts.boxes[rest]
    agrees = np.zeros(len(rest), bool)
    for axis in (0, 1):
        along = 1 - axis
        meet = (box[axis] <= others[:, axis + 2]) & (others[:, axis] <= box[axis + 2])
        opposite = (sides[k, axis] & sides[rest, axis + 2]) | (sides[k, axis + 2] & sides[rest, axis])
        common = np.minimum(box[along + 2], others[:, along + 2]) - np.maximum(box[along], others[:, along])
        either = np.maximum(box[along + 2], others[:, along + 2]) - np.minimum(box[along], others[:, along])
        agrees |= meet & opposite & (common >= SAME_SPAN * np.maximum(either, 1e-9))
    agrees &= parts.windows[rest] != parts.windows[k]
    return agrees


def _suppress(found: TileBoxes) -> TileBoxes:
    """Greedy NMS over the boxes of one class."""
    left = found.rows(np.argsort(-found.scores, kind="stable"))
    areas = _area(left.boxes)
    kept = []
    while len(left.scores):
        kept.append(left.rows(np.array([0])))
        shared = _shared(left.boxes[0], left.boxes)
        union = np.maximum(areas + areas[0] - shared, 1e-9)
        smaller = np.maximum(np.minimum(areas, areas[0]), 1e-9)
        elsewhere = left.windows != left.windows[0]
        stays = (shared <= NMS_IOU * union) & ~(elsewhere & (shared > NMS_INSIDE * smaller))
        stays[0] = False
        left, areas = left.rows(stays), areas[stays]
    if not kept:
        return found
    return TileBoxes.joined(kept)
