"""One test for each class of hole that was published of TorchServe, BentoML and Triton: none of them is here.

The advisories are named where a class has one; what each says is its class, not the test's words.
"""

from __future__ import annotations

import gzip
import io
import json
import pickle
import random
import re
import socket
import struct
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import quote

import httpx2
import pytest

JPEG = {"Content-Type": "image/jpeg"}
JSON = {"Content-Type": "application/json"}
KEY = "0123456789abcdef-a-key"


def reason(answer, *statuses: int) -> str:
    """The reason of an answer that must be a refusal, one of these statuses."""
    assert answer.status_code in statuses, (answer.status_code, answer.text)
    error = answer.json()["error"]
    assert error["code"]
    assert "\n" not in error["message"]
    assert "Traceback" not in answer.text
    return error["message"]


@pytest.fixture
def still_serves(picture):
    """still_serves(client): after whatever came before, an image is detected in."""

    def check(client: httpx2.Client) -> None:
        answer = client.post("/v1/detect", content=picture(), headers=JPEG)
        assert answer.status_code == 200
        assert answer.json()["images"][0]["detections"]

    return check


@pytest.fixture
def bait() -> Iterator[tuple[str, socket.socket]]:
    """An address that nobody may ask, and its socket."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.settimeout(0.05)
        yield f"http://127.0.0.1:{listener.getsockname()[1]}/image.jpg", listener


def test_no_address_is_fetched(served, bait, still_serves) -> None:
    """CVE-2023-43654 (TorchServe), CVE-2025-54381 (BentoML): a request names an address, the server asks it."""
    one, (address, listener) = served(), bait
    for target in (address, "http://169.254.169.254/latest/meta-data/", "file:///etc/passwd", "ftp://localhost/x"):
        message = reason(one.client.post("/v1/detect", json={"images": [target]}), 400)
        assert "addresses are not fetched" in message
        reason(one.client.post("/v1/detect", json={"images": [{"url": target}]}), 400)
        reason(one.client.post("/v1/detect", json={"url": target}), 400)
        reason(one.client.post("/v1/detect", data={"file": target}, files={"a": ("a", b"x")}), 400)
        reason(one.client.post("/v1/detect", params={"url": target}, content=b"x", headers=JPEG), 422)
        reason(one.client.post("/v1/detect", params={"model": target}, content=b"x", headers=JPEG), 404)
        reason(one.client.post("/models", params={"url": target}), 404, 405)
    with pytest.raises(TimeoutError):
        listener.accept()
    still_serves(one.client)


class Bomb:
    """Makes a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self):
        return (Path.touch, (self.path,))


def test_nothing_is_unpickled(served, tmp_path: Path, still_serves) -> None:
    """CVE-2024-2912, CVE-2025-27520, CVE-2025-32375 (BentoML): the body is a pickle."""
    client, made = served().client, tmp_path / "made"
    for data in (pickle.dumps(Bomb(made)), pickle.dumps(Bomb(made), 0)):
        for kind in ("application/vnd.bentoml+pickle", "application/x-pickle", "application/x-tar", "text/plain", ""):
            reason(client.post("/v1/detect", content=data, headers={"Content-Type": kind}), 415)
        for name in ("application/octet-stream", "image/jpeg"):
            headers = {"Content-Type": name, "Payload-Container": "NdarrayContainer", "Buffer-Lengths": "1"}
            reason(client.post("/v1/detect", content=data, headers=headers), 422)
        reason(client.post("/v1/detect", files={"file": ("a.pkl", data)}), 422)
    assert not made.exists()
    still_serves(client)


