"""A local server that can misbehave in every way asked of it, and archives."""

from __future__ import annotations

import io
import socketserver
import stat
import tarfile
import threading
import time
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler
from types import SimpleNamespace
from typing import Any

import pytest

from singleshot.datasets.fetch import download as download_module

BODY = bytes(range(256)) * 2000  # 512,000 bytes


@dataclass
class Site:
    """What the server holds and what it does: one entry of `script` for each request, then it behaves."""

    root: str = ""
    files: dict[str, bytes] = field(default_factory=dict)
    script: list[dict[str, Any]] = field(default_factory=list)
    etag: str = '"one"'
    ranges: bool = True
    always: dict[str, Any] = field(default_factory=dict)
    asked: list[tuple[str, str | None]] = field(default_factory=list)


@pytest.fixture
def site() -> Iterator[Site]:
    held = Site()

    class Handler(BaseHTTPRequestHandler):
        def log_message(self, *words: object) -> None:
            pass

        def do_GET(self) -> None:
            held.asked.append((self.path, self.headers.get("Range")))
            does = held.script.pop(0) if held.script else held.always
            if "status" in does:
                self.send_response(does["status"])
                for key, value in does.get("headers", {}).items():
                    self.send_header(key, value)
                self.end_headers()
                return
            body = held.files.get(self.path)
            if body is None:
                self.send_error(404)
                return
            start = 0
            if self.headers.get("Range") and held.ranges and self.headers.get("If-Range", held.etag) == held.etag:
                start = int(self.headers["Range"].removeprefix("bytes=").rstrip("-"))
                start += does.get("shift", 0)
                self.send_response(206)
                self.send_header("Content-Range", f"bytes {start}-{len(body) - 1}/{len(body)}")
            else:
                self.send_response(200)
            if held.etag:
                self.send_header("ETag", held.etag)
            if not does.get("endless") and not does.get("silent"):
                self.send_header("Content-Length", str(does.get("length", len(body) - start)))
            self.end_headers()
            sent = body[start : start + does["cut"]] if "cut" in does else body[start:]
            try:
                self.wfile.write(sent)
                while does.get("endless"):
                    self.wfile.write(BODY)
            except OSError:
                held.asked.append(("gone", None))

    class Server(socketserver.ThreadingTCPServer):
        allow_reuse_address = True
        daemon_threads = True

    with Server(("127.0.0.1", 0), Handler) as server:
        held.root = f"http://127.0.0.1:{server.server_address[1]}"
        thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
        thread.start()
        yield held
        server.shutdown()
        thread.join()


@pytest.fixture(autouse=True)
def pauses(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """No test waits: what would have been waited for is collected."""
    monkeypatch.setenv("no_proxy", "*")
    waited: list[float] = []
    monkeypatch.setattr(download_module, "time", SimpleNamespace(sleep=waited.append, monotonic=time.monotonic))
    return waited


@pytest.fixture(scope="session")
def tar_of() -> Callable[..., bytes]:
    """tar_of({name: contents or TarInfo}, mode="w"): a tar archive."""

    def make(members: dict[str, bytes | tarfile.TarInfo], mode: str = "w") -> bytes:
        out = io.BytesIO()
        with tarfile.open(fileobj=out, mode=mode) as tar:
            for name, body in members.items():
                if isinstance(body, tarfile.TarInfo):
                    tar.addfile(body, io.BytesIO(b"x" * body.size))
                    continue
                info = tarfile.TarInfo(name)
                info.size = len(body)
                tar.addfile(info, io.BytesIO(body))
        return out.getvalue()

    return make


@pytest.fixture(scope="session")
def zip_of() -> Callable[..., bytes]:
    """zip_of({name: contents}, {name: mode of the file}): a zip archive."""

    def make(members: dict[str, bytes], modes: dict[str, int] | None = None) -> bytes:
        out = io.BytesIO()
        with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as zipped:
            for name, body in members.items():
                info = zipfile.ZipInfo(name)
                info.external_attr = (modes or {}).get(name, stat.S_IFREG | 0o644) << 16
                info.compress_type = zipfile.ZIP_DEFLATED
                zipped.writestr(info, body)
        return out.getvalue()

    return make
