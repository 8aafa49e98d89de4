"""The one rule for annotated boxes, whatever format they came in."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from singleshot.datasets.raw import EDGE_PX
from singleshot.errors import DataError

logger = logging.getLogger(__name__)

# No image that is read has a side this long; beyond it float32 loses whole pixels as well.
LIMIT_PX = 1e6
NON_FINITE = f"is not a place (want finite pixels below {LIMIT_PX:.0f})"


class ValidatedBoxes(NamedTuple):
    """Boxes float64 [M, 4] against their images, each bool [M]: not finite or huge, without area as written, reaching
    more than EDGE_PX outside, and nothing left once cut to the image; inside: float32 [M, 4], cut to the image."""

    non_finite: np.ndarray
    degenerate: np.ndarray
    outside: np.ndarray
    empty: np.ndarray
    inside: np.ndarray


class CleanBoxes(NamedTuple):
    """boxes: float32 [M, 4] within their images; keep: bool [M]; clipped and dropped count what `clip` did."""

    boxes: np.ndarray
    keep: np.ndarray
    clipped: int
    dropped: int

    def warn(self, where: str) -> None:
        """Say in the log what was changed, if anything was."""
        if self.clipped or self.dropped:
            logger.warning("%s: %d boxes cut to their image, %d dropped", where, self.clipped, self.dropped)


def validate_boxes(boxes_px: np.ndarray, sizes: np.ndarray) -> ValidatedBoxes:
    """boxes float64 [M, 4] (continuous pixels, corner form), sizes [M, 2] width and height of each box's image, 0
    where unknown (then nothing is outside)."""
    non_finite = ~(np.isfinite(boxes_px) & (np.abs(boxes_px) < LIMIT_PX)).all(axis=1)
    boxes_px = np.where(non_finite[:, None], 0.0, boxes_px)
    known = (sizes > 0).all(axis=1, keepdims=True)
    low = np.where(known, 0.0, -np.inf)
    high = np.where(known, np.tile(np.asarray(sizes, np.float64), 2), np.inf)
    outside = ((boxes_px < low - EDGE_PX) | (boxes_px > high + EDGE_PX)).any(axis=1)
    inside = np.clip(boxes_px, low, high).astype(np.float32)
    empty = (inside[:, 2:] <= inside[:, :2]).any(axis=1)
    degenerate = (boxes_px[:, 2:] <= boxes_px[:, :2]).any(axis=1)
    return ValidatedBoxes(non_finite, degenerate & ~non_finite, outside & ~non_finite, empty, inside)


def regions_of(boxes_px: np.ndarray, crowd: np.ndarray) -> np.ndarray | None:
    """float32 [K, 4]: the boxes [M, 4] marked as crowd bool [M], each once though it is one of several classes; None
    where none is."""
    return np.unique(boxes_px[crowd], axis=0).astype(np.float32, copy=False) if crowd.any() else None


SWAPPED = "its corners are in the wrong order, xmax below xmin or ymax below ymin"


def swapped_corners(boxes_px: np.ndarray, sizes: np.ndarray) -> np.ndarray:
    """bool [M]: boxes float64 [M, 4] that have an area and lie in their images (sizes [M, 2]) once the corners that are
    in the wrong order are swapped."""
    wrong = (boxes_px[:, 2:] < boxes_px[:, :2]).any(axis=1) & (boxes_px[:, 2:] != boxes_px[:, :2]).all(axis=1)
    checked = validate_boxes(np.sort(boxes_px.reshape(-1, 2, 2), axis=1).reshape(-1, 4), sizes)
    swapped: np.ndarray = wrong & ~(checked.non_finite | checked.outside | checked.empty)
    return swapped


def clean_boxes(boxes_px: np.ndarray, sizes: np.ndarray, clip: bool, describe: Callable[[int], str]) -> CleanBoxes:
    """Check and clip boxes, the arguments of `validate_boxes`; describe(j) names box j and its numbers for messages.

    Raises DataError for the first box with NaN, infinite or huge coordinates, and, unless `clip`, without area
    or more than EDGE_PX outside its image; with `clip` such boxes are cut, or dropped when nothing is left.
    """
    non_finite, degenerate, outside, empty, inside = validate_boxes(boxes_px, sizes)
    if non_finite.any():
        j = int(np.argmax(non_finite))
        raise DataError(f"{describe(j)} {NON_FINITE}; correct it")
    bad = degenerate | outside | empty
    if bad.any() and not clip:
        j = int(np.argmax(bad))
        if degenerate[j]:
            why = f": {SWAPPED}" if swapped_corners(boxes_px[j : j + 1], sizes[j : j + 1])[0] else ""
            raise DataError(f"{describe(j)} has no area{why}; correct it, or set clip_boxes to drop such boxes")
        width, height = sizes[j]
        raise DataError(
            f"{describe(j)} lies outside the image of {width:.0f} x {height:.0f} pixels; "
            "correct it, or set clip_boxes to cut such boxes"
        )
    keep = ~(degenerate | empty)
    return CleanBoxes(inside, keep, int((outside & keep).sum()), int((~keep).sum()))
