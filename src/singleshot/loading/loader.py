"""Batches for training and evaluation, prepared by worker processes.

What image stands where, and how it is augmented, depends on (seed, epoch, position) alone: any number of workers
gives the same batches, and an epoch can be taken up in the middle. The unit that a worker prepares is a whole
batch, so that one message per batch crosses between processes.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Iterator
from typing import Any, NamedTuple, Protocol, TypeVar

import numpy as np
import torch

from singleshot.datasets.dataset import Dataset, read_as
from singleshot.datasets.encoded_image import EncodedImage
from singleshot.datasets.tiles import TiledSamples
from singleshot.errors import ConfigError, DataError, printable
from singleshot.inputs import InputSpec, Placement, to_square
from singleshot.loading.augment import Augmenter, Example, unaugmented
from singleshot.loading.augment_spec import AugmentSpec
from singleshot.loading.sampling import BatchSamples, Sampling, epoch_order, repeated_length, repeated_order
from singleshot.loading.shard_stream import ShardSource, ShardStream
from singleshot.loading.workers import MAX_WORKERS, WorkerPool, pick_workers
from singleshot.records import Batch, Sample
from singleshot.tiling import Tiling

# Rows of padded boxes come in multiples of this: few distinct shapes for the allocator and torch.compile.
BOX_ROWS = 8
# How many images are tried in the place of one that cannot be read.
_SUBSTITUTES = 32

Job = TypeVar("Job")


class Samples(Protocol):
    """What evaluation needs of a data set (`datasets.dataset.Dataset` is one)."""

    def __len__(self) -> int: ...

    def sample(self, i: int) -> Sample:
        """Image i, decoded, with its objects."""
        ...


class EncodedImages(Protocol):
    """What training needs of a data set: a `datasets.dataset.Dataset`, or its pixels kept in a `cache.PixelCache`."""

    def __len__(self) -> int: ...

    def picture(self, i: int) -> EncodedImage:
        """Image i, read but not decoded, with its objects."""
        ...


class TrainSource(Protocol[Job]):
    """Where a TrainLoader's samples come from: `FolderSource`, or `shard_stream.ShardSource`.

    most_workers: how many processes can take from it at the same time.
    """

    most_workers: int

    def jobs(self, epoch: int, start_batch: int, workers: int) -> list[Job | None]:
        """One job for each batch from `start_batch` on, dealt to that many workers in turn; None: no work this turn."""
        ...

    def take(self, job: Job) -> BatchSamples:
        """The samples of a batch; called in a worker process where there are any."""
        ...

    def close(self) -> None:
        """Close what is open."""
        ...


class EvalBatch(NamedTuple):
    """A batch with what maps its boxes back: one Placement per image and sizes int64 [B, 2], width and height."""

    batch: Batch
    placements: list[Placement]
    sizes: np.ndarray


class TrainLoader:
    """Shuffled and augmented batches, always full: `for batch in loader.epoch(e)`.

    An epoch leaves out the images that do not fill its last batch (others each time); a data set smaller than
    one batch is repeated, each repetition shuffled and augmented anew. Shards are read as a stream: see
    `shard_stream.ShardSource` for what an epoch then has. One epoch runs at a time; `close` ends the workers.
    """

    def __init__(
        self,
        data: EncodedImages | ShardStream,
        augment_spec: AugmentSpec,
        input_spec: InputSpec,
        batch_size: int,
        seed: int = 0,
        workers: int | None = None,
        *,
        shard: tuple[int, int] = (0, 1),
        pin_memory: bool = False,
        skip_broken: bool = False,
        repeats: np.ndarray | None = None,
        tiling: Tiling | None = None,
    ) -> None:
        """Start no worker yet.

        Args:
            data: images to read when their turn comes, or what `open_stream` gave.
            augment_spec: what is drawn for each image.
            input_spec: what the network wants.
            batch_size: images in a batch of this process.
            seed: of order and augmentation.
            workers: processes, 0 for none, None for as many as suit this machine.
            shard: (rank, number of processes) where several train together, each taking its part of every joint batch.
            pin_memory: whether batches are put where an accelerator can fetch them without waiting.
            skip_broken: whether another image, drawn by (seed, epoch, position), takes the place of one that cannot be
                read, which `Batch.skipped` says.
            repeats: how often each image of a folder is shown in an epoch, from `sampling.repeat_factors`; None: once.
            tiling: whether a tile, drawn by (seed, epoch, position), is shown in place of each image.

        Raises:
            ConfigError: a number out of range, or fewer samples in a shard than processes that share it.
            DataError: a data set without images.
        """
        sampling = Sampling(batch_size, seed, *shard)
        _check_not_empty(data)
        data = read_as(data, input_spec.sixteen_bit)
        self.batch_size, self.seed = batch_size, seed
        self._source: TrainSource[Any] = (
            ShardSource(data, sampling, skip_broken)
            if isinstance(data, ShardStream)
            else FolderSource(data, sampling, repeats)
        )
        self._batches = sampling.batches(len(data) if repeats is None else repeated_length(repeats))
        self.workers = min(pick_workers(workers, batch_size, input_spec.sides), self._source.most_workers)
        augmenter = Augmenter(augment_spec, input_spec, tiling)
        prepare = functools.partial(_prepare_train_batch, self._source, augmenter, input_spec.shape, seed, skip_broken)
        self._pool = WorkerPool(prepare, self.workers, pin_memory, batch_size * math.prod(input_spec.shape))

    def __len__(self) -> int:
        """Batches in an epoch."""
        return self._batches

    def epoch(self, epoch: int, start_batch: int = 0) -> Iterator[Batch]:
        """Batches of one epoch from `start_batch` on; a SingleshotError of a worker is raised here."""
        if epoch < 0 or start_batch < 0:
            raise ConfigError(f"epoch {epoch}, batch {start_batch}: want 0 or more")
        return self._pool.run(self._source.jobs(epoch, start_batch, self.workers))

    def close(self) -> None:
        """End the worker processes and close the tars; a later epoch starts new ones."""
        self._pool.close()
        self._source.close()


class EvalLoader:
    """Every image once, in order, as `to_square` shows it: `for batch, placements, sizes in loader`.

    Of several processes that share the images each has every so-manyth batch. tiles: with a tiling, what comes in place
    of the images. samples: how many images or tiles there are.
    """

    def __init__(
        self,
        dataset: Samples,
        input_spec: InputSpec,
        batch_size: int,
        workers: int | None = None,
        *,
        shard: tuple[int, int] = (0, 1),
        pin_memory: bool = False,
        tiling: Tiling | None = None,
    ) -> None:
        """shard: as in TrainLoader. Raises ConfigError for numbers out of range, DataError for a data set without
        images, and as TiledSamples."""
        Sampling(batch_size, 0, *shard)
        _check_not_empty(dataset)
        dataset = read_as(dataset, input_spec.sixteen_bit)
        self.batch_size = batch_size
        self._settings = input_spec, batch_size, workers, shard, pin_memory, tiling
        self.tiles: TiledSamples | None = None
        if tiling is not None:
            assert isinstance(dataset, Dataset)
            dataset = self.tiles = TiledSamples(dataset, tiling, input_spec.sides)
        self.samples = len(dataset)
        self.workers = pick_workers(workers, batch_size, input_spec.sides)
        prepare = functools.partial(_prepare_eval_batch, dataset, input_spec)
        self._pool = WorkerPool(prepare, self.workers, pin_memory, batch_size * math.prod(input_spec.shape))

    def of(self, dataset: Samples) -> EvalLoader:
        """One of the same settings for other images."""
        input_spec, batch_size, workers, shard, pin_memory, tiling = self._settings
        return EvalLoader(dataset, input_spec, batch_size, workers, shard=shard, pin_memory=pin_memory, tiling=tiling)

    def __len__(self) -> int:
        """Batches in all, those of other processes included."""
        return math.ceil(self.samples / self.batch_size)

    def __iter__(self) -> Iterator[EvalBatch]:
        order = np.arange(self.samples)
        (rank, world), batches = self._settings[3], order[:: self.batch_size]
        return self._pool.run([order[start : start + self.batch_size] for start in batches[rank::world]])

    def close(self) -> None:
        """End the worker processes; a later pass starts new ones."""
        self._pool.close()


class FolderJob(NamedTuple):
    """One batch of a folder: images `indices`, the first of which stands at `position` of `epoch`."""

    epoch: int
    position: int
    indices: np.ndarray


class FolderSource:
    """The images of a data set in shuffled order; any worker can take any batch."""

    most_workers = MAX_WORKERS

    def __init__(self, dataset: EncodedImages, sampling: Sampling, repeats: np.ndarray | None = None) -> None:
        self._dataset, self._sampling, self._repeats = dataset, sampling, repeats

    def jobs(self, epoch: int, start_batch: int, workers: int) -> list[FolderJob | None]:
        """As `TrainSource.jobs`; the number of workers changes nothing here."""
        sampling, images, repeats = self._sampling, len(self._dataset), self._repeats
        batches = sampling.batches(images if repeats is None else repeated_length(repeats))
        length = batches * sampling.batch_size * sampling.world
        if repeats is None:
            order = epoch_order(images, length, sampling.seed, epoch)
        else:
            order = repeated_order(repeats, length, sampling.seed, epoch)
        starts = [sampling.position(batch) for batch in range(start_batch, batches)]
        return [FolderJob(epoch, start, order[start : start + sampling.batch_size]) for start in starts]

    def take(self, job: FolderJob) -> BatchSamples:
        """The images of a batch; a mosaic's others come from the whole data set."""

        def read(k: int) -> EncodedImage:
            return self._dataset.picture(int(job.indices[k]))

        def others(rng: np.random.Generator, count: int) -> list[EncodedImage]:
            return [self._dataset.picture(i) for i in rng.integers(len(self._dataset), size=count).tolist()]

        return BatchSamples(job.epoch, job.position, job.indices, read, others)

    def close(self) -> None:
        """Nothing is open."""


