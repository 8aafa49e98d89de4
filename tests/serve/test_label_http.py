"""The service of `singleshot label`: what it answers, and whom it refuses."""

from __future__ import annotations

import http.client
import json
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from starlette.testclient import TestClient

from singleshot.api.label import LabelOptions, open_labels
from singleshot.api.label_orders import ModelViews, Proposal, unsureness
from singleshot.runtime import Detector
from singleshot.serve.label_app import LabelService, create_label_app
from singleshot.serve.label_server import label_options

TOKEN = "a token of sixteen letters"
KEY = {"Authorization": f"Bearer {TOKEN}"}


@pytest.fixture
def folder(three_images) -> Path:
    """A YOLO set of three images with a bright rectangle each; the first is labelled as the model sees it."""
    return three_images("0 0.375 0.375 0.25 0.25\n", "bright\nweak\nother\n")


@pytest.fixture
def service(folder: Path, detector: Detector) -> Callable[..., LabelService]:
    """service(model=True): of that set, with a model that finds the rectangle, or with none."""

    def start(model: bool = False) -> LabelService:
        labels = open_labels(LabelOptions(str(folder)))
        own = Detector(detector.engine, detector.input_spec, ("bright", "weak", "mine"), 0.4)
        views = ModelViews(labels.store, own) if model else None
        return LabelService(labels.form, labels.store, views, label_options("127.0.0.1", 0, TOKEN))

    return start


@pytest.fixture
def client(service) -> Iterator[TestClient]:
    with TestClient(create_label_app(service()), base_url="http://127.0.0.1:1234", headers=KEY) as client:
        yield client


@pytest.fixture
def model_client(service) -> Iterator[TestClient]:
    with TestClient(create_label_app(service(model=True)), base_url="http://127.0.0.1:1234", headers=KEY) as client:
        yield client


def test_a_correction_from_page_to_file(client: TestClient, folder: Path) -> None:
    about = client.get("/v1/set").json()
    assert (about["form"], about["classes"], about["orders"]) == ("YOLO", ["bright", "weak", "other"], ["name"])
    rows = client.get("/v1/images").json()["images"]
    assert [(row["id"], row["name"], row["looked"]) for row in rows] == [
        (i, f"images/{name}.png", False) for i, name in enumerate("abc")
    ]
    shown = client.get("/v1/images/0").json()
    (obj,) = shown["objects"]
    assert (obj["name"], obj["box"], shown["width"], shown["height"]) == ("bright", [40, 30, 80, 60], 160, 120)
    body = {"version": shown["version"], "objects": [{"number": 0, "name": "weak", "box": obj["box"]}]}
    answer = client.put("/v1/images/0/objects", json=body)
    assert answer.status_code == 200
    assert answer.json()["objects"][0]["name"] == "weak"
    assert (folder / "labels/a.txt").read_text() == "1 0.375 0.375 0.25 0.25\n"
    assert client.put("/v1/images/0/objects", json=body).json()["error"]["code"] == "changed_elsewhere"
    assert client.put("/v1/images/2/looked", json={"looked": True}).status_code == 200
    assert [row["looked"] for row in client.get("/v1/images").json()["images"]] == [False, False, True]


def test_a_class_more(model_client: TestClient, folder: Path) -> None:
    about = model_client.get("/v1/set").json()
    assert about["model"]["left_out"] == ["mine"]
    before = model_client.get("/v1/images/0/proposals").json()
    after = model_client.post("/v1/classes", json={"name": " mine "}).json()
    assert after["classes"] == [*about["classes"], "mine"]
    assert after["colours"].keys() == set(after["classes"])
    assert after["model"]["left_out"] == []
    assert (folder / "classes.txt").read_text() == "bright\nweak\nother\nmine\n"
    assert len(model_client.get("/v1/images/0/proposals").json()["proposals"]) >= len(before["proposals"])
    for name in ("mine", "", "a\nb"):
        assert model_client.post("/v1/classes", json={"name": name}).json()["error"]["code"] == "refused"
    assert model_client.post("/v1/classes", json={"names": "x"}).status_code == 400


def test_the_picture_is_the_upright_one(client: TestClient, folder: Path) -> None:
    answer = client.get("/v1/images/1/picture")
    assert answer.headers["content-type"] == "image/jpeg"
    image = cv2.imdecode(np.frombuffer(answer.content, np.uint8), cv2.IMREAD_COLOR)
    assert image.shape == (120, 160, 3)
    assert image[45, 60].min() > 250
    (folder / "images/b.png").write_bytes(b"no picture")
    assert client.get("/v1/images/1/picture").json()["error"]["code"] == "refused"


