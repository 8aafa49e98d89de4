"""What is asked over HTTP is what a detector gives."""

from __future__ import annotations

import base64
import json
import threading

import pytest

from singleshot.runtime.drawing import class_colours
from singleshot.tiling import Tiling

RAW = {"Content-Type": "image/jpeg"}


def wanted(detector, data: bytes, name: str = "image", **options):
    return {**detector.detect(data, **options).to_dict(), "image": name}


def test_three_forms_of_bodies_give_what_the_detector_does(served, picture, as_json) -> None:
    one = served()
    data = picture()
    raw = one.client.post("/v1/detect", content=data, headers=RAW)
    form = one.client.post("/v1/detect", files={"file": ("a.jpg", data)})
    text = one.client.post("/v1/detect", content=as_json(data), headers={"Content-Type": "application/json"})
    assert raw.json()["images"] == [wanted(one.detector, data)]
    assert raw.json()["images"][0]["detections"]
    assert form.json()["images"] == [wanted(one.detector, data, "a.jpg")]
    assert text.json()["images"] == [wanted(one.detector, data, "image 0")]
    assert raw.json()["model"] == "bright"
    assert set(raw.json()["times_ms"]) == {"queue", "detect", "total"}


def test_images_of_a_request_come_in_order(served, picture) -> None:
    one = served()
    given = [(f"{i}.png", picture(".png", 40 + 10 * i, 60)) for i in range(9)]
    answer = one.client.post("/v1/detect", files=[("file", pair) for pair in given]).json()
    assert answer["images"] == [wanted(one.detector, data, name) for name, data in given]


def test_images_of_json_may_have_names_and_be_data_addresses(served, picture) -> None:
    one = served()
    text = base64.b64encode(picture(".png")).decode()
    body = {"images": [{"name": "x/y.png", "data": text}, f"data:image/png;base64,{text}"]}
    answer = one.client.post("/v1/detect", json=body).json()
    assert [image["image"] for image in answer["images"]] == ["y.png", "image 1"]
    assert answer["images"][0]["detections"] == answer["images"][1]["detections"]


def test_options_are_honoured(served, picture) -> None:
    one = served()
    data = picture(".png", 700, 500)

    def ask(query: str):
        answer = one.client.post(f"/v1/detect?{query}", content=data, headers=RAW)
        assert answer.status_code == 200, answer.text
        return answer.json()

    assert ask("score_min=0.5")["images"] == [wanted(one.detector, data, score_min=0.5)]
    assert ask("tile=300:0.5")["images"] == [wanted(one.detector, data, tile=(300, 0.5))]
    assert ask("tile=300")["images"] != ask("")["images"] == ask("tile=none")["images"]
    one.detector.tiling = Tiling(300)  # as of a model that was trained on tiles
    assert ask("")["images"] == ask("tile=300")["images"] != ask("tile=none")["images"]
    one.detector.tiling = None
    assert ask("model=other")["model"] == "other"
    # The second box of class 0 overlaps the first by .5625 or less; the weak class has its own.
    assert [d["score"] for d in ask("nms_iou=0")["images"][0]["detections"]] == [0.9, 0.2]


@pytest.mark.parametrize(
    ("query", "status", "says"),
    [
        ("score_min=2", 422, "score_min"),
        ("score_min=nan", 422, "score_min"),
        ("score_min=x", 422, "score_min"),
        ("nms_iou=0.9", 422, "more than 0.45"),
        ("tile=1", 422, "tile 1"),
        ("tile=99999999", 422, "tile"),
        ("tile=300:0.99", 422, "overlap"),
        ("tile=../x", 422, "tile"),
        ("conf=0.5", 422, "score_min"),
        ("score_min=0.1&score_min=0.2", 422, "twice"),
        ("model=brigth", 404, "did you mean bright?"),
        ("model=" + "x" * 200, 422, "model"),
        ("model=", 422, "model"),
    ],
)
def test_options_that_cannot_be_honoured_are_refused(served, picture, query: str, status: int, says: str) -> None:
    answer = served().client.post(f"/v1/detect?{query}", content=picture(), headers=RAW)
    assert answer.status_code == status
    assert says in answer.json()["error"]["message"]


