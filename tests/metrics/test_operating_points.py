"""Figures against the score threshold, next to a loop that counts again for each of them."""

from __future__ import annotations

import numpy as np
import pytest

from singleshot.metrics import Curve, evaluate
from singleshot.metrics.operating_points import operating_points


def scene(seed: int = 0, images: int = 12):
    rng = np.random.default_rng(seed)
    corner = rng.random((images, 5, 2)) * 200
    boxes = np.concatenate((corner, corner + 30), 2)
    labels = rng.integers(0, 2, (images, 5))
    scores = np.round(rng.random((images, 5)), 2)  # some are equal, some lie on a threshold
    found = boxes + rng.normal(0, 4, boxes.shape)
    detections = list(zip(found, scores, labels, strict=True))
    return detections, list(zip(boxes, labels, strict=True))


def test_each_threshold_is_what_evaluating_the_rest_gives() -> None:
    detections, truth = scene()
    names = ["a", "b", "never there"]
    points = operating_points(evaluate(detections, truth, "voc", names).curves)
    for at in (0, 37, 60, 100, 141, 199, 200):
        curves = evaluate(detections, truth, "voc", names, score_min=float(points.thresholds[at])).curves
        for label, curve in enumerate(curves[:2]):
            if len(curve.scores) == 0:
                assert np.isnan(points.precision[label, at])
                assert points.recall[label, at] == points.f1[label, at] == 0
                continue
            precision, recall = curve.precision[-1], curve.recall[-1]
            assert points.precision[label, at] == pytest.approx(precision)
            assert points.recall[label, at] == pytest.approx(recall)
            assert points.f1[label, at] == pytest.approx(2 * precision * recall / (precision + recall))
        assert np.isnan(points.f1[2, at])  # a class without objects takes no part in the mean
        assert points.mean_f1[at] == pytest.approx(points.f1[:2, at].mean())


def test_the_best_threshold_has_the_greatest_mean_f1() -> None:
    detections, truth = scene(1)
    points = operating_points(evaluate(detections, truth, "voc", ["a", "b"]).curves)
    assert points.best is not None
    at = int(np.argmin(np.abs(points.thresholds - points.best)))
    assert points.mean_f1[at] == pytest.approx(np.nanmax(points.mean_f1))


def test_nothing_to_measure_has_no_best_threshold() -> None:
    empty = np.zeros(0)
    assert operating_points([Curve(empty, empty, empty, 0)]).best is None
    nothing_found = operating_points([Curve(empty, empty, empty, 3)])
    assert nothing_found.best is None
    assert (nothing_found.recall == 0).all()
    assert operating_points([]).best is None
