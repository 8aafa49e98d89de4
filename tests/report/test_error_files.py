"""eval --errors: lists of all errors, pictures of the worst."""

from __future__ import annotations

import csv

import cv2
import numpy as np
import pytest

from singleshot.errors import ConfigError
from singleshot.metrics import analyse_errors
from singleshot.report import error_files
from singleshot.report.error_examples import FOUND, TRUTH, Example, draw_examples, error_examples
from singleshot.report.error_files import write_errors


def rows(path) -> list[dict[str, str]]:
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def test_every_error_is_listed_and_the_worst_are_pictures(tmp_path, measured, monkeypatch) -> None:
    monkeypatch.setattr(error_files, "PICTURES", 2)
    write_errors(tmp_path / "errors", measured.errors, measured.dataset)
    listed = rows(tmp_path / "errors" / "errors.csv")
    for kind, count in measured.errors.counts.items():
        own = [row for row in listed if row["kind"] == kind]
        assert len(own) == count
        assert [bool(row["picture"]) for row in own] == [True] * min(count, 2) + [False] * max(count - 2, 0)
        scores = [float(row["score"]) for row in own if row["score"]]
        assert scores == sorted(scores, reverse=True)
        for row in own[:2]:
            assert cv2.imread(str(tmp_path / "errors" / row["picture"])).shape[2] == 3
    assert len(rows(tmp_path / "errors" / "label_errors.csv")) == len(measured.suspects)


def test_a_folder_that_holds_something_is_left_alone(tmp_path, measured) -> None:
    (tmp_path / "mine.txt").write_text("x")
    with pytest.raises(ConfigError, match="is there already"):
        write_errors(tmp_path, measured.errors, measured.dataset)
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]


def test_no_errors_at_all(tmp_path, dataset) -> None:
    truths = [dataset.truth(i) for i in range(len(dataset))]
    found = [(truth.boxes, np.full(len(truth.labels), 0.9), truth.labels) for truth in truths]
    errors = analyse_errors(found, truths, dataset.class_names)
    write_errors(tmp_path / "errors", errors, dataset)
    assert rows(tmp_path / "errors" / "errors.csv") == []
    assert sorted(path.name for path in (tmp_path / "errors").iterdir()) == ["errors.csv", "label_errors.csv"]


def test_the_missed_come_largest_first(measured) -> None:
    area = measured.errors.truth.area
    missed = [area[one.truth] for one in error_examples(measured.errors)["missed"]]
    assert missed == sorted(missed, reverse=True)


def test_both_boxes_are_on_the_picture(measured) -> None:
    example = next(one for one in error_examples(measured.errors)["class"])
    ((_, jpeg),) = draw_examples([example], measured.errors, measured.dataset)
    assert jpeg is not None
    picture = cv2.cvtColor(cv2.imdecode(np.frombuffer(jpeg, np.uint8), cv2.IMREAD_COLOR), cv2.COLOR_BGR2RGB).astype(int)
    assert max(picture.shape) <= 321
    for colour in (TRUTH, FOUND):
        assert (np.abs(picture - colour).max(axis=2) < 40).sum() > 30


def test_boxes_that_lie_outside_are_drawn_without_harm(measured) -> None:
    truth, found = measured.errors.truth, measured.errors.found
    found.boxes[0] = [-500, -500, -490, -1e7]
    example = Example("background", int(found.image[0]), 0, -1, None)
    assert [one is not None for _, one in draw_examples([example], measured.errors, measured.dataset)] == [True]
    assert len(truth.boxes)
