"""Training from shards in a stream: tars are read from their starts to their ends, from a disk or from the network.

A process reads V streams, each a part of the epoch's shuffled shards, and each batch comes from one stream. A stream
draws from a buffer of encoded samples. Which samples these are and how they are augmented depends on (seed, epoch,
stream, position) alone: any number of workers gives the same batches. An epoch that is taken up in the middle reads
again what it has read before, but decodes none of it.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

import numpy as np

from singleshot.class_selection import ClassSelection
from singleshot.datasets.box_rules import clean_boxes, regions_of
from singleshot.datasets.dataset import format_box, unknown_class
from singleshot.datasets.encoded_image import EncodedImage
from singleshot.datasets.findings import RAISE_ERRORS, CollectErrors
from singleshot.datasets.shard_cache import ShardCache, cache_key
from singleshot.datasets.shard_index import INDEX, Shard, find_shard, parse_label, read_index
from singleshot.datasets.shard_tar import read_samples
from singleshot.datasets.sources import open_source
from singleshot.datasets.splits import resolve_split
from singleshot.errors import ConfigError, DataError, printable
from singleshot.images.decode import Encoded, check_image
from singleshot.images.orientation import orientation
from singleshot.loading.sampling import (
    BatchSamples,
    Part,
    Sampling,
    StreamPlan,
    make_stream_plan,
    pick_streams,
    shuffled,
)
from singleshot.storage import is_remote

# Encoded samples that a process (with its workers) holds to draw from, and their bytes, over all streams.
BUFFER_SAMPLES = 1000
BUFFER_BYTES = 512 * 2**20
_MOST_FAULTS = 100  # of each kind that are named of one shard


@dataclass(frozen=True)
class ShardStream:
    """One split of a folder of shards, none of them opened yet.

    source: as a Dataset's; class_names: those wanted; own_names: those of the shards; selection: which of these become
    which of those, objects of others being left out; None where each goes by its name; paths, counts: of the tars and
    of their samples; shards: what the index says of each, none where that is unknown; cache: where remote ones are
    kept; clip_boxes: as in `open_dataset`; buffer_samples, buffer_bytes: how many samples a process
    holds to draw from, over all streams, and their bytes; sixteen_bit as in Dataset. Raises ConfigError for a buffer of
    nothing.
    """

    source: str
    class_names: tuple[str, ...]
    own_names: tuple[str, ...]
    paths: tuple[str, ...]
    counts: tuple[int, ...]
    clip_boxes: bool = False
    buffer_samples: int = BUFFER_SAMPLES
    buffer_bytes: int = BUFFER_BYTES
    selection: ClassSelection | None = None
    sixteen_bit: str = "scale"
    shards: tuple[Shard, ...] = ()
    cache: ShardCache | None = None

    def __post_init__(self) -> None:
        if self.buffer_samples < 1:
            raise ConfigError(f"buffer {self.buffer_samples}: want 1 or more")

    def __len__(self) -> int:
        """Samples in all."""
        return sum(self.counts)

    def cached_in(self, folder: Path, limit: int) -> ShardStream:
        """The same, its shards kept in a folder of at most `limit` bytes. Raises ConfigError for local shards."""
        if not all(map(is_remote, self.paths)):
            raise ConfigError(f"--cache {printable(folder)}: these shards lie on a disk already; leave --cache out")
        keys = (cache_key(path, one.size, one.sha256) for path, one in zip(self.paths, self.shards, strict=True))
        return replace(self, cache=ShardCache(folder, limit, frozenset(keys)))


def open_stream(
    path: str | os.PathLike[str],
    split: str = "train",
    class_names: Sequence[str] | None = None,
    clip_boxes: bool = False,
    follow_links: bool = False,
) -> ShardStream:
    """Open one split of a folder of shards, the arguments those of `open_dataset`; only shards.json is read.

    Raises DataError for other data, a split or a shard that is not there, and one without images. What is wrong in a
    tar shows when its step comes.
    """
    source = open_source(path, follow_links=follow_links)
    where = printable(source.tree.root)
    if source.form != "shards":
        raise DataError(f"{where}: no folder of shards (want {INDEX} in it); write one with singleshot data shard")
    index = read_index(source.tree, source.file)
    name = resolve_split(split, index.splits, source.tree.root)
    shards = index.splits[name]
    if not shards:
        raise DataError(f"{where}: split {printable(name)!r} has no images; name another")
    paths = tuple(find_shard(source.tree, shard, source.file) for shard in shards)
    return ShardStream(
        f"{source.tree.root} ({name})",
        tuple(index.class_names if class_names is None else class_names),
        index.class_names,
        paths,
        tuple(shard.samples for shard in shards),
        clip_boxes,
        shards=shards,
    )


class StreamJob(NamedTuple):
    """One batch of a stream: number `batch` of the epoch, the `step`-th of its stream, and whether that is the
    stream's last in the epoch."""

    epoch: int
    batch: int
    stream: int
    step: int
    last: bool


