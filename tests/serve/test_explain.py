"""Where detections come from, over HTTP."""

from __future__ import annotations

import json
from collections.abc import Callable

import numpy as np
import pytest

from singleshot.api.explain import Explainer
from singleshot.client import Client, ServiceError
from singleshot.runtime import Detector
from singleshot.serve import explaining
from singleshot.serve.explaining import ModelExplainer
from singleshot.tiling import Tiling

RAW = {"Content-Type": "image/png"}


@pytest.fixture
def network(served, explainable: Detector):
    """A service whose model `net` is explained."""
    return served(others={"net": explainable})


def test_three_forms_of_bodies_give_what_detection_does_and_its_origins(
    network, explainable: Detector, noise: bytes, as_json
) -> None:
    ask = network.client.post
    found = ask("/v1/detect?model=net", content=noise, headers=RAW).json()["images"][0]
    done = Explainer.of(explainable, "net").explain(noise, gradients=0)
    answers = [
        ask("/v1/explain?model=net", content=noise, headers=RAW),
        ask("/v1/explain?model=net", files=[("file", ("a.png", noise)), ("file", ("b.png", noise))]),
        ask("/v1/explain?model=net", content=as_json(noise), headers={"Content-Type": "application/json"}),
    ]
    for answer in answers:
        assert answer.status_code == 200, answer.text
        assert set(answer.json()["times_ms"]) == {"queue", "explain", "total"}
        for image in answer.json()["images"]:
            assert image["maps"] == [list(one) for one in done.maps]
            assert [{**one, "origin": 0} for one in image["detections"]] == [
                {**one, "origin": 0} for one in found["detections"]
            ]
            for one, explained in zip(image["detections"], done.detections, strict=True):
                origin, wanted = one["origin"], explained.origin
                assert wanted is not None
                assert origin["place"]["prior"] == wanted.place.prior
                assert origin["removed"] == wanted.removed == len(wanted.runners_up) or wanted.removed > 10
                assert len(origin["runners_up"]) == len(wanted.runners_up)
                np.testing.assert_allclose(origin["field"], wanted.field, atol=1e-3)
                np.testing.assert_allclose(origin["offsets"], wanted.offsets, atol=1e-3)
                assert origin["gradient"] is None
    assert len(found["detections"]) > 2
    assert [image["image"] for image in answers[1].json()["images"]] == ["a.png", "b.png"]
    assert explainable.detect(noise).to_dict()["detections"] == found["detections"]  # it detects on as before


def test_fewer_with_a_score_and_options_of_detection_alone_are_refused(network, noise: bytes) -> None:
    all_of_them = network.client.post("/v1/explain?model=net", content=noise, headers=RAW).json()["images"][0]
    scores = [one["score"] for one in all_of_them["detections"]]
    least = (scores[0] + scores[1]) / 2
    (image,) = network.client.post(f"/v1/explain?model=net&score_min={least}", content=noise, headers=RAW).json()[
        "images"
    ]
    assert [one["score"] for one in image["detections"]] == scores[:1]
    for query in ("tile=300", "nms_iou=0.3", "gradients=5", "score_min=2", "score_min=0.5&score_min=0.6"):
        answer = network.client.post(f"/v1/explain?model=net&{query}", content=noise, headers=RAW)
        assert (answer.status_code, answer.json()["error"]["code"]) == (422, "bad_option"), query


def test_a_file_that_gives_boxes_alone_is_refused_in_a_line_and_said_before(network, noise: bytes) -> None:
    answer = network.client.post("/v1/explain", content=noise, headers=RAW)
    assert (answer.status_code, answer.json()["error"]["code"]) == (422, "not_explained")
    message = answer.json()["error"]["message"]
    assert "serve the checkpoint or a file of `export --raw`" in message
    states = {one["name"]: one["explain"] for one in network.client.get("/v1/models").json()["models"]}
    assert states["net"] == {"available": True, "receptive_fields": True, "reason": None}
    assert states["bright"]["available"] is False
    assert states["bright"]["reason"] in message


def test_without_torch_the_reason_is_another(explainable: Detector, monkeypatch, noise: bytes) -> None:
    monkeypatch.setattr(explaining.importlib.util, "find_spec", lambda name: None)
    model = ModelExplainer("net", explainable)
    assert model.describe()["available"] is False
    assert "pip install 'singleshot[train]'" in str(model.reason)
    with pytest.raises(explaining.ImageRefusedError, match="PyTorch"):
        model.explain(noise, "a.png", None)


def test_a_model_of_tiles_is_explained_on_whole_images_and_says_so(explainable: Detector, noise: bytes) -> None:
    explainable.tiling = Tiling(100)
    try:
        values = json.loads(ModelExplainer("net", explainable).explain(noise, "a.png", None))
        assert explainable.tiling == Tiling(100)
    finally:
        explainable.tiling = None
    assert any("whole images are explained" in note for note in values["notes"])
    assert values["detections"]


def test_damaged_images_are_refused_as_in_detection(network, noise: bytes) -> None:
    for data in (noise[:100], b"x", noise[:-30]):
        answers = [network.client.post(f"/v1/{what}?model=net", content=data, headers=RAW)
                   for what in ("detect", "explain")]  # fmt: skip
        assert answers[0].status_code == answers[1].status_code
        assert answers[0].json().get("error") == answers[1].json().get("error")


def test_the_client_gives_the_same(listening: Callable, explainable: Detector, noise: bytes) -> None:
    with Client(listening(first={"net": explainable}).url) as client:
        assert [one.explainable for one in client.models()] == [True, False, False]
        (one,) = client.explain(noise)
        (found,) = client.detect(noise)
        assert (one.found.boxes == found.boxes).all()
        done = Explainer.of(explainable, "net").explain(noise, gradients=0)
        wanted = [explained.origin for explained in done.detections]
        assert [origin.place.prior for origin in one.origins] == [origin.place.prior for origin in wanted if origin]
        weaker = [[(r.place.prior, round(r.iou, 6)) for r in origin.runners_up] for origin in wanted if origin]
        assert [[(r.place.prior, r.iou) for r in origin.runners_up] for origin in one.origins] == weaker
        assert any(weaker)
        assert one.maps == done.maps
        with pytest.raises(ServiceError, match="boxes alone"):
            client.explain(noise, model="bright")
