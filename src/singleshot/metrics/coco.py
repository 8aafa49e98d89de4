"""COCO average precision and recall, by faster-coco-eval (the COCO API's own rules in C++)."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from singleshot.extras import needs
from singleshot.metrics.flat import FlatDetections, FlatTruth, check_labels

# The order of COCOeval.summarize (cocodataset/cocoapi, cocoeval.py).
COCO_STATS = ("AP", "AP50", "AP75", "APs", "APm", "APl", "AR1", "AR10", "AR100", "ARs", "ARm", "ARl")

# COCOeval's largest maxDets: per image and class, only so many of the best detections take part.
MAX_PER_CLASS = 100


class CocoResult(NamedTuple):
    """stats: the 12 COCO figures by the names in COCO_STATS; ap (mean over IoU .5:.95), ap50: float64 [num_classes].

    nan where COCO says -1: no ground truth (of that class or size).
    """

    stats: dict[str, float]
    ap: np.ndarray
    ap50: np.ndarray


def coco_average_precision(found: FlatDetections, truth: FlatTruth, num_classes: int) -> CocoResult:
    """The 12 COCO figures and the classes' AP; boxes and areas in pixels of the original image.

    Difficult objects (VOC) are given to COCO as crowd: it is the only kind of object that COCOeval neither counts
    nor lets hurt, any number of detections may lie on one, and VOC annotations converted to COCO form usually say
    it so (mmdetection). Its own "ignore" field is overwritten by COCOeval. The overlap with a crowd object is taken
    over the detection's area alone, so a part of a difficult object found is no mistake either.
    Raises DataError for a label outside the classes, MissingExtraError without faster-coco-eval.
    """
    with needs("train", "the COCO metric"):
        from faster_coco_eval import COCO, COCOeval_faster
    check_labels(found, truth, num_classes)
    if num_classes == 0:
        empty = np.zeros(0)
        return CocoResult(dict.fromkeys(COCO_STATS, float("nan")), empty, empty)
    found = _best_of_each_class(found)
    images = [{"id": int(i)} for i in np.union1d(found.image, truth.image)] or [{"id": 0}]
    frame = {"images": images, "categories": [{"id": label + 1} for label in range(num_classes)]}
    truths = COCO({**frame, "annotations": _truth_records(truth)}, print_function=_silent)
    results = COCO({**frame, "annotations": _found_records(found)}, print_function=_silent)
    evaluator = COCOeval_faster(truths, results, iouType="bbox", print_function=_silent)
    evaluator.evaluate()
    evaluator.accumulate()
    evaluator.summarize()
    figures = _known(np.asarray(evaluator.stats[:12], np.float64))
    # [IoU thresholds, recalls, classes, areas, maxDets] at all areas and 100 detections.
    precision = _known(np.asarray(evaluator.eval["precision"], np.float64)[:, :, :, 0, -1])
    # A class without objects is nan at every threshold and recall, one with objects at none: a plain mean does.
    return CocoResult(
        {name: float(value) for name, value in zip(COCO_STATS, figures, strict=True)},
        precision.mean(axis=(0, 1)),
        precision[0].mean(axis=0),
    )


def _silent(*_: Any, **__: Any) -> None:
    """Takes what the library would print."""


def _known(values: np.ndarray) -> np.ndarray:
    return np.where(values < 0, np.nan, values)


def _best_of_each_class(found: FlatDetections) -> FlatDetections:
    """What COCOeval would look at; the rest would cost a Python dict each."""
    order = np.lexsort((-found.scores, found.labels, found.image))
    image, labels = found.image[order], found.labels[order]
    starts = np.flatnonzero(np.diff(image, prepend=-1) | np.diff(labels, prepend=-1))
    sizes = np.diff(starts, append=len(order))
    rank = np.arange(len(order)) - np.repeat(starts, sizes)
    kept = order[rank < MAX_PER_CLASS]
    return FlatDetections(*(column[kept] for column in found))


def _bboxes(boxes: np.ndarray) -> list[list[float]]:
    """x y w h, as COCO has them."""
    rows: list[list[float]] = np.concatenate((boxes[:, :2], boxes[:, 2:] - boxes[:, :2]), axis=1).tolist()
    return rows


def _truth_records(truth: FlatTruth) -> list[dict[str, Any]]:
    columns = (truth.image, truth.labels + 1, truth.area, truth.ignored.astype(int))
    rows = zip(*(column.tolist() for column in columns), _bboxes(truth.boxes), strict=True)
    # Ids start at 1: to COCOeval, 0 in its table of matches means unmatched.
    return [
        {"id": n, "image_id": image, "category_id": label, "area": area, "iscrowd": crowd, "bbox": box}
        for n, (image, label, area, crowd, box) in enumerate(rows, start=1)
    ]


def _found_records(found: FlatDetections) -> list[dict[str, Any]]:
    sides = found.boxes[:, 2:] - found.boxes[:, :2]
    columns = (found.image, found.labels + 1, sides[:, 0] * sides[:, 1], found.scores)
    rows = zip(*(column.tolist() for column in columns), _bboxes(found.boxes), strict=True)
    return [
        {
            "id": n,
            "image_id": image,
            "category_id": label,
            "area": area,
            "score": score,
            "bbox": box,
            "iscrowd": 0,
        }
        for n, (image, label, area, score, box) in enumerate(rows, start=1)
    ]
