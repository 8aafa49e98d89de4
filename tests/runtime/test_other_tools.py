"""Detections in the forms of supervision and pandas: boxes, scores and names as they are."""

from __future__ import annotations

import re
import sys
from dataclasses import replace
from types import ModuleType, SimpleNamespace

import numpy as np
import pandas
import pytest

from singleshot.errors import MissingExtraError


@pytest.fixture
def supervision():
    return pytest.importorskip("supervision", reason="supervision is not installed: it brings parts under the GPL")


def test_supervision_takes_boxes_scores_and_names(found, supervision) -> None:
    detections = found()
    theirs = detections.to_supervision()
    np.testing.assert_array_equal(theirs.xyxy, detections.boxes)
    np.testing.assert_array_equal(theirs.confidence, detections.scores)
    assert theirs.class_id.tolist() == detections.labels.tolist()
    assert theirs["class_name"].tolist() == list(detections.names)
    assert len(theirs[theirs.confidence > 0.8]) == len(detections.above(0.8))
    drawn = supervision.BoxAnnotator().annotate(np.zeros((480, 640, 3), np.uint8), theirs)
    assert drawn.any()


def test_supervision_takes_an_image_without_objects(found, supervision) -> None:
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


def test_boxes_scores_and_names_are_handed_to_supervision(found, monkeypatch) -> None:
    stand_in = ModuleType("supervision")
    stand_in.Detections = SimpleNamespace  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "supervision", stand_in)
    detections = found()
    theirs = detections.to_supervision()
    np.testing.assert_array_equal(theirs.xyxy, detections.boxes)
    np.testing.assert_array_equal(theirs.confidence, detections.scores)
    assert theirs.class_id.tolist() == detections.labels.tolist()
    assert theirs.data["class_name"].tolist() == list(detections.names)
    assert theirs.tracker_id is None
    assert replace(detections, track_ids=np.array([4, 2])).to_supervision().tracker_id.tolist() == [4, 2]


@pytest.mark.parametrize(
    ("package", "method", "command"),
    [("supervision", "to_supervision", "pip install supervision"), ("pandas", "to_pandas", "singleshot[pandas]")],
)
def test_without_the_package_its_installation_is_named(found, monkeypatch, package: str, method: str, command) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(MissingExtraError, match=re.escape(command)):
        getattr(found(), method)()