def test_nothing_is_uploaded_unpacked_or_written(served, tmp_path: Path, monkeypatch, still_serves) -> None:
    """CVE-2023-48299 (TorchServe), CVE-2023-31036, CVE-2024-0087 (Triton): archives, model and log files by name."""
    monkeypatch.chdir(tmp_path)
    client, archive = served().client, io.BytesIO()
    with zipfile.ZipFile(archive, "w") as file:
        file.writestr("../../escaped", "x")
    for method, path in (
        ("POST", "/models"), ("PUT", "/models/bright"), ("DELETE", "/v1/models/bright"), ("PUT", "/v1/models"),
        ("POST", "/v2/repository/models/..%2f..%2fx/load"), ("POST", "/v2/logging"), ("POST", "/v1/models/bright"),
        ("POST", "/v2/models/bright/versions/1/infer"), ("POST", "/workflows"), ("PATCH", "/v1/detect"),
        ("POST", "/v2/systemsharedmemory/region/x/register"), ("TRACE", "/v1/detect"),
    ):  # fmt: skip
        body = json.dumps({"log_file": str(tmp_path / "log"), "parameters": {"config": "{}"}, "key": "/dev/shm/x"})
        for content in (archive.getvalue(), body.encode()):
            reason(client.request(method, path, content=content), 404, 405)
    reason(client.post("/v1/detect", files={"file": ("a.zip", archive.getvalue())}), 422)
    assert not list(tmp_path.iterdir())
    still_serves(client)


PATHS = ("../../../../etc/passwd", "..%2f..%2fetc%2fpasswd", "/etc/passwd", "C:\\Windows\\win.ini", "\\\\host\\share",
         "model.onnx\x00.png", "/proc/self/environ", "~/.ssh/id_rsa", "|touch x", "$(touch x)", "`id`")  # fmt: skip


@pytest.mark.parametrize("path", PATHS)
def test_no_path_is_opened(served, picture, path: str) -> None:
    """CVE-2024-35198 (TorchServe), CVE-2023-31036 (Triton): names of models, images and pages that are paths."""
    client = served().client
    assert "is not served here" in reason(
        client.post("/v1/detect", params={"model": path}, content=picture(), headers=JPEG), 404
    )
    reason(client.post("/v1/detect", json={"images": [path]}), 400)
    answer = client.post("/v1/detect", json={"images": [{"name": path, "data": "AAAA"}]})
    message = reason(answer, 422)
    assert "etc/" not in message
    safe = path.replace("\x00", "")
    for start in ("/", "/page/", "/static/"):
        assert client.get(start + safe.lstrip("/")).status_code == 404


def test_names_are_not_carried_into_headers_logs_or_templates(served, picture, caplog) -> None:
    """Header and log injection; templates (CVE-2021-44228 and its like) stay as they are."""
    client = served().client
    caplog.set_level("INFO", logger="singleshot")
    for name in ("a\r\nX-Evil: 1", "{{7*7}}", "${jndi:ldap://169.254.169.254/a}", "<script>alert(1)</script>", "%s%n"):
        answer = client.post("/v1/detect", files={"file": (name, picture())})
        assert answer.status_code == 200
        assert "x-evil" not in answer.headers
        assert answer.headers["content-type"] == "application/json"
        assert "49" not in answer.json()["images"][0]["image"]
    client.get("/a%0d%0aX-Evil:1")
    assert all("evil" not in str(getattr(record, "fields", "")).lower() for record in caplog.records)


def test_numbers_that_overflow_are_compared_before_use(served, still_serves) -> None:
    """CVE-2024-0088, CVE-2025-23311 (Triton): sizes and offsets that wrap."""
    client = served(max_pixels=10**6).client
    for width, height in ((2**31 - 1, 2**31 - 1), (2**32 - 1, 1), (65535, 65535), (0, 5), (50_000, 50_000)):
        chunk = b"IHDR" + struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
        data = b"\x89PNG\r\n\x1a\n" + struct.pack(">I", 13) + chunk + struct.pack(">I", zlib.crc32(chunk))
        reason(client.post("/v1/detect", content=data, headers=JPEG), 413, 422)
        gif = b"GIF89a" + struct.pack("<HH", width & 0xFFFF, height & 0xFFFF) + bytes(10)
        reason(client.post("/v1/detect", content=gif, headers=JPEG), 413, 422)
    still_serves(client)


