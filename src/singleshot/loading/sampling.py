"""Which samples a batch has: the order of images, and who reads what of a stream of shards.

Everything here follows from (seed, epoch) and numbers that every process knows.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple, TypeVar

import numpy as np

from singleshot.datasets.encoded_image import EncodedImage
from singleshot.errors import ConfigError

MAX_STREAMS = 8
# With fewer batches in a stream, what rounding leaves out or repeats would be a large part of them.
_BATCHES_PER_STREAM = 4

T = TypeVar("T")


class Part(NamedTuple):
    """A shard, by its position; of several that share it, `number` of `of` takes each of-th sample."""

    shard: int
    number: int = 0
    of: int = 1

    def samples(self, counts: Sequence[int]) -> int:
        """How many samples it has, by those of each shard."""
        return -(-(counts[self.shard] - self.number) // self.of)


class StreamPlan(NamedTuple):
    """One epoch of one process. streams: what each reads, in its order; stream_of, step_of: for each batch its stream
    and how many of that stream's batches come before it."""

    streams: list[list[Part]]
    stream_of: list[int]
    step_of: list[int]


@dataclass(frozen=True)
class Sampling:
    """What decides which samples a process takes: batch_size of its own batches, the seed, and its `rank` of `world`
    processes that train together, each with its part of every joint batch. Raises ConfigError for a number out of
    range."""

    batch_size: int
    seed: int = 0
    rank: int = 0
    world: int = 1

    def __post_init__(self) -> None:
        if self.seed < 0:
            raise ConfigError(f"seed {self.seed}: want 0 or more")
        if self.batch_size < 1:
            raise ConfigError(f"batch size {self.batch_size}: want 1 or more")
        if not 0 <= self.rank < self.world:
            raise ConfigError(f"shard {self.rank} of {self.world}: want a rank from 0 to {self.world - 1}")

    def batches(self, samples: int) -> int:
        """Batches in an epoch of so many samples: what does not fill the last one is left out."""
        return max(1, samples // (self.batch_size * self.world))

    def position(self, batch: int) -> int:
        """Where in the epoch the first sample of this process's batch stands."""
        return (batch * self.world + self.rank) * self.batch_size


class BatchSamples(NamedTuple):
    """The samples of one batch, still to be read: the first stands at `position` of `epoch`.

    indices: int64 [B], positions in the data set; read(k): the k-th of the batch; others(rng, n): n more at random;
    broken: what was said of samples that could not be read on the way, where these are left out.
    """

    epoch: int
    position: int
    indices: np.ndarray
    read: Callable[[int], EncodedImage]
    others: Callable[[np.random.Generator, int], list[EncodedImage]]
    broken: tuple[str, ...] = ()


def epoch_order(images: int, length: int, seed: int, epoch: int) -> np.ndarray:
    """int64 [length]: which image stands at each position; whole shuffles one after another where it must repeat."""
    rng = np.random.default_rng((seed, epoch))
    shuffles = [rng.permutation(images) for _ in range(math.ceil(length / images))]
    return np.concatenate(shuffles)[:length]


def repeat_factors(labels: np.ndarray, image_of: np.ndarray, images: int, threshold: float) -> np.ndarray:
    """float64 [images]: how often an epoch shows each image, 1 and more, so that rare classes come more often.

    Repeat factor sampling (Gupta et al., LVIS, CVPR 2019, appendix B.2): f of a class is the part of the images that
    show it, its factor max(1, sqrt(threshold / f)), and an image's the greatest of its classes.

    Args:
        labels: int64 [objects].
        image_of: int64 [objects], the image of each.
        images: how many there are.
        threshold: the part of the images below which a class is rare.
    """
    pairs = np.unique(np.stack([labels, image_of]), axis=1)  # each class once an image
    showing = np.bincount(pairs[0]) if pairs.size else np.zeros(1, np.int64)
    of_class = np.maximum(1.0, np.sqrt(threshold * images / np.maximum(showing, 1)))
    factors = np.ones(images)
    np.maximum.at(factors, pairs[1], of_class[pairs[0]])
    return factors


def repeated_length(factors: np.ndarray) -> int:
    """Images in an epoch with these repeat factors."""
    return math.ceil(float(factors.sum()))


def repeated_order(factors: np.ndarray, length: int, seed: int, epoch: int) -> np.ndarray:
    """int64 [length]: as `epoch_order`, with each image as often as its factor says, rounded up or down by chance.

    The chances are those of one draw in even steps through the shuffled images (systematic sampling), so that every
    epoch has the same number of them and each image comes at least once.
    """
    rng = np.random.default_rng((seed, epoch))
    count = repeated_length(factors)
    shuffles = []
    for _ in range(math.ceil(length / count)):
        order = rng.permutation(len(factors))
        ends = factors[order].cumsum()
        points = (np.arange(count) + rng.random()) * (ends[-1] / count)
        chosen = order[np.searchsorted(ends, points, side="right").clip(max=len(order) - 1)]
        shuffles.append(rng.permutation(chosen))
    return np.concatenate(shuffles)[:length]


def pick_streams(counts: Sequence[int], batches: int, world: int) -> int:
    """How many streams each of `world` processes has, for shards of `counts` samples and epochs of `batches`.

    Raises:
        ConfigError: so many processes share a shard that one would get nothing.
    """
    sharing = -(-world // len(counts))
    if min(counts) < sharing:
        raise ConfigError(
            f"a shard of {min(counts)} samples for {sharing} processes; train with fewer processes, "
            "or write shards of equal sizes"
        )
    return max(1, min(MAX_STREAMS, len(counts) // world, batches // _BATCHES_PER_STREAM))


def make_stream_plan(counts: Sequence[int], streams: int, sampling: Sampling, epoch: int) -> StreamPlan:
    """Deal the shards, shuffled by (seed, epoch), to the streams of all processes; give the part of one process.

    Each shard is in one stream of one process; where there are fewer shards than processes, some share one. Of the
    batches each stream gets as many as its samples are worth, spread over the epoch.

    Args:
        counts: samples of each shard.
        streams: of each process, from `pick_streams`.
        sampling: the seed, the batch size and which process it is.
        epoch: counted from 0.
    """
    rank, world = sampling.rank, sampling.world
    batches = sampling.batches(sum(counts))
    # The 2 sets these numbers apart from those that augment the first sample.
    order = np.random.default_rng((sampling.seed, epoch, 0, 2)).permutation(len(counts)).tolist()
    total = streams * world
    dealt = []
    for stream in range(rank * streams, (rank + 1) * streams):
        if total <= len(order):
            dealt.append([Part(shard) for shard in order[stream::total]])
        else:
            first = stream % len(order)
            sharing = len(range(first, total, len(order)))
            dealt.append([Part(order[first], stream // len(order), sharing)])
    weights = [sum(part.samples(counts) for part in parts) for parts in dealt]
    stream_of = _spread(weights, batches)
    steps = [0] * streams
    step_of = []
    for stream in stream_of:
        step_of.append(steps[stream])
        steps[stream] += 1
    return StreamPlan(dealt, stream_of, step_of)


def _spread(weights: list[int], count: int) -> list[int]:
    """`count` steps, each given to a stream: in proportion to the weights, and evenly over time."""
    share = np.array(weights, np.float64) * count / sum(weights)
    steps = np.floor(share).astype(np.int64)
    lacking = np.argsort(-(share - steps), kind="stable")[: count - int(steps.sum())]
    steps[lacking] += 1
    streams = np.repeat(np.arange(len(weights)), steps)
    when = np.concatenate([(np.arange(n) + 0.5) / n for n in steps.tolist() if n])
    order: list[int] = streams[np.lexsort((streams, when))].tolist()
    return order


def shuffled(
    samples: Iterable[T], size_of: Callable[[T], int], most: int, most_bytes: int, rng: np.random.Generator
) -> Iterator[T]:
    """All of the samples, each drawn from those that came before it and up to `most` more; fewer where these would
    have more than most_bytes bytes together (never less than one)."""
    held: list[T] = []
    held_bytes = 0
    for sample in samples:
        held.append(sample)
        held_bytes += size_of(sample)
        while len(held) >= most or (held and held_bytes > most_bytes):
            drawn = _draw(held, rng)
            held_bytes -= size_of(drawn)
            yield drawn
    while held:
        yield _draw(held, rng)


def _draw(held: list[T], rng: np.random.Generator) -> T:
    i = int(rng.integers(len(held)))
    held[i], held[-1] = held[-1], held[i]
    return held.pop()
