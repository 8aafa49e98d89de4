"""Precision, recall and F1 against the score from which detections are kept, and the best such score."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from singleshot.metrics.voc import Curve

_STEPS = 200  # thresholds, in steps of .005


class OperatingPoints(NamedTuple):
    """thresholds: float64 [T], 0 to 1; precision, recall, f1: float64 [C, T], nan for a class without objects, and
    precision nan where nothing is kept; mean_precision, mean_recall, mean_f1: float64 [T] over the classes that have
    objects; best: the threshold with the greatest mean F1, of equals the middle one; None where nothing is measured."""

    thresholds: np.ndarray
    precision: np.ndarray
    recall: np.ndarray
    f1: np.ndarray
    mean_precision: np.ndarray
    mean_recall: np.ndarray
    mean_f1: np.ndarray
    best: float | None


def operating_points(curves: Sequence[Curve]) -> OperatingPoints:
    """What keeping detections from each score on gives, of curves by class."""
    thresholds = np.arange(_STEPS + 1) / _STEPS
    precision, recall, f1 = np.full((3, len(curves), len(thresholds)), np.nan)
    for i, curve in enumerate(curves):
        if curve.truths == 0:
            continue
        # How many detections score at least each threshold; scores are sorted, best first.
        kept = np.searchsorted(-curve.scores.astype(np.float64), -thresholds + 1e-9, side="right")
        last = np.maximum(kept - 1, 0)
        some = kept > 0
        if len(curve.scores):
            precision[i] = np.where(some, curve.precision[last], np.nan)
            recall[i] = np.where(some, curve.recall[last], 0.0)
        else:
            recall[i] = 0.0
        known = np.nan_to_num(precision[i])
        total = known + recall[i]
        f1[i] = np.divide(2 * known * recall[i], total, out=np.zeros_like(total), where=total > 0)
    measured = [i for i, curve in enumerate(curves) if curve.truths]
    means = [_mean(values[measured]) for values in (precision, recall, f1)]
    best = None
    if measured and means[2].max() > 0:
        top = np.flatnonzero(means[2] >= means[2].max() - 1e-12)
        best = float(thresholds[top[len(top) // 2]])
    return OperatingPoints(thresholds, precision, recall, f1, means[0], means[1], means[2], best)


def _mean(values: np.ndarray) -> np.ndarray:
    """Mean [T] over the rows of what is known; nan where nothing is."""
    known = ~np.isnan(values)
    count = known.sum(axis=0)
    mean: np.ndarray = np.divide(
        np.where(known, values, 0.0).sum(axis=0), count, out=np.full(values.shape[1], np.nan), where=count > 0
    )
    return mean
