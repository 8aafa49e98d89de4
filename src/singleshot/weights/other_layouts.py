"""Detectors that are recognised by the names of their tensors and not imported: what they are, and what to do."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import NamedTuple

# Where a box's sides are offsets times a constant, and not exponentials of them as an SSD's.
LINEAR = "its boxes' sides are linear in its offsets, not exponentials of them as an SSD's, which no model here has"
FACES = "face detectors that are read: ultraface, retinaface, faceboxes, s3fd, aizoo and OpenCV's (caffe)"
KNOWN = "singleshot import --list names what is read"


# MediaPipe's detectors, by the values of a box: four, and two for each key point.
_KEY_POINTS = {16: "face", 18: "palm", 12: "pose"}


def mediapipe_detector(values: int, columns: int, count: int) -> str:
    """What a detector with so many values for a box and scores is, if it is MediaPipe's, and what to do; else "".
    count: of its default boxes."""
    if columns != 1 or values not in _KEY_POINTS:
        return ""
    kind = _KEY_POINTS[values]
    return f"MediaPipe's {kind} detector, {count} default boxes: {LINEAR}; {FACES if kind == 'face' else KNOWN}"


class _Layout(NamedTuple):
    """names: regular expressions, each of which some tensor's name has at its beginning."""

    what: str
    advice: str
    names: tuple[str, ...]


_LAYOUTS = (
    _Layout(
        f"MediaPipe's BlazeFace (hollance/BlazeFace-PyTorch): {LINEAR}", FACES, (r"classifier_8\.", r"regressor_8\.")
    ),
    _Layout(
        "YuNet (ShiqiYu/libfacedetection.train, yudet), whose scores are of two outputs, class and overlap, not of one",
        FACES,
        (r"backbone\.model0\.conv2\.conv1\.", r"(head\.head\.0|bbox_head\.multi_level_cls\.0)\."),
    ),
    _Layout(
        "FaceBoxes as yakhyo/faceboxes-pytorch has it, whose default boxes of 32 pixels stand on the diagonal (its"
        " prior_box.py takes the column for the row), which no table here gives",
        FACES,
        (r"feature_extractor\.inception1\.branch1x1\.conv\.", r"feature_extractor\.conv4_2\.norm\."),
    ),
    _Layout(
        "a TinySSD with attention (fkjkkll/Tiny-SSD), with other layers and boxes than Dive into Deep Learning's",
        KNOWN,
        (r"blk_0\.", r"blk_\d\.\d\.channelattention\."),
    ),
    _Layout("RetinaFace's heads on a BiFPN (FeatherFace), not an SSD that is read", FACES, (r"bifpn", r"BboxHead\.")),
    _Layout(
        "an EfficientDet (BiFPN), not an SSD",
        KNOWN,
        (r"(backbone_net\.|fpn\.|bifpn)", r"(bifpn|fpn\.cell)", r"class"),
    ),
    _Layout("a two-stage detector (Faster R-CNN or Mask R-CNN), not an SSD", KNOWN, (r"(rpn|rpn_head)\.", r"roi_head")),
    _Layout(
        "a DETR (transformer), not an SSD", KNOWN, (r"(transformer|model)\.(en|de)coder\.layers\.0\.", r".*class_")
    ),
    _Layout(
        "torchvision's RetinaNet or FCOS, which is not read",
        KNOWN,
        (r"backbone\.fpn\.", r"head\.classification_head\."),
    ),
    _Layout(
        "a YOLO, not an SSD",
        KNOWN,
        (r"(model\.|module_list\.)*0\.(conv|Conv2d|conv_0)\.", r".*\d\.(cv2|bn|BatchNorm2d|m\.0)\."),
    ),
)


def other_layout(names: Iterable[str]) -> str:
    """What a checkpoint with these names is and what to do; "" where it is none of those that are recognised."""
    names = list(names)
    for row in _LAYOUTS:
        if all(any(map(re.compile(part).match, names)) for part in row.names):
            return f"{row.what}; {row.advice}"
    return ""
