"""VOC average precision against public evaluators' figures and a literal, slow devkit."""

from __future__ import annotations

import time
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from singleshot.errors import ConfigError, DataError
from singleshot.metrics import voc_average_precision
from singleshot.metrics.flat import flatten
from singleshot.metrics.voc import average_precision, voc_curves


@pytest.mark.parametrize("difficult", [False, True])
@pytest.mark.parametrize("iou_min", [0.5, 0.75])
@pytest.mark.parametrize("rule", ["voc07", "area"])
@pytest.mark.parametrize(
    ("peer", "key", "inclusive"),
    [("amdegroot", "aligned_iou{}_{}_ap", False), ("lufficc", "iou{}_{}_ap", True)],
)
def test_agrees_with_public_evaluators(golden, golden_scene, peer, key, inclusive, rule, iou_min, difficult):
    figures = np.load(golden / f"eval_{peer}.npz")
    want = figures[("difficult_" if difficult else "") + key.format(iou_min, rule)]
    detections, truth, classes = golden_scene(difficult)
    got = voc_average_precision(detections, truth, classes, iou_min, rule == "voc07", inclusive)
    # Two pairs of equal scores: both peers sort unstably and happen to have the later image first.
    other_way = voc_average_precision(detections[::-1], truth[::-1], classes, iou_min, rule == "voc07", inclusive)
    np.testing.assert_allclose(other_way, want, rtol=0, atol=1e-6)
    np.testing.assert_allclose(got, want, rtol=0, atol=1e-6 if rule == "voc07" or difficult else 1e-5)


def slow_iou(a, b, extra):
    width = min(a[2], b[2]) - max(a[0], b[0]) + extra
    height = min(a[3], b[3]) - max(a[1], b[1]) + extra
    if width <= 0 or height <= 0:
        return None
    both = width * height
    area_a = (a[2] - a[0] + extra) * (a[3] - a[1] + extra)
    area_b = (b[2] - b[0] + extra) * (b[3] - b[1] + extra)
    return Fraction(both, area_a + area_b - both)


def slow_devkit(detections, truth, label, iou_min, eleven_point, extra):
    """VOCevaldet.m line by line, in exact fractions of whole-number boxes."""
    objects = [[(box, hard) for box, name, hard in zip(*image, strict=True) if name == label] for image in truth]
    positives = sum(not hard for image in objects for _, hard in image)
    if positives == 0:
        return None
    taken = [[False] * len(image) for image in objects]
    queue = [
        (score, i, box)
        for i, image in enumerate(detections)
        for box, score, name in zip(*image, strict=True)
        if name == label
    ]
    queue.sort(key=lambda row: -row[0])
    recall, precision, tp, fp = [], [], 0, 0
    for _, i, box in queue:
        best, best_iou = None, Fraction(-1)
        for j, (other, _) in enumerate(objects[i]):
            overlap = slow_iou(box, other, extra)
            if overlap is not None and overlap > best_iou:
                best, best_iou = j, overlap
        if best_iou < iou_min:
            fp += 1
        elif not objects[i][best][1]:
            if taken[i][best]:
                fp += 1
            else:
                tp += 1
                taken[i][best] = True
        recall.append(tp / positives)
        precision.append(tp / (tp + fp) if tp + fp else 0.0)
    if eleven_point:
        levels = np.arange(0.0, 1.1, 0.1)
        points = list(zip(recall, precision, strict=True))
        return sum(max((p for r, p in points if r >= t), default=0.0) / 11 for t in levels)
    recall, precision = [0.0, *recall, 1.0], [0.0, *precision, 0.0]
    for k in range(len(precision) - 2, -1, -1):
        precision[k] = max(precision[k], precision[k + 1])
    return sum((recall[k + 1] - recall[k]) * precision[k + 1] for k in range(len(recall) - 1))