def test_a_bad_option_of_one_request_leaves_others_of_its_batch_alone(served, picture) -> None:
    one = served(batch=8)
    gate = threading.Event()
    one.worker.hold = gate.wait
    answers = {}

    def ask(query: str) -> None:
        answers[query] = one.client.post(f"/v1/detect?{query}", content=picture(), headers=RAW).status_code

    threads = [threading.Thread(target=ask, args=(q,)) for q in ("tile=1", "", "score_min=0.3", "tile=64")]
    for thread in threads:
        thread.start()
    gate.set()
    for thread in threads:
        thread.join()
    assert answers == {"tile=1": 422, "": 200, "score_min=0.3": 200, "tile=64": 200}


def test_what_a_detector_of_a_list_does_one_by_one(detector, picture) -> None:
    good, bad = picture(".png"), b"\x89PNG\r\n\x1a\n"
    found = detector.detect_each([good, bad, good])
    assert found[0].to_dict() == {**detector.detect(good).to_dict(), "image": "image 0"}
    assert "image 1" in str(found[1])
    assert found[2].to_dict()["detections"] == found[0].to_dict()["detections"]


def test_models_and_state(served) -> None:
    one = served()
    models = one.client.get("/v1/models").json()["models"]
    assert models[0] == {
        "name": "bright",
        "classes": ["bright", "weak"],
        "colours": {name: "#" + bytes(colour).hex() for name, colour in class_colours(("bright", "weak")).items()},
        "input": {"width": 300, "height": 300, "channels": 3, "resize": "stretch"},
        "thresholds": {"score_min": 0.1, "nms_iou": 0.45},
        "tile": None,
        "engine": None,
        "explain": {"available": False, "receptive_fields": False, "reason": models[0]["explain"]["reason"]},
        "default": True,
    }
    assert "serve the checkpoint" in models[0]["explain"]["reason"]
    assert [model["default"] for model in models] == [True, False]
    assert one.client.get("/healthz").json() == {"status": "ok"}
    assert one.client.get("/readyz").json() == {"status": "ready", "workers": 1}


def test_the_figures_count(served, picture) -> None:
    one = served()
    one.client.post("/v1/detect", files=[("file", ("a.jpg", picture()))] * 2)
    one.client.post("/v1/detect", content=b"x", headers=RAW)
    text = one.client.get("/metrics").text
    assert 'singleshot_images_total{model="bright"} 2.0' in text
    assert 'singleshot_requests_total{route="/v1/detect",status="200"} 1.0' in text
    assert 'singleshot_refused_total{code="unreadable_image"} 1.0' in text
    assert "singleshot_workers 1.0" in text


def test_the_page_and_the_description_of_the_interface(served) -> None:
    client = served().client
    page = client.get("/")
    assert page.headers["content-type"].startswith("text/html")
    assert "default-src 'self'" in page.headers["content-security-policy"]
    described = client.get("/openapi.json").json()
    assert set(described["paths"]) == {"/v1/detect", "/v1/explain", "/v1/models", "/healthz", "/readyz", "/metrics"}
    body = described["paths"]["/v1/detect"]["post"]["requestBody"]["content"]
    assert {"multipart/form-data", "application/json", "application/octet-stream", "image/*"} == set(body)
    closed = [body[kind]["schema"]["additionalProperties"] for kind in ("multipart/form-data", "application/json")]
    assert closed == [False, False]  # other fields and keys are refused
    assert json.dumps(described).count('"$ref"') > 5
    text = client.get("/docs").text
    assert all(word in text for word in ("POST /v1/detect", "score_min", "multipart/form-data", "DetectedObject"))
    assert "<script" not in text
    assert "://" not in text
    assert client.get("/v1/detect").status_code == 405
    assert client.post("/v1/models").status_code == 405
