"""The plan of what will be made of an encoded image: one window of it, moved to whole pixels of a reduction.

Everything random is drawn from a picture's size and boxes; only then is it decoded, no finer than the plan needs.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from singleshot.datasets.encoded_image import EncodedImage
from singleshot.loading.geometry import CropTransform
from singleshot.loading.photometry import Photometry


class PixelTransform(NamedTuple):
    """How pixels are resized (an OpenCV interpolation) and their colours changed."""

    interpolation: int
    retouch: Photometry | None


class RenderPlan(NamedTuple):
    """One picture in one view: boxes float32 [N, 4] normalised to the square, labels int64 [N], and the reduction of
    the picture from which it is drawn."""

    picture: EncodedImage
    view: CropTransform
    boxes: np.ndarray
    labels: np.ndarray
    reduce: int

    def draw(self, fill: tuple[int, ...], style: PixelTransform) -> np.ndarray:
        """uint8 RGB [S, S, 3]; decodes the picture."""
        pixels = self.picture.pixels(self.reduce)
        return self.view.image(pixels, fill, style.interpolation, style.retouch, self.reduce)


def make_render_plan(
    picture: EncodedImage, view: CropTransform, shown: tuple[np.ndarray, np.ndarray] | None = None
) -> RenderPlan:
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
            return RenderPlan(picture, snapped, moved, picture.labels[still], best)
    return RenderPlan(picture, view, boxes, picture.labels[kept], 1)
