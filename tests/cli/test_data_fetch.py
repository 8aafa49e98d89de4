"""`singleshot data fetch` as users run it; the catalogue is that of a local server."""

from __future__ import annotations

import functools
import hashlib
import io
import json
import os
import signal
import subprocess
import sys
import tarfile
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from singleshot.datasets import open_dataset

# The real command line with a set `tiny` in the catalogue; how it is downloaded and unpacked stays as it is.
DRIVER = """
import json, sys
from singleshot.cli import main
from singleshot.datasets.fetch.catalogue import Archive, FreeSet, free_sets
size, checksum = json.loads(sys.argv.pop(1))
archive = Archive("http://example.org/sets/tiny.tar", size, checksum, (("devkit/", ""),))
free_sets()["tiny"] = FreeSet("Tiny", "voc", ("train",), "free", "http://example.org", (archive,), size)
main()
"""
XML = "<annotation><object><name>cat</name><bndbox><xmin>2</xmin><ymin>2</ymin><xmax>9</xmax><ymax>9</ymax></bndbox>\
</object></annotation>"
SLOW = 300_000  # bytes after which the slow server says nothing more


class Server(ThreadingHTTPServer):
    """Holds one archive; while `slow`, an answer stops in the middle and the connection stays open."""

    daemon_threads = True

    def __init__(self, body: bytes) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.body, self.slow, self.status = body, False, 200
        self.asked: list[str | None] = []
        self.released = threading.Event()

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"


class Handler(BaseHTTPRequestHandler):
    server: Server

    def log_message(self, *words: Any) -> None:
        pass

    def do_GET(self) -> None:
        asked = self.headers.get("Range")
        self.server.asked.append(asked)
        if self.server.status != 200 or self.path != "/sets/tiny.tar":
            self.send_error(self.server.status if self.server.status != 200 else 404)
            return
        start = int(asked.removeprefix("bytes=").rstrip("-")) if asked else 0
        body = self.server.body[start:]
        self.send_response(206 if asked else 200)
        if asked:
            self.send_header("Content-Range", f"bytes {start}-{len(self.server.body) - 1}/{len(self.server.body)}")
        self.send_header("ETag", '"one"')
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body[:SLOW] if self.server.slow else body)
        self.wfile.flush()
        if self.server.slow:
            self.server.released.wait(60)


@pytest.fixture(scope="module")
def body() -> bytes:
    picture = cv2.imencode(".png", np.zeros((16, 16, 3), np.uint8))[1].tobytes()
    members = {"Annotations/a.xml": XML.encode(), "JPEGImages/a.png": picture, "ImageSets/Main/train.txt": b"a\n",
               "filler.bin": bytes(range(256)) * 4000}  # fmt: skip
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as tar:
        for name, content in members.items():
            info = tarfile.TarInfo(f"devkit/{name}")
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    return out.getvalue()


@pytest.fixture
def server(body: bytes) -> Iterator[Server]:
    with Server(body) as held:
        thread = threading.Thread(target=functools.partial(held.serve_forever, 0.01), daemon=True)
        thread.start()
        yield held
        held.released.set()
        held.shutdown()
        thread.join()


def driven(server: Server, words: tuple[object, ...], checksum: str = "") -> list[str]:
    """What comes behind `python` for the command with the server as its mirror."""
    facts = json.dumps([len(server.body), checksum or hashlib.sha256(server.body).hexdigest()])
    return ["-c", DRIVER, facts, "data", "fetch", *map(str, words), "--mirror", server.address]


@pytest.fixture
def start(server: Server, tmp_path: Path):
    """start(*words): the command as a process that can be stopped, in tmp_path."""

    def call(*words: object) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [sys.executable, *driven(server, words)],
            cwd=tmp_path,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, "no_proxy": "*"},
        )

    return call


@pytest.fixture
def fetch(server: Server, run, tmp_path: Path, monkeypatch):
    """fetch(*words): exit code, standard output, standard error of the command in tmp_path."""
    monkeypatch.setenv("no_proxy", "*")

    def call(*words: object, checksum: str = "") -> tuple[int, str, str]:
        done = run(*driven(server, words, checksum), cwd=tmp_path)
        return done.returncode, done.stdout, done.stderr

    return call


def wait_for(path: Path, size: int) -> None:
    """Until the file has that many bytes."""
    for _ in range(1000):
        if path.exists() and path.stat().st_size >= size:
            return
        time.sleep(0.02)
    raise AssertionError(f"{path} never had {size} bytes")


