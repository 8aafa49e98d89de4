"""The confusion matrix of cases that can be counted by hand."""

from __future__ import annotations

import numpy as np

from singleshot.metrics.confusion import confusion_matrix, match_one_to_one
from singleshot.metrics.flat import flatten

A, B, C = [0, 0, 10, 10], [20, 0, 30, 10], [40, 0, 50, 10]
NOTHING = [0, 50, 10, 60]


def matrix(detections, truth, score_min=0.5, classes=2):
    return confusion_matrix(*flatten(detections, truth), classes, score_min).counts.tolist()


def test_found_confused_missed_and_on_nothing() -> None:
    found = ([A, B, NOTHING, C], [0.9, 0.8, 0.7, 0.4], [0, 0, 1, 1])
    truth = ([A, B, C], [0, 1, 1])
    # A as itself, B as the other class, C missed: its detection is below the threshold.
    assert matrix([found], [truth]) == [[1, 0, 0], [1, 0, 1], [0, 1, 0]]
    assert matrix([found], [truth], 0.3) == [[1, 0, 0], [1, 1, 0], [0, 1, 0]]


def test_the_right_class_has_the_object_even_where_another_lies_better() -> None:
    found = ([[0, 0, 10, 10], [0, 0, 10, 8]], [0.9, 0.8], [1, 0])
    assert matrix([found], [([A], [0])]) == [[1, 0, 0], [0, 0, 0], [0, 1, 0]]


def test_difficult_objects_do_not_count() -> None:
    found = ([A, [0, 1, 10, 11]], [0.9, 0.8], [0, 0])
    assert matrix([found], [([A], [0], [True])]) == [[0, 0, 0], [0, 0, 0], [0, 0, 0]]


def test_images_keep_to_themselves() -> None:
    nothing = (np.zeros((0, 4)), [], [])
    assert matrix([([A], [0.9], [0]), nothing], [([], []), ([A], [0])]) == [[0, 0, 1], [0, 0, 0], [1, 0, 0]]
    assert matrix([], []) == [[0, 0, 0]] * 3


def test_pairs_are_taken_greatest_first() -> None:
    value = np.array([[0.9, 0.8], [0.85, 0.1]])
    assert [v.tolist() for v in match_one_to_one(value, value > 0)] == [[0, 1], [0, 1]]
    assert [v.tolist() for v in match_one_to_one(value, value > 0.5)] == [[0], [0]]
