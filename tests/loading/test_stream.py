"""Batches from shards depend on seed, epoch, stream and position alone."""

from __future__ import annotations

from collections import Counter
from itertools import chain
from pathlib import Path

import numpy as np
import pytest
import torch

from singleshot.datasets import open_dataset, open_source
from singleshot.datasets.writers.shards import read_contents, write_shards
from singleshot.errors import DataError
from singleshot.inputs import InputSpec
from singleshot.loading.augment_spec import AUGMENTS, AugmentSpec
from singleshot.loading.loader import TrainLoader
from singleshot.loading.shard_stream import open_stream

SPEC = InputSpec(size=32)
COUNT = 96  # images of the shards, 12 of 8


# ---------------------------------------------------------------------------------------------- batches


@pytest.mark.filterwarnings("ignore:This DataLoader will create")
def test_batches_do_not_depend_on_the_workers(loader, all_same):
    loaders = [loader(workers=workers) for workers in (0, 1, 3)]
    assert [one.workers for one in loaders] == [0, 1, 3]
    for epoch in (0, 1):
        runs = [list(one.epoch(epoch)) for one in loaders]
        assert len(runs[0]) == len(loaders[0]) == 24
        assert all_same(runs[0], runs[1])
        assert all_same(runs[0], runs[2])


def test_workers_are_no_more_than_streams(loader):
    assert loader(batch=12, workers=40).workers == 2  # 8 batches in an epoch: two streams
    assert loader(batch=96, workers=40).workers == 1


def test_mosaics_do_not_depend_on_the_workers(loader, all_same):
    spec = AugmentSpec(mosaic_p=1.0)
    assert all_same(list(loader(spec=spec).epoch(0)), list(loader(spec=spec, workers=2).epoch(0)))


@pytest.mark.parametrize("workers", [0, 2])
def test_an_epoch_is_taken_up_in_the_middle(loader, workers, all_same):
    entire = list(loader().epoch(3))
    for start in (1, 13, 23):
        assert all_same(list(loader(workers=workers).epoch(3, start)), entire[start:])
    assert list(loader(workers=workers).epoch(3, 24)) == []


def test_taking_up_decodes_nothing_of_what_went_before(loader, monkeypatch):
    decoded = []
    from singleshot.loading import shard_stream as stream

    monkeypatch.setattr(stream, "parse_label", lambda *a, f=stream.parse_label: decoded.append(1) or f(*a))
    list(loader().epoch(0, 20))
    assert len(decoded) == 4 * 4


@pytest.mark.parametrize("workers", [0, 2])
def test_an_epoch_left_early_does_not_leak_into_the_next(loader, workers, all_same):
    one = loader(workers=workers)
    first = next(one.epoch(0))
    assert all_same(list(one.epoch(1)), list(loader().epoch(1)))
    assert all_same([next(one.epoch(0))], [first])


def test_epochs_and_seeds_differ(loader, all_same, seen):
    one = loader()
    first, second = list(one.epoch(0)), list(one.epoch(1))
    assert seen(first) != seen(second)
    assert all_same(first, list(one.epoch(0)))
    assert seen(first) != seen(loader(seed=6).epoch(0))


@pytest.mark.parametrize("batch", [1, 2, 4, 8, 12, 24, 48, 96])
def test_each_image_once_where_the_counts_divide(loader, batch, seen):
    one = loader(batch=batch, spec="none")
    for epoch in (0, 1):
        indices = seen(one.epoch(epoch))
        assert sorted(indices) == list(range(COUNT))
        assert indices != sorted(indices)


@pytest.mark.parametrize(("per_shard", "batch"), [(7, 4), (10, 5), (5, 7), (96, 10), (1, 9)])
def test_each_image_about_once_elsewhere(plain, tmp_path, loader, per_shard, batch, seen):
    write_shards(read_contents(open_source(plain)), tmp_path / "out", per_shard=per_shard)
    one = loader(tmp_path / "out", batch, spec="none")
    assert len(one) == COUNT // batch
    total = Counter()
    for epoch in range(4):
        counts = Counter(seen(one.epoch(epoch)))
        assert counts.total() == len(one) * batch
        assert max(counts.values()) <= 2
        assert len(counts) >= 0.75 * COUNT
        total += counts
    assert len(total) >= COUNT - 1


def test_fewer_images_than_a_batch_repeat_with_other_augmentation(loader):
    (batch,) = loader(batch=200).epoch(0)
    counts = np.bincount(batch.indices.numpy())
    assert set(counts.tolist()) == {2, 3}
    twice = [k for k in range(200) if batch.indices[k] == batch.indices[0]]
    assert not torch.equal(batch.images[twice[0]], batch.images[twice[1]])


