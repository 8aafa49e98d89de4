"""Batches depend on seed, epoch and position alone; mistakes in workers stay one line."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from singleshot.datasets.encoded_image import EncodedImage
from singleshot.errors import ConfigError, DataError
from singleshot.inputs import InputSpec, boxes_from_square
from singleshot.loading import workers as workers_module
from singleshot.loading.augment_spec import AUGMENTS, AugmentSpec
from singleshot.loading.loader import EvalLoader, TrainLoader
from singleshot.loading.sampling import epoch_order
from singleshot.loading.workers import pick_workers
from singleshot.records import Sample

SPEC = InputSpec(size=32)


class FakeDataset:
    """Images of noise; image i has i % 11 objects, and its first box starts at x = i."""

    source = "fake"

    def __init__(self, count: int, broken: int = -1) -> None:
        self.count, self.broken = count, broken

    def __len__(self) -> int:
        return self.count

    def sample(self, i: int) -> Sample:
        if i == self.broken:
            raise DataError(f"image{i}.jpg: damaged or cut short")
        rng = np.random.default_rng(i)
        image = rng.integers(0, 256, (40 + i, 60, 3), dtype=np.uint8)
        x = np.full(i % 11, i % 40, np.float32)
        boxes_px = np.stack([x, x * 0, x + 15, x * 0 + 20 + np.arange(len(x))], axis=1).astype(np.float32)
        return Sample(image, boxes_px, np.arange(len(x)), np.zeros(len(x), bool), f"image{i}.jpg")

    def picture(self, i: int) -> EncodedImage:
        return EncodedImage.of(self.sample(i))


class SelfTold(FakeDataset):
    """Raises what is no mistake of the user."""

    def sample(self, i: int) -> Sample:
        raise ZeroDivisionError("our own")


@pytest.fixture
def train_loader() -> Iterator[object]:
    """Makes training loaders and ends their workers."""
    made: list[TrainLoader] = []

    def make(count: int = 23, batch: int = 4, workers: int = 0, seed: int = 5, **more: object) -> TrainLoader:
        dataset = more.pop("dataset", None) or FakeDataset(count)
        spec = more.pop("spec", AUGMENTS["caffe"])
        made.append(TrainLoader(dataset, spec, SPEC, batch, seed, workers, **more))  # type: ignore[arg-type]
        return made[-1]

    yield make
    for loader in made:
        loader.close()


def test_batches_do_not_depend_on_the_workers(train_loader, all_same) -> None:
    loaders = [train_loader(workers=w) for w in (0, 1, 2)]
    for epoch in (0, 1):
        runs = [list(loader.epoch(epoch)) for loader in loaders]
        assert len(runs[0]) == len(loaders[0]) == 5
        assert all_same(runs[0], runs[1])
        assert all_same(runs[0], runs[2])


def test_epochs_and_seeds_differ(train_loader, all_same) -> None:
    loader = train_loader()
    first, second = list(loader.epoch(0)), list(loader.epoch(1))
    assert not all_same(first, second)
    assert all_same(first, list(loader.epoch(0)))
    assert not all_same(first, list(train_loader(seed=6).epoch(0)))


@pytest.mark.parametrize("workers", [0, 1])
def test_an_epoch_is_taken_up_in_the_middle(train_loader, workers: int, all_same) -> None:
    entire = list(train_loader().epoch(3))
    assert all_same(list(train_loader(workers=workers).epoch(3, start_batch=2)), entire[2:])
    assert list(train_loader(workers=workers).epoch(3, start_batch=5)) == []


def test_an_epoch_left_early_does_not_leak_into_the_next(train_loader, all_same) -> None:
    loader = train_loader(workers=2)
    for _ in loader.epoch(0):
        break
    assert all_same(list(loader.epoch(1)), list(train_loader().epoch(1)))


def test_each_image_at_most_once_and_all_seen_in_time(train_loader, seen) -> None:
    loader = train_loader(spec=AUGMENTS["none"])
    seen = set()
    for epoch in range(6):
        indices = torch.cat([batch.indices for batch in loader.epoch(epoch)]).tolist()
        assert len(set(indices)) == len(indices) == 20
        seen |= set(indices)
    assert len(seen) == 23


def test_fewer_images_than_a_batch_repeat(train_loader) -> None:
    loader = train_loader(count=3, batch=8)
    (batch,) = loader.epoch(0)
    assert len(loader) == 1
    assert sorted(np.bincount(batch.indices.numpy()).tolist()) == [2, 3, 3]
    twice = [k for k in range(8) if batch.indices[k] == batch.indices[0]]
    assert not torch.equal(batch.images[twice[0]], batch.images[twice[1]])


def test_batch_layout(train_loader) -> None:
    batch = next(train_loader(spec=AUGMENTS["none"], batch=23).epoch(0))
    assert batch.images.shape == (23, 3, 32, 32)
    assert batch.images.dtype == torch.uint8
    assert batch.images.is_contiguous(memory_format=torch.channels_last)
    assert batch.boxes.shape == (23, 16, 4)  # at most ten objects, in rows of eight
    assert batch.boxes.dtype == torch.float32
    assert batch.labels.dtype == batch.indices.dtype == torch.int64
    for k, index in enumerate(batch.indices.tolist()):
        sample = FakeDataset(23).sample(index)
        assert batch.names[k] == sample.name
        count = len(sample.labels)
        assert batch.labels[k].tolist() == [*range(count)] + [-1] * (16 - count)
        wanted = sample.boxes_px / np.array([60, 40 + index] * 2)
        assert np.allclose(batch.boxes[k, :count], wanted, atol=1e-6)
        assert (batch.boxes[k, count:] == 0).all()


def test_channels_last_survives_the_worker(train_loader) -> None:
    batch = next(train_loader(workers=1).epoch(0))
    assert batch.images.is_contiguous(memory_format=torch.channels_last)


def test_shards_make_up_the_joint_batch(train_loader) -> None:
    joint = list(train_loader(batch=6).epoch(2))
    parts = [list(train_loader(batch=3, shard=(rank, 2)).epoch(2)) for rank in (0, 1)]
    assert len(parts[0]) == len(parts[1]) == len(joint) == 3
    for whole, left, right in zip(joint, *parts, strict=True):
        assert torch.equal(whole.images, torch.cat([left.images, right.images]))
        assert whole.names == left.names + right.names


def test_torchs_global_randomness_is_left_alone(train_loader) -> None:
    torch.manual_seed(1)
    wanted = torch.rand(3)
    torch.manual_seed(1)
    list(train_loader(workers=1).epoch(0))
    assert torch.equal(torch.rand(3), wanted)


@pytest.mark.parametrize("workers", [0, 1])
def test_a_broken_image_is_one_clean_line(train_loader, workers: int) -> None:
    loader = train_loader(dataset=FakeDataset(8, broken=6), workers=workers)
    with pytest.raises(DataError) as caught:
        list(loader.epoch(0))
    assert str(caught.value) == "image6.jpg: damaged or cut short"
    evaluation = EvalLoader(FakeDataset(8, broken=6), SPEC, 4, workers)
    with pytest.raises(DataError, match=r"^image6\.jpg: damaged or cut short$"):
        list(evaluation)
    evaluation.close()


def test_our_own_mistake_keeps_its_traceback(train_loader) -> None:
    with pytest.raises(ZeroDivisionError, match="Traceback"):
        list(train_loader(dataset=SelfTold(4), workers=1).epoch(0))


def test_workers_ignore_an_interrupt(train_loader, all_same) -> None:
    loader = train_loader(workers=1)
    batches = loader.epoch(0)
    first = next(batches)
    processes = loader._pool._loader._iterator._workers
    for process in processes:
        os.kill(process.pid, signal.SIGINT)
    assert all_same([first, *batches], list(train_loader().epoch(0)))
    assert all(process.is_alive() for process in processes)
    loader.close()
    assert not any(process.is_alive() for process in processes)


@pytest.mark.parametrize("resize", ["stretch", "letterbox"])
@pytest.mark.parametrize("workers", [0, 1])
def test_evaluation_goes_in_order_and_back(workers: int, resize: str) -> None:
    dataset = FakeDataset(10)
    spec = InputSpec(size=64, resize=resize)
    loader = EvalLoader(dataset, spec, 4, workers)
    assert len(loader) == 3
    for _ in range(2):
        index = 0
        for batch, placements, sizes in loader:
            assert batch.indices.tolist() == list(range(index, min(index + 4, 10)))
            for k in range(len(batch.names)):
                sample = dataset.sample(index)
                height, width = sample.image.shape[:2]
                assert sizes[k].tolist() == [width, height]
                boxes = batch.boxes[k][batch.labels[k] >= 0].numpy()
                back = boxes_from_square(boxes, placements[k], 64, height, width)
                assert np.allclose(back, sample.boxes_px, atol=1e-3)
                index += 1
        assert index == 10
    loader.close()


@pytest.mark.parametrize("workers", [0, 2])
def test_repeated_images_are_augmented_anew_and_taken_up_in_the_middle(train_loader, workers: int, all_same) -> None:
    factors = np.array([3.0, 1.0, 1.0, 1.0, 1.0])
    loader = train_loader(5, batch=2, workers=workers, repeats=factors)
    whole = list(loader.epoch(4))
    assert len(whole) == len(loader) == 3  # of 7 images
    assert all_same(whole[2:], list(loader.epoch(4, 2)))
    often = [batch.images[k] for batch in whole for k in range(2) if batch.indices[k] == 0]
    assert len(often) >= 2
    assert not (often[0] == often[1]).all()


def test_order_is_a_shuffle_for_each_repetition() -> None:
    order = epoch_order(5, 12, 0, 0)
    assert sorted(order[:5]) == sorted(order[5:10]) == list(range(5))
    assert len(order) == 12
    assert epoch_order(100, 100, 0, 0).tolist() != epoch_order(100, 100, 0, 1).tolist()


def test_workers_for_this_machine(monkeypatch) -> None:
    free = 10**12
    monkeypatch.setattr(workers_module.shutil, "disk_usage", lambda _: SimpleNamespace(free=free))
    for cores, wanted in ((1, 1), (2, 1), (4, 3), (64, 8)):
        monkeypatch.setattr(os, "sched_getaffinity", lambda _, cores=cores: set(range(cores)), raising=False)
        assert pick_workers(None, 32, 300) == wanted
    free = 64 * 2**20  # Docker's default
    assert pick_workers(None, 32, 300) == 2
    assert pick_workers(None, 64, 512) == 0
    assert pick_workers(5, 64, 512) == 5


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ({"batch": 0}, "batch size 0"),
        ({"seed": -1}, "seed -1"),
        ({"workers": -2}, "workers -2"),
        ({"shard": (2, 2)}, "shard 2 of 2"),
    ],
)
def test_numbers_out_of_range(train_loader, more: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        train_loader(**more)
    with pytest.raises(ConfigError, match="epoch -1"):
        train_loader().epoch(-1)


def test_no_images() -> None:
    with pytest.raises(DataError, match="fake: no images"):
        TrainLoader(FakeDataset(0), AugmentSpec(), SPEC, 4)
    with pytest.raises(DataError, match="fake: no images"):
        EvalLoader(FakeDataset(0), SPEC, 4)
