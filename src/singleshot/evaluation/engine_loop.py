"""The one loop of every evaluation: batches of squares through an engine, boxes back to pixels, the metric.

No torch: an exported file is evaluated in the runtime half.
"""

from __future__ import annotations

import functools
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from typing import NamedTuple, Protocol, TypeVar

import numpy as np

from singleshot.datasets.dataset import Dataset, read_as
from singleshot.datasets.tiles import TiledSamples
from singleshot.devices import cores
from singleshot.errors import ConfigError, DataError, printable
from singleshot.inputs import InputSpec, Placement, Size, boxes_from_square, to_square
from singleshot.metrics import Evaluation, evaluate
from singleshot.records import ImageDetections
from singleshot.runtime.merging import merge_windows

MAX_AUTO_THREADS = 8
_AHEAD = 2  # images in the making per thread


class PlacedSquare(NamedTuple):
    """An image as the network sees it: uint8 [H, W, C], where the original lies in it, and its size in pixels."""

    square: np.ndarray
    placement: Placement
    width: int
    height: int


class PlacedBatch(Protocol):
    """What the loop asks of a batch: what maps its boxes back, one Placement an image and sizes int64 [B, 2]."""

    @property
    def placements(self) -> Sequence[Placement]:
        """Where each image lies in its square."""

    @property
    def sizes(self) -> np.ndarray:
        """Width and height of each original, int64 [B, 2]."""


class SquareBatch(NamedTuple):
    """images: uint8 [B, H, W, C]; one Placement an image; sizes: int64 [B, 2], width and height in pixels."""

    images: np.ndarray
    placements: list[Placement]
    sizes: np.ndarray


class Evaluated(NamedTuple):
    """The evaluation, and the detections of every image in pixels of the original."""

    evaluation: Evaluation
    detections: list[ImageDetections]


Batch = TypeVar("Batch", bound=PlacedBatch)
Made = TypeVar("Made")


def evaluate_engine(
    detect: Callable[[Batch], list[ImageDetections]],
    batches: Iterable[Batch],
    dataset: Dataset,
    input_size: Size,
    metric: str = "voc",
    on_image: Callable[[], None] | None = None,
    gather: Callable[[list[ImageDetections]], list[ImageDetections]] | None = None,
    tiles: TiledSamples | None = None,
) -> Evaluated:
    """Evaluate whatever detects on a data set.

    Args:
        detect: A batch -> one record per image, boxes normalised to the square.
        batches: All images of the data set in order.
        dataset: Whose ground truth and class names are taken.
        input_size: Side of a square input in pixels, or height and width.
        metric: A key of metrics.METRICS.
        on_image: Called after each image, with `gather` after each tile.
        gather: Where `batches` has a part of the images or tiles: gives, for its detections, those of all in order.
        tiles: Of the data set's images, where the batches are of these: what is found in the tiles of an image is
            merged as detection merges it.
    """
    found = _in_pixels(detect, batches, input_size)
    if gather is not None:
        found, on_image = iter(gather(_counted(found, on_image))), None
    detections = _counted(found if tiles is None else _merged(found, tiles), on_image)
    truths = [dataset.truth(i) for i in range(len(dataset))]
    return Evaluated(evaluate(detections, truths, metric=metric, class_names=dataset.class_names), detections)


def _counted(found: Iterable[ImageDetections], on_image: Callable[[], None] | None) -> list[ImageDetections]:
    kept = []
    for one in found:
        kept.append(one)
        if on_image is not None:
            on_image()
    return kept


def _in_pixels(
    detect: Callable[[Batch], list[ImageDetections]], batches: Iterable[Batch], input_size: Size
) -> Iterator[ImageDetections]:
    """What is found in each image or tile, in pixels of it."""
    for batch in batches:
        for record, place, (width, height) in zip(detect(batch), batch.placements, batch.sizes, strict=True):
            boxes = boxes_from_square(record.boxes, place, input_size, int(height), int(width))
            yield ImageDetections(boxes, record.scores, record.labels)


def _merged(found: Iterator[ImageDetections], tiles: TiledSamples) -> Iterator[ImageDetections]:
    for i, (width, height) in enumerate(tiles.sizes.tolist()):
        windows = tiles.windows(i)
        yield merge_windows(islice(found, len(windows)), windows, width, height)


def read_batches(
    dataset: Dataset | TiledSamples, spec: InputSpec, batch: int, threads: int | None = None
) -> Iterator[SquareBatch]:
    """Every image or tile once, in order, read and resized by threads ahead of whoever takes the batches.

    Args:
        dataset: Where images come from.
        spec: How an image becomes the square.
        batch: Images per batch; the last one may have fewer.
        threads: None for what suits this machine, 0 for none.

    Raises:
        ConfigError: A number is out of range.
        DataError: There are no images, or one cannot be used.
    """
    if batch < 1:
        raise ConfigError(f"batch size {batch}: want 1 or more")
    images = dataset.dataset if isinstance(dataset, TiledSamples) else dataset
    if not len(images):
        raise DataError(f"{printable(images.source)}: no images (want at least one)")
    images = read_as(images, spec.sixteen_bit)
    count = min(cores(), MAX_AUTO_THREADS) if threads is None else threads
    if isinstance(dataset, TiledSamples):
        return in_batches(_tile_squares(images, dataset, spec, count), batch)
    return in_batches(_in_order(functools.partial(_read, images, spec), len(images), count), batch)


def in_batches(squares: Iterable[PlacedSquare], batch: int) -> Iterator[SquareBatch]:
    """Squares, so many at a time."""
    squares = iter(squares)
    while some := list(islice(squares, batch)):
        sizes = np.array([(one.width, one.height) for one in some], np.int64)
        yield SquareBatch(np.stack([one.square for one in some]), [one.placement for one in some], sizes)


def _read(dataset: Dataset, spec: InputSpec, i: int) -> PlacedSquare:
    return placed_square(dataset.sample(i).image, spec)


def placed_square(image: np.ndarray, spec: InputSpec) -> PlacedSquare:
    """An image uint8 RGB [h, w, 3] as the network sees it."""
    square, place = to_square(image, spec)
    return PlacedSquare(square, place, image.shape[1], image.shape[0])


def _tile_squares(images: Dataset, tiles: TiledSamples, spec: InputSpec, threads: int) -> Iterator[PlacedSquare]:
    """Threads decode, and tiles are cut as they are taken: an image may have more of them than memory has room for."""
    for i, image in enumerate(_in_order(lambda i: images.sample(i).image, len(images), threads)):
        for x0, y0, x1, y1 in tiles.windows(i):
            yield placed_square(image[y0:y1, x0:x1], spec)


def _in_order(make: Callable[[int], Made], count: int, threads: int) -> Iterator[Made]:
    """make(0), make(1), ... in order, made by threads that are a few ahead."""
    if threads == 0:
        yield from map(make, range(count))
        return
    with ThreadPoolExecutor(threads, "singleshot-read") as pool:
        numbers = iter(range(count))
        making = deque(pool.submit(make, i) for i in islice(numbers, _AHEAD * threads))
        try:
            while making:
                one = making.popleft().result()
                making.extend(pool.submit(make, i) for i in islice(numbers, 1))
                yield one
        finally:
            pool.shutdown(cancel_futures=True)
