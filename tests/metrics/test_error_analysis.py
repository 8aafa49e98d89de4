"""Kinds of errors and what they cost, held to tidecv's figures and to cases worked out by hand."""

from __future__ import annotations

import json

import numpy as np
import pytest

from singleshot.errors import ConfigError
from singleshot.metrics import analyse_errors, format_errors
from singleshot.metrics.error_analysis import KINDS, RIGHT
from singleshot.records import ImageDetections, ImageTruth

GAINS = (*KINDS, "false positives", "false negatives")
# tidecv's order.
_TIDE = ("class", "location", "both", "duplicate", "background", "missed")


def _analyse(scene, **options):
    return analyse_errors(scene.detections, scene.truth, [f"class {i}" for i in range(scene.num_classes)], **options)


def _compare(errors, figures, counts, ignored):
    assert errors.ap == pytest.approx(figures[0], abs=1e-9)
    got = [errors.gains[kind] for kind in (*_TIDE, "false positives", "false negatives")]
    np.testing.assert_allclose(got, figures[1:], atol=1e-9)
    mine = [errors.counts[kind] for kind in _TIDE]
    # tidecv counts detections on ignored objects as errors, too.
    assert mine == counts.tolist() if not ignored else all(a <= b for a, b in zip(mine, counts, strict=True))


@pytest.mark.parametrize("difficult", [False, True])
def test_as_tidecv_on_bccd(golden, golden_scene, difficult):
    """1173 detections of 945 objects; every seventh object is difficult in the second case."""
    name = "bccd_difficult" if difficult else "bccd"
    vectors = np.load(golden / "eval_tidecv.npz")
    _compare(_analyse(golden_scene(difficult)), vectors[name], vectors[f"{name}_counts"], difficult)


def test_as_tidecv_on_random_scenes(golden, make_scene):
    """Equal scores, several claims on an object, images without objects or without detections, ignored objects."""
    vectors = np.load(golden / "eval_tidecv.npz")
    seeds = [int(name[5:]) for name in vectors.files if name.startswith("scene") and not name.endswith("counts")]
    assert len(seeds) > 15
    for seed in seeds:
        _compare(_analyse(make_scene(seed, crowd=0.1)), vectors[f"scene{seed}"], vectors[f"scene{seed}_counts"], True)


def _image(boxes, labels, scores=None, difficult=None):
    boxes = np.array(boxes, np.float32).reshape(-1, 4)
    if scores is None:
        return ImageTruth(boxes, np.array(labels, int), None if difficult is None else np.array(difficult))
    return ImageDetections(boxes, np.array(scores, np.float32), np.array(labels, int))


def test_every_kind_by_hand():
    """Two objects of class a, one of b; one detection of each kind, and an object that nobody saw."""
    truth = [_image([[0, 0, 10, 10], [100, 0, 140, 40], [200, 0, 240, 40], [300, 0, 310, 10]], [0, 0, 1, 0])]
    boxes = [
        [0, 0, 10, 10],  # right
        [0, 0, 10, 9],  # once more: duplicate
        [100, 0, 140, 15],  # IoU 15/40: location
        [200, 0, 240, 40],  # an a on a b: class
        [225, 0, 265, 40],  # an a near a b, IoU 15/65: both
        [400, 400, 410, 410],  # background
    ]
    found = [_image(boxes, [0] * 6, [0.9, 0.8, 0.7, 0.6, 0.5, 0.4])]
    errors = analyse_errors(found, truth, ["a", "b"], image_sizes=np.array([[500, 500]]))
    kinds = list(KINDS)
    names = ["right" if kind == RIGHT else kinds[kind] for kind in errors.judged.kind]
    assert names == ["right", "duplicate", "location", "class", "both", "background"]
    assert errors.judged.truth.tolist() == [0, 0, 1, 2, 2, -1]
    assert errors.counts == dict.fromkeys(KINDS, 1)
    assert errors.by_class == {"a": dict.fromkeys(KINDS, 1), "b": dict.fromkeys(KINDS, 0)}
    assert errors.judged.missed.tolist() == [False, False, False, True]
    pixels = {one.name: (one.found, one.objects, one.errors["location"]) for one in errors.by_size[:3]}
    assert pixels == {"under 32 px": (1, 2, 0), "32 to 96 px": (0, 2, 1), "over 96 px": (0, 0, 0)}
    parts = {one.name: (one.found, one.objects) for one in errors.by_size[3:]}
    assert parts == {"under 10 %": (1, 4), "10 to 30 %": (0, 0), "over 30 %": (0, 0)}
    assert all(errors.gains[kind] > 0 for kind in ("class", "location", "missed"))


def test_a_difficult_object_is_no_error():
    """Found or not found, once or often, it neither counts nor hurts."""
    truth = [_image([[0, 0, 10, 10], [50, 50, 60, 60]], [0, 0], difficult=[True, False])]
    found = [_image([[0, 0, 10, 10], [0, 0, 10, 9], [50, 50, 60, 60]], [0, 0, 0], [0.9, 0.8, 0.7])]
    errors = analyse_errors(found, truth, ["a"])
    assert errors.ap == 1.0
    assert set(errors.counts.values()) == {0}
    assert errors.judged.ignored.tolist() == [True, True, False]


def test_without_objects_nothing_is_measured():
    """None, never 0; the counts are those of the detections."""
    found = [_image([[0, 0, 10, 10]], [0], [0.5])]
    errors = analyse_errors(found, [_image([], [])], ["a"])
    assert errors.ap is None
    assert set(errors.gains.values()) == {None}
    assert errors.counts["background"] == 1
    assert "-" in format_errors(errors)
    assert json.loads(json.dumps(errors.to_dict()))["gains"]["missed"] is None
    nothing = analyse_errors([], [], ["a"])
    assert nothing.ap is None and not any(nothing.counts.values())


def test_sizes_of_pictures_that_are_not_known_are_left_out():
    """No part of a picture without its size."""
    truth, found = [_image([[0, 0, 10, 10]], [0])], [_image([[0, 0, 10, 10]], [0], [0.5])]
    errors = analyse_errors(found, truth, ["a"], image_sizes=np.array([[0, 0]]))
    assert [one.name for one in errors.by_size] == ["under 32 px", "32 to 96 px", "over 96 px"]


def test_impossible_thresholds():
    """Background lies below a match."""
    with pytest.raises(ConfigError, match="background"):
        analyse_errors([], [], ["a"], iou_min=0.1, background_iou=0.5)


def test_table():
    """One line each for what it costs and how many; objects by size."""
    truth, found = [_image([[0, 0, 10, 10]], [0])], [_image([[0, 0, 10, 4]], [0], [0.5])]
    text = format_errors(analyse_errors(found, truth, ["a"]))
    assert text.splitlines()[0].split() == ["errors", "at", "IoU", "0.5", *KINDS]
    assert "+1.000" in text
    assert "under 32 px 0 of 1" in text
