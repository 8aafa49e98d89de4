"""Who reads what of an epoch: streams of shards, their batches and their buffers."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from singleshot.errors import ConfigError
from singleshot.loading.sampling import MAX_STREAMS, Sampling, make_stream_plan, pick_streams, shuffled


@given(st.lists(st.integers(1, 50), min_size=1, max_size=40), st.integers(1, 5), st.integers(1, 16), st.integers(0, 3))
def test_every_sample_is_in_one_stream_of_one_process(counts, world, batch, epoch):
    batches = max(1, sum(counts) // (batch * world))
    try:
        streams = pick_streams(counts, batches, world)
    except ConfigError:
        assert min(counts) * len(counts) < world
        return
    assert 1 <= streams <= MAX_STREAMS
    taken: Counter[tuple[int, int]] = Counter()
    for rank in range(world):
        sampling = Sampling(batch, 0, rank, world)
        plan = make_stream_plan(counts, streams, sampling, epoch)
        assert plan == make_stream_plan(counts, streams, sampling, epoch)
        assert len(plan.streams) == streams
        assert len(plan.stream_of) == len(plan.step_of) == batches
        assert sorted(zip(plan.stream_of, plan.step_of, strict=True)) == [
            (stream, step) for stream in range(streams) for step in range(plan.stream_of.count(stream))
        ]
        sizes = [sum(part.samples(counts) for part in stream) for stream in plan.streams]
        for stream, size in enumerate(sizes):
            assert size > 0
            assert abs(plan.stream_of.count(stream) - batches * size / sum(sizes)) < 1
        for stream in plan.streams:
            for part in stream:
                members = range(part.number, counts[part.shard], part.of)
                assert len(members) == part.samples(counts)
                taken.update((part.shard, i) for i in members)
    assert taken == Counter((shard, i) for shard, n in enumerate(counts) for i in range(n))


def test_too_many_processes_for_a_shard():
    with pytest.raises(ConfigError, match="a shard of 2 samples for 3 processes"):
        pick_streams([2], 1, 3)


@given(st.lists(st.integers(1, 40), max_size=80), st.integers(1, 20), st.integers(1, 100), st.integers(0, 9))
def test_the_buffer_is_bounded_and_loses_nothing(sizes, most, most_bytes, seed):
    held = 0
    peak = 0

    def source() -> Iterator[tuple[int, int]]:
        nonlocal held, peak
        for item in enumerate(sizes):
            # What is held when the next one is asked for: all of it was kept by choice.
            assert held < most
            assert inside <= most_bytes
            held += 1
            peak = max(peak, held)
            add(item[1])
            yield item

    inside = 0

    def add(size: int) -> None:
        nonlocal inside
        inside += size

    drawn = []
    for item in shuffled(source(), lambda item: item[1], most, most_bytes, np.random.default_rng(seed)):
        drawn.append(item)
        held -= 1
        add(-item[1])
    assert sorted(drawn) == list(enumerate(sizes))
    assert peak <= most


def test_the_buffer_shuffles():
    drawn = list(shuffled(range(1000), lambda _: 1, 100, 10**9, np.random.default_rng(0)))
    moved = np.abs(np.array(drawn) - np.arange(1000))
    assert 40 < moved.mean() < 160
    # Nothing comes before it can have been read.
    assert all(item < place + 100 for place, item in enumerate(drawn))
