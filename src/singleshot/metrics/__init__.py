"""VOC and COCO average precision: numpy (and faster-coco-eval for COCO), no torch."""

from __future__ import annotations

from singleshot.metrics.error_analysis import ErrorAnalysis, analyse_errors
from singleshot.metrics.evaluation import METRICS, ClassResult, Evaluation, evaluate
from singleshot.metrics.table import format_errors, format_table
from singleshot.metrics.voc import Curve, voc_average_precision

__all__ = [
    "METRICS",
    "ClassResult",
    "Curve",
    "ErrorAnalysis",
    "Evaluation",
    "analyse_errors",
    "evaluate",
    "format_errors",
    "format_table",
    "voc_average_precision",
]
