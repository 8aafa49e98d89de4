"""The record that `evaluate` returns."""

from __future__ import annotations

import json
import math
import subprocess
import sys

import numpy as np
import pytest

from singleshot.errors import ConfigError, DataError
from singleshot.metrics import METRICS, evaluate, voc_average_precision
from singleshot.metrics.evaluation import best_f1
from singleshot.metrics.voc import Curve


@pytest.mark.parametrize(("metric", "key"), [("voc07", "voc07"), ("voc", "area")])
def test_headline_agrees_with_a_public_evaluator(golden, golden_scene, metric, key):
    figures = np.load(golden / "eval_amdegroot.npz")
    detections, truth, _ = golden_scene(True)
    evaluation = evaluate(detections, truth, metric, ["RBC", "WBC", "Platelets"])
    assert evaluation.mean_ap == pytest.approx(float(figures[f"difficult_aligned_iou0.5_{key}_map"]), abs=1e-6)
    assert [one.name for one in evaluation.per_class] == ["RBC", "WBC", "Platelets"]
    # 945 objects less every seventh.
    assert sum(one.truths for one in evaluation.per_class) == 945 - 135
    assert sum(one.detections for one in evaluation.per_class) == 1173
    assert evaluation.images == 72


def test_mean_ignores_classes_without_ground_truth(make_scene):
    detections, truth, classes = make_scene(0)
    names = [f"c{i}" for i in range(classes + 3)]
    for metric in METRICS:
        evaluation = evaluate(detections, truth, metric, names)
        known = [one.ap for one in evaluation.per_class[:classes]]
        assert all(math.isnan(one.ap) for one in evaluation.per_class[classes:])
        assert evaluation.mean_ap == pytest.approx(np.mean(known))
    aps = voc_average_precision(detections, truth, classes, eleven_point=False)
    np.testing.assert_allclose([one.ap for one in evaluate(detections, truth, "voc").per_class], aps)


def test_precision_and_recall_are_those_of_the_score_it_names(make_scene):
    detections, truth, _ = make_scene(7, images=40)
    for label, one in enumerate(evaluate(detections, truth).per_class):
        # Dropping everything below that score must end the curve exactly there.
        kept = evaluate(detections, truth, score_min=one.score, class_names=["a", "b", "c", "d"])
        assert kept.curves[label].precision[-1] == pytest.approx(one.precision)
        assert kept.curves[label].recall[-1] == pytest.approx(one.recall)
        assert one.f1 == pytest.approx(2 * one.precision * one.recall / (one.precision + one.recall))
        assert 0 < one.f1 < 1


def test_best_f1_cannot_part_equal_scores():
    # A threshold of .5 keeps both the hit and the miss.
    curve = Curve(np.array([1.0, 1.0]), np.array([1.0, 0.5]), np.array([0.5, 0.5]), 1)
    assert best_f1(curve) == pytest.approx((0.5, 1.0, 2 / 3, 0.5))


def test_score_min_keeps_its_own_score():
    box = [0, 0, 9, 9]
    detections = [([box, box, box], np.array([0.3, 0.29, 0.01], np.float32), [0, 0, 0])]
    assert evaluate(detections, [([box], [0])], score_min=0.3).per_class[0].detections == 1
    assert evaluate(detections, [([box], [0])], score_min=0.01).per_class[0].detections == 3


@pytest.mark.parametrize("metric", METRICS)
def test_to_dict_is_json_without_nan(make_scene, empty_truth, metric):
    detections, truth, _ = make_scene(3)
    for objects in (truth, empty_truth(len(detections))):
        values = evaluate(detections, objects, metric, ["a", "b", "c", "d", "e"]).to_dict()
        again = json.loads(json.dumps(values, allow_nan=False))
        assert again == values
        assert again["per_class"][4]["ap"] is None
        assert len(again["stats"]) == (12 if metric == "coco" else 0)


def test_classes_are_called_by_number_without_names():
    evaluation = evaluate([([[0, 0, 5, 5]], [0.5], [2])], [([[0, 0, 5, 5]], [1])])
    assert [one.name for one in evaluation.per_class] == ["0", "1", "2"]


def test_nothing_at_all():
    for metric in METRICS:
        evaluation = evaluate([], [], metric)
        assert math.isnan(evaluation.mean_ap)
        assert evaluation.per_class == ()


def test_unknown_metric_lists_the_choices():
    with pytest.raises(ConfigError, match="want one of voc07, voc, coco") as caught:
        evaluate([], [], "voc\n12")
    assert "\n" not in str(caught.value)


def test_a_label_beyond_the_names_is_the_datas_mistake():
    with pytest.raises(DataError, match="label 2, want 0 to 1"):
        evaluate([([[0, 0, 5, 5]], [0.5], [2])], [([], [])], class_names=["a", "b"])


def test_different_numbers_of_images_are_refused():
    with pytest.raises(DataError, match="detections of 1 images but ground truth of 0"):
        evaluate([([], [], [])], [])


def test_metrics_do_not_import_torch():
    code = "import sys, singleshot.metrics; sys.exit('torch' in sys.modules or 'faster_coco_eval' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