def _prepare_train_batch(
    source: TrainSource[Any],
    augmenter: Augmenter,
    shape: tuple[int, int, int],
    seed: int,
    skip_broken: bool,
    job: object,
) -> Batch:
    samples = source.take(job)
    examples: list[Example] = []
    names, checksums, skipped = [], [], list(samples.broken)
    for k in range(len(samples.indices)):
        # By position, not by index: a repeated image is augmented differently.
        place = seed, samples.epoch, samples.position + k
        try:
            rng = np.random.default_rng(place)
            encoded = samples.read(k)
            examples.append(augmenter(encoded, rng, functools.partial(samples.others, rng)))
            checksums.append(encoded.checksum)
        except DataError as error:
            if not skip_broken:
                raise
            skipped.append(str(error))
            encoded = _append_another(examples, samples, augmenter, place)
            checksums.append(-1)
        names.append(encoded.name)
    batch = collate(examples, samples.indices, names, shape)
    return batch._replace(checksums=torch.tensor(checksums), skipped=tuple(skipped))


def _append_another(
    examples: list[Example], samples: BatchSamples, augmenter: Augmenter, place: tuple[int, int, int]
) -> EncodedImage:
    """The example of an image that can be read, in place of one that cannot; gives that image. Raises DataError."""
    for attempt in range(_SUBSTITUTES):
        # The 3 sets these numbers apart from those that augment, and that order shards.
        rng = np.random.default_rng((*place, attempt, 3))
        try:
            (encoded,) = samples.others(rng, 1)
            examples.append(augmenter(encoded, rng, functools.partial(samples.others, rng)))
        except DataError as error:
            last = error
        else:
            return encoded
    raise DataError(f"none of {_SUBSTITUTES} images that were drawn can be read: {last}")


