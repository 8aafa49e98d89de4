"""Batches from shards depend on seed, epoch, stream and position alone; what is wrong in a tar stays one line."""

from __future__ import annotations

import io
import json
import os
import tarfile
import threading
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from itertools import chain
from pathlib import Path

import fsspec
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from singleshot.datasets import open_dataset, open_source
from singleshot.datasets import shard_tar as shardtar
from singleshot.datasets.writers.shards import read_contents, write_shards
from singleshot.errors import ConfigError, DataError
from singleshot.inputs import InputSpec
from singleshot.loading.augment_spec import AUGMENTS, AugmentSpec
from singleshot.loading.loader import TrainLoader
from singleshot.loading.sampling import MAX_STREAMS, Sampling, make_stream_plan, pick_streams, shuffled
from singleshot.loading.shard_stream import ShardStream, open_stream, open_training_set
from singleshot.records import Batch

SPEC = InputSpec(size=32)
COUNT = 96  # images: 12 shards of 8


@pytest.fixture(scope="module")
def plain(tmp_path_factory, write_image) -> Path:
    """A folder with COUNT images of different sizes; image i has i % 5 objects, the fourth of which is a crowd."""
    root = tmp_path_factory.mktemp("plain")
    images, annotations = [], []
    for i in range(COUNT):
        name = f"{i:03d}.{'jpg' if i % 2 else 'png'}"
        write_image(root / "train" / name, 40 + i, 30)
        images.append({"id": i, "file_name": name, "width": 40 + i, "height": 30})
        for k in range(i % 5):
            one = {"id": len(annotations), "image_id": i, "category_id": k % 2, "bbox": [k, k + 1, 12, 13]}
            annotations.append(one | {"iscrowd": int(k == 3), "difficult": int(k == 2)})
    categories = [{"id": 0, "name": "cat"}, {"id": 1, "name": "dog"}]
    content = {"images": images, "annotations": annotations, "categories": categories}
    (root / "train.json").write_text(json.dumps(content))
    return root


@pytest.fixture(scope="module")
def shards(tmp_path_factory, plain) -> Path:
    out = tmp_path_factory.mktemp("packed") / "shards"
    write_shards(read_contents(open_source(plain)), out, per_shard=8)
    return out


@pytest.fixture
def copy(shards, tmp_path) -> Path:
    """The shards, to be spoilt."""
    for path in shards.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    return tmp_path


@pytest.fixture
def loader(shards) -> Iterator[object]:
    """Makes loaders and ends their workers."""
    made: list[TrainLoader] = []

    def make(path=None, batch: int = 4, workers: int = 0, seed: int = 5, spec="caffe", **more) -> TrainLoader:
        stream = open_stream(path or shards, class_names=more.pop("class_names", None))
        stream = replace(stream, buffer_samples=more.pop("buffer", stream.buffer_samples))
        spec = spec if isinstance(spec, AugmentSpec) else AUGMENTS[spec]
        made.append(TrainLoader(stream, spec, SPEC, batch, seed, workers, **more))
        return made[-1]

    yield make
    for one in made:
        one.close()


def same(a: Batch, b: Batch) -> bool:
    return a.names == b.names and all(torch.equal(x, y) for x, y in zip(a[:4], b[:4], strict=True))


def all_same(a: list[Batch], b: list[Batch]) -> bool:
    return len(a) == len(b) and all(same(x, y) for x, y in zip(a, b, strict=True))


def seen(batches) -> list[int]:
    return torch.cat([batch.indices for batch in batches]).tolist()


# ---------------------------------------------------------------------------------------------- batches


@pytest.mark.filterwarnings("ignore:This DataLoader will create")
def test_batches_do_not_depend_on_the_workers(loader):
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


def test_mosaics_do_not_depend_on_the_workers(loader):
    spec = AugmentSpec(mosaic_p=1.0)
    assert all_same(list(loader(spec=spec).epoch(0)), list(loader(spec=spec, workers=2).epoch(0)))


@pytest.mark.parametrize("workers", [0, 2])
def test_an_epoch_is_taken_up_in_the_middle(loader, workers):
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
def test_an_epoch_left_early_does_not_leak_into_the_next(loader, workers):
    one = loader(workers=workers)
    first = next(one.epoch(0))
    assert all_same(list(one.epoch(1)), list(loader().epoch(1)))
    assert same(next(one.epoch(0)), first)


def test_epochs_and_seeds_differ(loader):
    one = loader()
    first, second = list(one.epoch(0)), list(one.epoch(1))
    assert seen(first) != seen(second)
    assert all_same(first, list(one.epoch(0)))
    assert seen(first) != seen(loader(seed=6).epoch(0))


@pytest.mark.parametrize("batch", [1, 2, 4, 8, 12, 24, 48, 96])
def test_each_image_once_where_the_counts_divide(loader, batch):
    one = loader(batch=batch, spec="none")
    for epoch in (0, 1):
        indices = seen(one.epoch(epoch))
        assert sorted(indices) == list(range(COUNT))
        assert indices != sorted(indices)


