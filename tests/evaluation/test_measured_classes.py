"""Which classes of a model and of a data set are compared."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from singleshot.class_selection import ClassSelection
from singleshot.errors import ConfigError, DataError
from singleshot.evaluation.measured_classes import ModelClasses, meet_classes, open_measured
from singleshot.metrics.evaluation import evaluate, with_rows
from singleshot.records import ImageDetections

COCO = ModelClasses(("person", "car", "truck"))
VEHICLE = ModelClasses(
    ("vehicle", "person"), ClassSelection.from_dict({"vehicle": ["car", "truck"], "person": ["person"]})
)
# model, the data's classes, wanted -> the data's names by class, the model's labels, rows, unlabelled, unknown
CASES = [
    (COCO, ["truck", "car"], None, {"car": ["car"], "truck": ["truck"]}, (-1, 0, 1), "car truck", "person", ""),
    (COCO, ["car", "dog"], None, {"car": ["car"]}, (-1, 0, -1), "car dog", "person truck", "dog"),
    (COCO, ["vehicle", "person"], ["car,truck=vehicle"], {"vehicle": ["vehicle"]}, (-1, 0, 0), "vehicle", "", ""),
    (COCO, ["car", "dog"], "dog,car", {"car": ["car"]}, (-1, 0, -1), "dog car", "", "dog"),
    (COCO, ["car", "dog"], "car,truck", {"car": ["car"]}, (-1, 0, -1), "car truck", "truck", ""),
    (COCO, [], None, {n: [n] for n in COCO.names}, (0, 1, 2), "person car truck", "", ""),
    (VEHICLE, ["car", "truck", "dog"], None, {"vehicle": ["car", "truck"]}, (0, -1), "vehicle dog", "person", "dog"),
    (VEHICLE, ["vehicle"], None, {"vehicle": ["vehicle"]}, (0, -1), "vehicle", "person", ""),
    (VEHICLE, ["car", "person"], ["vehicle,person=any"], {"any": ["car", "person"]}, (0, 0), "any", "", ""),
    (VEHICLE, ["car", "truck"], ["car,truck=vehicle"], {"vehicle": ["car", "truck"]}, (0, -1), "vehicle", "", ""),
    (ModelClasses(("a",)), ["a", "b"], ["b=a"], {"a": ["a", "b"]}, (0,), "a", "", ""),
]


@pytest.mark.parametrize("case", CASES, ids=str)
def test_what_is_compared(case) -> None:
    model, data, wanted, names, labels, rows, unlabelled, unknown = case
    found = meet_classes(model, data, wanted)
    assert {name: sorted(old) for name, old in found.data.to_dict().items()} == names
    assert found.labels == labels
    assert (found.rows, found.unlabelled) == (tuple(rows.split()), tuple(unlabelled.split()))
    assert tuple(found.unknown) == tuple(unknown.split())


@pytest.mark.parametrize(
    ("data", "wanted", "says"),
    [
        (["Dog"], None, "nothing to measure: it labels Dog; the model finds person, car, truck; map some"),
        (["car", "dog"], "person", "want a class that both have"),
        (["car"], "cra", "did you mean car"),
    ],
)
def test_nothing_in_common(data: Sequence[str], wanted: str | None, says: str) -> None:
    with pytest.raises((ConfigError, DataError), match=says):
        meet_classes(COCO, data, wanted)


def test_objects_that_a_model_does_not_know_are_counted_and_not_measured(tmp_path: Path, write_coco, coco, caplog):
    box = {"image_id": 20, "bbox": [0, 0, 20, 20], "area": 400, "iscrowd": 0}
    content = coco([{**box, "id": 1, "category_id": 7}, {**box, "id": 2, "category_id": 3}])
    path = write_coco(tmp_path / "val.json", content)
    caplog.set_level("INFO", "singleshot")
    opened = open_measured(str(path), "val", ModelClasses(("cat", "dogs", "bird")))
    assert (opened.rows, dict(opened.unknown)) == (("cat", "dog"), {"dog": 1})
    assert "not labelled there, so left out: dogs, bird" in caplog.text
    assert "not measured (objects): dog (1); did you mean dogs?" in caplog.text
    dataset = opened.dataset
    assert (dataset.class_names, len(dataset.labels)) == (("cat",), 1)
    found = ImageDetections(np.array([[0, 0, 20, 20]], np.float32), np.ones(1, np.float32), np.zeros(1, np.int64))
    nothing = ImageDetections(np.zeros((0, 4)), np.zeros(0), np.zeros(0, np.int64))
    truths = [dataset.truth(i) for i in range(len(dataset))]
    records = [found if len(truth.boxes) else nothing for truth in truths]
    for metric in ("voc", "coco"):
        evaluation = with_rows(evaluate(records, truths, metric, dataset.class_names), opened.rows, opened.unknown)
        rows = json.loads(json.dumps(evaluation.to_dict()))["per_class"]
        assert [(row["name"], row["truths"]) for row in rows] == [("cat", 1), ("dog", 1)]
        assert [row["ap"] for row in rows] == [pytest.approx(1), None]
        assert evaluation.mean_ap == pytest.approx(1)
        assert len(evaluation.curves) == 2
