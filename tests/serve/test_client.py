"""The client in Python, against a service that is scripted."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any

import pytest

from singleshot import client as module
from singleshot.client import Client, Model, ServiceError
from singleshot.errors import ConfigError, DataError

FOUND = {"image": "image 0", "width": 4, "height": 3,
         "detections": [{"box": [0.5, 0, 4, 3], "score": 0.5, "label": 1, "name": "dog"}]}  # fmt: skip
ANSWER = {"model": "m", "images": [FOUND], "times_ms": {}}


@pytest.fixture
def scripted(serve, monkeypatch) -> Iterator[Callable[..., tuple[str, list[Any]]]]:
    """scripted((status, body, headers), ...): the address of a service that answers so in turn; what it was asked."""
    monkeypatch.setattr(module.time, "sleep", lambda seconds: None)

    def start(*answers: tuple[int, Any, dict[str, str]]) -> tuple[str, list[Any]]:
        asked: list[Any] = []
        rest = list(answers)

        class Handler(BaseHTTPRequestHandler):
            def answer(self) -> None:
                body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
                asked.append((self.command, self.path, dict(self.headers), body))
                status, values, headers = rest.pop(0)
                if status == 0:
                    self.close_connection = True
                    return
                data = values if isinstance(values, bytes) else json.dumps(values).encode()
                self.send_response(status)
                for name, value in {**headers, "Content-Length": str(len(data))}.items():
                    self.send_header(name, value)
                self.end_headers()
                self.wfile.write(data)

            do_GET = do_POST = answer  # noqa: N815

            def log_message(self, *_: object) -> None:
                pass

        return serve(Handler), asked

    yield start


def test_answers_become_detections(scripted, tmp_path: Path) -> None:
    url, asked = scripted((200, ANSWER, {}), (200, {**ANSWER, "images": [{**FOUND, "detections": []}]}, {}))
    path = tmp_path / "a.jpg"
    path.write_bytes(b"bytes of a file")
    with Client(url, api_key="k" * 16) as client:
        (found,) = client.detect(path, model="a b", score_min=0.25, tile=64)
        assert found.image == str(path)
        assert found.boxes.tolist() == [[0.5, 0, 4, 3]]
        assert found.labels.tolist() == [1]
        assert found.names == ("dog",)
        (nothing,) = client.detect([b"bytes"])
        assert nothing.image == "image 0"
        assert nothing.boxes.shape == (0, 4)
    method, address, headers, body = asked[0]
    assert (method, address) == ("POST", "/v1/detect?model=a+b&score_min=0.25&tile=64")
    assert headers["Authorization"] == "Bearer " + "k" * 16
    assert b"bytes of a file" in body
    assert str(tmp_path).encode() not in body


def test_models(scripted) -> None:
    one = {"name": "m", "classes": ["a"], "input": {"width": 4, "height": 3}, "default": True,
           "thresholds": {"score_min": 0.5, "nms_iou": 0.45}}  # fmt: skip
    url, _ = scripted((200, {"models": [one]}, {}))
    with Client(url) as client:
        assert client.models() == [Model("m", ("a",), 4, 3, 0.5, 0.45, True)]


def refusal(status: int, **headers: str) -> tuple[int, Any, dict[str, str]]:
    return status, {"error": {"code": "some_code", "message": "some reason"}}, headers


def test_what_is_refused_for_now_is_asked_again_and_nothing_else(scripted) -> None:
    url, asked = scripted(refusal(503, **{"Retry-After": "7"}), (0, b"", {}), (200, ANSWER, {}), refusal(422))
    with Client(url) as client:
        assert len(client.detect(b"x")) == 1
        with pytest.raises(ServiceError, match="some reason") as caught:
            client.detect(b"x")
    assert (caught.value.status, caught.value.code) == (422, "some_code")
    assert len(asked) == 4
    url, asked = scripted(*[refusal(503, **{"Retry-After": "7"})] * 3)
    with Client(url, retries=2) as client, pytest.raises(ServiceError) as caught:
        client.detect(b"x")
    assert (caught.value.retry_after, len(asked)) == (7.0, 3)


def test_what_is_no_service_is_said(scripted) -> None:
    url, _ = scripted((200, b"<html>", {}), (404, b"[]", {}), (503, {}, {}))
    with Client(url, retries=0) as client:
        for _ in range(3):
            with pytest.raises(ServiceError, match="no answer of `singleshot serve`"):
                client.models()
    with Client("http://127.0.0.1:9", retries=0) as client:
        assert not client.is_ready()
    for address in ("127.0.0.1:8000", "ftp://a", "http://", "http://user:password@host", "http://a/?b"):
        with pytest.raises(ConfigError, match="want an address"):
            Client(address)


def test_a_file_that_is_not_there_is_said_before_anything_is_sent(tmp_path: Path) -> None:
    with Client("http://127.0.0.1:9") as client:
        with pytest.raises(DataError, match="absent"):
            client.detect(tmp_path / "absent.jpg")
        with pytest.raises(DataError, match="empty"):
            client.detect([b""])