def test_proposals_orders_and_suspects(model_client: TestClient, service) -> None:
    about = model_client.get("/v1/set").json()
    assert about["orders"] == ["name", "unsure", "suspect"]
    assert about["model"] == {"left_out": ["mine"], "score_min": pytest.approx(0.4)}
    found = model_client.get("/v1/images/1/proposals").json()["proposals"]
    assert [(one["name"], round(one["score"], 2)) for one in found] == [("bright", 0.9), ("bright", 0.8), ("weak", 0.2)]
    rows = model_client.get("/v1/images?order=unsure").json()
    assert rows["detected"] == 1
    assert [row["id"] for row in rows["images"]] == [1, 0, 2]
    assert rows["images"][0]["value"] == pytest.approx(0.2**2 + 0.4**2 + 0.4**2)


def test_label_errors_are_shown_until_they_are_corrected(folder: Path, service) -> None:
    for name in "bc":
        (folder / "labels" / f"{name}.txt").write_text("0 0.375 0.375 0.25 0.25\n")
    (folder / "labels/b.txt").write_text("2 .9 .9 .1 .1\n1 0.375 0.375 0.25 0.25\n")
    served = service(model=True)
    assert served.views is not None
    served.views.run()
    rows = served.images("suspect")["images"]
    assert rows[0]["id"] == 1
    assert rows[0]["value"] > 0.5
    (suspect,) = served.show(1)["suspects"]  # the object of a class that the model has not is none
    assert (suspect["kind"], suspect["number"], suspect["name"]) == ("class", 1, "bright")
    assert suspect["box"] == (40, 30, 80, 60)
    shown = served.store.show(1)
    served.store.save(1, shown.version, [])
    assert served.show(1)["suspects"] == []


def test_unsureness_by_hand() -> None:
    box = (0.0, 0.0, 1.0, 1.0)
    assert unsureness([]) == 0
    assert unsureness([Proposal("a", box, 0.5)]) == 1
    assert unsureness([Proposal("a", box, 0.9), Proposal("a", box, 0.25)]) == pytest.approx(0.04 + 0.25)


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"Authorization": ""}, 401),
        ({"Authorization": "Bearer another token of letters"}, 401),
        ({"Host": "evil.example"}, 421),  # a name that resolves to this machine
        ({"Host": "evil.example:1234", "Origin": "http://evil.example:1234"}, 421),
        ({"Origin": "http://evil.example"}, 403),
        ({"Origin": "null"}, 403),
        ({"Origin": "http://127.0.0.1:9"}, 403),  # another service of this machine
        ({"Sec-Fetch-Site": "cross-site"}, 403),
        ({"Sec-Fetch-Site": "same-site"}, 403),
        ({"Origin": "http://127.0.0.1:1234", "Sec-Fetch-Site": "same-origin"}, 200),
    ],
)
def test_who_is_let_in(client: TestClient, headers: dict[str, str], status: int) -> None:
    assert client.get("/v1/images/0", headers=headers).status_code == status
    saved = client.put("/v1/images/0/looked", json={"looked": True}, headers=headers)
    assert saved.status_code == status
    assert client.get("/v1/images").json()["images"][0]["looked"] == (status == 200)


@pytest.mark.parametrize("method", ["GET", "PUT", "POST"])
def test_every_address_with_data_wants_the_token(client: TestClient, method: str) -> None:
    paths = ["/v1/set", "/v1/classes", "/v1/images", "/v1/images/0", "/v1/images/0/picture", "/v1/images/0/proposals",
             "/v1/images/0/objects", "/v1/images/0/looked"]  # fmt: skip
    routes = {route.path for route in client.app.routes if route.path.startswith("/v1")}  # type: ignore[attr-defined]
    assert {path.replace("/0", "/{i}") for path in paths} == routes
    for path in paths:
        assert client.request(method, path, headers={"Authorization": ""}, json={}).status_code == 401