def test_the_same_samples_as_from_the_folder(plain, loader, shards):
    """Images, boxes and labels, without crowds, are those that a TrainLoader gives."""

    def content(batches) -> list:
        found = []
        for batch in batches:
            for k in range(len(batch.names)):
                real = batch.labels[k] >= 0
                found.append(
                    (batch.images[k].numpy().tobytes(), batch.boxes[k][real].tolist(), batch.labels[k][real].tolist())
                )
        return sorted(found)

    wanted = content(TrainLoader(open_dataset(plain), AUGMENTS["none"], SPEC, 4, 0, 0).epoch(0))
    assert content(loader(spec="none").epoch(0)) == wanted
    assert max(len(boxes) for _, boxes, _ in wanted) == 3
    packed = open_dataset(shards)
    for batch in loader(spec="none").epoch(0):
        assert [packed.names[i] for i in batch.indices.tolist()] == list(batch.names)


def test_batch_layout(loader):
    batch = next(loader(workers=1).epoch(0))
    assert batch.images.shape == (4, 3, 32, 32)
    assert batch.images.dtype == torch.uint8
    assert batch.images.is_contiguous(memory_format=torch.channels_last)
    assert batch.boxes.shape == (4, 8, 4)


def test_classes_are_looked_up_by_name(loader, shards):
    def label_counts(**more) -> list[int]:
        labels = torch.cat([batch.labels.flatten() for batch in loader(spec="none", **more).epoch(0)])
        return np.bincount(labels[labels >= 0].numpy(), minlength=3).tolist()

    cats, dogs, _ = label_counts()
    assert cats > dogs > 0
    assert label_counts(class_names=["bird", "dog", "cat"]) == [0, dogs, cats]
    with pytest.raises(DataError, match="class 'dog', which is not among the 1 wanted"):
        label_counts(class_names=["cat"])
    assert open_stream(shards, class_names=["dog"]).class_names == ("dog",)


def test_torchs_global_randomness_is_left_alone(loader):
    torch.manual_seed(1)
    wanted = torch.rand(3)
    torch.manual_seed(1)
    list(loader(workers=1).epoch(0))
    assert torch.equal(torch.rand(3), wanted)


# ---------------------------------------------------------------------------------------------- processes


@pytest.mark.parametrize("world", [2, 3, 6])
def test_processes_share_an_epoch(loader, world, seen):
    for epoch in (0, 1):
        parts = [seen(loader(shard=(rank, world), spec="none").epoch(epoch)) for rank in range(world)]
        assert [len(part) for part in parts] == [COUNT // world] * world
        assert sorted(chain.from_iterable(parts)) == list(range(COUNT))


def test_processes_augment_differently(loader, all_same):
    left, right = (next(loader(shard=(rank, 2)).epoch(0)) for rank in (0, 1))
    assert not set(left.indices.tolist()) & set(right.indices.tolist())
    assert all_same(list(loader(shard=(1, 2), workers=2).epoch(0, 5)), list(loader(shard=(1, 2)).epoch(0))[5:])


def test_more_processes_than_shards_share_them(plain, tmp_path, loader, seen):
    write_shards(read_contents(open_source(plain)), tmp_path / "out", per_shard=48)
    parts = [seen(loader(tmp_path / "out", shard=(rank, 4), spec="none").epoch(0)) for rank in range(4)]
    assert sorted(chain.from_iterable(parts)) == list(range(COUNT))


def test_a_loader_holds_no_more_than_its_buffer(loader, monkeypatch):
    """Samples read less samples drawn, over all streams, whatever is left of an epoch."""
    from singleshot.loading import shard_stream as stream

    read = []
    monkeypatch.setattr(
        stream, "read_samples", lambda *a, f=stream.read_samples, **k: (read.append(1) or one for one in f(*a, **k))
    )
    one = loader(batch=2, buffer=16)  # six streams
    for b, _ in enumerate(one.epoch(0), 1):
        assert len(read) - 2 * b <= 6 * 3
    assert len(read) >= COUNT


def test_tars_are_closed_in_the_end(loader):
    before = len(list(Path("/proc/self/fd").iterdir())) if Path("/proc/self/fd").is_dir() else 0
    one = loader()
    list(one.epoch(0))
    next(one.epoch(1))
    one.close()
    after = len(list(Path("/proc/self/fd").iterdir())) if before else 0
    assert after == before
