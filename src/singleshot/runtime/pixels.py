"""The stage after the engine: boxes of the network's input become boxes in pixels of the image."""

from __future__ import annotations

import numpy as np

from singleshot.inputs import InputSpec, Placement, boxes_from_square
from singleshot.records import ImageDetections


def to_pixels(found: ImageDetections, place: Placement, spec: InputSpec, width: int, height: int) -> ImageDetections:
    """Boxes [N, 4] normalised to the square -> float32 in pixels of the image, clipped to its width and height."""
    boxes = np.asarray(found.boxes).reshape(-1, 4)
    return found._replace(boxes=boxes_from_square(boxes, place, spec.sides, height, width))


def select(found: ImageDetections, score_min: float, most: int | None) -> ImageDetections:
    """The rows that `selected` names."""
    rows = selected(found, score_min, most)
    boxes, scores = np.asarray(found.boxes, np.float32), np.asarray(found.scores, np.float32)
    return ImageDetections(boxes[rows], scores[rows], np.asarray(found.labels, np.int64)[rows])


def selected(found: ImageDetections, score_min: float, most: int | None = None) -> np.ndarray:
    """Rows of those that score at least `score_min` and have an area, the first `most` of them (None: all).

    A box that lies wholly in a letterbox's bars has no area once it is clipped to the image.
    """
    boxes, scores = np.asarray(found.boxes, np.float32), np.asarray(found.scores, np.float32)
    has_area = (boxes[:, 2] > boxes[:, 0]) & (boxes[:, 3] > boxes[:, 1])
    return np.flatnonzero((scores >= score_min) & has_area)[:most]
