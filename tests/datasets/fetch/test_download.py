"""Downloading one file from a server that misbehaves."""

from __future__ import annotations

import errno
import hashlib
import io
import socketserver
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any

import pytest

from singleshot.datasets.fetch import Archive
from singleshot.datasets.fetch import download as download_module
from singleshot.datasets.fetch.download import download_archive, with_mirror
from singleshot.errors import ConfigError

BODY = bytes(range(256)) * 2000  # 512,000 bytes


def archive_of(body: bytes, name: str = "a.tar", moves: Any = (("", ""),), exact: bool = True) -> Archive:
    checksum = hashlib.sha256(body).hexdigest() if exact else ""
    return Archive(f"http://example.org/x/{name}", len(body), checksum, moves, 0 if exact else len(body) + 1000)


@pytest.fixture
def one(site: Any) -> Archive:
    site.files["/x/a.tar"] = BODY
    return archive_of(BODY)


def ranges(site: Any) -> list[str | None]:
    return [asked for path, asked in site.asked if path != "gone"]


def test_a_file_is_downloaded_verified_and_reported(site: Any, one: Archive, tmp_path: Path) -> None:
    seen = []
    path = download_archive(one, tmp_path, site.root, lambda *told: seen.append(told))
    assert path == tmp_path / "a.tar"
    assert path.read_bytes() == BODY
    assert [p.name for p in tmp_path.iterdir()] == ["a.tar"]
    assert seen[0] == ("download a.tar", 0, len(BODY))
    assert seen[-1] == ("download a.tar", len(BODY), len(BODY))
    assert site.asked == [("/x/a.tar", None)]
    download_archive(one, tmp_path, site.root)  # is there: verified, not asked for
    assert len(site.asked) == 1


def test_a_cut_connection_is_gone_on_with(
    site: Any, one: Archive, tmp_path: Path, pauses: list[float], caplog: pytest.LogCaptureFixture
) -> None:
    site.script = [{"cut": 1000}, {"cut": 5000}]
    assert download_archive(one, tmp_path, site.root).read_bytes() == BODY
    assert ranges(site) == [None, "bytes=1000-", "bytes=6000-"]
    assert pauses == [1, 2]
    assert "cut after 1000 of 512000 bytes" in caplog.text


def test_a_part_file_of_an_earlier_run_is_gone_on_with(site: Any, one: Archive, tmp_path: Path) -> None:
    (tmp_path / "a.tar.part").write_bytes(BODY[:70_000])
    (tmp_path / "a.tar.part.etag").write_text('"one"')
    assert download_archive(one, tmp_path, site.root).read_bytes() == BODY
    assert ranges(site) == ["bytes=70000-"]


def test_a_part_file_that_is_whole_needs_no_request(site: Any, one: Archive, tmp_path: Path) -> None:
    (tmp_path / "a.tar.part").write_bytes(BODY)
    assert download_archive(one, tmp_path, site.root).read_bytes() == BODY
    assert site.asked == []


@pytest.mark.parametrize("found", [b"", b"x" * 600_000])
def test_a_part_file_of_no_use_starts_again(site: Any, one: Archive, tmp_path: Path, found: bytes) -> None:
    (tmp_path / "a.tar.part").write_bytes(found)
    assert download_archive(one, tmp_path, site.root).read_bytes() == BODY
    assert ranges(site) == [None]


def test_a_changed_etag_starts_again(site: Any, one: Archive, tmp_path: Path) -> None:
    (tmp_path / "a.tar.part").write_bytes(b"of another version")
    (tmp_path / "a.tar.part.etag").write_text('"zero"')
    assert download_archive(one, tmp_path, site.root).read_bytes() == BODY
    assert ranges(site) == ["bytes=18-"]


def test_a_server_without_range_starts_again(site: Any, one: Archive, tmp_path: Path) -> None:
    site.ranges = False
    site.script = [{"cut": 1000}]
    assert download_archive(one, tmp_path, site.root).read_bytes() == BODY
    assert ranges(site) == [None, "bytes=1000-"]


def test_without_an_etag_the_checksum_allows_going_on(site: Any, one: Archive, tmp_path: Path) -> None:
    site.etag = ""
    site.script = [{"cut": 1000}]
    assert download_archive(one, tmp_path, site.root).read_bytes() == BODY
    assert ranges(site) == [None, "bytes=1000-"]


def test_without_etag_and_checksum_it_starts_again(site: Any, tmp_path: Path) -> None:
    site.files["/x/a.zip"] = BODY
    site.etag = ""
    site.script = [{"cut": 1000}]
    assert download_archive(archive_of(BODY, "a.zip", exact=False), tmp_path, site.root).read_bytes() == BODY
    assert ranges(site) == [None, None]


