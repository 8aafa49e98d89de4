"""Detections in the forms of supervision and pandas: boxes, scores and names as they are."""

from __future__ import annotations

import sys

import numpy as np
import pandas
import pytest
import supervision

from singleshot.errors import MissingExtraError


def test_supervision_takes_boxes_scores_and_names(found) -> None:
    detections = found()
    theirs = detections.to_supervision()
    np.testing.assert_array_equal(theirs.xyxy, detections.boxes)
    np.testing.assert_array_equal(theirs.confidence, detections.scores)
    assert theirs.class_id.tolist() == detections.labels.tolist()
    assert theirs["class_name"].tolist() == list(detections.names)
    assert len(theirs[theirs.confidence > 0.8]) == len(detections.above(0.8))
    drawn = supervision.BoxAnnotator().annotate(np.zeros((480, 640, 3), np.uint8), theirs)
    assert drawn.any()


def test_supervision_takes_an_image_without_objects(found) -> None:
    empty = found()[[]].to_supervision()
    assert len(empty) == 0 and empty.xyxy.shape == (0, 4)
    assert len(supervision.Detections.merge([empty, found().to_supervision()])) == len(found())


def test_pandas_has_a_row_for_each_object(found) -> None:
    detections = found()
    frame = detections.to_pandas()
    assert list(frame.columns) == ["image", "name", "label", "score", "x0", "y0", "x1", "y1"]
    np.testing.assert_array_equal(frame[["x0", "y0", "x1", "y1"]].to_numpy(), detections.boxes)
    assert frame["name"].tolist() == list(detections.names) and set(frame["image"]) == {detections.image}
    both = pandas.concat([frame, detections[[]].to_pandas()])
    assert len(both) == len(detections)


@pytest.mark.parametrize(("package", "method"), [("supervision", "to_supervision"), ("pandas", "to_pandas")])
def test_without_the_package_the_extra_is_named(found, monkeypatch, package: str, method: str) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(MissingExtraError, match=rf"singleshot\[{package}\]"):
        getattr(found(), method)()
