"""Who reads what of an epoch: streams of shards, their batches and their buffers."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from singleshot.errors import ConfigError
from singleshot.loading.sampling import (
    MAX_STREAMS,
    Sampling,
    make_stream_plan,
    pick_streams,
    repeat_factors,
    repeated_length,
    repeated_order,
    shuffled,
)


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


@given(st.lists(st.sets(st.integers(0, 5), max_size=4), min_size=1, max_size=30), st.floats(0.001, 1.0))
def test_repeat_factors_are_their_formula(classes_of, threshold):
    labels = [label for classes in classes_of for label in [*classes, *classes]]  # twice: images count
    image_of = [i for i, classes in enumerate(classes_of) for _ in range(2 * len(classes))]
    found = repeat_factors(np.array(labels, np.int64), np.array(image_of, np.int64), len(classes_of), threshold)
    for i, classes in enumerate(classes_of):
        parts = [sum(label in other for other in classes_of) / len(classes_of) for label in classes]
        assert found[i] == pytest.approx(max([1.0, *((threshold / part) ** 0.5 for part in parts)]))


@given(st.lists(st.floats(1.0, 4.0), min_size=1, max_size=40), st.integers(0, 9), st.integers(0, 9))
def test_every_epoch_shows_an_image_as_often_as_its_factor_says_rounded(factors, seed, epoch):
    factors = np.array(factors)
    length = repeated_length(factors)
    order = repeated_order(factors, length, seed, epoch)
    assert order.tolist() == repeated_order(factors, length, seed, epoch).tolist()
    counts = np.bincount(order, minlength=len(factors))
    expected = factors * length / factors.sum()
    assert len(order) == length == counts.sum()
    assert (counts >= np.floor(expected - 1e-9)).all()
    assert (counts <= np.ceil(expected + 1e-9)).all()
    assert (counts >= 1).all()


def test_repeats_are_those_of_the_factors_in_the_long_run_and_shuffled():
    factors = np.array([1.0, 2.5, 1.3] + [1.0] * 20)
    orders = [repeated_order(factors, repeated_length(factors), 0, epoch) for epoch in range(400)]
    mean = np.mean([np.bincount(order, minlength=len(factors)) for order in orders], axis=0)
    assert mean == pytest.approx(factors * repeated_length(factors) / factors.sum(), abs=0.1)
    assert len({tuple(order) for order in orders}) == 400
    assert np.mean([order[:5].mean() for order in orders]) == pytest.approx(np.mean(orders), abs=1)
    many = repeated_order(factors, 3 * repeated_length(factors) + 1, 0, 0)  # fewer images than a batch
    assert len(many) == 3 * repeated_length(factors) + 1
