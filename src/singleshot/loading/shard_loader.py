"""Training from shards in a stream: tars are read from their starts to their ends, from a disk or from the network.

A process reads V streams, each a part of the epoch's shuffled shards, and each batch comes from one stream. A stream
draws from a buffer of encoded samples. Which samples these are and how they are augmented depends on (seed, epoch,
stream, position) alone: any number of workers gives the same batches. An epoch that is taken up in the middle reads
again what it has read before, but decodes none of it.
"""

from __future__ import annotations

import functools
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, cast

import numpy as np

from singleshot.datasets import open_dataset
from singleshot.datasets.box_rules import clean_boxes
from singleshot.datasets.dataset import Dataset, format_box, unknown_class
from singleshot.datasets.encoded_image import EncodedImage
from singleshot.datasets.findings import RAISE_ERRORS
from singleshot.datasets.formats import open_source
from singleshot.datasets.shard_index import INDEX, find_shard, parse_label, read_index
from singleshot.datasets.shard_tar import read_samples
from singleshot.datasets.splits import resolve_split
from singleshot.errors import ConfigError, DataError, SingleshotError, printable
from singleshot.images.decode import Encoded, check_image
from singleshot.images.exif import orientation
from singleshot.inputs import InputSpec
from singleshot.loading.augment import AugmentSpec, Example, augment_picture
from singleshot.loading.loader import Pictures, TrainLoader, collate
from singleshot.loading.shard_streams import Part, StreamPlan, checked_shard, make_stream_plan, pick_streams, shuffled
from singleshot.loading.workers import WorkerPool, carried, pick_workers
from singleshot.records import Batch

# Encoded samples that a process (with its workers) holds to draw from, and their bytes, over all streams.
BUFFER_SAMPLES = 1000
BUFFER_BYTES = 512 * 2**20


@dataclass(frozen=True)
class ShardStream:
    """One split of a folder of shards, none of them opened yet.

    source: as a Dataset's; class_names: those wanted; own_names: those of the shards; paths, counts: of the tars and
    of their samples; clip_boxes: as in `open_dataset`.
    """

    source: str
    class_names: tuple[str, ...]
    own_names: tuple[str, ...]
    paths: tuple[str, ...]
    counts: tuple[int, ...]
    clip_boxes: bool = False

    def __len__(self) -> int:
        """Samples in all."""
        return sum(self.counts)


def open_stream(
    path: str | os.PathLike[str],
    split: str = "train",
    class_names: Sequence[str] | None = None,
    clip_boxes: bool = False,
) -> ShardStream:
    """Open one split of a folder of shards, the arguments those of `open_dataset`; only shards.json is read.

    Raises DataError for other data, a split or a shard that is not there, and one without images. What is wrong in a
    tar shows when its step comes.
    """
    source = open_source(path)
    where = printable(source.tree.root)
    if source.form != "shards":
        raise DataError(f"{where}: no folder of shards (want {INDEX} in it); write one with singleshot data shard")
    index = read_index(source.tree)
    name = resolve_split(split, index.splits, source.tree.root)
    shards = index.splits[name]
    if not shards:
        raise DataError(f"{where}: split {printable(name)!r} has no images; name another")
    paths = tuple(find_shard(source.tree, shard) for shard in shards)
    return ShardStream(
        f"{source.tree.root} ({name})",
        tuple(index.class_names if class_names is None else class_names),
        index.class_names,
        paths,
        tuple(shard.samples for shard in shards),
        clip_boxes,
    )


def open_training_set(
    path: str | os.PathLike[str],
    split: str = "train",
    class_names: Sequence[str] | None = None,
    clip_boxes: bool = False,
) -> Dataset | ShardStream:
    """Shards as a stream, anything else as `open_dataset` does."""
    opened = open_stream if open_source(path).form == "shards" else open_dataset
    return opened(path, split, class_names, clip_boxes)


def make_train_loader(
    train_set: Pictures | ShardStream,
    augment_spec: AugmentSpec,
    input_spec: InputSpec,
    batch_size: int,
    seed: int = 0,
    workers: int | None = None,
    *,
    shard: tuple[int, int] = (0, 1),
    pin_memory: bool = False,
) -> TrainLoader | ShardLoader:
    """The loader for what `open_training_set` gave, or for the cache of such a data set."""
    kind: Any = ShardLoader if isinstance(train_set, ShardStream) else TrainLoader
    return kind(train_set, augment_spec, input_spec, batch_size, seed, workers, shard=shard, pin_memory=pin_memory)