def test_a_set_is_fetched_and_a_second_run_does_nothing(fetch, server: Server, tmp_path: Path) -> None:
    code, out, err = fetch("tiny")
    assert code == 0, err
    assert out.startswith("data/tiny: tiny, 4 files") and "splits train" in out
    assert "licence: free" in err and "singleshot data info data/tiny" in err
    assert open_dataset(tmp_path / "data" / "tiny", "train").class_names == ("cat",)
    assert sorted(p.name for p in (tmp_path / "data").iterdir()) == ["tiny"]
    code, out, err = fetch("tiny")
    assert (code, out) == (0, "data/tiny: tiny is there already; nothing to do\n")
    assert len(server.asked) == 1


def test_json_and_kept_archives(fetch, body: bytes, tmp_path: Path) -> None:
    code, out, err = fetch("tiny", "--out", "sets/mine", "--keep", "--json", "--quiet")
    assert (code, err) == (0, "")
    told = json.loads(out)
    assert (told["name"], told["out"], told["fetched"], told["files"]) == ("tiny", "sets/mine", True, 4)
    assert told["archives"] == [
        {"address": "http://example.org/sets/tiny.tar", "bytes": len(body), "sha256": hashlib.sha256(body).hexdigest(),
         "kept": "sets/mine.fetch/tiny.tar"}
    ]  # fmt: skip
    assert (tmp_path / "sets" / "mine.fetch" / "tiny.tar").read_bytes() == body


@pytest.mark.parametrize(("sent", "code"), [(signal.SIGKILL, -9), (signal.SIGINT, 130)])
def test_a_stopped_run_is_gone_on_with(
    start, fetch, server: Server, tmp_path: Path, sent: signal.Signals, code: int
) -> None:
    server.slow = True
    process = start("tiny", "--out", "t")
    wait_for(tmp_path / "t.fetch" / "tiny.tar.part", 1)
    time.sleep(0.3)  # the rest of what the slow server gives
    process.send_signal(sent)
    _, err = process.communicate(timeout=30)
    assert process.returncode == code, err
    assert "Traceback" not in err
    assert not (tmp_path / "t").exists()
    came = (tmp_path / "t.fetch" / "tiny.tar.part").stat().st_size
    assert 0 < came <= SLOW
    server.slow = False
    assert fetch("tiny", "--out", "t")[0] == 0
    assert server.asked == [None, f"bytes={came}-"]


def test_a_wrong_checksum_ends_in_one_line(fetch, tmp_path: Path) -> None:
    code, out, err = fetch("tiny", "--quiet", checksum="0" * 64)
    assert (code, out) == (2, "")
    assert len(err.splitlines()) == 1 and "0" * 64 in err and "run it again" in err
    assert not list((tmp_path / "data").rglob("*.part"))


def test_a_missing_file_ends_in_one_line(fetch, server: Server) -> None:
    server.status = 404
    code, _, err = fetch("tiny", "--quiet")
    assert code == 2
    assert len(err.splitlines()) == 1 and "answers 404" in err and "--mirror" in err
    assert len(server.asked) == 1


def test_a_folder_that_is_in_use_is_refused(fetch, server: Server, tmp_path: Path) -> None:
    (tmp_path / "t").mkdir()
    (tmp_path / "t" / "mine").write_text("mine")
    code, _, err = fetch("tiny", "--out", "t", "--quiet")
    assert code == 2 and "is there already" in err and "--out" in err
    assert server.asked == []


@pytest.mark.parametrize("words", [(), ("--list",), ("voc2007", "--list")])
def test_the_catalogue_is_listed(run, words: tuple[str, ...]) -> None:
    done = run("data", "fetch", *words)
    assert done.returncode == 0
    for said in ("voc2007", "911.1 MB", "coco2017-val", "bccd", "licence: MIT"):
        assert said in done.stdout


def test_the_catalogue_as_json(run) -> None:
    rows = {row["name"]: row for row in json.loads(run("data", "fetch", "--json").stdout)}
    assert rows["voc2007"]["bytes"] == 911_052_800
    assert rows["voc2007"]["archives"][0]["sha256"].startswith("7d8cd951")
    assert rows["bccd"]["archives"][0]["sha256"] is None and rows["bccd"]["content_sha256"]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("voc2077",), "did you mean voc2007?"),
        (("zzzz",), "want one of voc2007"),
        (("bccd", "--mirror", "file:///etc"), "want http(s)://HOST"),
        (("bccd", "--mirror", "ftp://host"), "want http(s)://HOST"),
    ],
)
def test_wrong_words_end_in_one_line(refused, words: tuple[str, ...], said: str, tmp_path: Path) -> None:
    assert said in refused("data", "fetch", *words, "--quiet", cwd=tmp_path)
    assert list(tmp_path.iterdir()) == []
