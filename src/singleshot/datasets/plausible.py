"""Boxes that can be read but mean something else than the tool that wrote them meant."""

from __future__ import annotations

import logging

import numpy as np

from singleshot.datasets.findings import ERROR, KINDS
from singleshot.datasets.raw import RawImage, RawSet
from singleshot.errors import DataError, printable

logger = logging.getLogger(__name__)

# Fewer objects than this prove nothing about what only may be wrong.
_LEAST = 10
_LARGE = 200  # pixels: in such an image boxes that all end before 100 are percent
_PARTS, _PERCENT = 1.0, 100.0


def implausible(raw: RawSet) -> tuple[str, str] | None:
    """(kind of finding, what is wrong) of a data set whose boxes in pixels are all parts of the image or percent of
    it, or of a COCO file with corners where width and height belong; None where nothing is suspicious."""
    images = raw.images
    if any(image.relative for image in images):
        return None
    boxes = np.array([obj.box for image in images for obj in image.objects], np.float64).reshape(-1, 4)
    boxes = boxes[np.isfinite(boxes).all(axis=1)]
    if not len(boxes):
        return None
    highest, fractions = boxes.max(), (boxes % 1 != 0).any(axis=1)
    if highest <= _PARTS and (boxes + first_pixel(raw)).min() >= 0 and fractions.all():
        return (
            "boxes-in-parts",
            f"all {len(boxes)} boxes lie between 0 and 1: they are parts of the image; multiply x and width by the "
            "image's width, y and height by its height",
        )
    if len(boxes) < _LEAST:
        return None
    if highest <= _PERCENT and fractions.mean() > 0.5 and _are_large(images) and highest > _PERCENT / 2:
        return (
            "boxes-suspicious",
            f"all {len(boxes)} boxes end before 100 in images of {_LARGE} pixels and more: if they are percent, "
            "multiply them by the image's sides / 100",
        )
    return _as_corners(images) if raw.form == "coco" else None


def require_plausible(raw: RawSet, advice: str = "") -> None:
    """Raise DataError, which ends in `advice`, where all boxes mean something else than pixels; where that only may be,
    it is said in the log."""
    odd = implausible(raw)
    if odd is None:
        return
    kind, message = odd
    if KINDS[kind].severity == ERROR:
        raise DataError(f"{printable(raw.source)}: {message}{advice}")
    logger.warning("%s: %s", printable(raw.source), message)


def first_pixel(raw: RawSet) -> np.ndarray:
    """float64 [4], what a reader took from boxes in the belief that they are pixels: VOC's are counted from 1."""
    return np.array([1.0, 1.0, 0.0, 0.0]) * (raw.form == "voc")


def _are_large(images: list[RawImage]) -> bool:
    sides = [min(image.width, image.height) for image in images if image.objects and image.width and image.height]
    return bool(sides) and min(sides) >= _LARGE


def _as_corners(images: list[RawImage]) -> tuple[str, str] | None:
    """Whether width and height are a second corner: both exceed x and y everywhere, and most boxes leave the image."""
    objects = [(image, obj) for image in images for obj in image.objects]
    rows = np.array([(*obj.box, image.width, image.height, obj.area) for image, obj in objects], np.float64)
    x, y, width, height = rows[:, 0], rows[:, 1], rows[:, 2] - rows[:, 0], rows[:, 3] - rows[:, 1]
    if not ((width > x) & (height > y)).all():
        return None
    known = rows[:, 4] > 0
    outside = known & ((rows[:, 2] > rows[:, 4] + 1) | (rows[:, 3] > rows[:, 5] + 1))
    fits = np.isclose(rows[:, 6], (width - x) * (height - y), rtol=0.01)
    if fits.mean() < 0.9 and not (known.any() and outside.sum() > 0.2 * known.sum()):
        return None
    return (
        "boxes-suspicious",
        f"in all {len(rows)} boxes the third and fourth number exceed the first and second: they look like a second "
        "corner; bbox wants x, y, width, height",
    )