class ShardLoader:
    """Batches from shards, always full, used as a TrainLoader: `for batch in loader.epoch(e)`.

    A process, `rank` of `world` in shard=(rank, world), has each epoch other shards; no two have the same sample. Each
    image comes about once: a stream whose samples do not fill its share of batches begins its shards again, each
    augmented anew, or leaves some out. Batch.indices are positions in the order of shards.json. workers are no more
    than there are streams. buffer: samples that are held to draw from, over all streams.
    """

    def __init__(
        self,
        stream: ShardStream,
        augment_spec: AugmentSpec,
        input_spec: InputSpec,
        batch_size: int,
        seed: int = 0,
        workers: int | None = None,
        *,
        shard: tuple[int, int] = (0, 1),
        pin_memory: bool = False,
        buffer: int = BUFFER_SAMPLES,
        buffer_bytes: int = BUFFER_BYTES,
    ) -> None:
        """Raises ConfigError for numbers out of range, and for fewer samples than processes."""
        rank, world = checked_shard(shard)
        if seed < 0 or batch_size < 1 or buffer < 1:
            raise ConfigError(f"seed {seed}, batch size {batch_size}, buffer {buffer}: want 0, 1 and 1 or more")
        self.batch_size = batch_size
        self.seed = seed
        self._batches = max(1, len(stream) // (batch_size * world))
        streams = pick_streams(stream.counts, self._batches, world)
        self.workers = min(pick_workers(workers, batch_size, input_spec.size), streams)
        self._plan = functools.partial(
            make_stream_plan, stream.counts, self._batches, streams, seed, rank=rank, world=world
        )
        held = max(batch_size, -(-buffer // streams)), max(1, buffer_bytes // streams)
        self._batch_maker = _StreamBatches(
            stream, augment_spec, input_spec, batch_size, seed, self._plan, held, (rank * batch_size, rank * streams),
            batch_size * world,
        )  # fmt: skip
        self._pool = WorkerPool(self._batch_maker, self.workers, pin_memory)

    def __len__(self) -> int:
        """Batches in an epoch."""
        return self._batches

    def epoch(self, epoch: int, start_batch: int = 0) -> Iterator[Batch]:
        """Batches of one epoch from `start_batch` on; a SingleshotError of a worker is raised here."""
        if epoch < 0 or start_batch < 0:
            raise ConfigError(f"epoch {epoch}, batch {start_batch}: want 0 or more")
        plan = self._plan(epoch)
        steps = np.bincount(plan.stream_of, minlength=len(plan.streams)).tolist()
        jobs: list[_Job | None] = []
        for b in range(start_batch, len(self)):
            stream, step = plan.stream_of[b], plan.step_of[b]
            # The pool deals its jobs round and round; a stream's go to the one worker that has it open.
            while self.workers and len(jobs) % self.workers != stream % self.workers:
                jobs.append(None)
            jobs.append(_Job(epoch, b, stream, step, step + 1 == steps[stream]))
        return (batch for batch in self._pool.run(jobs) if batch is not None)

    def close(self) -> None:
        """End the worker processes and close the tars; a later epoch starts new ones."""
        self._pool.close()
        self._batch_maker.close()


class _Job(NamedTuple):
    """One batch: the `step`-th of its stream, and whether that is the stream's last in the epoch."""

    epoch: int
    batch: int
    stream: int
    step: int
    last: bool


class _Drawn(NamedTuple):
    """A sample still encoded. position: in the split; path: names its image; label: JSON."""

    position: int
    path: str
    image: bytes
    label: bytes


class _OpenStream(NamedTuple):
    """A stream after its first `steps` batches."""

    steps: int
    draws: Iterator[_Drawn]


class _StreamBatches:
    """Prepares batches, in a worker or here; keeps the streams open that it works on.

    held: samples and bytes in a stream's buffer; first: the position of this process in a joint batch of `joint`
    samples, and the number of its first stream among all.
    """

    def __init__(
        self, stream: ShardStream, augment_spec: AugmentSpec, input_spec: InputSpec, batch_size: int, seed: int,
        plan: functools.partial[StreamPlan], held: tuple[int, int], first: tuple[int, int], joint: int,
    ) -> None:  # fmt: skip
        self.stream, self.augment_spec, self.input_spec = stream, augment_spec, input_spec
        self.batch_size, self.seed, self.held, self.joint = batch_size, seed, held, joint
        self.first_position, self.first_lane = first
        self._plan = plan
        self._epoch = -1
        self._lanes: list[list[Part]] = []
        self._open: dict[int, _OpenStream] = {}
        wanted = {name: label for label, name in enumerate(stream.class_names)}
        self._labels = np.array([wanted.get(name, -1) for name in stream.own_names], np.int64)
        self._starts = np.cumsum([0, *stream.counts])

    def __getitem__(self, job: _Job | None) -> Batch | SingleshotError | None:
        return None if job is None else carried(self._prepare, cast("Any", job))

    def close(self) -> None:
        self._open.clear()

    def _prepare(self, job: Any) -> Batch:
        drawn = self._take(job)
        examples: list[Example] = []
        start = job.batch * self.joint + self.first_position
        for position, one in enumerate(drawn, start):
            rng = np.random.default_rng((self.seed, job.epoch, position))
            others = functools.partial(self._others, drawn, rng)
            examples.append(augment_picture(self._picture(one), self.augment_spec, self.input_spec, rng, others))
        indices = np.array([one.position for one in drawn], np.int64)
        return collate(examples, indices, [one.path for one in drawn], self.input_spec.size)

    def _others(self, drawn: list[_Drawn], rng: np.random.Generator, count: int) -> list[EncodedImage]:
        """Further pictures for a mosaic: any of the same batch."""
        return [self._picture(drawn[i]) for i in rng.integers(len(drawn), size=count).tolist()]

    def _take(self, job: _Job) -> list[_Drawn]:
        """The samples of a batch. A stream that is not where it should be begins its epoch again, undecoded."""
        if job.epoch != self._epoch:
            self._open.clear()
            self._lanes, self._epoch = self._plan(job.epoch).streams, job.epoch
        stream = self._open.pop(job.stream, None)
        if stream is None or stream.steps != job.step:
            stream = _OpenStream(job.step, self._draws(job.stream))
            for _ in range(job.step * self.batch_size):
                next(stream.draws)
        drawn = [next(stream.draws) for _ in range(self.batch_size)]
        if not job.last:
            self._open[job.stream] = _OpenStream(job.step + 1, stream.draws)
        return drawn

    def _draws(self, stream: int) -> Iterator[_Drawn]:
        """A stream's samples, all of them and then all again, without end."""
        parts = self._lanes[stream]
        # The 1 sets these numbers apart from those of the sample at position `stream`.
        rng = np.random.default_rng((self.seed, self._epoch, self.first_lane + stream, 1))
        while True:
            one_round = (sample for part in parts for sample in self._read(part))
            yield from shuffled(one_round, lambda one: len(one.image) + len(one.label), *self.held, rng)

    def _read(self, part: Part) -> Iterator[_Drawn]:
        path, count = self.stream.paths[part.shard], self.stream.counts[part.shard]
        start, found = int(self._starts[part.shard]), 0
        for packed in read_samples(path, RAISE_ERRORS):
            if found < count and found % part.of == part.number:
                yield _Drawn(start + found, packed.path, packed.image, packed.label)
            found += 1
        if found != count:
            raise DataError(
                f"{printable(path)}: holds {found} samples, but {INDEX} says {count}; fetch it again, or write the "
                "shards again"
            )

    def _picture(self, one: _Drawn) -> EncodedImage:
        """As `Dataset.picture`. Raises DataError where labels and image do not fit."""
        where = printable(one.path)
        try:
            label = parse_label(one.label, self.stream.own_names)
        except DataError as error:
            raise DataError(f"{where}: its labels: {error}") from error
        width, height = check_image(one.image, one.path)
        if orientation(one.image) >= 5:
            width, height = height, width
        if (width, height) != (label.width, label.height):
            raise DataError(
                f"{where}: image is {width} x {height} pixels, its annotation says {label.width} x {label.height}; "
                "write the shards again"
            )
        boxes = np.array(label.boxes, np.float64).reshape(-1, 4)
        names = self.stream.own_names

        def describe(k: int) -> str:
            return f"{where}: object {k} ({printable(names[label.classes[k]])}): box {format_box(boxes[k])}"

        size = np.tile(np.array([width, height], np.float64), (len(boxes), 1))
        settled = clean_boxes(boxes, size, self.stream.clip_boxes, describe)
        keep = settled.keep & ~np.array(label.crowd, bool)
        labels = self._labels[np.array(label.classes, np.int64)]
        if (labels < 0).any():
            k = int(np.argmax(labels < 0))
            raise DataError(f"{where}: object {k}: {unknown_class(names[label.classes[k]], self.stream.class_names)}")
        encoded = Encoded(one.image, width, height, one.path)
        return EncodedImage(
            width, height, settled.boxes[keep], labels[keep], encoded.decode, encoded.reductions, one.path
        )  # fmt: skip
