"""Regions of images in which nobody labelled the objects, as KITTI's DontCare: detections there count as neither right
nor wrong, whatever their class, and training takes no negatives from there (`ImageObjects.ignored_px`). A crowd region
has a class, so that such a region is one of each class."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from singleshot.datasets.dataset import Dataset
from singleshot.datasets.packed_strings import offsets_of
from singleshot.datasets.raw import Box, RawImage, RawObject, RawSet, is_region
from singleshot.images.decode import image_size


def add_ignored(data: Dataset, images: Sequence[RawImage]) -> Dataset:
    """The data set with the ignored regions of its images, in pixels, as crowd objects of every class, after the
    objects of each image. What reaches out of an image is cut, since regions are drawn roughly.

    Raises DataError where an image whose size is not known cannot be measured.
    """
    regions = [(i, box) for i, image in enumerate(images) for box in _inside(image)]
    if not regions:
        return data
    count = len(data.class_names)
    image_of = np.repeat(np.array([i for i, _ in regions], np.int64), count)
    boxes = np.repeat(np.array([box for _, box in regions], np.float32).reshape(-1, 4), count, axis=0)
    owners = np.concatenate([data.image_of, image_of])
    order = np.argsort(owners, kind="stable")
    areas = (boxes[:, 2:] - boxes[:, :2]).prod(axis=1)
    return replace(
        data,
        ptr=offsets_of(np.bincount(owners, minlength=len(data))),
        boxes_px=np.concatenate([data.boxes_px, boxes])[order],
        labels=np.concatenate([data.labels, np.tile(np.arange(count), len(regions))])[order],
        difficult=np.concatenate([data.difficult, np.zeros(len(boxes), bool)])[order],
        crowd=np.concatenate([data.crowd, np.ones(len(boxes), bool)])[order],
        area=np.concatenate([data.area, areas])[order],
    )


def _inside(image: RawImage) -> list[Box]:
    """The parts of the regions of an image that lie in it."""
    if not image.ignored:
        return []
    width, height = (image.width, image.height) if image.width and image.height else image_size(image.path)
    cut = [(max(x0, 0.0), max(y0, 0.0), min(x1, width), min(y1, height)) for x0, y0, x1, y1 in image.ignored]
    return [box for box in cut if is_region(box)]


def ignored_as_crowds(raw: RawSet) -> RawSet:
    """The same with crowd objects of every class for ignored regions, for forms that have no other place for them.
    Raises DataError where an image whose size is not known cannot be measured."""
    if not any(image.ignored for image in raw.images):
        return raw
    images = [
        image._replace(
            ignored=(),
            objects=[
                *image.objects,
                *(RawObject(name, box, crowd=True) for box in _inside(image) for name in raw.class_names),
            ],
        )
        for image in raw.images
    ]
    return raw._replace(images=images)