def _prepare_eval_batch(dataset: Samples, input_spec: InputSpec, indices: np.ndarray) -> EvalBatch:
    examples: list[Example] = []
    placements, sizes, names, checksums = [], [], [], []
    for index in indices.tolist():
        sample = dataset.sample(index)
        image, place = to_square(sample.image, input_spec)
        examples.append(unaugmented(image, place, input_spec, sample))
        placements.append(place)
        sizes.append((sample.image.shape[1], sample.image.shape[0]))
        names.append(sample.name)
        checksums.append(sample.checksum)
    batch = collate(examples, indices, names, input_spec.shape)._replace(checksums=torch.tensor(checksums))
    return EvalBatch(batch, placements, np.array(sizes, np.int64).reshape(-1, 2))


def collate(examples: list[Example], indices: np.ndarray, names: list[str], shape: tuple[int, int, int]) -> Batch:
    """Examples of `augment` -> one Batch; its images are a channels-last view of uint8 [B, H, W, C] for a shape
    (H, W, C)."""
    images = np.empty((len(examples), *shape), np.uint8)
    for k, example in enumerate(examples):
        images[k] = example.image
    there = [example.labels >= 0 for example in examples]
    objects = [(one.boxes[rows], one.labels[rows]) for one, rows in zip(examples, there, strict=True)]
    no_box = np.zeros(4, np.float32)
    ignored = None
    if not all(rows.all() for rows in there):
        ignored = _padded([one.boxes[~rows] for one, rows in zip(examples, there, strict=True)], no_box)
    return Batch(
        torch.from_numpy(images).permute(0, 3, 1, 2),
        _padded([boxes for boxes, _ in objects], no_box),
        _padded([labels for _, labels in objects], np.array(-1)),
        torch.from_numpy(np.asarray(indices, np.int64)),
        tuple(names),
        ignored=ignored,
    )


def _padded(rows: list[np.ndarray], filler: np.ndarray) -> torch.Tensor:
    """Rows [N, ..] of each image -> [B, R, ..] of the filler's kind, which stands past an image's last row."""
    length = BOX_ROWS * max(1, math.ceil(max(map(len, rows), default=0) / BOX_ROWS))
    padded = np.full((len(rows), length, *filler.shape), filler)
    for k, own in enumerate(rows):
        padded[k, : len(own)] = own
    return torch.from_numpy(padded)


def _check_not_empty(data: Samples | EncodedImages | ShardStream) -> None:
    if len(data) == 0:
        source = getattr(data, "source", "the data set")
        raise DataError(f"{printable(source)}: no images (want at least one)")