def test_pixel_bombs_are_refused_by_their_header(served, picture) -> None:
    client = served(max_pixels=100_000).client
    message = reason(client.post("/v1/detect", content=picture(".png", 4000, 4000), headers=JPEG), 413)
    assert "4000 x 4000 pixels" in message
    tiles = client.post("/v1/detect?tile=32:0.9", content=picture(".png", 300, 300), headers=JPEG)
    assert "tiles" in reason(tiles, 422)


def test_bodies_are_bounded(served, picture, as_json) -> None:
    client = served(max_mb=1, max_images=2).client
    large = bytes(2 << 20)
    reason(client.post("/v1/detect", content=large, headers=JPEG), 413)
    reason(client.post("/v1/detect", content=(large[:1000] for _ in range(2000)), headers=JPEG), 413)
    reason(client.post("/v1/detect", files=[("file", ("a.jpg", picture()))] * 3), 413)
    reason(client.post("/v1/detect", content=as_json(*[picture()] * 3), headers=JSON), 413)
    packed = gzip.compress(large)
    reason(client.post("/v1/detect", content=packed, headers={**JPEG, "Content-Encoding": "gzip"}), 415)


@pytest.mark.parametrize(
    "body",
    [
        b"[" * 100_000,
        b'{"images":' * 20_000,
        b'{"images": [' + b"[" * 20 + b"]" * 20 + b"]}",
        b'{"images": [' + b"0," * 20_000 + b"0]}",
        b'{"images": ' + b"9" * 10_000 + b"}",
        b'{"images": ["' + b"\\u0000" * 100 + b'"]}',
        b'{"images": [NaN]}',
        b'{"images": [1e999]}',
        b'{"images": []}',
        b'{"images": [""]}',
        b'{"images": ["QUJD*"]}',
        b'{"images": ["QUJDR"]}',
        b'{"images": {"a": 1}}',
        b'{"images": [], "__proto__": {}}',
        b'{"images": ["\xff\xfe"]}',
        b"\xff\xfe\x00\x00",
        b"null",
        b"",
        b"!!python/object/apply:os.system ['id']",
        b"<?xml version='1.0'?><!DOCTYPE a [<!ENTITY b SYSTEM 'file:///etc/passwd'>]><a>&b;</a>",
    ],
)
def test_json_is_bounded_in_depth_and_number(served, body: bytes) -> None:
    """Parsers that recurse or grow: CVE-2025-23310 (Triton) among others."""
    reason(served().client.post("/v1/detect", content=body, headers=JSON), 400)


def form(*parts: bytes, end: bytes = b"--b--\r\n") -> bytes:
    return b"".join(b"--b\r\n" + part + b"\r\n" for part in parts) + end


FILE = b'Content-Disposition: form-data; name="file"; filename="a"\r\n\r\n'


@pytest.mark.parametrize(
    ("kind", "body"),
    [
        ("multipart/form-data", form(FILE + b"x")),
        ("multipart/form-data; boundary=b", form(FILE + b"x", end=b"")),
        ("multipart/form-data; boundary=b", b""),
        ("multipart/form-data; boundary=b", b"--b--\r\n"),
        ("multipart/form-data; boundary=b", form(FILE)),
        ("multipart/form-data; boundary=b", form(b"\r\nx")),
        ("multipart/form-data; boundary=b", form(b'Content-Disposition: form-data; name="score_min"\r\n\r\n0.5')),
        ("multipart/form-data; boundary=b", form(b"A: " + b"b" * 10_000 + b"\r\n" + FILE + b"x")),
        ("multipart/form-data; boundary=b", form(b"".join(b"A%d: b\r\n" % i for i in range(50)) + FILE + b"x")),
        ("multipart/form-data; boundary=b", form(b"Content-Transfer-Encoding: base64\r\n" + FILE + b"x")),
        ("multipart/form-data; boundary=" + "b" * 5000, form(FILE + b"x")),
        ("multipart/form-data; boundary=b", b"\r\n" * 100_000 + form(FILE + b"x")),
        ("multipart/form-data; boundary=b" + "; a=" + '\\"' * 20_000, form(FILE + b"x", end=b"")),
    ],
)
def test_forms_are_bounded(served, kind: str, body: bytes) -> None:
    """CVE-2024-24762, CVE-2024-53981 (python-multipart): headers and prefaces that take long."""
    reason(served().client.post("/v1/detect", content=body, headers={"Content-Type": kind}), 400, 422, 431)


