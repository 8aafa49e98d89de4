"""Images that are parts of a tar, on the disk and on a web server."""

from __future__ import annotations

import io
import re
from functools import partial
from http.server import SimpleHTTPRequestHandler
from pathlib import Path

import fsspec
import pytest

from singleshot.datasets import open_dataset, open_source
from singleshot.datasets.writers.shards import read_contents, write_shards
from singleshot.storage import read_limited


def write(data: Path, out: Path, splits: tuple[str, ...] = (), clip_boxes: bool = False, **options):
    return write_shards(read_contents(open_source(data), splits, clip_boxes), out, **options)


class Ranges(SimpleHTTPRequestHandler):
    """Also answers requests for a part of a file, which http.server alone does not."""

    def log_message(self, *_: object) -> None:
        pass

    def send_head(self):
        asked = re.fullmatch(r"bytes=(\d+)-(\d+)", self.headers.get("Range", ""))
        if asked is None:
            return super().send_head()
        data = Path(self.translate_path(self.path)).read_bytes()[int(asked[1]) : int(asked[2]) + 1]
        self.send_response(206)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        return io.BytesIO(data)


class Whole(Ranges):
    send_head = SimpleHTTPRequestHandler.send_head


@pytest.fixture
def serve_shards(serve):
    """serve_shards(folder, handler): its address."""
    return lambda folder, handler=Ranges: serve(partial(handler, directory=str(folder)))


def test_a_part_of_a_tar_is_read(tmp_path, one_line):
    path = tmp_path / "a.tar"
    path.write_bytes(bytes(range(100)))
    assert read_limited(f"{path}#10+5", 100, "image") == bytes(range(10, 15))
    assert read_limited(f"{path}#10+5", 100, "image", most=2) == bytes(range(10, 12))
    assert read_limited(f"{path}#90+50", 100, "image") == bytes(range(90, 100))
    assert read_limited(f"{path}#990+50", 100, "image") == b""
    assert "larger than" in one_line(read_limited, f"{path}#0+50", 20, "image")
    assert "no such image file" in one_line(read_limited, f"{tmp_path}/b.tar#0+50", 20, "image")
    assert "no such image file" in one_line(read_limited, f"{path}#-1+50", 20, "image")


def test_a_file_of_such_a_name_is_itself(tmp_path):
    (tmp_path / "a.tar").symlink_to("/etc/passwd")
    (tmp_path / "a.tar#0+9").write_bytes(b"itself")
    assert read_limited(tmp_path / "a.tar#0+9", 100, "image") == b"itself"


def test_shards_on_a_web_server(coco_set, shards, serve_shards, by_id):
    address = serve_shards(shards)
    for split in ("train", "val"):
        assert by_id(open_dataset(address, split)) == by_id(open_dataset(shards, split))


def test_a_server_without_ranges_is_told(shards, serve_shards, one_line):
    dataset = open_dataset(serve_shards(shards, Whole))
    line = one_line(dataset.sample, 0)
    assert "cannot send a part of a file" in line


def test_shards_in_memory(shards, by_id):
    system = fsspec.filesystem("memory")
    try:
        for path in shards.iterdir():
            system.pipe_file(f"/packed/{path.name}", path.read_bytes())
        assert by_id(open_dataset("memory://packed", "train")) == by_id(open_dataset(shards, "train"))
    finally:
        system.rm("/packed", recursive=True)


def test_from_a_web_server_to_shards(coco_set, shards, serve_shards, tmp_path):
    write(serve_shards(coco_set), tmp_path / "out", per_shard=3)
    for path in shards.iterdir():
        assert path.read_bytes() == (tmp_path / "out" / path.name).read_bytes()
