"""Batches for training and evaluation, prepared by worker processes.

What image stands where, and how it is augmented, depends on (seed, epoch, position) alone: any number of workers
gives the same batches, and an epoch can be taken up in the middle. The unit that a worker prepares is a whole
batch, so that one message per batch crosses between processes.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Iterator
from typing import NamedTuple, Protocol, TypeVar

import numpy as np
import torch

from singleshot.datasets.encoded_image import EncodedImage
from singleshot.errors import ConfigError, DataError, SingleshotError, printable
from singleshot.inputs import InputSpec, Placement, boxes_to_square, to_square
from singleshot.loading.augment import AugmentSpec, Example, augment_picture
from singleshot.loading.shard_streams import checked_shard
from singleshot.loading.workers import WorkerPool, carried, pick_workers
from singleshot.records import Batch, Sample

# Rows of padded boxes come in multiples of this: few distinct shapes for the allocator and torch.compile.
BOX_ROWS = 8

T = TypeVar("T")


class Samples(Protocol):
    """What evaluation needs of a data set (`data.dataset.Dataset` is one)."""

    def __len__(self) -> int: ...

    def sample(self, i: int) -> Sample: ...


class Pictures(Protocol):
    """What training needs of a data set: `data.dataset.Dataset`, or its pixels kept in a `data.cache.PixelCache`."""

    def __len__(self) -> int: ...

    def picture(self, i: int) -> EncodedImage: ...


class EvalBatch(NamedTuple):
    """A batch with what maps its boxes back: one Placement per image and sizes int64 [B, 2], width and height."""

    batch: Batch
    placements: list[Placement]
    sizes: np.ndarray


class TrainLoader:
    """Shuffled and augmented batches, always full: `for batch in loader.epoch(e)`.

    An epoch leaves out the images that do not fill its last batch (others each time); a data set smaller than
    one batch is repeated, each repetition shuffled and augmented anew. workers: processes, 0 for none, None for
    as many as suit this machine. shard: (rank, number of processes) where several train together, each taking
    its part of every joint batch. One epoch runs at a time; `close` ends the workers.
    """

    def __init__(
        self,
        dataset: Pictures,
        augment_spec: AugmentSpec,
        input_spec: InputSpec,
        batch_size: int,
        seed: int = 0,
        workers: int | None = None,
        *,
        shard: tuple[int, int] = (0, 1),
        pin_memory: bool = False,
    ) -> None:
        """Raises ConfigError for numbers out of range, DataError for a data set without images."""
        shard = checked_shard(shard)
        if seed < 0:
            raise ConfigError(f"seed {seed}: want 0 or more")
        _check_batch(dataset, batch_size)
        self.batch_size = batch_size
        self.seed = seed
        self._images = len(dataset)
        self._shard = shard
        self.workers = pick_workers(workers, batch_size, input_spec.size)
        self._pool = WorkerPool(_TrainBatches(dataset, augment_spec, input_spec, seed), self.workers, pin_memory)

    def __len__(self) -> int:
        """Batches in an epoch."""
        return max(1, self._images // (self.batch_size * self._shard[1]))

    def epoch(self, epoch: int, start_batch: int = 0) -> Iterator[Batch]:
        """Batches of one epoch from `start_batch` on; a SingleshotError of a worker is raised here."""
        if epoch < 0 or start_batch < 0:
            raise ConfigError(f"epoch {epoch}, batch {start_batch}: want 0 or more")
        rank, world = self._shard
        joint = self.batch_size * world
        order = epoch_order(self._images, len(self) * joint, self.seed, epoch)
        jobs = []
        for b in range(start_batch, len(self)):
            start = b * joint + rank * self.batch_size
            jobs.append(_Job(epoch, start, order[start : start + self.batch_size]))
        return self._pool.run(jobs)

    def close(self) -> None:
        """End the worker processes; a later epoch starts new ones."""
        self._pool.close()


class EvalLoader:
    """Every image once, in order, as `to_square` shows it: `for batch, placements, sizes in loader`."""

    def __init__(
        self,
        dataset: Samples,
        input_spec: InputSpec,
        batch_size: int,
        workers: int | None = None,
        *,
        pin_memory: bool = False,
    ) -> None:
        """Raises ConfigError for numbers out of range, DataError for a data set without images."""
        _check_batch(dataset, batch_size)
        self.batch_size = batch_size
        self._images = len(dataset)
        self.workers = pick_workers(workers, batch_size, input_spec.size)
        self._pool = WorkerPool(_EvalBatches(dataset, input_spec), self.workers, pin_memory)

    def __len__(self) -> int:
        """Batches in all."""
        return math.ceil(self._images / self.batch_size)

    def __iter__(self) -> Iterator[EvalBatch]:
        order = np.arange(self._images)
        starts = range(0, self._images, self.batch_size)
        return self._pool.run([_Job(0, start, order[start : start + self.batch_size]) for start in starts])

    def close(self) -> None:
        """End the worker processes; a later pass starts new ones."""
        self._pool.close()


def epoch_order(images: int, length: int, seed: int, epoch: int) -> np.ndarray:
    """int64 [length]: which image stands at each position; whole shuffles one after another where it must repeat."""
    rng = np.random.default_rng((seed, epoch))
    shuffles = [rng.permutation(images) for _ in range(math.ceil(length / images))]
    return np.concatenate(shuffles)[:length]


def collate(examples: list[Example], indices: np.ndarray, names: list[str], size: int) -> Batch:
    """Examples of `augment` -> one Batch; its images are a channels-last view of uint8 [B, S, S, 3]."""
    count = len(examples)
    most = max((len(boxes) for _, boxes, _ in examples), default=0)
    rows = BOX_ROWS * max(1, math.ceil(most / BOX_ROWS))
    images = np.empty((count, size, size, 3), np.uint8)
    all_boxes = np.zeros((count, rows, 4), np.float32)
    all_labels = np.full((count, rows), -1, np.int64)
    for k, (image, boxes, labels) in enumerate(examples):
        images[k] = image
        all_boxes[k, : len(boxes)] = boxes
        all_labels[k, : len(labels)] = labels
    return Batch(
        torch.from_numpy(images).permute(0, 3, 1, 2),
        torch.from_numpy(all_boxes),
        torch.from_numpy(all_labels),
        torch.from_numpy(np.asarray(indices, np.int64)),
        tuple(names),
    )


def _check_batch(dataset: Samples | Pictures, batch_size: int) -> None:
    if batch_size < 1:
        raise ConfigError(f"batch size {batch_size}: want 1 or more")
    if len(dataset) == 0:
        source = getattr(dataset, "source", "the data set")
        raise DataError(f"{printable(source)}: no images (want at least one)")


class _Job(NamedTuple):
    """One batch to prepare: images `indices`, the first of which stands at `position` of `epoch`."""

    epoch: int
    position: int
    indices: np.ndarray


class _TrainBatches:
    """Prepares training batches, in a worker or here."""

    def __init__(self, dataset: Pictures, augment_spec: AugmentSpec, input_spec: InputSpec, seed: int) -> None:
        self.dataset, self.augment_spec, self.input_spec, self.seed = dataset, augment_spec, input_spec, seed

    def __getitem__(self, job: _Job) -> Batch | SingleshotError:
        return carried(self._prepare, job)

    def _prepare(self, job: _Job) -> Batch:
        examples: list[Example] = []
        names = []
        for position, index in enumerate(job.indices.tolist(), job.position):
            # By position, not by index: a repeated image is augmented differently.
            rng = np.random.default_rng((self.seed, job.epoch, position))
            picture = self.dataset.picture(index)
            others = functools.partial(self._others, rng)
            examples.append(augment_picture(picture, self.augment_spec, self.input_spec, rng, others))
            names.append(picture.name)
        return collate(examples, job.indices, names, self.input_spec.size)

    def _others(self, rng: np.random.Generator, count: int) -> list[EncodedImage]:
        return [self.dataset.picture(i) for i in rng.integers(len(self.dataset), size=count).tolist()]


class _EvalBatches:
    """Prepares evaluation batches, in a worker or here."""

    def __init__(self, dataset: Samples, input_spec: InputSpec) -> None:
        self.dataset, self.input_spec = dataset, input_spec

    def __getitem__(self, job: _Job) -> EvalBatch | SingleshotError:
        return carried(self._prepare, job)

    def _prepare(self, job: _Job) -> EvalBatch:
        size = self.input_spec.size
        examples: list[Example] = []
        placements, sizes, names = [], [], []
        for index in job.indices.tolist():
            sample = self.dataset.sample(index)
            square, place = to_square(sample.image, self.input_spec)
            examples.append((square, boxes_to_square(sample.boxes_px, place, size), sample.labels))
            placements.append(place)
            sizes.append((sample.image.shape[1], sample.image.shape[0]))
            names.append(sample.name)
        batch = collate(examples, job.indices, names, size)
        return EvalBatch(batch, placements, np.array(sizes, np.int64).reshape(-1, 2))
