"""VOC and COCO average precision: numpy (and faster-coco-eval for COCO), no torch."""

from __future__ import annotations

from singleshot.metrics.evaluation import METRICS, ClassResult, Evaluation, evaluate
from singleshot.metrics.table import format_table
from singleshot.metrics.voc import Curve, voc_average_precision

__all__ = [
    "METRICS",
    "ClassResult",
    "Curve",
    "Evaluation",
    "evaluate",
    "format_table",
    "voc_average_precision",
]
