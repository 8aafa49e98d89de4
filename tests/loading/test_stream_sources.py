"""Shards over a network and spoilt ones: what arrives is the same, what is wrong stays one line."""

from __future__ import annotations

import io
import json
import os
import tarfile
from functools import partial
from http.server import SimpleHTTPRequestHandler
from pathlib import Path

import fsspec
import pytest
import torch

from singleshot.api.train_data import open_sets
from singleshot.api.train_options import TrainOptions
from singleshot.errors import ConfigError, DataError
from singleshot.inputs import InputSpec
from singleshot.loading.augment_spec import AUGMENTS
from singleshot.loading.loader import TrainLoader
from singleshot.loading.shard_stream import ShardStream, open_stream

SPEC = InputSpec(size=32)
COUNT = 96  # images of the shards, 12 of 8


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
def serve_shards(serve):
    """serve_shards(folder, answers that break): the folder's address."""

    def start(folder: Path, broken: int = 0) -> str:
        return serve(partial(type("Handler", (Quiet,), {"broken": broken}), directory=str(folder)))

    return start


@pytest.mark.parametrize("workers", [0, 2])
def test_over_http(loader, shards, serve_shards, workers, equal_but_for_names):
    address = serve_shards(shards)
    batches = list(loader(address, workers=workers).epoch(0))
    assert equal_but_for_names(batches, list(loader().epoch(0)))
    assert batches[0].names[0].startswith(f"{address}/train-0000")


def test_over_http_with_breaks(loader, shards, serve_shards, equal_but_for_names):
    batches = list(loader(serve_shards(shards, broken=3)).epoch(0))
    assert equal_but_for_names(batches, list(loader().epoch(0)))


def test_over_http_with_breaks_without_end(loader, shards, serve_shards):
    with pytest.raises(DataError, match=r"^http://127.*\.tar: cannot be read \(.*"):
        list(loader(serve_shards(shards, broken=10**6)).epoch(0))


def test_from_memory(loader, shards, equal_but_for_names):
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
    ("spoil", "message"),
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
def test_a_spoilt_shard_is_one_clean_line(loader, copy, workers, spoil, message):
    one = loader(copy, workers=workers)
    spoil(copy / "train-000003.tar")
    for _ in range(2):  # the same again: nothing is left half open
        with pytest.raises(DataError) as caught:
            list(one.epoch(0))
        assert str(caught.value).startswith(f"{copy}/train-000003.tar")
        assert message in str(caught.value)
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
        train_set, _ = open_sets(TrainOptions(data=str(path), val_split="none"))
        assert len(train_set) == COUNT
        assert train_set.class_names == ("cat", "dog")
        assert isinstance(train_set, ShardStream) == streamed
        one = TrainLoader(train_set, AUGMENTS["light"], SPEC, 8, 3, 0)
        assert len(one) == 12
        assert next(one.epoch(0)).images.shape == (8, 3, 32, 32)


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ({"batch": 0}, "batch size 0"),
        ({"seed": -1}, "seed -1"),
        ({"workers": -2}, "workers -2"),
        ({"shard": (2, 2)}, "shard 2 of 2"),
        ({"buffer": 0}, "buffer 0"),
    ],
)
def test_numbers_out_of_range(loader, more, message):
    with pytest.raises(ConfigError, match=message):
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


def test_a_tar_of_another_tool_without_extended_headers_is_streamed(tmp_path, copy, loader, seen):
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
