"""Training from shards in a stream: tars are read from their starts to their ends, from a disk or from the network.

A process reads V lanes, each a part of the epoch's shuffled shards, and each batch comes from one lane. A lane draws
from a buffer of encoded samples. Which samples these are and how they are augmented depends on (seed, epoch, lane,
position) alone: any number of workers gives the same batches. An epoch that is taken up in the middle reads again what
it has read before, but decodes none of it.
"""

from __future__ import annotations

import functools
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, cast

import numpy as np

from singleshot.data import open_dataset
from singleshot.data.augment import AugmentSpec, Example, augment_picture
from singleshot.data.boxcheck import settle_boxes
from singleshot.data.dataset import Dataset, format_box, unknown_class
from singleshot.data.exif import orientation
from singleshot.data.findings import STRICT
from singleshot.data.formats import open_source
from singleshot.data.images import Encoded, check_image
from singleshot.data.lanes import Part, Plan, checked_shard, make_plan, pick_lanes, shuffled
from singleshot.data.loader import Pictures, TrainLoader, collate
from singleshot.data.picture import Picture
from singleshot.data.shardfile import INDEX, find_shard, parse_label, read_index
from singleshot.data.shardtar import read_samples
from singleshot.data.splits import resolve_split
from singleshot.data.workers import Pool, carried, pick_workers
from singleshot.errors import ConfigError, DataError, SingleshotError, printable
from singleshot.inputs import InputSpec
from singleshot.records import Batch

