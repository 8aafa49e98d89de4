"""The sizes of images that the labels do not say."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import numpy as np

from singleshot.datasets.dataset import Dataset
from singleshot.errors import DataError
from singleshot.images.decode import image_size

_THREADS = 16


def measured(
    data: Dataset, only_with_objects: bool = False, skip_broken: bool = False, most: int | None = None
) -> Dataset:
    """With the sizes of images that are not annotated, of all or of those that show an object, by their headers.

    skip_broken: where an image cannot be measured, its size stays 0. most: where more than this are to be measured, so
    many images stand for all. Raises DataError for an image that cannot be measured, unless skip_broken.
    """
    unknown = (data.sizes <= 0).any(axis=1)
    if only_with_objects:
        unknown &= np.diff(data.ptr) > 0
    if most is not None and unknown.sum() > most:
        some = np.flatnonzero(unknown)[np.linspace(0, unknown.sum() - 1, most).round().astype(int)]
        data, unknown = data.subset(some), np.ones(most, bool)
    todo, sizes = np.flatnonzero(unknown).tolist(), data.sizes.copy()
    measure = _size_or_none if skip_broken else image_size
    for i, size in zip(todo, header_sizes([data.names[i] for i in todo], measure), strict=True):
        sizes[i] = size
    return replace(data, sizes=sizes)


def placed_objects(data: Dataset) -> tuple[np.ndarray, np.ndarray]:
    """Boxes float32 [M, 4] px of the objects but for crowds, and int32 [M, 2] width and height of the image of each;
    those of images of unknown size are left out."""
    rows = np.flatnonzero(~data.crowd & (data.sizes[data.image_of] > 0).all(axis=1))
    return data.boxes_px[rows], data.sizes[data.image_of[rows]]


def _size_or_none(path: str) -> tuple[int, int]:
    try:
        return image_size(path)
    except DataError:
        return 0, 0


def header_sizes(paths: Sequence[str], measure: Callable[[str], tuple[int, int]] = image_size) -> list[tuple[int, int]]:
    """Width and height of each image by its header, several read at once. Raises as `measure` does."""
    with ThreadPoolExecutor(_THREADS) as pool:
        return list(pool.map(measure, paths))