def test_a_weak_etag_is_not_sent_back(site: Any, one: Archive, tmp_path: Path) -> None:
    site.etag = 'W/"one"'
    site.script = [{"cut": 1000}]
    assert (
        download_archive(one, tmp_path, site.root).read_bytes() == BODY
    )  # the server would send all to W/ in If-Range
    assert ranges(site) == [None, "bytes=1000-"]


def test_another_part_than_asked_for_starts_again(site: Any, one: Archive, tmp_path: Path) -> None:
    site.script = [{"cut": 1000}, {"shift": 7}]
    assert download_archive(one, tmp_path, site.root).read_bytes() == BODY
    assert ranges(site) == [None, "bytes=1000-", None]


@pytest.mark.parametrize("status", [416, 429, 500, 502, 503, 504])
def test_passing_errors_are_tried_again(site: Any, one: Archive, tmp_path: Path, status: int) -> None:
    site.script = [{"status": status}, {"status": status}]
    assert download_archive(one, tmp_path, site.root).read_bytes() == BODY
    assert len(site.asked) == 3


def test_the_server_may_ask_for_patience(site: Any, one: Archive, tmp_path: Path, pauses: list[float]) -> None:
    site.script = [{"status": 503, "headers": {"Retry-After": wait}} for wait in ("7", "100000", "soon")]
    download_archive(one, tmp_path, site.root)
    assert pauses == [7, 120, 4]


def test_it_gives_up_after_six_failures_and_keeps_the_part(
    site: Any, one: Archive, tmp_path: Path, one_line: Callable[..., str], pauses: list[float]
) -> None:
    site.script = [{"cut": 1000}]
    site.always = {"status": 500}
    message = one_line(download_archive, one, tmp_path, site.root)
    assert "answers 500" in message and "6 times" in message and "--mirror" in message and "1000 bytes" in message
    assert pauses == [1, 2, 4, 8, 16]
    assert (tmp_path / "a.tar.part").read_bytes() == BODY[:1000]


def test_a_server_that_is_not_there(one: Archive, tmp_path: Path, one_line: Callable[..., str]) -> None:
    message = one_line(download_archive, one, tmp_path, "http://127.0.0.1:1")
    assert "cannot be reached" in message and "6 times" in message


