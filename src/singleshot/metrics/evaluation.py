"""One call from detections and ground truth to figures: the record that training, eval and reports share."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from singleshot.errors import ConfigError, printable
from singleshot.metrics.coco import COCO_STATS, coco_average_precision
from singleshot.metrics.error_analysis import ErrorAnalysis
from singleshot.metrics.flat import count_classes, flatten
from singleshot.metrics.voc import Curve, average_precision, voc_curves
from singleshot.records import ImageDetections, ImageTruth

METRICS = {
    "voc07": "VOC2007: mean precision at 11 recalls, IoU 0.5",
    "voc": "VOC2010 on: area under the precision-recall curve, IoU 0.5",
    "coco": "COCO: AP averaged over IoU 0.5:0.95",
}


@dataclass(frozen=True)
class ClassResult:
    """Figures of one class; every rate is 0..1 and nan where it is not defined (no ground truth).

    ap: by the evaluation's metric; ap50: AP at IoU 0.5 (coco only, otherwise None); truths: objects that count
    (not difficult, not crowd); detections: how many took part. precision, recall, f1 and score describe the point
    of the curve with the greatest F1: keep detections from this score on to get this precision and recall.
    """

    name: str
    ap: float
    ap50: float | None
    truths: int
    detections: int
    precision: float
    recall: float
    f1: float
    score: float


@dataclass(frozen=True)
class Evaluation:
    """What `evaluate` found.

    mean_ap: the headline, mean over the classes that have ground truth (nan if none has): at iou_min for voc07 and
    voc, AP .5:.95 for coco. stats: COCO's 12 figures (empty for the VOC metrics). curves: one per class, in the
    order of per_class, always matched by VOC's rule at iou_min. errors: what is wrong and what it costs, where it was
    asked for (`analyse_errors`).
    """

    metric: str
    mean_ap: float
    per_class: tuple[ClassResult, ...]
    stats: dict[str, float]
    images: int
    iou_min: float
    score_min: float
    curves: tuple[Curve, ...] = field(repr=False)
    errors: ErrorAnalysis | None = field(default=None, repr=False)

    @property
    def measured_truths(self) -> int:
        """Objects of the classes that are in the mean: those of a class that the model does not have are not."""
        return sum(one.truths for one in self.per_class if not math.isnan(one.ap))

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON, nan as None; without the curves, which have a point per detection."""
        return {
            "metric": self.metric,
            "mean_ap": _plain(self.mean_ap),
            "images": self.images,
            "iou_min": self.iou_min,
            "score_min": self.score_min,
            "stats": {name: _plain(value) for name, value in self.stats.items()},
            "per_class": [{key: _plain(value) for key, value in vars(one).items()} for one in self.per_class],
            **({} if self.errors is None else {"errors": self.errors.to_dict()}),
        }


def evaluate(
    detections: Sequence[ImageDetections],
    ground_truth: Sequence[ImageTruth],
    metric: str = "voc07",
    class_names: Sequence[str] | None = None,
    iou_min: float = 0.5,
    score_min: float = 0.0,
    inclusive_pixels: bool = False,
) -> Evaluation:
    """Evaluate detections against ground truth by a metric of METRICS.

    Image i of `detections` is image i of `ground_truth`: ImageDetections and ImageTruth in pixels of the original
    image, or plain tuples in their field order. Without `class_names`, classes are called by their number.
    Detections below `score_min` are dropped. `iou_min` is the IoU of a match for the VOC metrics and for the curves;
    COCO's own figures have their own thresholds. `inclusive_pixels`: see `voc_average_precision`.
    Raises ConfigError for an unknown metric or an impossible threshold, DataError where the data does not fit.
    """
    if metric not in METRICS:
        raise ConfigError(f"metric {printable(metric)!r}: want one of {', '.join(METRICS)}")
    found, truth = flatten(detections, ground_truth, score_min)
    names = [str(i) for i in range(count_classes(found, truth))] if class_names is None else list(class_names)
    curves = voc_curves(found, truth, len(names), iou_min, inclusive_pixels)
    stats: dict[str, float] = {}
    ap50: list[float | None] = [None] * len(names)
    if metric == "coco":
        result = coco_average_precision(found, truth, len(names))
        stats, ap, ap50 = result.stats, result.ap.tolist(), result.ap50.tolist()
        mean_ap = stats[COCO_STATS[0]]
    else:
        ap = [average_precision(curve, eleven_point=metric == "voc07") for curve in curves]
        mean_ap = mean_known(ap)
    per_class = tuple(
        ClassResult(names[i], ap[i], ap50[i], curve.truths, len(curve.scores), *best_f1(curve))
        for i, curve in enumerate(curves)
    )
    return Evaluation(
        metric, mean_ap, per_class, stats, len(ground_truth), float(iou_min), float(score_min), tuple(curves)
    )


def with_rows(evaluation: Evaluation, names: Sequence[str], unmeasured: Mapping[str, int]) -> Evaluation:
    """A row for each of the names, in that order; those that were not measured have no figure but their objects.

    unmeasured: class -> how many objects that count; 0 where it is not there.
    """
    nan, none = float("nan"), np.zeros(0)
    measured = {one.name: (one, curve) for one, curve in zip(evaluation.per_class, evaluation.curves, strict=True)}
    ap50 = nan if evaluation.metric == "coco" else None
    rows = [
        measured.get(
            name,
            (ClassResult(name, nan, ap50, unmeasured.get(name, 0), 0, nan, nan, nan, nan), Curve(none, none, none, 0)),
        )
        for name in names
    ]
    return replace(evaluation, per_class=tuple(row for row, _ in rows), curves=tuple(curve for _, curve in rows))


def best_f1(curve: Curve) -> tuple[float, float, float, float]:
    """Precision, recall, F1 and score of the point with the greatest F1 (of equals, the highest score).

    nan where the class has no ground truth; without detections precision and score are nan, recall and F1 are 0.
    """
    nan = float("nan")
    if curve.truths == 0:
        return nan, nan, nan, nan
    if len(curve.scores) == 0:
        return nan, 0.0, 0.0, nan
    # A threshold keeps or drops equal scores together, so only the last of equals is a point one can choose.
    ends = np.flatnonzero(np.diff(curve.scores, append=-np.inf))
    precision, recall = curve.precision[ends], curve.recall[ends]
    total = precision + recall
    f1 = np.divide(2 * precision * recall, total, out=np.zeros_like(total), where=total > 0)
    i = int(np.argmax(f1))
    return float(precision[i]), float(recall[i]), float(f1[i]), float(curve.scores[ends][i])


def mean_known(values: Sequence[float | None]) -> float:
    """Mean of what is neither nan nor None; nan if nothing is."""
    known = [value for value in values if value is not None and not math.isnan(value)]
    return sum(known) / len(known) if known else float("nan")


def _plain(value: Any) -> Any:
    return None if isinstance(value, float) and not math.isfinite(value) else value
