"""Suspected label errors: one of each kind is put into labels that are right, and found."""

from __future__ import annotations

import numpy as np
import pytest

from singleshot.metrics.flat import flatten
from singleshot.metrics.label_errors import LABEL_KINDS, REPORTED, find_label_errors, suspect_rows

IMAGES, OBJECTS = 20, 6


def scene():
    """Objects in a row with room between them, each found well; some slight detections on nothing."""
    rng = np.random.default_rng(0)
    x = np.arange(OBJECTS) * 100.0 + 20
    boxes = np.stack([x, x * 0 + 20, x + 40, x * 0 + 60], 1)
    labels = np.arange(OBJECTS) % 3
    truth = [[boxes.copy(), labels.copy()] for _ in range(IMAGES)]
    detections = []
    for _ in range(IMAGES):
        scores = rng.uniform(0.9, 0.99, OBJECTS)
        found = boxes + rng.normal(0, 1, boxes.shape)
        noise = np.array([[20.0, 200, 60, 240]])
        detections.append((np.concatenate([found, noise]), np.append(scores, 0.2), np.append(labels, 0)))
    return detections, truth


def suspects(detections, truth):
    return find_label_errors(*flatten(detections, [tuple(one) for one in truth]))


def spoil(kind: str, truth) -> int:
    """Put an error into the third image; gives the row of the label concerned among all, -1 for none."""
    boxes, labels = truth[2]
    start = 2 * OBJECTS
    if kind == "missing":
        truth[2] = [boxes[1:], labels[1:]]
        return -1
    if kind == "class":
        labels[0] = 1
    elif kind == "moved":
        boxes[0] += [18, 18, 18, 18]
    elif kind == "doubled":
        truth[2] = [np.concatenate([boxes, boxes[:1] + 3]), np.append(labels, labels[0])]
        return start + OBJECTS
    elif kind == "spurious":
        truth[2] = [np.concatenate([boxes, [[300, 300, 340, 340]]]), np.append(labels, 2)]
        return start + OBJECTS
    return start


def test_right_labels_are_not_suspected() -> None:
    assert suspects(*scene()) == []


@pytest.mark.parametrize("region", [[0, 0, 600, 300], [0, 0, 45, 70]])
@pytest.mark.parametrize("label", [0, 1])
def test_what_is_found_in_a_crowd_of_its_class_is_no_missing_label(region: list[float], label: int) -> None:
    detections, truth = scene()
    spoil("missing", truth)  # of class 0, which the crowd has or has not
    boxes, labels = truth[2]
    crowd = np.arange(OBJECTS) == OBJECTS - 1
    truth[2] = [np.concatenate([boxes, [region]]), np.append(labels, label), np.zeros(OBJECTS, bool), crowd]
    assert [one.kind for one in suspects(detections, truth)] == ["missing"] * (label == 1)


@pytest.mark.parametrize("kind", LABEL_KINDS)
def test_each_kind_is_found_as_what_it_is_and_nothing_else(kind: str) -> None:
    detections, truth = scene()
    row = spoil(kind, truth)
    found = suspects(detections, truth)
    assert [(one.kind, one.image, one.label) for one in found] == [(kind, 2, row)]
    assert REPORTED <= found[0].suspicion <= 1.0
    (plain,) = suspect_rows(found)
    assert plain["kind"] == kind
    assert len(plain["box"]) == 4


@pytest.mark.parametrize("shift", [8.5, 15, 25])  # IoU with the object .65, .45, .23 along one side
def test_a_box_that_half_fits_its_object_is_moved_from_iou_one_half_on(shift: float) -> None:
    detections, truth = scene()
    truth[2][0][0] += [shift, 0, shift, 0]
    kinds = [(one.kind, one.image, one.label) for one in suspects(detections, truth)]
    assert kinds == ([] if shift < 10 else [("moved", 2, 2 * OBJECTS)])


def test_what_the_model_does_not_know_is_no_label_error() -> None:
    # Where detections are wrong most of the time, neither does one without a label say anything.
    detections, truth = scene()
    wrong = [(boxes + np.array([0, 300, 0, 300]), scores, labels) for boxes, scores, labels in detections]
    assert suspects(wrong, truth) == []


def test_difficult_objects_are_not_suspected() -> None:
    detections, truth = scene()
    spoil("spurious", truth)
    truth[2].append(np.arange(OBJECTS + 1) == OBJECTS)
    assert suspects(detections, truth) == []


def test_nothing_in_nothing_out() -> None:
    assert suspects([], []) == []
    assert suspects([(np.zeros((0, 4)), [], [])], [[np.zeros((0, 4)), np.zeros(0, int)]]) == []
