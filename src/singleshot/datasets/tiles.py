"""The tiles of a data set's images as samples, cut where detection cuts them."""

from __future__ import annotations

import numpy as np

from singleshot.datasets.dataset import Dataset
from singleshot.datasets.measure import measured
from singleshot.inputs import Size
from singleshot.records import Sample
from singleshot.tiling import Tiling, Window, boxes_in_window, clip_regions


class TiledSamples:
    """Every window of every image, image by image: what evaluation in tiles looks at.

    dataset: whose images they are; image_of: int64 [tiles], the image of each.
    """

    def __init__(self, dataset: Dataset, tiling: Tiling, shape: Size) -> None:
        """shape: of the model's input. Raises DataError for an image that cannot be measured or has too many tiles."""
        self.dataset, self._tiling, self._shape = dataset, tiling, shape
        self.sizes = measured(dataset).sizes
        counts = [len(self.windows(i)) for i in range(len(dataset))]
        self.image_of = np.repeat(np.arange(len(dataset)), counts)
        self._starts = np.cumsum([0, *counts])
        self._held: tuple[int, Sample] | None = None

    def __len__(self) -> int:
        return len(self.image_of)

    def windows(self, i: int) -> list[Window]:
        """Of image i, the whole image first where that is looked at too."""
        width, height = self.sizes[i].tolist()
        return self._tiling.windows(width, height, self.dataset.names[i], self._shape)

    def sample(self, k: int) -> Sample:
        """Tile k with the objects whose centres it has and the parts of regions in it, clipped to it; raises as
        `Dataset.sample`."""
        i = int(self.image_of[k])
        if self._held is None or self._held[0] != i:  # tiles come in order, so that an image is decoded once a batch
            self._held = i, self.dataset.sample(i)
        return tile_of(self._held[1], self.windows(i)[k - int(self._starts[i])])


def tile_of(sample: Sample, window: Window) -> Sample:
    """A window of a sample; its pixels are a view."""
    x0, y0, x1, y1 = window
    boxes_px, kept = boxes_in_window(sample.boxes_px, window)
    ignored_px = sample.ignored_px
    if ignored_px is not None:
        ignored_px = clip_regions(ignored_px, window) - np.array((x0, y0, x0, y0), np.float32)
    return sample._replace(
        image=sample.image[y0:y1, x0:x1],
        boxes_px=boxes_px,
        labels=sample.labels[kept],
        difficult=sample.difficult[kept],
        ignored_px=ignored_px,
    )
