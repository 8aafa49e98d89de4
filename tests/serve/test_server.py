"""The service as a user starts it: processes that die, files that change, connections that misbehave, its end."""

from __future__ import annotations

import http.client
import json
import os
import shutil
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

import singleshot
from singleshot.cli.serve import serve
from singleshot.client import Client
from singleshot.errors import SingleshotError


@pytest.fixture(scope="module")
def running(start_service, exported: Path, tmp_path_factory):
    """A service whose model file the tests may change, with short times."""
    model = tmp_path_factory.mktemp("model") / "model.onnx"
    shutil.copy(exported, model)
    options = ("--body-seconds", 1, "--max-wait", 30, "--queue", 200, "--batch", 4)
    return start_service(model, *options), model


@contextmanager
def load(url: str, data: bytes, clients: int = 4) -> Iterator[list[str]]:
    """Requests one after the other from several clients until the block ends; the list: what each came to."""
    answers: list[str] = []
    stop = threading.Event()

    def ask() -> None:
        with Client(url, retries=0) as client:
            while not stop.is_set():
                try:
                    (found,) = client.detect(data)
                    answers.append(f"{found.width} x {found.height}, {found.every_class or ''}")
                except Exception as error:
                    answers.append(f"{type(error).__name__}: {error}")

    threads = [threading.Thread(target=ask) for _ in range(clients)]
    for thread in threads:
        thread.start()
    try:
        yield answers
    finally:
        stop.set()
        for thread in threads:
            thread.join()


def until(what: Callable[[], bool], seconds: float = 30) -> None:
    end = time.monotonic() + seconds
    while not what():
        assert time.monotonic() < end
        time.sleep(0.05)


def test_the_same_boxes_as_detect(running, picture) -> None:
    service, model = running
    data = picture(".jpg", 640, 480)
    with Client(service.url) as client:
        (found,) = client.detect(data)
        several = client.detect([data] * 6)
    wanted = singleshot.load(model).detect(data)
    assert len(wanted)
    assert found.to_dict() == {**wanted.to_dict(), "image": "image 0"}
    assert [one.to_dict()["detections"] for one in several] == [wanted.to_dict()["detections"]] * 6


@pytest.mark.parametrize(("path", "status"), [("/healthz", 200), ("/readyz", 200), ("/", 200), ("/v1/detect", 405)])
def test_balancers_may_ask_without_a_body(running, path: str, status: int) -> None:
    connection = http.client.HTTPConnection("127.0.0.1", running[0].port, timeout=10)
    answers = []
    for method in ("GET", "HEAD"):
        connection.request(method, path)
        answer = connection.getresponse()
        answers.append((answer.status, answer.headers["Content-Length"]))
        assert bool(answer.read()) is (method == "GET")
    assert answers == [(status, answers[0][1])] * 2  # on one connection: nothing of the first body is left in it


def test_no_request_is_lost_when_a_worker_is_killed(running, picture) -> None:
    service, _ = running
    (before,) = service.workers
    with load(service.url, picture()) as answers:
        until(lambda: len(answers) > 20)
        os.kill(before, signal.SIGKILL)
        until(lambda: service.workers not in ([before], []))
        count = len(answers)
        until(lambda: len(answers) > count + 20)
    assert set(answers) == {"160 x 120, "}
    assert "worker died" in service.log.read_text()