# Encoded samples that a process (with its workers) holds to draw from, and their bytes, over all lanes.
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
    tar shows when its turn comes.
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
    image comes about once: a lane whose samples do not fill its share of batches begins its shards again, each
    augmented anew, or leaves some out. Batch.indices are positions in the order of shards.json. workers are no more
    than there are lanes. buffer: samples that are held to draw from, over all lanes.
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
        lanes = pick_lanes(stream.counts, self._batches, world)
        self.workers = min(pick_workers(workers, batch_size, input_spec.size), lanes)
        self._plan = functools.partial(make_plan, stream.counts, self._batches, lanes, seed, rank=rank, world=world)
        held = max(batch_size, -(-buffer // lanes)), max(1, buffer_bytes // lanes)
        self._batch_maker = _LaneBatches(
            stream, augment_spec, input_spec, batch_size, seed, self._plan, held, (rank * batch_size, rank * lanes),
            batch_size * world,
        )  # fmt: skip
        self._pool = Pool(self._batch_maker, self.workers, pin_memory)

    def __len__(self) -> int:
        """Batches in an epoch."""
        return self._batches

    def epoch(self, epoch: int, start_batch: int = 0) -> Iterator[Batch]:
        """Batches of one epoch from `start_batch` on; a SingleshotError of a worker is raised here."""
        if epoch < 0 or start_batch < 0:
            raise ConfigError(f"epoch {epoch}, batch {start_batch}: want 0 or more")
        plan = self._plan(epoch)
        turns = np.bincount(plan.lane_of, minlength=len(plan.lanes)).tolist()
        jobs: list[_Job | None] = []
        for b in range(start_batch, len(self)):
            lane, turn = plan.lane_of[b], plan.turn_of[b]
            # The pool deals its jobs round and round; a lane's go to the one worker that has it open.
            while self.workers and len(jobs) % self.workers != lane % self.workers:
                jobs.append(None)
            jobs.append(_Job(epoch, b, lane, turn, turn + 1 == turns[lane]))
        return (batch for batch in self._pool.run(jobs) if batch is not None)

    def close(self) -> None:
        """End the worker processes and close the tars; a later epoch starts new ones."""
        self._pool.close()
        self._batch_maker.close()


class _Job(NamedTuple):
    """One batch: the `turn`-th of its lane, and whether that is the lane's last in the epoch."""

    epoch: int
    batch: int
    lane: int
    turn: int
    last: bool


class _Drawn(NamedTuple):
    """A sample still encoded. position: in the split; path: names its image; label: JSON."""

    position: int
    path: str
    image: bytes
    label: bytes


class _OpenLane(NamedTuple):
    """A lane after its first `turns` batches."""

    turns: int
    draws: Iterator[_Drawn]


class _LaneBatches:
    """Prepares batches, in a worker or here; keeps the lanes open that it works on.

    held: samples and bytes in a lane's buffer; first: the position of this process in a joint batch of `joint`
    samples, and the number of its first lane among all.
    """

    def __init__(
        self, stream: ShardStream, augment_spec: AugmentSpec, input_spec: InputSpec, batch_size: int, seed: int,
        plan: functools.partial[Plan], held: tuple[int, int], first: tuple[int, int], joint: int,
    ) -> None:  # fmt: skip
        self.stream, self.augment_spec, self.input_spec = stream, augment_spec, input_spec
        self.batch_size, self.seed, self.held, self.joint = batch_size, seed, held, joint
        self.first_position, self.first_lane = first
        self._plan = plan
        self._epoch = -1
        self._lanes: list[list[Part]] = []
        self._open: dict[int, _OpenLane] = {}
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

    def _others(self, drawn: list[_Drawn], rng: np.random.Generator, count: int) -> list[Picture]:
        """Further pictures for a mosaic: any of the same batch."""
        return [self._picture(drawn[i]) for i in rng.integers(len(drawn), size=count).tolist()]

    def _take(self, job: _Job) -> list[_Drawn]:
        """The samples of a batch. A lane that is not where it should be begins its epoch again, undecoded."""
        if job.epoch != self._epoch:
            self._open.clear()
            self._lanes, self._epoch = self._plan(job.epoch).lanes, job.epoch
        lane = self._open.pop(job.lane, None)
        if lane is None or lane.turns != job.turn:
            lane = _OpenLane(job.turn, self._draws(job.lane))
            for _ in range(job.turn * self.batch_size):
                next(lane.draws)
        drawn = [next(lane.draws) for _ in range(self.batch_size)]
        if not job.last:
            self._open[job.lane] = _OpenLane(job.turn + 1, lane.draws)
        return drawn

    def _draws(self, lane: int) -> Iterator[_Drawn]:
        """A lane's samples, all of them and then all again, without end."""
        parts = self._lanes[lane]
        # The 1 sets these numbers apart from those of the sample at position `lane`.
        rng = np.random.default_rng((self.seed, self._epoch, self.first_lane + lane, 1))
        while True:
            one_round = (sample for part in parts for sample in self._read(part))
            yield from shuffled(one_round, lambda one: len(one.image) + len(one.label), *self.held, rng)

    def _read(self, part: Part) -> Iterator[_Drawn]:
        path, count = self.stream.paths[part.shard], self.stream.counts[part.shard]
        start, found = int(self._starts[part.shard]), 0
        for packed in read_samples(path, STRICT):
            if found < count and found % part.of == part.number:
                yield _Drawn(start + found, packed.path, packed.image, packed.label)
            found += 1
        if found != count:
            raise DataError(
                f"{printable(path)}: holds {found} samples, but {INDEX} says {count}; fetch it again, or write the "
                "shards again"
            )

    def _picture(self, one: _Drawn) -> Picture:
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
        settled = settle_boxes(boxes, size, self.stream.clip_boxes, describe)
        keep = settled.keep & ~np.array(label.crowd, bool)
        labels = self._labels[np.array(label.classes, np.int64)]
        if (labels < 0).any():
            k = int(np.argmax(labels < 0))
            raise DataError(f"{where}: object {k}: {unknown_class(names[label.classes[k]], self.stream.class_names)}")
        encoded = Encoded(one.image, width, height, one.path)
        return Picture(
            width, height, settled.boxes[keep], labels[keep], encoded.decode, encoded.reductions, one.path
        )  # fmt: skip