# Whole numbers in a small square make equal scores, equal IoUs and IoUs of exactly 1/2 common.
boxes = st.tuples(*[st.integers(0, 6)] * 2, *[st.integers(1, 6)] * 2).map(
    lambda b: (b[0], b[1], b[0] + b[2], b[1] + b[3])
)
labels = st.integers(0, 1)
found_images = st.lists(st.tuples(boxes, st.integers(1, 8).map(lambda k: k / 8), labels), max_size=8)
truth_images = st.lists(st.tuples(boxes, labels, st.booleans()), max_size=5)


def columns(rows):
    return tuple(zip(*rows, strict=True)) if rows else ((), (), ())


@settings(max_examples=300, deadline=None)
@given(
    st.lists(st.tuples(found_images, truth_images), max_size=4),
    st.sampled_from([0.25, 0.5, 0.75, 1.0]),
    st.booleans(),
    st.booleans(),
)
def test_agrees_with_the_literal_devkit(images, iou_min, eleven_point, inclusive):
    detections = [columns(found) for found, _ in images]
    truth = [columns(objects) for _, objects in images]
    got = voc_average_precision(detections, truth, 2, iou_min, eleven_point, inclusive)
    for label in (0, 1):
        want = slow_devkit(detections, truth, label, iou_min, eleven_point, int(inclusive))
        assert np.isnan(got[label]) if want is None else got[label] == pytest.approx(want, abs=1e-12)


SQUARE = [0.0, 0.0, 10.0, 10.0]


def one_class(found, objects, **options):
    """AP of one image: found [(box, score)], objects [(box, difficult)]."""
    detections = [([box for box, _ in found], [score for _, score in found], [0] * len(found))]
    truth = [([box for box, _ in objects], [0] * len(objects), [hard for _, hard in objects])]
    return float(voc_average_precision(detections, truth, 1, **options)[0])


def test_a_second_detection_is_false_and_does_not_fall_to_the_second_best_object():
    beside = [0.0, 2.0, 10.0, 12.0]
    # Both detections like SQUARE best, and the second would match `beside` too (IoU 9/11 and 7/9).
    found = [(SQUARE, 0.9), ([0.0, 0.9, 10.0, 10.9], 0.8)]
    assert one_class(found, [(SQUARE, False), (beside, False)], eleven_point=False) == pytest.approx(0.5)


def test_detections_on_difficult_objects_neither_count_nor_hurt():
    other = [50.0, 50.0, 60.0, 60.0]
    found = [(SQUARE, 0.9), (SQUARE, 0.8), (other, 0.7)]
    assert one_class(found, [(SQUARE, True), (other, False)]) == pytest.approx(1.0)
    assert one_class(found, [(SQUARE, False), (other, False)], eleven_point=False) == pytest.approx(0.5 + 1 / 3)


def test_crowd_counts_as_difficult_does():
    detections = [([SQUARE, [50, 50, 60, 60]], [0.9, 0.8], [0, 0])]
    truth = [([SQUARE, [50, 50, 60, 60]], [0, 0], None, [True, False])]
    assert voc_average_precision(detections, truth, 1)[0] == pytest.approx(1.0)


def test_an_iou_of_exactly_the_threshold_matches():
    assert one_class([([0.0, 0.0, 10.0, 5.0], 0.9)], [(SQUARE, False)]) == pytest.approx(1.0)
    assert one_class([([0.0, 0.0, 10.0, 4.99], 0.9)], [(SQUARE, False)]) == 0.0


def test_inclusive_pixels_widen_every_box_by_one():
    # Continuous: 50 / 110 of overlap; inclusive: 66 / 126.
    found, objects = [([0.0, 5.0, 10.0, 11.0], 0.9)], [(SQUARE, False)]
    assert one_class(found, objects, inclusive_pixels=True) == pytest.approx(1.0)
    assert one_class(found, objects, inclusive_pixels=False) == 0.0


