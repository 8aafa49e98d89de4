"""The picture of precision-recall curves."""

from __future__ import annotations

import sys
import warnings

import cv2
import numpy as np
import pytest

from singleshot.errors import MissingExtraError
from singleshot.metrics import evaluate
from singleshot.report.curves import draw_curves


def evaluation(classes, metric="voc07", names=None, objects=True):
    rng = np.random.default_rng(0)
    corner = rng.random((30, 4, 2)) * 300
    boxes = np.concatenate((corner, corner + 40), 2)
    labels = rng.integers(0, classes, (30, 4))
    scores = rng.random((30, 4))
    found = boxes + rng.normal(0, 6, boxes.shape)
    truth = [(b, c) if objects else ([], []) for b, c in zip(boxes, labels, strict=True)]
    names = names or [f"class {i}" for i in range(classes)]
    return evaluate(list(zip(found, scores, labels, strict=True)), truth, metric, names)


def colours(path):
    return len(np.unique(cv2.imread(str(path)).reshape(-1, 3), axis=0))


@pytest.mark.parametrize(("classes", "metric"), [(3, "voc07"), (20, "voc"), (20, "coco")])
def test_draws_a_picture(tmp_path, classes, metric):
    path = tmp_path / "run" / "curves.png"
    draw_curves(evaluation(classes, metric), path)
    assert path.read_bytes().startswith(b"\x89PNG")
    picture = cv2.imread(str(path))
    assert picture.shape[0] > 500
    assert picture.shape[1] > 800
    # The first class's colour (tab10's first, 1f77b4) is there: line, legend entry and dot.
    assert (picture == (0xB4, 0x77, 0x1F)).all(-1).sum() > 200
    assert [p.name for p in path.parent.iterdir()] == ["curves.png"]


def test_no_ground_truth_still_gives_a_picture(tmp_path):
    draw_curves(evaluation(3, objects=False), tmp_path / "empty.png")
    draw_curves(evaluation(3), tmp_path / "full.png")
    assert colours(tmp_path / "empty.png") < colours(tmp_path / "full.png")
    draw_curves(evaluate([], []), tmp_path / "nothing.png")


def test_hostile_class_names(tmp_path):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        draw_curves(evaluation(3, names=["_hidden", "$\\frac$ a\nb", "血小板"]), tmp_path / "names.png")
    draw_curves(evaluation(3, names=["", "", ""]), tmp_path / "no_names.png")
    # Names take part in the picture, the one that begins with an underscore too.
    draw_curves(evaluation(3, names=["_hidden", "", ""]), tmp_path / "one_name.png")
    assert (tmp_path / "one_name.png").read_bytes() != (tmp_path / "no_names.png").read_bytes()


def test_pyplot_is_not_touched(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib.pyplot", None)
    draw_curves(evaluation(3), tmp_path / "curves.png")
    assert (tmp_path / "curves.png").is_file()


def test_its_absence_names_the_extra(tmp_path, monkeypatch):
    for name in ("matplotlib", "matplotlib.figure", "matplotlib.backends.backend_agg"):
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(MissingExtraError, match=r"pip install 'singleshot\[report\]'"):
        draw_curves(evaluation(3), tmp_path / "curves.png")
    assert not list(tmp_path.iterdir())
