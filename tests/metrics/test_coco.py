"""COCO figures against pycocotools, torchmetrics and published rules."""

from __future__ import annotations

import contextlib
import io

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from singleshot.errors import MissingExtraError
from singleshot.metrics import evaluate
from singleshot.metrics.coco import COCO_STATS


def pycocotools_figures(detections, truth, num_classes):
    """The 12 figures, AP and AP50 per class by the original package; -1 where not defined."""
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    def side(rows):
        box = COCO()
        box.dataset = {
            "images": [{"id": i + 1} for i in range(len(truth))],
            "categories": [{"id": c + 1} for c in range(num_classes)],
            "annotations": [{**row, "id": k + 1} for k, row in enumerate(rows)],
        }
        box.createIndex()
        return box

    def rows(i, boxes, labels):
        corners = np.asarray(boxes, np.float64).reshape(-1, 4)
        for (x0, y0, x1, y1), label in zip(corners.tolist(), labels, strict=True):
            yield {
                "image_id": i + 1,
                "category_id": int(label) + 1,
                "bbox": [x0, y0, x1 - x0, y1 - y0],
                "area": (x1 - x0) * (y1 - y0),
                "iscrowd": 0,
            }

    objects, found = [], []
    for i, (dets, image) in enumerate(zip(detections, truth, strict=True)):
        for k, row in enumerate(rows(i, image.boxes, image.labels)):
            hard = bool(image.difficult is not None and image.difficult[k])
            crowd = bool(image.crowd is not None and image.crowd[k])
            area = row["area"] if image.area is None else float(image.area[k])
            objects.append({**row, "iscrowd": int(hard or crowd), "area": area})
        found += [
            {**row, "score": float(s)} for row, s in zip(rows(i, dets.boxes, dets.labels), dets.scores, strict=True)
        ]
    with contextlib.redirect_stdout(io.StringIO()):
        run = COCOeval(side(objects), side(found), "bbox")
        run.evaluate()
        run.accumulate()
        run.summarize()
    precision = run.eval["precision"][:, :, :, 0, -1]
    return run.stats, precision.mean((0, 1)), precision[0].mean(0)


def figures(evaluation):
    rows = [
        [evaluation.stats[name] for name in COCO_STATS],
        [one.ap for one in evaluation.per_class],
        [one.ap50 for one in evaluation.per_class],
    ]
    return [np.nan_to_num(np.array(row, float), nan=-1.0) for row in rows]


def assert_agrees(detections, truth, num_classes):
    names = [f"class {c}" for c in range(num_classes)]
    evaluation = evaluate(detections, truth, "coco", names)
    want = pycocotools_figures(detections, truth, num_classes)
    for got, expected in zip(figures(evaluation), want, strict=True):
        np.testing.assert_allclose(got, expected, rtol=0, atol=1e-6)
    return evaluation


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**32 - 1), st.sampled_from([0.0, 0.3]), st.integers(1, 15), st.integers(1, 5))
def test_agrees_with_pycocotools_on_random_scenes(make_scene, seed, crowd, images, classes):
    scene = make_scene(seed, images, classes, crowd)
    assert_agrees(*scene)


def test_agrees_with_pycocotools_past_100_detections_of_a_class(make_scene):
    detections, truth, classes = make_scene(5, images=3, num_classes=2, most=300)
    assert max(len(d.scores) for d in detections) > 250
    assert_agrees(detections, truth, classes)


def test_no_detections_at_all(make_scene, empty_detections):
    _, truth, classes = make_scene(1)
    evaluation = assert_agrees(empty_detections(len(truth)), truth, classes)
    assert evaluation.mean_ap == 0.0


def test_no_ground_truth_at_all(make_scene, empty_truth):
    detections, _, classes = make_scene(2)
    evaluation = assert_agrees(detections, empty_truth(len(detections)), classes)
    assert np.isnan(evaluation.mean_ap)


def test_nothing_at_all(empty_detections, empty_truth):
    for images in (0, 3):
        for names in ([], ["a", "b"]):
            evaluation = evaluate(empty_detections(images), empty_truth(images), "coco", names)
            assert np.isnan(list(evaluation.stats.values())).all()
            assert len(evaluation.per_class) == len(names)


def test_difficult_objects_neither_count_nor_hurt():
    boxes = [[0, 0, 40, 40], [100, 100, 150, 150]]
    detections = [([*boxes, boxes[1]], [0.5, 0.9, 0.8], [0, 0, 0])]
    assert evaluate(detections, [(boxes, [0, 0], [False, True])], "coco").mean_ap == pytest.approx(1.0)
    assert evaluate(detections, [(boxes, [0, 0], [False, False])], "coco").mean_ap < 0.9
    # Not found, it is not missed either.
    assert evaluate([(boxes[:1], [0.5], [0])], [(boxes, [0, 0], [False, True])], "coco").mean_ap == pytest.approx(1)


def test_agrees_with_the_golden_figures_of_pycocotools(golden, golden_scene):
    golden_figures = np.load(golden / "eval_pycocotools.npz")
    detections, truth, _ = golden_scene(False)
    stats, ap, ap50 = figures(evaluate(detections, truth, "coco"))
    np.testing.assert_allclose(stats, golden_figures["stats"], rtol=0, atol=1e-6)
    np.testing.assert_allclose(ap, golden_figures["ap_per_class"], rtol=0, atol=1e-6)
    np.testing.assert_allclose(ap50, golden_figures["ap_iou_by_class"][0], rtol=0, atol=1e-6)


def test_agrees_with_the_golden_figures_of_torchmetrics(golden, golden_scene):
    golden_figures = np.load(golden / "eval_torchmetrics.npz")
    detections, truth, _ = golden_scene(False)
    stats, ap, _ = figures(evaluate(detections, truth, "coco"))
    keys = "map map_50 map_75 map_small map_medium map_large mar_1 mar_10 mar_100 mar_small mar_medium mar_large"
    np.testing.assert_allclose(stats, [golden_figures[key] for key in keys.split()], rtol=0, atol=1e-6)
    np.testing.assert_allclose(ap, golden_figures["map_per_class"], rtol=0, atol=1e-6)


def test_prints_nothing(make_scene, capfd):
    detections, truth, _ = make_scene(3)
    evaluate(detections, truth, "coco")
    assert capfd.readouterr() == ("", "")


def test_its_absence_names_the_extra(make_scene, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "faster_coco_eval", None)
    detections, truth, _ = make_scene(4)
    with pytest.raises(MissingExtraError, match=r"pip install 'singleshot\[train\]'"):
        evaluate(detections, truth, "coco")
    evaluate(detections, truth, "voc07")