def test_a_model_file_that_is_written_anew_is_taken_over(running, picture, other: Path, exported: Path) -> None:
    service, model = running

    def classes() -> tuple[str, ...]:
        with Client(service.url) as client:
            return client.models()[0].classes

    with load(service.url, picture()) as answers:
        until(lambda: len(answers) > 10)
        # Half a file stays unused, however long it lies there.
        whole = other.read_bytes()
        model.write_bytes(whole[: len(whole) // 2])
        until(lambda: "model not reloaded" in service.log.read_text())
        assert classes() == ("ball", "box", "cone")
        with model.open("ab") as file:
            file.write(whole[len(whole) // 2 :])
        until(lambda: classes() == ("ant", "bee"))
        count = len(answers)
        until(lambda: len(answers) > count + 10)
    assert set(answers) == {"160 x 120, "}
    shutil.copy(exported, model)
    until(lambda: classes() == ("ball", "box", "cone"))


def raw(port: int, data: bytes, then: bytes = b"") -> bytes:
    """What comes back for bytes that are sent as they are, until the service closes."""
    with socket.create_connection(("127.0.0.1", port), timeout=20) as connection:
        connection.sendall(data)
        if then:
            time.sleep(0.05)
            connection.sendall(then)
        parts = []
        try:
            while part := connection.recv(65536):
                parts.append(part)
        except ConnectionResetError:
            pass
        return b"".join(parts)


HEAD = b"POST /v1/detect HTTP/1.1\r\nHost: localhost\r\nContent-Type: image/jpeg\r\n"


@pytest.mark.parametrize(
    ("data", "status"),
    [
        (HEAD + b"Content-Length: 100\r\n\r\nabc", 408),
        (HEAD + b"Transfer-Encoding: chunked\r\n\r\n5\r\nabcde\r\n", 408),
        (HEAD + b"Transfer-Encoding: chunked\r\n\r\nzz\r\n", 400),
        (HEAD + b"X: " + b"a" * 300_000, 431),
        (HEAD + b"".join(b"X-%d: a\r\n" % i for i in range(6000)) + b"\r\n", 431),
        (HEAD + b"Content-Length: 1\r\nContent-Length: 2\r\n\r\nab", 400),
        (HEAD + b"Content-Length: -1\r\n\r\n", 400),
        (HEAD + b"Content-Length: 99999999999999999999\r\n\r\n", 413),
        (HEAD + b"Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", 400),
        (b"GET /healthz\0 HTTP/1.1\r\nHost: localhost\r\n\r\n", 400),
        (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(100) + b"\r\n\r\n", 400),
        (b"GET /healthz HTTP/1.1\r\nHost: evil.example\r\n\r\n", 421),
    ],
)
def test_a_connection_that_misbehaves_gets_a_reason(running, data: bytes, status: int) -> None:
    service, _ = running
    answer = raw(service.port, data)
    assert answer.startswith(b"HTTP/1.1 %d " % status), answer[:200]
    assert json.loads(answer.partition(b"\r\n\r\n")[2])["error"]["message"]
    with Client(service.url) as client:
        assert client.is_ready()


def test_a_client_that_sends_too_much_still_reads_why(running) -> None:
    service, _ = running
    answer = raw(service.port, HEAD + b"Content-Length: 40000000\r\n\r\n" + bytes(40_000_000))
    assert answer.startswith(b"HTTP/1.1 413 "), answer[:200]


def test_headers_that_never_end_are_given_up_on(running) -> None:
    service, _ = running
    started = time.monotonic()
    answer = raw(service.port, b"GET / HTTP/1.1\r\nHost: localhost\r\nX: ", b"a")
    assert answer.startswith(b"HTTP/1.1 408 ")
    assert time.monotonic() - started < 15


def test_what_was_taken_is_answered_before_the_end(start_service, exported: Path, picture) -> None:
    service = start_service(exported, "--workers", 2)
    assert len(service.workers) == 2
    workers = service.workers
    connection = http.client.HTTPConnection("127.0.0.1", service.port, timeout=30)
    data = picture(".png", 3000, 2000)
    connection.request("POST", "/v1/detect?tile=400", data, {"Content-Type": "image/png"})
    time.sleep(0.2)
    service.process.send_signal(signal.SIGTERM)
    answer = connection.getresponse()
    assert answer.status == 200
    assert json.loads(answer.read())["images"][0]["width"] == 3000
    assert service.process.wait(timeout=30) == 0
    assert not any(Path(f"/proc/{pid}").exists() for pid in workers)
    with pytest.raises(OSError):
        socket.create_connection(("127.0.0.1", service.port), timeout=1)


def test_workers_end_with_a_service_that_is_killed(start_service, exported: Path) -> None:
    service = start_service(exported)
    (worker,) = service.workers
    service.process.kill()
    service.process.wait()
    until(lambda: not Path(f"/proc/{worker}").exists() or "Z" in Path(f"/proc/{worker}/stat").read_text().split()[2])


def test_logs_are_json_without_names_or_contents(running, picture) -> None:
    service, _ = running
    with Client(service.url) as client:
        client.detect(picture())
    lines = [json.loads(line) for line in service.log.read_text().splitlines() if line.startswith("{")]
    request = [line for line in lines if line.get("route") == "/v1/detect" and line["status"] == 200][-1]
    assert set(request) == {"time", "level", "event", "method", "route", "status", "ms", "client", "images"}


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["absent.onnx"], "absent.onnx: no such file"),
        (["MODEL", "MODEL"], "a second model called model"),
        (["MODEL", "--workers", "0"], "--workers 0"),
        (["MODEL", "--host", "192.0.2.1"], "cannot listen on 192.0.2.1 port 0 ("),
        (["MODEL", "--allow-origin", "*"], "--allow-origin *"),
        (["MODEL", "--api-key-file", "absent"], "absent: no API key"),
        (["MODEL", "--api-key-file", "short.txt"], "SINGLESHOT_API_KEY) has 5 characters; want 16 or more of ASCII"),
        (["BROKEN"], "broken.onnx"),
    ],
)
def test_mistakes_end_in_one_line(exported: Path, tmp_path: Path, monkeypatch, words: list[str], says: str) -> None:
    (tmp_path / "broken.onnx").write_bytes(exported.read_bytes()[:500])
    (tmp_path / "short.txt").write_text("short\n")
    monkeypatch.chdir(tmp_path)
    given = [{"MODEL": str(exported), "BROKEN": "broken.onnx"}.get(word, word) for word in words]
    command = typer.Typer()
    command.command()(serve)
    done = CliRunner().invoke(command, [*given, "--port", "0"])
    assert isinstance(done.exception, SingleshotError)
    assert says in str(done.exception)
    assert "\n" not in str(done.exception)
    assert str(done.exception).count("192.0.2.1") <= 1


def test_an_answer_comes_in_one_go(running) -> None:
    """The body does not wait for the client's acknowledgement of the head, which takes it 40 ms."""
    service, _ = running
    request = f"GET /healthz HTTP/1.1\r\nHost: 127.0.0.1:{service.port}\r\n\r\n".encode()
    gaps = []
    with socket.create_connection(("127.0.0.1", service.port)) as connection:
        for _ in range(8):
            connection.sendall(request)
            received = connection.recv(65536)
            begun = time.monotonic()
            while b'{"status"' not in received:
                received += connection.recv(65536)
            gaps.append(time.monotonic() - begun)
    assert sorted(gaps)[2] < 0.02
