"""A data set's folder on a server: listings, limits and what is read twice."""

from __future__ import annotations

import os
import time

import pytest

from singleshot import remote_file
from singleshot.datasets import open_dataset, tree
from singleshot.datasets.tree import open_tree
from singleshot.errors import DataError
from singleshot.images.decode import read_image
from singleshot.storage import read_limited


def test_a_tree_from_before_the_fork_works_after_it(voc_set, serve_folder, in_a_child):
    remote = open_tree(serve_folder(voc_set))
    assert sorted(remote.folders()) == ["Annotations", "ImageSets", "JPEGImages"]
    assert in_a_child(lambda: remote.files("ImageSets/Main")) == ["train.txt"]


def page(handler, body: bytes, status: int = 200) -> None:
    handler.send_response(status)
    handler.send_header("Content-Type", "text/html")
    handler.send_header("Content-Length", str(len(body)))
    handler.end_headers()
    handler.wfile.write(body)


LINKS = """
<a href="../">up</a> <a href="/">root</a> <a href="..">x</a> <a href="%2e%2e/">x</a> <a href="%2E%2E%2Fsecret.png">x</a>
<a href="http://elsewhere.invalid/data/evil.png">x</a> <a href="//elsewhere.invalid/data/evil.png">x</a>
<a href="?C=N;O=D">sort</a> <a href="#top">x</a> <a href="x.png?download=1">x</a> <a href="">x</a> <a href=>x</a>
<a href="sub/deeper.png">x</a> <a href="sub%2Fdeeper.png">x</a> <a href="http://[bad/">x</a> <a href="nul%00.png">x</a>
<a href="/database/evil.png">x</a> <a href="/data/sub/../../etc/passwd">x</a> <a href="javascript:void(0)">x</a>
<a href="file:///etc/passwd">x</a> <a  class="y"
 href = 'good.png' title="z">x</a> <A HREF=bare.png>x</A> <a href="/data/it's%20me.png">x</a> <a href="./dot.png">x</a>
<a href="caf%C3%A9.png">x</a> <a href="a&amp;b.png">x</a> <a href="folder/">x</a>
<p>href="no.png"</p> <area href="no.png">
"""


def test_only_what_lies_directly_below_is_listed(respond):
    remote = open_tree(respond(lambda h: page(h, LINKS.encode())) + "/data")
    assert remote.names() == {
        "good.png": False,
        "bare.png": False,
        "it's me.png": False,
        "dot.png": False,
        "café.png": False,
        "a&b.png": False,
        "folder": True,
    }


@pytest.mark.parametrize(
    "text", ["<a " * 300_000, '<a href="' * 100_000, "<a x " + "href " * 200_000, "<a href='" + '<a href="' * 99_999]
)
def test_a_hostile_listing_takes_no_time(respond, text):
    remote = open_tree(respond(lambda h: page(h, text.encode())) + "/data")
    start = time.process_time()
    assert len(remote.names()) <= 1
    assert time.process_time() - start < 5


def test_a_listing_without_end_is_given_up_on(respond, monkeypatch, one_line):
    def endless(handler) -> None:
        handler.send_response(200)
        handler.end_headers()
        while True:
            handler.wfile.write(b"<a href='x'>" * 5000)

    monkeypatch.setattr(tree, "_LISTING_BYTES", 1 << 20)
    assert "a listing of more than 1 MB" in one_line(open_dataset, respond(endless))


def test_folders_without_end_are_given_up_on(respond, one_line):
    remote = open_tree(respond(lambda h: page(h, b'<a href="a/">x</a> <a href="b/">x</a>')))
    assert "folders within folders without end" in one_line(lambda: list(remote.walk()))


@pytest.mark.parametrize("status", [401, 403, 500, 503])
def test_a_servers_errors_are_said(respond, status, one_line):
    address = respond(lambda h: page(h, b"no", status))
    text = one_line(open_dataset, f"{address}/data")
    assert "cannot be listed" in text
    assert str(status) in text
    text = one_line(read_image, f"{address}/a.png")
    assert "a.png: cannot be read" in text
    assert str(status) in text


