"""Average precision as PASCAL VOC defines it.

Source: the VOC development kit, VOCevaldet.m and VOCap.m (2007: 11 points; 2010 on: the area).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from singleshot.errors import ConfigError
from singleshot.metrics.flat import FlatDetections, FlatTruth, check_labels, flatten
from singleshot.records import ImageDetections, ImageTruth

# The recall levels of VOC2007. They are i * 0.1 in floating point, as every published evaluator has them, so that
# 3 of 10 objects found (0.3 < 0.30000000000000004) do not reach the fourth.
ELEVEN_RECALLS = np.arange(11) * 0.1


class Curve(NamedTuple):
    """Precision against recall of one class, one point per detection, best score first.

    recall, precision, scores: float64 [D]; truths: the number of objects that count (not difficult, not crowd).
    Recall is nan where truths is 0; precision is 0 until a detection counts.
    """

    recall: np.ndarray
    precision: np.ndarray
    scores: np.ndarray
    truths: int


def voc_average_precision(
    detections: Sequence[ImageDetections],
    ground_truth: Sequence[ImageTruth],
    num_classes: int,
    iou_min: float = 0.5,
    eleven_point: bool = True,
    inclusive_pixels: bool = False,
) -> np.ndarray:
    """Average precision of each class: float64 [num_classes], nan for a class without ground truth.

    Image i of `detections` is image i of `ground_truth`; boxes in pixels. Objects marked difficult or crowd
    neither count nor hurt. `eleven_point` takes VOC2007's mean over 11 recall levels, otherwise the area under
    the curve (VOC2010 on). `inclusive_pixels` counts a box from x0 to x1 as x1 - x0 + 1 pixels wide, as the devkit
    does with raw VOC coordinates; boxes as the VOC reader gives them are continuous already and do not need it.
    An IoU of exactly `iou_min` matches (VOCevaldet.m: ovmax >= minoverlap).
    Raises DataError where the arrays do not fit together, ConfigError for an impossible iou_min.
    """
    found, truth = flatten(detections, ground_truth)
    curves = voc_curves(found, truth, num_classes, iou_min, inclusive_pixels)
    return np.array([average_precision(curve, eleven_point) for curve in curves], np.float64)


def voc_curves(
    found: FlatDetections,
    truth: FlatTruth,
    num_classes: int,
    iou_min: float = 0.5,
    inclusive_pixels: bool = False,
) -> list[Curve]:
    """Precision and recall of each class over the whole data set, matched as VOCevaldet.m does.

    Raises DataError for a label outside the classes, ConfigError for an iou_min outside 0 < iou_min <= 1.
    """
    if not 0.0 < iou_min <= 1.0:
        raise ConfigError(f"IoU threshold {iou_min}: want more than 0 and at most 1")
    check_labels(found, truth, num_classes)
    # One sort by class instead of one scan per class; stable, so images stay in order within a class.
    found_order = np.lexsort((-found.scores, found.labels))
    truth_order = np.argsort(truth.labels, kind="stable")
    found_ends = np.searchsorted(found.labels[found_order], np.arange(num_classes + 1))
    truth_ends = np.searchsorted(truth.labels[truth_order], np.arange(num_classes + 1))
    ignored = truth.ignored
    curves = []
    for label in range(num_classes):
        mine = found_order[found_ends[label] : found_ends[label + 1]]
        objects = truth_order[truth_ends[label] : truth_ends[label + 1]]
        overlap, best = best_overlaps(
            found.boxes[mine],
            found.image[mine],
            truth.boxes[objects],
            truth.image[objects],
            inclusive_pixels,
        )
        hit, miss = _judge(overlap, best, ignored[objects], iou_min)
        truths = int(np.count_nonzero(~ignored[objects]))
        curves.append(_curve(hit, miss, found.scores[mine], truths))
    return curves


def average_precision(curve: Curve, eleven_point: bool) -> float:
    """VOC2007's mean over 11 recalls, or the area under the envelope (VOCap.m); nan without ground truth."""
    if curve.truths == 0:
        return float("nan")
    # Best precision at this recall or any higher one.
    envelope = np.maximum.accumulate(curve.precision[::-1])[::-1]
    if eleven_point:
        first = np.searchsorted(curve.recall, ELEVEN_RECALLS)
        return float(np.append(envelope, 0.0)[first].sum() / 11)
    steps = np.diff(curve.recall, prepend=0.0)
    return float((steps * envelope).sum())


def best_overlaps(
    boxes: np.ndarray,
    image: np.ndarray,
    truth_boxes: np.ndarray,
    truth_image: np.ndarray,
    inclusive_pixels: bool = False,
) -> tuple[np.ndarray, np.ndarray]:
    """IoU [D] and index [D] of the object with the greatest IoU in each detection's image (the first of equals).

    boxes [D, 4], image [D]; truth_boxes [M, 4], truth_image [M] ascending. Index -1 and IoU 0 where nothing overlaps.
    """
    extra = 1.0 if inclusive_pixels else 0.0
    start = np.searchsorted(truth_image, image, side="left")
    count = np.searchsorted(truth_image, image, side="right") - start
    area = _areas(boxes, extra)
    truth_area = _areas(truth_boxes, extra)
    best_iou = np.zeros(len(boxes))
    best = np.full(len(boxes), -1)
    alive = np.flatnonzero(count)
    rank = 0
    # The k-th object of every image at once: as many rounds as the fullest image has objects of this class.
    while len(alive):
        objects = start[alive] + rank
        low = np.maximum(boxes[alive, :2], truth_boxes[objects, :2])
        high = np.minimum(boxes[alive, 2:], truth_boxes[objects, 2:])
        sides = np.maximum(high - low + extra, 0.0)
        inner = sides[:, 0] * sides[:, 1]
        outer = area[alive] + truth_area[objects] - inner
        iou = np.divide(inner, outer, out=np.zeros_like(inner), where=outer > 0)
        better = iou > best_iou[alive]
        best_iou[alive[better]] = iou[better]
        best[alive[better]] = objects[better]
        rank += 1
        alive = alive[count[alive] > rank]
    return best_iou, best


def _areas(boxes: np.ndarray, extra: float) -> np.ndarray:
    areas: np.ndarray = np.maximum(boxes[:, 2:] - boxes[:, :2] + extra, 0.0).prod(axis=1)
    return areas


def _judge(overlap: np.ndarray, best: np.ndarray, ignored: np.ndarray, iou_min: float) -> tuple[np.ndarray, np.ndarray]:
    """Which detections, best first, are true and which are false; those on an ignored object are neither."""
    matched = overlap >= iou_min
    on_ignored = matched.copy()
    on_ignored[matched] = ignored[best[matched]]
    claims = np.flatnonzero(matched & ~on_ignored)
    # The first to claim an object has it; a later claim is false and does not fall to the second best object.
    _, first = np.unique(best[claims], return_index=True)
    hit = np.zeros(len(overlap), np.bool_)
    hit[claims[first]] = True
    return hit, ~hit & ~on_ignored


def _curve(hit: np.ndarray, miss: np.ndarray, scores: np.ndarray, truths: int) -> Curve:
    hits, misses = np.cumsum(hit, dtype=np.float64), np.cumsum(miss, dtype=np.float64)
    recall = hits / truths if truths else np.full(len(hits), np.nan)
    # Nothing counted yet if the first detections lie on difficult objects: precision 0, as VOCap.m's max ignores nan.
    precision = hits / np.maximum(hits + misses, 1.0)
    return Curve(recall, precision, scores, truths)
