"""What a training keeps to be shown afterwards: some images as the network saw them, and its best validation."""

from __future__ import annotations

from typing import NamedTuple

from singleshot.datasets.dataset import Dataset
from singleshot.evaluation.validate import Validation
from singleshot.records import Batch, SeenImage

_SEEN = 8


class Validated(NamedTuple):
    """A validation: of which data, after how many epochs, and whether it was the best so far."""

    result: Validation
    dataset: Dataset
    epoch: int
    best: bool


def seen_images(batch: Batch, most: int = _SEEN) -> list[SeenImage]:
    """Copies of a batch's first images: its memory is used again."""
    images = []
    for k, (image, boxes, labels) in enumerate(zip(batch.images[:most], batch.boxes, batch.labels, strict=False)):
        there, ignored = labels >= 0, None
        if batch.ignored is not None:
            regions = batch.ignored[k]
            ignored = regions[(regions[:, 2:] > regions[:, :2]).all(dim=1)].numpy()
        pixels = image.permute(1, 2, 0).cpu().numpy().copy()
        images.append(SeenImage(pixels, boxes[there].numpy(), labels[there].numpy(), ignored))
    return images