def test_the_key_is_asked_for_everywhere_but_the_state(served, picture) -> None:
    """CVE-2024-35199 and the like: interfaces that were open to whoever reached them."""
    client = served(api_key=KEY).client
    for path in ("/v1/models", "/metrics", "/v1/detect", "/v1/explain", "/v1/anything"):
        reason(client.get(path), 401)
        reason(client.get(path, headers={"Authorization": f"Bearer {KEY}x"}), 401)
        reason(client.get(path, headers={"Authorization": "Bearer "}), 401)
        reason(client.get(path, headers={"Authorization": f"Basic {KEY}"}), 401)
        reason(client.get(path, headers={"X-API-Key": KEY[:-1]}), 401)
        reason(client.get(path, headers={"X-API-Key": b"\xff\xfe"}), 401)
    for path in ("/v1/detect", "/v1/explain"):
        reason(client.post(path, content=picture(), headers=JPEG), 401)
    for headers in ({"Authorization": f"Bearer {KEY}"}, {"X-API-Key": KEY}):
        assert client.post("/v1/detect", content=picture(), headers={**JPEG, **headers}).status_code == 200
        assert client.get("/metrics", headers=headers).status_code == 200
    for path in ("/healthz", "/readyz", "/", "/openapi.json"):
        assert client.get(path).status_code == 200
    assert KEY not in client.get("/openapi.json").text


def test_other_web_pages_read_nothing(served, picture) -> None:
    """CORS is off, and a name that was pointed at this machine (DNS rebinding) is not served."""
    client = served().client
    origin = {"Origin": "https://evil.example"}
    assert "access-control-allow-origin" not in client.get("/v1/models", headers=origin).headers
    preflight = {**origin, "Access-Control-Request-Method": "POST"}
    assert client.options("/v1/detect", headers=preflight).status_code == 405
    assert "evil.example" in reason(client.get("/v1/models", headers={"Host": "evil.example"}), 421)
    allowed = served(allow_origins=("https://good.example",)).client
    good = allowed.get("/v1/models", headers={"Origin": "https://good.example"})
    assert good.headers["access-control-allow-origin"] == "https://good.example"
    assert "access-control-allow-origin" not in allowed.get("/v1/models", headers=origin).headers


def test_our_own_mistakes_show_nothing_of_the_inside(served, picture, monkeypatch) -> None:
    """CVE-2025-23319 (Triton): an error that names what only the server may know."""
    one = served()

    def fail(*_: object) -> None:
        raise RuntimeError("secret /srv/models/x")

    monkeypatch.setattr(one.service.queue, "put", fail)
    answer = one.client.post("/v1/detect", content=picture(), headers=JPEG)
    assert "secret" not in answer.text
    assert answer.json()["error"]["code"] == "failed"


