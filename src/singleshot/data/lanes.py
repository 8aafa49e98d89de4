"""Who reads what of a stream of shards, and in which order: lanes, their shards, their batches, their buffers."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import NamedTuple, TypeVar

import numpy as np

from singleshot.errors import ConfigError

MAX_LANES = 8
# With fewer batches in a lane, what rounding leaves out or repeats would be a large part of them.
_BATCHES_PER_LANE = 4

T = TypeVar("T")


class Part(NamedTuple):
    """A shard, by its position; of several that share it, `number` of `of` takes each of-th sample."""

    shard: int
    number: int = 0
    of: int = 1

    def samples(self, counts: Sequence[int]) -> int:
        return -(-(counts[self.shard] - self.number) // self.of)


class Plan(NamedTuple):
    """One epoch of one process. lanes: what each reads, in its order; lane_of, turn_of: for each batch its lane and
    how many of that lane's batches come before it."""

    lanes: list[list[Part]]
    lane_of: list[int]
    turn_of: list[int]


def checked_shard(shard: tuple[int, int]) -> tuple[int, int]:
    """(rank, number of processes) as given. Raises ConfigError where there is no such rank."""
    rank, world = shard
    if not 0 <= rank < world:
        raise ConfigError(f"shard {rank} of {world}: want a rank from 0 to {world - 1}")
    return rank, world


def pick_lanes(counts: Sequence[int], batches: int, world: int) -> int:
    """How many lanes each of `world` processes has, for shards of `counts` samples and epochs of `batches`.

    Raises ConfigError where so many processes share a shard that one would get nothing.
    """
    sharing = -(-world // len(counts))
    if min(counts) < sharing:
        raise ConfigError(
            f"a shard of {min(counts)} samples for {sharing} processes; train with fewer processes, "
            "or write shards of equal sizes"
        )
    return max(1, min(MAX_LANES, len(counts) // world, batches // _BATCHES_PER_LANE))


def make_plan(
    counts: Sequence[int], batches: int, lanes: int, seed: int, epoch: int, *, rank: int = 0, world: int = 1
) -> Plan:
    """Deal the shards, shuffled by (seed, epoch), to the lanes of all processes; give the part of process `rank`.

    Each shard is in one lane of one process; where there are fewer shards than processes, some share one. Of the
    batches each lane gets as many as its samples are worth, spread over the epoch.
    """
    # The 2 sets these numbers apart from those that augment the first sample.
    order = np.random.default_rng((seed, epoch, 0, 2)).permutation(len(counts)).tolist()
    total = lanes * world
    dealt = []
    for lane in range(rank * lanes, (rank + 1) * lanes):
        if total <= len(order):
            dealt.append([Part(shard) for shard in order[lane::total]])
        else:
            first = lane % len(order)
            sharing = len(range(first, total, len(order)))
            dealt.append([Part(order[first], lane // len(order), sharing)])
    weights = [sum(part.samples(counts) for part in parts) for parts in dealt]
    lane_of = _spread(weights, batches)
    turns = [0] * lanes
    turn_of = []
    for lane in lane_of:
        turn_of.append(turns[lane])
        turns[lane] += 1
    return Plan(dealt, lane_of, turn_of)


def _spread(weights: list[int], count: int) -> list[int]:
    """`count` turns, each given to a lane: in proportion to the weights, and evenly over time."""
    share = np.array(weights, np.float64) * count / sum(weights)
    turns = np.floor(share).astype(np.int64)
    lacking = np.argsort(-(share - turns), kind="stable")[: count - int(turns.sum())]
    turns[lacking] += 1
    lanes = np.repeat(np.arange(len(weights)), turns)
    when = np.concatenate([(np.arange(n) + 0.5) / n for n in turns.tolist() if n])
    return lanes[np.lexsort((lanes, when))].tolist()


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
