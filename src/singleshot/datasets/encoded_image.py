"""An image of a data set before it is decoded: its size and boxes are known, its pixels are still to come."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from singleshot.records import Sample


class EncodedImage(NamedTuple):
    """An image whose pixels are still to come.

    width, height: of the original, upright; boxes_px: float32 [N, 4]; labels: int64 [N]; pixels(r) gives uint8 RGB of
    1/r of the sides, rounded up, for an r among `reductions`; name: what messages call it; checksum: CRC-32 of its
    file's bytes, -1 where they are not at hand; ignored_px: as in Sample.
    """

    width: int
    height: int
    boxes_px: np.ndarray
    labels: np.ndarray
    pixels: Callable[[int], np.ndarray]
    reductions: tuple[int, ...]
    name: str
    checksum: int = -1
    ignored_px: np.ndarray | None = None

    @classmethod
    def of(cls, sample: Sample) -> EncodedImage:
        """A sample that is decoded already."""
        height, width = sample.image.shape[:2]
        about = (1,), sample.name, sample.checksum, sample.ignored_px
        return cls(width, height, sample.boxes_px, sample.labels, lambda _: sample.image, *about)