def test_what_is_not_there_is_said(respond, memory, one_line):
    address = respond(lambda h: page(h, b"no", 404))
    assert "nothing is there" in one_line(open_dataset, f"{address}/data")
    assert "no such image file" in one_line(read_image, f"{address}/a.png")
    assert "nothing is there" in one_line(open_dataset, "memory://nowhere")
    assert "no such image file" in one_line(read_image, "memory://nowhere/a.png")
    assert "cannot be" in one_line(open_dataset, "http://127.0.0.1:9/data")
    for unknown in ("nonsense://x/y", "s4://x", "http://[bad/x", "http://"):
        one_line(open_dataset, unknown)
        one_line(read_image, f"{unknown}/a.png")


def hang(handler) -> None:
    time.sleep(3)


def hang_within(handler) -> None:
    handler.send_response(200)
    handler.send_header("Content-Length", "1000")
    handler.end_headers()
    handler.wfile.write(b"<a ")
    handler.wfile.flush()
    time.sleep(3)


def drip(handler) -> None:
    handler.send_response(200)
    handler.end_headers()
    for _ in range(100):
        handler.wfile.write(b"<")
        handler.wfile.flush()
        time.sleep(0.05)


@pytest.mark.parametrize("answer", [hang, hang_within, drip])
def test_a_server_that_hangs_is_given_up_on(respond, answer, monkeypatch, one_line):
    monkeypatch.setattr(remote_file, "REMOTE_SECONDS", 0.3)
    address = respond(answer)
    start = time.monotonic()
    assert "cannot be listed (" in one_line(open_dataset, f"{address}/data")
    text = one_line(read_image, f"{address}/a.png")
    assert "0.3 seconds" in text or "imeout" in text or "bytes came in 0" in text
    assert time.monotonic() - start < 2.5


@pytest.mark.parametrize("told", [None, 100, 10**12])
def test_a_body_without_end_is_read_to_the_limit_only(respond, told, one_line):
    sent = []

    def endless(handler) -> None:
        handler.send_response(200)
        if told is not None:
            handler.send_header("Content-Length", str(told))
        handler.end_headers()
        if handler.command == "GET":
            for _ in range(1000):
                handler.wfile.write(bytes(1 << 20))
                sent.append(1)

    address = respond(endless) + "/a.bin"
    if told == 100:  # what comes beyond is not the file's
        try:
            assert read_limited(address, 1 << 20, "image") == bytes(100)
        except DataError as error:  # or the whole answer is refused
            assert "a.bin: cannot be read" in str(error)
    else:
        assert "a.bin: larger than 1 MB" in one_line(read_limited, address, 1 << 20, "image")
        assert read_limited(address, 1 << 20, "image", most=3000) == bytes(3000)
    time.sleep(0.1)
    assert len(sent) < 100


def test_bodies_are_whole_without_a_told_length_and_in_pieces(respond):
    body = os.urandom(3_000_000)

    def pieces(handler) -> None:
        handler.protocol_version = "HTTP/1.0"
        handler.close_connection = True
        handler.send_response(200)
        handler.end_headers()
        for at in range(0, len(body), 70_001):
            handler.wfile.write(body[at : at + 70_001])
            handler.wfile.flush()

    address = respond(pieces)
    assert read_limited(f"{address}/x", 1 << 22, "image") == body
    assert read_limited(f"{address}/x", 1 << 22, "image", most=200_000) == body[:200_000]
    remote = open_tree(address)
    with remote.open("x", 1 << 22, "image") as file:
        assert file.read(10) == body[:10]
        assert file.read() == body[10:]


def test_a_body_cut_short_is_said(respond, one_line):
    def cut(handler) -> None:
        handler.send_response(200)
        handler.send_header("Content-Length", "1000")
        handler.end_headers()
        handler.wfile.write(b"x" * 500)
        handler.close_connection = True

    assert "cannot be read" in one_line(read_limited, respond(cut) + "/x", 1 << 20, "image")


@pytest.mark.parametrize(
    "address",
    ["file:///etc", "FILE:///etc", "local:///etc", "file://localhost/etc/passwd", "zip::http://127.0.0.1:9/x.zip",
     "simplecache::file:///etc", "zip://a.png::file:///tmp/x.zip", "filecache::http://127.0.0.1:9/x"],
)  # fmt: skip
def test_addresses_that_go_round_the_checks_are_refused(address, one_line):
    if "://" in address:
        assert "not an address that is read here" in one_line(open_dataset, address)
        assert "not an address that is read here" in one_line(read_image, address)
