"""The confusion matrix: as which class each object was found, what was missed, what was found on nothing."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from singleshot.metrics.boxes_numpy import pairwise_iou
from singleshot.metrics.flat import FlatDetections, FlatTruth


class Confusion(NamedTuple):
    """counts: int64 [C + 1, C + 1], a row for each class of an object, a column for each class of a detection; the last
    row holds detections on nothing, the last column objects that no detection is on. score_min: detections from this
    score on; iou_min: from which IoU a detection is on an object."""

    counts: np.ndarray
    score_min: float
    iou_min: float


def confusion_matrix(
    found: FlatDetections, truth: FlatTruth, classes: int, score_min: float, iou_min: float = 0.5
) -> Confusion:
    """Pair detections and objects one to one, those of the same class first, then by IoU, whatever their class.

    Difficult and crowd objects do not count, nor do detections that lie on one.
    """
    counts = np.zeros((classes + 1, classes + 1), np.int64)
    chosen = np.flatnonzero(found.scores >= score_min)
    images = np.union1d(found.image[chosen], truth.image)
    starts = np.searchsorted(found.image[chosen], [images, images + 1])
    ends = np.searchsorted(truth.image, [images, images + 1])
    for a, b, c, d in zip(*starts, *ends, strict=True):
        mine, theirs = chosen[a:b], np.arange(c, d)
        overlap = pairwise_iou(found.boxes[mine], truth.boxes[theirs])
        same = found.labels[mine, None] == truth.labels[None, theirs]
        rows, columns = match_one_to_one(overlap + same, overlap >= iou_min)
        counted = ~truth.ignored[theirs[columns]]
        np.add.at(counts, (truth.labels[theirs[columns[counted]]], found.labels[mine[rows[counted]]]), 1)
        missed = np.setdiff1d(np.flatnonzero(~truth.ignored[theirs]), columns)
        np.add.at(counts, (truth.labels[theirs[missed]], classes), 1)
        extra = np.setdiff1d(np.arange(len(mine)), rows)
        extra = extra[~(overlap[extra][:, truth.ignored[theirs]] >= iou_min).any(axis=1)]
        np.add.at(counts, (classes, found.labels[mine[extra]]), 1)
    return Confusion(counts, float(score_min), float(iou_min))


def match_one_to_one(value: np.ndarray, allowed: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Rows and columns of pairs, greatest value [n, m] first, each row and column once, where allowed [n, m]."""
    rows, columns = np.nonzero(allowed)
    order = np.argsort(-value[rows, columns], kind="stable")
    row_free, column_free = np.ones(value.shape[0], bool), np.ones(value.shape[1], bool)
    pairs = []
    for i, j in zip(rows[order].tolist(), columns[order].tolist(), strict=True):
        if row_free[i] and column_free[j]:
            row_free[i] = column_free[j] = False
            pairs.append((i, j))
    found = np.array(pairs, np.int64).reshape(-1, 2)
    return found[:, 0], found[:, 1]
