"""How raw outputs become detections, as a record that travels in model files; and the rules of other codebases by name.

What each value does is in postprocess.to_detections. No torch here: both halves read it.
"""

from __future__ import annotations

import difflib
from dataclasses import asdict, dataclass, fields
from typing import Any

from singleshot.errors import ConfigError, printable

ACTIVATIONS = ("softmax", "sigmoid")
NO_CAP = 10**6  # for per_class and keep: more than any network here has priors


@dataclass(frozen=True)
class Thresholds:
    """Caffe's evaluation values unless said otherwise, and show_min, the score from which `detect` shows a box.

    Raises ConfigError for a value that is out of range.
    """

    score_min: float = 0.01
    nms_iou: float = 0.45
    per_class: int = 400
    keep: int = 200
    class_agnostic: bool = False
    activation: str = "softmax"
    show_min: float = 0.4
    clip: bool = False
    candidates: int | None = None
    keep_per_class: int | None = None
    best_class: bool = False

    def __post_init__(self) -> None:
        for name in ("score_min", "nms_iou", "show_min"):
            if not 0.0 <= getattr(self, name) <= 1.0:
                raise ConfigError(f"threshold {name}: {printable(getattr(self, name), 40)}, want 0 to 1")
        if self.activation not in ACTIVATIONS:
            raise ConfigError(f"activation {printable(self.activation, 40)}: want one of {', '.join(ACTIVATIONS)}")
        for name in ("per_class", "keep", "candidates", "keep_per_class"):
            value = getattr(self, name)
            if value is None and name not in ("per_class", "keep"):
                continue
            if not isinstance(value, int) or not 1 <= value <= NO_CAP:
                said = f"threshold {name}: {printable(value, 40)}, want a whole number from 1 to {NO_CAP}"
                raise ConfigError(said)

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Thresholds:
        """From a file's description; ConfigError for a key that this version does not know."""
        unknown = set(values) - {field.name for field in fields(cls)}
        if unknown:
            raise ConfigError(f"thresholds: unknown key {printable(', '.join(sorted(unknown)), 80)}")
        return cls(**values)

    def under(self, rule: str) -> Thresholds:
        """The detection rule of that codebase in place of these; ConfigError lists the names.

        Two values stay: activation, which belongs to the network, not to the rule, and show_min.
        """
        values = {**detection_rule(rule), "activation": self.activation, "show_min": self.show_min}
        return Thresholds(**values)

    def for_postprocess(self) -> dict[str, Any]:
        """Keyword arguments of `to_detections`."""
        values = asdict(self)
        del values["show_min"]
        return values


# Settings of `to_detections` by codebase, from its own evaluation code unless said. Offsets' variances belong to the
# priors and are not here; nor is activation, which belongs to the network, but where a codebase knows no other.
DETECTION: dict[str, dict[str, Any]] = {
    # weiliu89/caffe examples/ssd/ssd_pascal.py, det_out_param; detection_output_layer.cpp.
    "caffe": {"score_min": 0.01, "nms_iou": 0.45, "per_class": 400, "keep": 200},
    # chuanqi305/MobileNet-SSD MobileNetSSD_deploy.prototxt, detection_output_param.
    "chuanqi305": {"score_min": 0.25, "nms_iou": 0.45, "per_class": 100, "keep": 100},
    # amdegroot/ssd.pytorch ssd.py, Detect(num_classes, 0, 200, 0.01, 0.45): 200 of each class, nothing over classes.
    "amdegroot": {"score_min": 0.01, "nms_iou": 0.45, "per_class": 200, "keep": NO_CAP},
    # lufficc/SSD ssd/config/defaults.py, TEST.
    "lufficc": {"score_min": 0.01, "nms_iou": 0.45, "per_class": NO_CAP, "keep": 100},
    # bubbliiiing/ssd-pytorch get_map.py; ssd.py for prediction (decode_box's own default of .3 is never used).
    "bubbliiiing": {"score_min": 0.02, "nms_iou": 0.5, "per_class": NO_CAP, "keep": NO_CAP, "clip": True},
    "bubbliiiing-predict": {"score_min": 0.5, "nms_iou": 0.45, "per_class": NO_CAP, "keep": NO_CAP, "clip": True},
    # qfgaohao/pytorch-ssd vision/ssd/predictor.py: candidate_size of each class.
    "qfgaohao": {"score_min": 0.01, "nms_iou": 0.45, "per_class": 200, "keep": NO_CAP},
    # pierluigiferrari/ssd_keras ssd_encoder_decoder/ssd_output_decoder.py, decode_detections and its fast form.
    "ssd_keras": {"score_min": 0.01, "nms_iou": 0.45, "per_class": NO_CAP, "keep": 200},
    "ssd_keras-fast": {"score_min": 0.5, "nms_iou": 0.45, "keep": NO_CAP, "class_agnostic": True},
    # balancap/SSD-Tensorflow eval_ssd_network.py; nets/np_methods.py, as the notebook calls it, for prediction.
    "balancap": {"score_min": 0.01, "nms_iou": 0.45, "per_class": 400, "keep_per_class": 200, "keep": NO_CAP},
    "balancap-predict": {
        "score_min": 0.5, "nms_iou": 0.45, "per_class": NO_CAP, "candidates": 400, "keep": NO_CAP, "clip": True,
    },
    # ljanyst/ssd-tensorflow train.py and infer.py, ssdutils.py decode_boxes. Its NMS rounds to a grid of 1000 x 1000.
    "ljanyst": {"score_min": 0.5, "nms_iou": 0.45, "best_class": True, "candidates": 200, "keep": 200, "clip": True},
    # torchvision models/detection/ssd.py and ssdlite.py.
    "torchvision": {"score_min": 0.01, "nms_iou": 0.45, "per_class": 400, "keep": 200, "clip": True},
    "torchvision-lite": {"score_min": 0.001, "nms_iou": 0.55, "per_class": 300, "keep": 300, "clip": True},
    # mmdetection configs/_base_/models/ssd300.py. Its nms_pre counts pairs of prior and class of each map.
    "mmdet": {"score_min": 0.02, "nms_iou": 0.45, "per_class": 1000, "keep": 200, "clip": True},
    # NVIDIA DeepLearningExamples ssd/utils.py decode_batch; its evaluation calls it with another IoU.
    "nvidia": {"score_min": 0.05, "nms_iou": 0.45, "per_class": 200, "keep": 200},
    "nvidia-eval": {"score_min": 0.05, "nms_iou": 0.5, "per_class": 200, "keep": 200},
    # TensorFlow Object Detection API samples/configs/ssd_mobilenet_v1_coco.config; it clips after NMS.
    "tf-object-detection": {
        "score_min": 1e-8, "nms_iou": 0.6, "per_class": NO_CAP, "keep_per_class": 100, "keep": 100,
        "activation": "sigmoid",
    },
}  # fmt: skip


def detection_rule(name: str) -> dict[str, Any]:
    """Keyword arguments of `to_detections` of that codebase. Raises ConfigError that lists the names."""
    if name not in DETECTION:
        near = difflib.get_close_matches(name, DETECTION, n=1)
        hint = f"; did you mean {near[0]}?" if near else ""
        raise ConfigError(f"detection rule {printable(name)!r}: want one of {', '.join(DETECTION)}{hint}")
    return dict(DETECTION[name])
