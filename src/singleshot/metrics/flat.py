"""Detections and ground truth of many images as flat checked arrays: what both metrics compute on."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from singleshot.errors import DataError
from singleshot.records import ImageDetections, ImageTruth


class FlatDetections(NamedTuple):
    """All detections, image by image: image, labels int64 [N]; boxes float64 [N, 4] px; scores float64 [N]."""

    image: np.ndarray
    boxes: np.ndarray
    scores: np.ndarray
    labels: np.ndarray


class FlatTruth(NamedTuple):
    """All objects, image by image: image, labels int64 [M]; boxes float64 [M, 4] px; area float64 [M] px²;
    difficult, crowd bool [M]."""

    image: np.ndarray
    boxes: np.ndarray
    labels: np.ndarray
    difficult: np.ndarray
    crowd: np.ndarray
    area: np.ndarray

    @property
    def ignored(self) -> np.ndarray:
        """bool [M]: objects that neither count nor hurt."""
        ignored: np.ndarray = self.difficult | self.crowd
        return ignored


def flatten(
    detections: Sequence[ImageDetections], ground_truth: Sequence[ImageTruth], score_min: float = 0.0
) -> tuple[FlatDetections, FlatTruth]:
    """Join per-image records (plain tuples in their field order do too); image i of one is image i of the other.

    Detections below `score_min` are dropped. Raises DataError when the two have different lengths, or when an
    image's arrays do not fit together, hold a number that is not finite, or a negative label.
    """
    if len(detections) != len(ground_truth):
        raise DataError(
            f"detections of {len(detections)} images but ground truth of {len(ground_truth)}: "
            "want one of each per image"
        )
    found = _flat_detections(detections)
    # Compared as float32, the scores' own type: 0.01 must keep the detection that scored float32(0.01).
    kept = found.scores.astype(np.float32) >= np.float32(score_min)
    if not kept.all():
        found = FlatDetections(*(column[kept] for column in found))
    return found, _flat_truth(ground_truth)


def count_classes(found: FlatDetections, truth: FlatTruth) -> int:
    """The smallest number of classes that holds every label."""
    return int(max(found.labels.max(initial=-1), truth.labels.max(initial=-1))) + 1


def check_labels(found: FlatDetections, truth: FlatTruth, num_classes: int) -> None:
    """Raises DataError when a label is not below `num_classes`."""
    for what, flat in (("detection", found), ("object", truth)):
        wrong = np.flatnonzero(flat.labels >= num_classes)
        if len(wrong):
            raise DataError(
                f"image {flat.image[wrong[0]]}: {what} with label {flat.labels[wrong[0]]}, "
                f"want 0 to {num_classes - 1} ({num_classes} classes)"
            )


def _flat_detections(detections: Sequence[ImageDetections]) -> FlatDetections:
    boxes, scores, labels = [], [], []
    for i, item in enumerate(detections):
        where = f"detections of image {i}"
        if len(item) != 3:
            raise DataError(f"{where}: {len(item)} arrays, want boxes, scores, labels")
        boxes.append(_boxes(item[0], where))
        scores.append(_column(item[1], len(boxes[-1]), where, "scores"))
        labels.append(_labels(item[2], len(boxes[-1]), where))
    image = _image_index(boxes)
    flat = FlatDetections(
        image,
        _join(boxes, np.float64, (0, 4)),
        _join(scores, np.float64, (0,)),
        _join(labels, np.int64, (0,)),
    )
    _check_finite(flat.boxes, image, "detections", "boxes")
    _check_finite(flat.scores, image, "detections", "scores")
    return flat


def _flat_truth(ground_truth: Sequence[ImageTruth]) -> FlatTruth:
    boxes, labels, difficult, crowd, area = [], [], [], [], []
    for i, item in enumerate(ground_truth):
        where = f"ground truth of image {i}"
        if not 2 <= len(item) <= 5:
            raise DataError(f"{where}: {len(item)} arrays, want boxes, labels[, difficult[, crowd[, area]]]")
        truth = ImageTruth(*item)
        one = _boxes(truth.boxes, where)
        boxes.append(one)
        labels.append(_labels(truth.labels, len(one), where))
        difficult.append(_flags(truth.difficult, len(one), where, "difficult flags"))
        crowd.append(_flags(truth.crowd, len(one), where, "crowd flags"))
        if truth.area is None:
            area.append((one[:, 2] - one[:, 0]) * (one[:, 3] - one[:, 1]))
        else:
            area.append(_column(truth.area, len(one), where, "areas"))
    image = _image_index(boxes)
    flat = FlatTruth(
        image,
        _join(boxes, np.float64, (0, 4)),
        _join(labels, np.int64, (0,)),
        _join(difficult, np.bool_, (0,)),
        _join(crowd, np.bool_, (0,)),
        _join(area, np.float64, (0,)),
    )
    _check_finite(flat.boxes, image, "ground truth", "boxes")
    _check_finite(flat.area, image, "ground truth", "areas")
    return flat


def _boxes(values: Any, where: str) -> np.ndarray:
    boxes = np.asarray(values, np.float64)
    if boxes.size == 0:
        return np.zeros((0, 4))
    if boxes.ndim != 2 or boxes.shape[1] != 4:
        raise DataError(f"{where}: boxes of shape {list(boxes.shape)}, want [N, 4]")
    return boxes


def _column(values: Any, count: int, where: str, what: str) -> np.ndarray:
    column = np.asarray(values)
    if column.shape != (count,) and not (count == 0 and column.size == 0):
        raise DataError(f"{where}: {count} boxes but {what} of shape {list(column.shape)}")
    return column.reshape(count)


def _labels(values: Any, count: int, where: str) -> np.ndarray:
    labels = _column(values, count, where, "labels")
    if count and (labels.dtype.kind not in "iu" or labels.min() < 0):
        raise DataError(f"{where}: labels {labels.dtype} from {labels.min()}, want whole numbers from 0")
    return labels


def _flags(values: Any, count: int, where: str, what: str) -> np.ndarray:
    return np.zeros(count, np.bool_) if values is None else _column(values, count, where, what).astype(np.bool_)


def _image_index(per_image: list[np.ndarray]) -> np.ndarray:
    return np.repeat(np.arange(len(per_image)), [len(item) for item in per_image])


def _join(parts: list[np.ndarray], dtype: type, empty: tuple[int, ...]) -> np.ndarray:
    return np.concatenate(parts).astype(dtype) if parts else np.zeros(empty, dtype)


def _check_finite(values: np.ndarray, image: np.ndarray, whose: str, what: str) -> None:
    finite = np.isfinite(values)
    wrong = np.flatnonzero(~(finite.all(axis=1) if finite.ndim == 2 else finite))
    if len(wrong):
        raise DataError(f"{whose} of image {image[wrong[0]]}: {what} {values[wrong[0]]}, want finite numbers")