def test_a_server_that_never_answers(
    one: Archive, tmp_path: Path, one_line: Callable[..., str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(download_module, "TIMEOUT", 0.05)
    with socketserver.TCPServer(("127.0.0.1", 0), BaseHTTPRequestHandler) as silent:  # accepts, serves nothing
        message = one_line(download_archive, one, tmp_path, f"http://127.0.0.1:{silent.server_address[1]}")
    assert "timed out" in message


@pytest.mark.parametrize("status", [401, 403, 404, 410])
def test_final_errors_are_said_at_once(
    site: Any, one: Archive, tmp_path: Path, one_line: Callable[..., str], status: int
) -> None:
    site.always = {"status": status}
    message = one_line(download_archive, one, tmp_path, site.root)
    assert f"answers {status}" in message and "/x/a.tar" in message
    assert len(site.asked) == 1


def test_a_wrong_checksum_removes_the_part(
    site: Any, one: Archive, tmp_path: Path, one_line: Callable[..., str]
) -> None:
    site.files["/x/a.tar"] = BODY[:-1] + b"!"
    message = one_line(download_archive, one, tmp_path, site.root)
    assert one.checksum in message and hashlib.sha256(site.files["/x/a.tar"]).hexdigest() in message
    assert "run it again" in message
    assert list(tmp_path.iterdir()) == []


def test_a_wrong_file_in_place_is_not_removed(one: Archive, tmp_path: Path, one_line: Callable[..., str]) -> None:
    (tmp_path / "a.tar").write_bytes(b"the user's")
    assert "remove" in one_line(download_archive, one, tmp_path, "http://127.0.0.1:1")
    assert (tmp_path / "a.tar").read_bytes() == b"the user's"


@pytest.mark.parametrize("body", [BODY[:-1], BODY + b"!", b""])
def test_a_wrong_size_is_refused_before_anything_is_read(
    site: Any, one: Archive, tmp_path: Path, one_line: Callable[..., str], body: bytes
) -> None:
    site.files["/x/a.tar"] = body
    message = one_line(download_archive, one, tmp_path, site.root)
    assert f"has {len(body)} bytes; want {len(BODY)}" in message
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("exact", [True, False])
def test_an_endless_body_is_cut_off(
    site: Any, tmp_path: Path, one_line: Callable[..., str], monkeypatch: pytest.MonkeyPatch, exact: bool
) -> None:
    site.files["/x/a.zip"] = BODY
    site.always = {"endless": True}
    biggest = 0

    def watch(what: str, done: int, total: int | None) -> None:
        nonlocal biggest
        biggest = max(biggest, (tmp_path / "a.zip.part").stat().st_size)

    archive = archive_of(BODY, "a.zip", exact=exact)
    message = one_line(download_archive, archive, tmp_path, site.root, watch)
    assert f"more than {archive.most} bytes" in message
    assert biggest <= archive.most
    assert list(tmp_path.iterdir()) == []


def test_a_limit_stands_in_for_an_unknown_size(site: Any, tmp_path: Path, one_line: Callable[..., str]) -> None:
    site.files["/x/a.zip"] = BODY + b"x" * 1001
    message = one_line(download_archive, archive_of(BODY, "a.zip", exact=False), tmp_path, site.root)
    assert f"want {len(BODY) + 1000} at most" in message


def test_a_body_without_a_length_ends_with_the_connection(site: Any, tmp_path: Path) -> None:
    site.files["/x/a.zip"] = BODY
    site.always = {"silent": True}
    assert download_archive(archive_of(BODY, "a.zip", exact=False), tmp_path, site.root).read_bytes() == BODY


def test_a_trickle_counts_as_cut(
    site: Any, one: Archive, tmp_path: Path, one_line: Callable[..., str], monkeypatch: pytest.MonkeyPatch
) -> None:
    site.ranges = False
    clock = iter(range(0, 100_000, 61))
    monkeypatch.setattr(download_module.time, "monotonic", lambda: next(clock))
    monkeypatch.setattr(download_module, "_WINDOW_BYTES", 10**9)
    assert "came in a minute" in one_line(download_archive, one, tmp_path, site.root)


def test_redirects_are_followed_to_http(site: Any, one: Archive, tmp_path: Path) -> None:
    site.files["/elsewhere"] = BODY
    site.script = [{"status": 302, "headers": {"Location": "/elsewhere"}}]
    assert download_archive(one, tmp_path, site.root).read_bytes() == BODY


@pytest.mark.parametrize("target", ["file:///etc/passwd", "ftp://127.0.0.1/x", "data:,x", "javascript:0"])
def test_redirects_to_anything_else_are_refused(
    site: Any, one: Archive, tmp_path: Path, one_line: Callable[..., str], target: str
) -> None:
    site.always = {"status": 302, "headers": {"Location": target}}
    assert f"leads to {target}" in one_line(download_archive, one, tmp_path, site.root)
    assert len(site.asked) == 1


def test_redirects_in_a_circle_end(site: Any, one: Archive, tmp_path: Path, one_line: Callable[..., str]) -> None:
    site.always = {"status": 302, "headers": {"Location": "/x/a.tar"}}
    assert "steps at most" in one_line(download_archive, one, tmp_path, site.root)
    assert len(site.asked) <= 10


def test_a_full_disk_is_said_and_the_part_stays(
    site: Any, one: Archive, tmp_path: Path, one_line: Callable[..., str], monkeypatch: pytest.MonkeyPatch
) -> None:
    real_open = Path.open

    class Full(io.BytesIO):
        def write(self, data: Any) -> int:
            raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Path, "open", lambda self, mode="r", *a, **k: Full() if mode == "ab" else real_open(
        self, mode, *a, **k))  # fmt: skip
    message = one_line(download_archive, one, tmp_path, site.root)
    assert "disk is full" in message
    assert (tmp_path / "a.tar.part").exists()


@pytest.mark.parametrize(
    ("mirror", "want"),
    [(None, "http://example.org/x/a.tar"), ("https://host:8", "https://host:8/x/a.tar"),
     ("http://host/below/", "http://host/below/x/a.tar")],
)  # fmt: skip
def test_a_mirror_replaces_scheme_and_host(mirror: str | None, want: str) -> None:
    assert with_mirror("http://example.org/x/a.tar", mirror) == want


@pytest.mark.parametrize(
    "mirror", ["", "host", "file:///x", "ftp://host", "http://", "http://h:x", "http://u:p@h", "http://h/?q", 
               "http://h /", "http://[", "http://h\n"]
)  # fmt: skip
def test_a_mirror_that_is_none_is_refused(mirror: str) -> None:
    with pytest.raises(ConfigError, match=r"--mirror .*: want http"):
        with_mirror("http://example.org/x/a.tar", mirror)