@pytest.mark.parametrize(("per_shard", "batch"), [(7, 4), (10, 5), (5, 7), (96, 10), (1, 9)])
def test_each_image_about_once_elsewhere(plain, tmp_path, loader, per_shard, batch):
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
                found.append((batch.images[k].numpy().tobytes(), batch.boxes[k][real].tolist(),
                              batch.labels[k][real].tolist()))  # fmt: skip
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
def test_processes_share_an_epoch(loader, world):
    for epoch in (0, 1):
        parts = [seen(loader(shard=(rank, world), spec="none").epoch(epoch)) for rank in range(world)]
        assert [len(part) for part in parts] == [COUNT // world] * world
        assert sorted(chain.from_iterable(parts)) == list(range(COUNT))


def test_processes_augment_differently(loader):
    left, right = (next(loader(shard=(rank, 2)).epoch(0)) for rank in (0, 1))
    assert not set(left.indices.tolist()) & set(right.indices.tolist())
    assert all_same(
        list(loader(shard=(1, 2), workers=2).epoch(0, 5)), list(loader(shard=(1, 2)).epoch(0))[5:]
    )  # fmt: skip


def test_more_processes_than_shards_share_them(plain, tmp_path, loader):
    write_shards(read_contents(open_source(plain)), tmp_path / "out", per_shard=48)
    parts = [seen(loader(tmp_path / "out", shard=(rank, 4), spec="none").epoch(0)) for rank in range(4)]
    assert sorted(chain.from_iterable(parts)) == list(range(COUNT))


# ---------------------------------------------------------------------------------------------- streams


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


def test_a_loader_holds_no_more_than_its_buffer(loader, monkeypatch):
    """Samples read less samples drawn, over all streams, whatever is left of an epoch."""
    from singleshot.loading import shard_stream as stream

    read = []
    monkeypatch.setattr(
        stream, "read_samples", lambda *a, f=stream.read_samples: (read.append(1) or one for one in f(*a))
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


# ---------------------------------------------------------------------------------------------- the network


class Quiet(SimpleHTTPRequestHandler):
    """Knows no ranges; `broken` counts the answers that end in the middle."""

    broken = 0

    def log_message(self, *_: object) -> None:
        pass

    def copyfile(self, source, outputfile) -> None:
        if type(self).broken and self.path.endswith(".tar"):
            type(self).broken -= 1
            outputfile.write(source.read(5000))
            return
        super().copyfile(source, outputfile)


@pytest.fixture
def serve():
    """serve(folder, answers that break): the folder's address."""
    servers = []

    def start(folder: Path, broken: int = 0) -> str:
        handler = type("Handler", (Quiet,), {"broken": broken})
        servers.append(ThreadingHTTPServer(("127.0.0.1", 0), partial(handler, directory=str(folder))))
        threading.Thread(target=servers[-1].serve_forever, daemon=True).start()
        return f"http://127.0.0.1:{servers[-1].server_port}"

    yield start
    for server in servers:
        server.shutdown()
        server.server_close()


def equal_but_for_names(a: list[Batch], b: list[Batch]) -> bool:
    return all_same([batch._replace(names=()) for batch in a], [batch._replace(names=()) for batch in b])


@pytest.mark.parametrize("workers", [0, 2])
def test_over_http(loader, shards, serve, workers):
    address = serve(shards)
    batches = list(loader(address, workers=workers).epoch(0))
    assert equal_but_for_names(batches, list(loader().epoch(0)))
    assert batches[0].names[0].startswith(f"{address}/train-0000")


def test_over_http_with_breaks(loader, shards, serve, monkeypatch):
    monkeypatch.setattr(shardtar, "_PAUSE", 0.001)
    batches = list(loader(serve(shards, broken=3)).epoch(0))
    assert equal_but_for_names(batches, list(loader().epoch(0)))


def test_over_http_with_breaks_without_end(loader, shards, serve, monkeypatch):
    monkeypatch.setattr(shardtar, "_PAUSE", 0.001)
    with pytest.raises(DataError, match=r"^http://127.*\.tar: cannot be read \(.*"):
        list(loader(serve(shards, broken=10**6)).epoch(0))


def test_from_memory(loader, shards):
    system = fsspec.filesystem("memory")
    try:
        for path in shards.iterdir():
            system.pipe_file(f"/streamed/{path.name}", path.read_bytes())
        assert equal_but_for_names(list(loader("memory://streamed").epoch(0)), list(loader().epoch(0)))
    finally:
        system.rm("/streamed", recursive=True)


# ---------------------------------------------------------------------------------------------- mistakes


def spoil_end(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:9000])


def spoil_image(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[512:520] = b"no image"
    path.write_bytes(data)


def spoil_labels(path: Path) -> None:
    path.write_bytes(path.read_bytes().replace(b'"boxes":', b'"bozes":'))


def spoil_size(path: Path) -> None:
    path.write_bytes(path.read_bytes().replace(b'"height":30', b'"height":31'))


def spoil_names(path: Path) -> None:
    data = path.read_bytes()
    with tarfile.open(path) as tar:
        member = tar.next()
    link = tarfile.TarInfo(member.name)
    link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
    path.write_bytes(link.tobuf(tarfile.USTAR_FORMAT) + data)


@pytest.mark.parametrize("workers", [0, 1])
@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (spoil_end, "in the middle"),
        (spoil_image, "not an image"),
        (spoil_labels, "boxes None; want a list"),
        (spoil_size, "pixels, its annotation says"),
        (spoil_names, "is a link"),
        (Path.unlink, "no such shard file"),
        (lambda path: path.write_bytes(bytes(10240)), "holds 0 samples, but shards.json says 8"),
    ],
)
def test_a_spoilt_shard_is_one_clean_line(loader, copy, workers, spoil, said):
    one = loader(copy, workers=workers)
    spoil(copy / "train-000003.tar")
    for _ in range(2):  # the same again: nothing is left half open
        with pytest.raises(DataError) as caught:
            list(one.epoch(0))
        assert str(caught.value).startswith(f"{copy}/train-000003.tar")
        assert said in str(caught.value)
        assert "\n" not in str(caught.value)
        assert type(caught.value) is DataError