def hostile(seed: int, jpeg: bytes, png: bytes) -> tuple[str, dict[str, str], bytes]:
    """A request that something is wrong with: its query, headers and body."""
    r = random.Random(seed)
    image = bytearray(r.choice((jpeg, png)))
    kind = r.randrange(8)
    query, headers = "", {"Content-Type": r.choice(("image/jpeg", "application/octet-stream"))}
    if kind == 0:
        del image[r.randrange(len(image)) :]
    elif kind == 1:
        for _ in range(r.randrange(1, 40)):
            image[r.randrange(len(image))] = r.randrange(256)
    elif kind == 2:
        image = bytearray(r.randbytes(r.randrange(2000)))
    elif kind == 3:
        word = r.choice((*PATHS, "{{7*7}}", "\ud7ff", "-1", "1e400", "NaN", "0x10", "9" * 300, "null", "true"))
        query = f"{r.choice(('model', 'score_min', 'nms_iou', 'tile', 'x'))}={quote(word)}"
    elif kind == 4:
        headers = {"Content-Type": r.choice(("text/html", "a/b", "image", "multipart/mixed", "*/*", "image/", ";"))}
    elif kind == 5:
        cut = r.randrange(len(image))
        body = form(FILE + bytes(image[:cut]), b"x" * r.randrange(20) + FILE + bytes(image))
        image, headers = bytearray(body[: r.randrange(len(body))]), {"Content-Type": "multipart/form-data; boundary=b"}
    elif kind == 6:
        text = json.dumps({"images": [image.hex(), {"data": r.choice((None, 3, [], {}, "x" * 99))}]})
        image, headers = bytearray(text[: r.randrange(len(text) + 1)].encode()), dict(JSON)
    else:
        headers["X-" + "a" * r.randrange(1, 50)] = "b" * r.randrange(40_000)
        image = bytearray(image[: len(image) // 2])
    return query, headers, bytes(image)


def ask_hostile(client: httpx2.Client, seeds: range, jpeg: bytes, png: bytes, address: str = "/v1/detect?") -> None:
    for seed in seeds:
        query, headers, body = hostile(seed, jpeg, png)
        answer = client.post(address + query, content=body, headers=headers)
        if answer.status_code != 200:  # some damage does no harm
            reason(answer, 400, 404, 408, 413, 415, 422, 431)


def test_hostile_requests_get_a_reason_each(served, picture, still_serves) -> None:
    client = served().client
    ask_hostile(client, range(300), picture(), picture(".png"))
    still_serves(client)


def test_hostile_requests_for_explanations_get_a_reason_each(served, explainable, picture, still_serves) -> None:
    """The same limits hold: of bytes, pixels and number before anything is decoded, of options, of names."""
    client = served(others={"net": explainable}, max_pixels=100_000, max_mb=1, max_images=2).client
    ask_hostile(client, range(300, 420), picture(), picture(".png"), "/v1/explain?model=net&")
    net = "/v1/explain?model=net"
    assert "4000 x 4000 pixels" in reason(client.post(net, content=picture(".png", 4000, 4000), headers=JPEG), 413)
    reason(client.post(net, content=bytes(2 << 20), headers=JPEG), 413)
    reason(client.post(net, files=[("file", ("a.jpg", picture()))] * 3), 413)
    reason(client.post(net, json={"images": ["http://169.254.169.254/"]}), 400)
    reason(client.post("/v1/explain?model=../../etc/passwd", content=picture(), headers=JPEG), 404)
    reason(client.get("/v1/explain"), 405)
    answer = client.post(net, files={"file": ("../<b>a.png", picture(".png"))})
    assert answer.json()["images"][0]["image"] == "<b>a.png"
    still_serves(client)


@pytest.mark.slow
def test_two_thousand_hostile_requests(start_service, exported: Path, picture, still_serves) -> None:
    """Over sockets, to a service of its own, whose memory stays as it is and whose worker lives."""
    service = start_service(exported, "--max-wait", 30)
    workers = service.workers
    with httpx2.Client(base_url=service.url, timeout=60) as client:
        ask_hostile(client, range(300, 800), picture(), picture(".png"))
        before = service.memory_mb()
        ask_hostile(client, range(800, 2300), picture(), picture(".png"))
        still_serves(client)
    assert service.memory_mb() < before + 20
    assert service.workers == workers
    assert service.stop() == 0


def test_what_runs_is_not_named_to_strangers(served) -> None:
    headers = served().client.get("/healthz").headers
    assert "server" not in headers
    assert not re.search(r"uvicorn|python", str(headers), re.IGNORECASE)