def test_a_class_without_ground_truth_is_nan_and_one_without_detections_is_zero():
    detections = [([SQUARE], [0.9], [0])]
    truth = [([SQUARE, SQUARE], [1, 2], [False, True])]
    np.testing.assert_array_equal(voc_average_precision(detections, truth, 3), [np.nan, 0.0, np.nan])


def test_boxes_without_area_match_nothing():
    point = [3.0, 3.0, 3.0, 3.0]
    assert one_class([(point, 0.9)], [(point, False)]) == 0.0
    assert one_class([(point, 0.9)], [(point, False)], inclusive_pixels=True) == pytest.approx(1.0)


def test_curves_hold_one_point_per_detection_best_first():
    found, truth = flatten(
        [([SQUARE, SQUARE, [90, 90, 99, 99]], [0.2, 0.9, 0.5], [0, 0, 0])],
        [([SQUARE, [30, 30, 40, 40]], [0, 0])],
    )
    (curve,) = voc_curves(found, truth, 1)
    np.testing.assert_allclose(curve.scores, [0.9, 0.5, 0.2])
    np.testing.assert_allclose(curve.recall, [0.5, 0.5, 0.5])
    np.testing.assert_allclose(curve.precision, [1, 1 / 2, 1 / 3])
    assert curve.truths == 2
    assert average_precision(curve, eleven_point=False) == pytest.approx(0.5)
    assert average_precision(curve, eleven_point=True) == pytest.approx(6 / 11)


def test_nothing_at_all():
    assert voc_average_precision([], [], 0).shape == (0,)
    assert np.isnan(voc_average_precision([], [], 2)).all()


def test_many_detections_are_quick():
    rng = np.random.default_rng(0)
    corner = rng.random((1000, 200, 2)) * 300
    boxes = np.concatenate((corner, corner + 50), 2)
    detections = [(b, rng.random(200), rng.integers(0, 20, 200)) for b in boxes]
    truth = [(b[:3], np.arange(3)) for b in boxes]
    start = time.process_time()
    voc_average_precision(detections, truth, 20)
    # 200,000 detections; measured 0.07 s.
    assert time.process_time() - start < 2


@pytest.mark.parametrize("iou_min", [0.0, -1.0, 1.01, float("nan")])
def test_an_impossible_iou_threshold_is_the_users_mistake(iou_min):
    with pytest.raises(ConfigError, match="IoU threshold"):
        one_class([(SQUARE, 0.9)], [(SQUARE, False)], iou_min=iou_min)


@pytest.mark.parametrize(
    ("detections", "truth", "message"),
    [
        ([], [([SQUARE], [0])], "detections of 0 images but ground truth of 1"),
        ([([SQUARE], [0.5], [3])], [([], [])], "image 0: detection with label 3, want 0 to 1"),
        ([([], [], [])], [([SQUARE], [2])], "image 0: object with label 2, want 0 to 1"),
        ([([SQUARE], [0.5, 0.6], [0])], [([], [])], "detections of image 0: 1 boxes but scores of shape"),
        ([([SQUARE], [np.nan], [0])], [([], [])], "detections of image 0: scores nan"),
        ([([SQUARE], [0.5], [0.5])], [([], [])], "detections of image 0: labels float64"),
        ([([SQUARE], [0.5], [-1])], [([], [])], "detections of image 0: labels int64 from -1"),
        ([([SQUARE[:3]], [0.5], [0])], [([], [])], "detections of image 0: boxes of shape"),
        ([([SQUARE], [0.5])], [([], [])], "detections of image 0: 2 arrays"),
        ([([], [], [])], [([[0, 0, np.inf, 1]], [0])], "ground truth of image 0: boxes"),
        ([([], [], [])], [([SQUARE], [0], [True, False])], "ground truth of image 0: 1 boxes but difficult"),
        ([([], [], [])], [([SQUARE],)], "ground truth of image 0: 1 arrays"),
    ],
)
def test_arrays_that_do_not_fit_are_named(detections, truth, message):
    with pytest.raises(DataError) as caught:
        voc_average_precision(detections, truth, 2)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)