def test_boxes_outside_are_refused_or_cut(copy):
    path = copy / "train-000000.tar"
    data = path.read_bytes()
    path.write_bytes(data.replace(b"[0.0,1.0,12.0,14.0]", b"[0.0,1.0,12.0,94.0]"))
    for clip in (False, True):
        stream = open_stream(copy, clip_boxes=clip)
        epoch = TrainLoader(stream, AUGMENTS["none"], SPEC, 4, 0, 0).epoch(0)
        if clip:
            boxes = torch.cat([batch.boxes.reshape(-1, 4) for batch in epoch])
            assert boxes.max() == 1
        else:
            with pytest.raises(DataError, match=r"object \d \(cat\): box \[0, 1, 12, 94\] lies outside"):
                list(epoch)


def test_opening_reads_the_index_only(copy, plain, one_line):
    for path in copy.glob("*.tar"):
        path.write_bytes(b"")
    stream = open_stream(copy)
    assert len(stream) == COUNT
    assert stream.source == f"{copy} (train)"
    assert stream.class_names == ("cat", "dog")
    assert "no split 'val'" in one_line(open_stream, copy, "val")
    assert "no folder of shards" in one_line(open_stream, plain)
    (copy / "train-000005.tar").unlink()
    assert "train-000005.tar: is not there" in one_line(open_stream, copy)
    index = json.loads((copy / "shards.json").read_text()) | {"splits": {"train": []}}
    (copy / "shards.json").write_text(json.dumps(index))
    assert "has no images" in one_line(open_stream, copy)


def test_shards_are_streamed_and_folders_are_not(plain, shards):
    for path, streamed in ((plain, False), (shards, True)):
        train_set = open_training_set(path, "train")
        assert len(train_set) == COUNT
        assert train_set.class_names == ("cat", "dog")
        assert isinstance(train_set, ShardStream) == streamed
        one = TrainLoader(train_set, AUGMENTS["light"], SPEC, 8, 3, 0)
        assert len(one) == 12
        assert next(one.epoch(0)).images.shape == (8, 3, 32, 32)


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ({"batch": 0}, "batch size 0"),
        ({"seed": -1}, "seed -1"),
        ({"workers": -2}, "workers -2"),
        ({"shard": (2, 2)}, "shard 2 of 2"),
        ({"buffer": 0}, "buffer 0"),
    ],
)
def test_numbers_out_of_range(loader, more, said):
    with pytest.raises(ConfigError, match=said):
        loader(**more)
    with pytest.raises(ConfigError, match="epoch -1"):
        loader().epoch(-1)


def test_the_workers_end(loader):
    one = loader(workers=2)
    next(one.epoch(0))
    processes = one._pool._loader._iterator._workers
    assert all(process.is_alive() for process in processes)
    one.close()
    assert not any(process.is_alive() for process in processes)
    assert os.getpid() not in [process.pid for process in processes]


def test_a_tar_of_another_tool_without_extended_headers_is_streamed(tmp_path, copy, loader):
    """Only shards.json makes them ours: GNU tar's own headers do."""
    for path in sorted(copy.glob("*.tar")):
        with tarfile.open(path) as tar:
            found = [(info.name, tar.extractfile(info).read()) for info in tar]
        buffer = io.BytesIO()
        with tarfile.open(fileobj=buffer, mode="w", format=tarfile.GNU_FORMAT) as tar:
            for name, data in found:
                info = tarfile.TarInfo(name)
                info.size, info.mtime, info.uid, info.uname = len(data), 1_700_000_000, 1000, "somebody"
                tar.addfile(info, io.BytesIO(data))
        path.write_bytes(buffer.getvalue())
    assert sorted(seen(loader(copy, spec="none").epoch(0))) == list(range(COUNT))
