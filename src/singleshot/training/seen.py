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
    for image, boxes, labels in zip(batch.images[:most], batch.boxes, batch.labels, strict=False):
        there = labels >= 0
        images.append(
            SeenImage(image.permute(1, 2, 0).cpu().numpy().copy(), boxes[there].numpy(), labels[there].numpy())
        )
    return images
