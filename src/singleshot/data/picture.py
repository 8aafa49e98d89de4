"""A picture before its pixels are there, and the plan of what will be made of it.

Everything random is drawn from a picture's size and boxes; only then is it decoded, no finer than the plan needs.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from singleshot.data.geometry import View
from singleshot.data.photometry import Photometry
from singleshot.records import Sample


class Picture(NamedTuple):
    """An image whose pixels are still to come.

    width, height: of the original, upright; boxes_px: float32 [N, 4]; labels: int64 [N]; pixels(r) gives uint8 RGB of
    1/r of the sides, rounded up, for an r among `reductions`; name: what messages call it.
    """

    width: int
    height: int
    boxes_px: np.ndarray
    labels: np.ndarray
    pixels: Callable[[int], np.ndarray]
    reductions: tuple[int, ...]
    name: str

    @classmethod
    def of(cls, sample: Sample) -> Picture:
        """A sample that is decoded already."""
        height, width = sample.image.shape[:2]
        return cls(width, height, sample.boxes_px, sample.labels, lambda _: sample.image, (1,), sample.name)


class Style(NamedTuple):
    """How pixels are resized (an OpenCV interpolation) and their colours changed."""

    interpolation: int
    retouch: Photometry | None


class Plan(NamedTuple):
    """One picture in one view: boxes float32 [N, 4] normalised to the square, labels int64 [N], and the reduction of
    the picture from which it is drawn."""

    picture: Picture
    view: View
    boxes: np.ndarray
    labels: np.ndarray
    reduce: int

    def draw(self, fill: tuple[int, int, int], style: Style) -> np.ndarray:
        """uint8 RGB [S, S, 3]; decodes the picture."""
        pixels = self.picture.pixels(self.reduce)
        return self.view.image(pixels, fill, style.interpolation, style.retouch, self.reduce)


def make_plan(picture: Picture, view: View, shown: tuple[np.ndarray, np.ndarray] | None = None) -> Plan:
    """The plan for a view, moved to the pixels of the coarsest reduction that still has one for each of the square.

    shown: what `view.boxes` says, where that is known already.
    """
    boxes, kept = view.boxes(picture.boxes_px) if shown is None else shown
    optional = 1 in picture.reductions
    best = view.reduction(picture.reductions) if optional else picture.reductions[0]
    if best > 1:
        snapped = view.on_grid(best, picture.height, picture.width)
        moved, still = snapped.boxes(picture.boxes_px)
        # An object on the edge may come or go by the move; then it is not worth it.
        if len(still) == len(kept) or not optional:
            return Plan(picture, snapped, moved, picture.labels[still], best)
    return Plan(picture, view, boxes, picture.labels[kept], 1)