class EncodedSample(NamedTuple):
    """A sample still encoded. position: in the split; path: names its image; label: JSON."""

    position: int
    path: str
    image: bytes
    label: bytes


class _OpenStream(NamedTuple):
    """A stream after its first `steps` batches."""

    steps: int
    draws: Iterator[EncodedSample]


class ShardSource:
    """Samples for a TrainLoader from shards; keeps the streams open that it works on.

    A process, `rank` of `world`, has each epoch other shards; no two have the same sample. Each image comes about
    once: a stream whose samples do not fill its share of batches begins its shards again, each augmented anew, or
    leaves some out. Batch.indices are positions in the order of shards.json. Workers are no more than there are
    streams. skip_broken: what cannot be read of a shard is left out, which `BatchSamples.broken` says, and the stream
    goes on with its next shard. Raises ConfigError for fewer samples than processes.
    """

    def __init__(self, stream: ShardStream, sampling: Sampling, skip_broken: bool = False) -> None:
        self._stream, self._sampling = stream, sampling
        self._broken: list[str] | None = [] if skip_broken else None  # what was not read since the last batch
        self.most_workers = pick_streams(stream.counts, sampling.batches(len(stream)), sampling.world)
        streams = self.most_workers
        self._first_stream = sampling.rank * streams  # among those of all processes
        self._held = (
            max(sampling.batch_size, -(-stream.buffer_samples // streams)),
            max(1, stream.buffer_bytes // streams),
        )
        self._epoch = -1
        self._parts: list[list[Part]] = []
        self._open: dict[int, _OpenStream] = {}
        wanted = {name: label for label, name in enumerate(stream.class_names)}
        if stream.selection is not None:
            wanted = stream.selection.labels()
        self._labels = np.array([wanted.get(name, -1) for name in stream.own_names], np.int64)
        self._starts = np.cumsum([0, *stream.counts])

    def jobs(self, epoch: int, start_batch: int, workers: int) -> list[StreamJob | None]:
        """As `TrainSource.jobs`."""
        plan = self._plan(epoch)
        steps = np.bincount(plan.stream_of, minlength=len(plan.streams)).tolist()
        jobs: list[StreamJob | None] = []
        for batch in range(start_batch, len(plan.stream_of)):
            stream, step = plan.stream_of[batch], plan.step_of[batch]
            # The pool deals its jobs round and round; a stream's go to the one worker that has it open.
            while workers and len(jobs) % workers != stream % workers:
                jobs.append(None)
            jobs.append(StreamJob(epoch, batch, stream, step, step + 1 == steps[stream]))
        return jobs

    def take(self, job: StreamJob) -> BatchSamples:
        """The samples of a batch, read but not parsed; a mosaic's others come from the same batch."""
        drawn = self._take(job)

        def read(k: int) -> EncodedImage:
            return self._parse(drawn[k])

        def others(rng: np.random.Generator, count: int) -> list[EncodedImage]:
            return [read(k) for k in rng.integers(len(drawn), size=count).tolist()]

        indices = np.array([one.position for one in drawn], np.int64)
        broken = tuple(self._broken or ())
        if self._broken:
            self._broken.clear()
        return BatchSamples(job.epoch, self._sampling.position(job.batch), indices, read, others, broken)

    def close(self) -> None:
        """Close the tars."""
        self._open.clear()

    def _plan(self, epoch: int) -> StreamPlan:
        return make_stream_plan(self._stream.counts, self.most_workers, self._sampling, epoch)

    def _take(self, job: StreamJob) -> list[EncodedSample]:
        """The samples of a batch. A stream that is not where it should be begins its epoch again, undecoded."""
        if job.epoch != self._epoch:
            self._open.clear()
            self._parts, self._epoch = self._plan(job.epoch).streams, job.epoch
        stream = self._open.pop(job.stream, None)
        if stream is None or stream.steps != job.step:
            stream = _OpenStream(job.step, self._draws(job.stream))
            for _ in range(job.step * self._sampling.batch_size):
                next(stream.draws)
            if self._broken and job.step:
                self._broken.clear()  # which the run has counted
        drawn = [next(stream.draws) for _ in range(self._sampling.batch_size)]
        if not job.last:
            self._open[job.stream] = _OpenStream(job.step + 1, stream.draws)
        return drawn

    def _draws(self, stream: int) -> Iterator[EncodedSample]:
        """A stream's samples, all of them and then all again, without end."""
        parts = self._parts[stream]
        # The 1 sets these numbers apart from those of the sample at position `stream`.
        rng = np.random.default_rng((self._sampling.seed, self._epoch, self._first_stream + stream, 1))
        while True:
            one_round = (sample for part in parts for sample in self._read(part))
            is_empty = True
            for sample in shuffled(one_round, lambda one: len(one.image) + len(one.label), *self._held, rng):
                is_empty = False
                yield sample
            if is_empty:
                raise DataError(
                    f"none of {len(parts)} shards can be read: {(self._broken or ['no sample in them'])[-1]}"
                )

    def _read(self, part: Part) -> Iterator[EncodedSample]:
        stream = self._stream
        path, count = stream.paths[part.shard], stream.counts[part.shard]
        start, found = int(self._starts[part.shard]), 0
        problems = RAISE_ERRORS if self._broken is None else CollectErrors(_MOST_FAULTS)
        expected = stream.shards[part.shard] if stream.shards else None
        for packed in read_samples(path, problems, expected=expected, cache=stream.cache):
            if found < count and found % part.of == part.number:
                yield EncodedSample(start + found, packed.path, packed.image, packed.label)
            found += 1
        faults = [str(one) for one in problems.findings] if isinstance(problems, CollectErrors) else []
        if found != count and not faults:
            faults.append(
                f"{printable(path)}: holds {found} samples, but {INDEX} says {count}; fetch it again, or write the "
                "shards again"
            )
        if faults and self._broken is None:
            raise DataError(faults[0])
        if faults and self._broken is not None:
            left = f" ({count - found} of its {count} images are left out)" if found < count else ""
            self._broken += [*faults[:-1], faults[-1] + left]

    def _parse(self, one: EncodedSample) -> EncodedImage:
        """As `Dataset.picture`. Raises DataError where labels and image do not fit."""
        where = printable(one.path)
        try:
            label = parse_label(one.label, self._stream.own_names)
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
        labels = self._labels[np.array(label.classes, np.int64)]
        taken = np.flatnonzero(labels >= 0) if self._stream.selection is not None else np.arange(len(labels))
        boxes = np.array(label.boxes, np.float64).reshape(-1, 4)[taken]
        names = self._stream.own_names

        def describe(k: int) -> str:
            name = printable(names[label.classes[taken[k]]])
            return f"{where}: object {taken[k]} ({name}): box {format_box(boxes[k])}"

        size = np.tile(np.array([width, height], np.float64), (len(boxes), 1))
        clean = clean_boxes(boxes, size, self._stream.clip_boxes, describe)
        crowd = np.array(label.crowd, bool)[taken]
        keep = clean.keep & ~crowd
        labels = labels[taken]
        if (labels < 0).any():
            k = int(np.argmax(labels < 0))
            raise DataError(f"{where}: object {k}: {unknown_class(names[label.classes[k]], self._stream.class_names)}")
        encoded = Encoded(one.image, width, height, one.path, self._stream.sixteen_bit)
        return EncodedImage(
            width,
            height,
            clean.boxes[keep],
            labels[keep],
            encoded.decode,
            encoded.reductions,
            one.path,
            encoded.checksum,
            regions_of(clean.boxes, clean.keep & crowd),
        )