@pytest.mark.parametrize(
    ("body", "status"),
    [
        (b"{", 400),
        (b"[]", 400),
        (b'{"version": "x"}', 400),
        (b'{"version": "x", "objects": [{"number": 0, "name": "a", "box": [1, 2, 3]}]}', 400),
        (b'{"version": "x", "objects": [{"number": "0", "name": "a", "box": [1, 2, 3, 4]}]}', 400),
        (b'{"version": "x", "objects": [], "path": "/etc/passwd"}', 400),
        (b'{"version": "x", "objects": ' + b"[" * 100_000, 400),
        (b'{"version": "x", "objects": [' + b"{}," * 20_000 + b"{}]}", 400),
        (b" " * (8 * 2**20 + 1), 413),
    ],
)
def test_bodies_that_are_none(client: TestClient, folder: Path, body: bytes, status: int) -> None:
    before = (folder / "labels/a.txt").read_bytes()
    headers = {"Content-Type": "application/json"}
    answer = client.put("/v1/images/0/objects", content=body, headers=headers)
    assert answer.status_code == status
    assert set(answer.json()["error"]) == {"code", "message"}
    assert (folder / "labels/a.txt").read_bytes() == before


def test_what_a_form_of_another_site_could_send_is_no_request(client: TestClient) -> None:
    for kind in ("text/plain", "application/x-www-form-urlencoded", "multipart/form-data; boundary=x", ""):
        answer = client.put("/v1/images/0/looked", content=b'{"looked": true}', headers={"Content-Type": kind})
        assert answer.status_code == 415
    assert client.post("/v1/images/0/looked", json={"looked": True}).status_code == 405


def test_values_that_are_refused(client: TestClient) -> None:
    version = client.get("/v1/images/0").json()["version"]
    for name, box in (("cow", [1, 1, 9, 9]), ("bright", [9, 9, 1, 1]), ("bright", [500, 1, 900, 9])):
        body: dict[str, Any] = {"version": version, "objects": [{"number": None, "name": name, "box": box}]}
        assert client.put("/v1/images/0/objects", json=body).status_code == 422
    nan = (
        b'{"version": "%s", "objects": [{"number": null, "name": "bright", "box": [1, 2, NaN, 4]}]}' % version.encode()
    )
    answer = client.put("/v1/images/0/objects", content=nan, headers={"Content-Type": "application/json"})
    assert answer.status_code in (400, 422)
    for path in ("/v1/images/3", "/v1/images/-1", "/v1/images/99999999999999999999"):
        assert client.get(path).status_code == 404
    assert client.get("/v1/images/a").status_code == 422
    assert client.get("/v1/images?order=size").status_code == 422
    assert client.get("/v1/images?order=unsure").status_code == 422  # without a model
    assert client.get("/v1/images/0/proposals").status_code == 404


def test_no_address_leads_to_a_file_of_this_machine(client: TestClient, folder: Path) -> None:
    for path in ("/../label_app.py", "/%2e%2e/label_app.py", "/..%2flabel_app.py", "/classes.txt", "/labels/a.txt",
                 "/v1/images/..%2f..%2fetc%2fpasswd/picture", "/docs", "/openapi.json", "//etc/passwd"):  # fmt: skip
        assert client.get(path).status_code in (404, 422), path
    (folder / "images/a.png").unlink()
    (folder / "images/a.png").symlink_to("/etc/hostname")
    for path in ("/v1/images/0", "/v1/images/0/picture"):
        assert client.get(path).json()["error"]["code"] == "refused"


def test_the_command(folder: Path, tmp_path: Path) -> None:
    """As a user starts it: the address with its token on standard output, a save, and the end by Ctrl-C."""
    command = [sys.executable, "-m", "singleshot", "label", str(folder), "--no-browser"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == "3 images, YOLO; Ctrl-C ends it\n"
        address, _, token = process.stdout.readline().removeprefix("labelling at http://").strip().partition("/#token=")
        assert address.startswith("127.0.0.1:")
        assert len(token) >= 32
        connection = http.client.HTTPConnection(address)
        connection.request("GET", "/v1/images/0", headers={"X-API-Key": token})
        shown = json.loads(connection.getresponse().read())
        body = json.dumps({"version": shown["version"], "objects": []})
        headers = {"X-API-Key": token, "Content-Type": "application/json"}
        connection.request("PUT", "/v1/images/0/objects", body, headers)
        assert connection.getresponse().status == 200
        connection.close()
        assert (folder / "labels/a.txt").read_bytes() == b""
    finally:
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=30)
    assert (process.returncode, errors) == (0, "")
