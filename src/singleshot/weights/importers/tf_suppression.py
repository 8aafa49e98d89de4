"""How TensorFlow's operators suppress detections, as our thresholds."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from singleshot.conventions import TF_OBJECT_DETECTION
from singleshot.errors import CheckpointError
from singleshot.thresholds import NO_CAP, Thresholds

OPERATOR = "TFLite_Detection_PostProcess"
# kNumDetectionsPerClass of the kernel, where an operator does not give its own.
_PER_CLASS = 100


def within_limits(base: Thresholds, where: str, **found: Any) -> Thresholds:
    """`base` with the values found in a file, brought within what Thresholds allows.

    float32's digits are rounded to those that were meant. Raises CheckpointError for what is no number.
    """
    for name in ("score_min", "nms_iou"):
        if name in found:
            if not math.isfinite(found[name]):
                raise CheckpointError(f"{where}: {name} {found[name]}: want a number")
            found[name] = min(max(float(f"{found[name]:.6g}"), 0.0), 1.0)
    for name in ("keep_per_class", "keep"):
        if found.get(name) is not None:
            found[name] = min(max(int(found[name]), 1), NO_CAP)
    return replace(base, **found)


def of_operator(options: Mapping[str, Any], activation: str, where: str) -> Thresholds:
    """What a TFLite_Detection_PostProcess with these options does (tensorflow/lite/kernels/detection_postprocess.cc).

    Regular: NMS in each class, of which `detections_per_class` stay, and `max_detections` of all. Fast, which is the
    default: each prior speaks for its best real class, and NMS goes across classes. Neither limits what enters NMS.
    Raises CheckpointError.
    """
    regular = bool(options.get("use_regular_nms", False))
    rule = TF_OBJECT_DETECTION.detection["tflite-regular" if regular else "tflite"]
    of_class = {"keep_per_class": options.get("detections_per_class", _PER_CLASS)} if regular else {}
    return within_limits(
        rule,
        where,
        score_min=options["nms_score_threshold"],
        nms_iou=options["nms_iou_threshold"],
        keep=options["max_detections"],
        activation=activation,
        **of_class,
    )
