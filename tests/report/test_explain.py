"""Explanations of images end to end: the detections of `detect`, places in pixels, labels, the picture."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

import singleshot
from singleshot.api.explain import Explainer
from singleshot.errors import ConfigError, DataError
from singleshot.inputs import InputSpec
from singleshot.model_info import ModelInfo
from singleshot.models import build
from singleshot.records import ImageTruth
from singleshot.report.explain_picture import draw_explanation
from singleshot.runtime.postprocess_numpy import RawDecoder
from singleshot.thresholds import Thresholds
from singleshot.weights.checkpoint import save_checkpoint

NAMES = ("cat", "dog")


@pytest.fixture(scope="module", params=["stretch", "letterbox"])
def model(request, tmp_path_factory) -> Path:
    """Random weights that are sure of something here and there."""
    torch.manual_seed(0)
    network = build("ssd320-mini", 2)
    for head in network.heads:
        head.confidence.weight.data.mul_(0.4)
    network.input_spec = replace_resize(network.input_spec, request.param)
    path = tmp_path_factory.mktemp("model") / "best.safetensors"
    save_checkpoint(path, network.eval().state_dict(), ModelInfo.of(network, NAMES, Thresholds(show_min=0.7, keep=40)))
    return path


def replace_resize(spec: InputSpec, resize: str) -> InputSpec:
    return InputSpec.from_dict({**spec.to_dict(), "resize": resize})


@pytest.fixture(scope="module")
def explainer(model: Path) -> Explainer:
    return Explainer(model, "cpu")


@pytest.fixture(scope="module")
def image(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("image") / "a.png"
    noise = np.random.default_rng(0).integers(0, 256, (12, 20, 3), dtype=np.uint8)
    cv2.imwrite(str(path), cv2.resize(noise, (200, 120), interpolation=cv2.INTER_CUBIC))
    return path


def truth_of(found: singleshot.Detections) -> ImageTruth:
    """The first detection as an object, one of the other class there, one shifted, one that is tiny."""
    box = found.boxes[0]
    boxes = np.stack([box, found.boxes[1], found.boxes[2] + 6, np.array([3, 3, 6, 6], np.float32)])
    labels = np.array([found.labels[0], 1 - found.labels[1], found.labels[2], 0])
    return ImageTruth(boxes, labels, np.array([False, False, True, False]))


def test_the_detections_are_those_of_detect_to_the_bit(explainer: Explainer, model: Path, image: Path) -> None:
    detector = singleshot.load(model, "cpu")
    for score_min in (None, 0.8):
        found, ours = detector.detect(image, score_min), explainer.explain(image, score_min=score_min, gradients=0)
        assert len(found) > 3
        for name in ("boxes", "scores", "labels"):
            assert np.array_equal(getattr(ours.found, name), getattr(found, name))
        assert [one.box for one in ours.detections] == [tuple(box) for box in found.boxes.tolist()]
        assert [one.score for one in ours.detections] == found.scores.tolist()


def test_where_detections_come_from(explainer: Explainer, image: Path) -> None:
    done = explainer.explain(image, gradients=1)
    priors = explainer.detector.engine.model.priors
    pixels = (320 / 200, 320 / 120) if done.input["resize"] == "stretch" else (1.6, 1.6)
    shift = 0.0 if done.input["resize"] == "stretch" else 64.0
    assert sum(one.origin.removed for one in done.detections if one.origin) > 5
    for one in done.detections:
        origin = one.origin
        assert origin is not None
        place = origin.place
        cx, cy, width, height = priors[place.prior].tolist()
        x, y = cx * 320 / pixels[0], (cy * 320 - shift) / pixels[1]
        assert origin.arrow[:2] == pytest.approx((x, y), abs=1e-3)
        assert place.box[2] - place.box[0] == pytest.approx(width * 320 / pixels[0], abs=1e-3)
        assert place.cell[0] <= x <= place.cell[2] and place.cell[1] <= y <= place.cell[3]
        dx, dy, *_ = origin.offsets
        moved = x + dx * 0.1 * width * 320 / pixels[0], y + dy * 0.1 * height * 320 / pixels[1]
        assert origin.arrow[2:] == pytest.approx(moved, abs=1e-2)
        assert origin.scores[one.name] == one.score
        assert sum(origin.scores.values()) + (origin.background or 0) == pytest.approx(1, abs=1e-5)
        assert all(weaker.score <= one.score and weaker.iou > 0.45 for weaker in origin.runners_up)
        assert len(origin.runners_up) == min(origin.removed, 10)
        assert origin.field is not None
        assert origin.field[0] < x < origin.field[2]
    measured = [one.origin.gradient is not None for one in done.detections if one.origin]
    first = done.detections[0].origin
    assert measured[0] and not all(measured)
    assert first is not None and first.gradient is not None and first.field is not None
    assert first.field[0] <= first.gradient[0] < first.gradient[2] <= first.field[2]


def test_objects_and_what_training_makes_of_them(explainer: Explainer, image: Path) -> None:
    truth = truth_of(explainer.explain(image, gradients=0).found)
    done = explainer.explain(image, truth, gradients=0)
    assert done.objects is not None and done.negatives is not None
    first, other, _, tiny = done.objects
    assert [first.detection, first.iou, first.causes] == [0, pytest.approx(1, abs=1e-5), ()]
    assert done.detections[0].object == 0
    assert other.detection is None and other.causes and tiny.causes[0].kind == "no-prior"
    assert [one.difficult for one in done.objects] == [False, False, True, False]
    assert done.rules["of"] == "Caffe" and any("Caffe" in note for note in done.notes)
    for one in done.objects:
        assert one.best is not None
        assert one.matched[0] == one.best  # Caffe's bipartite stage gives each object its best
        assert all(match.iou >= 0.5 for match in one.matched[1:])
    matched = {match.place.prior for one in done.objects for match in one.matched}
    assert done.negatives_mined == 3 * len(matched)
    assert not matched & {negative.place.prior for negative in done.negatives}
    assert [n.background for n in done.negatives] == sorted(n.background for n in done.negatives)
    values = json.loads(json.dumps(done.to_dict()))
    assert values["detections"][0]["origin"]["place"]["prior"] == done.detections[0].origin.place.prior
    assert values["objects"][3]["causes"][0]["change"]["add_prior"]
    assert tiny.reasons()[0].startswith("no default box overlaps it enough: IoU 0.")
    assert "then it appears: score " in tiny.reasons()[-1]
    assert math.isfinite(values["objects"][3]["appears"]["score"])


def test_a_score_that_is_too_low_is_said_with_the_one_that_is_wanted(explainer: Explainer, image: Path) -> None:
    found = explainer.explain(image, gradients=0).found
    score = float(found.scores[0])
    truth = ImageTruth(found.boxes[:1], found.labels[:1], np.array([False]))
    done = explainer.explain(image, truth, score_min=score + 0.01, gradients=0)
    assert done.objects is not None
    (why, _) = done.objects[0].reasons()
    said = f"its score is too low: {score:.3f} where {score + 0.01:.3f} is wanted"
    assert why == f"{said} (tried: the threshold lowered to that)"


def test_raw_outputs_of_an_exported_file(explainer: Explainer, image: Path, monkeypatch) -> None:
    """The file's own arrays go through the decoder that detects with them."""
    network = explainer.detector.engine.model
    info = replace(explainer._info, outputs="raw")

    class Exported:
        def outputs(self, images: np.ndarray) -> dict[str, np.ndarray]:
            with torch.inference_mode():
                raw = network(torch.from_numpy(images).permute(0, 3, 1, 2))
            return {"offsets": raw.offsets.numpy(), "logits": raw.logits.numpy()}

        def __call__(self, images: np.ndarray) -> list:
            outputs = self.outputs(images)
            return RawDecoder(info.priors, info.thresholds)(outputs["offsets"], outputs["logits"])

    by_torch = explainer.explain(image, gradients=0)
    monkeypatch.setattr(explainer.detector, "engine", Exported())
    monkeypatch.setattr(explainer, "_info", info)
    done, found = explainer.explain(image), explainer.detector.detect(image)
    assert np.array_equal(done.found.boxes, found.boxes) and np.array_equal(done.found.scores, found.scores)
    places = [[one.origin.place.prior for one in both.detections if one.origin] for both in (done, by_torch)]
    assert places[0] == places[1] and len(places[0]) == len(found) > 3
    assert done.detections[0].origin.field is None
    assert any("need the checkpoint" in note for note in done.notes)
    # A file with NMS inside: what is there, and one line that says what is not.
    monkeypatch.setattr(explainer, "_info", replace(info, outputs="detections"))
    truth = truth_of(found)
    plain = explainer.explain(image, truth)
    assert np.array_equal(plain.found.boxes, found.boxes)
    assert {one.origin for one in plain.detections} == {None}
    assert plain.objects is not None
    assert [plain.objects[0].detection, plain.objects[3].detection] == [0, None]
    assert plain.objects[3].causes == ()
    assert len(plain.notes) == 1 and "cannot be said; give the checkpoint" in plain.notes[0]
    json.dumps(plain.to_dict())
    assert draw_explanation(plain).shape[2] == 3


def test_the_picture_shows_what_is_explained(explainer: Explainer, image: Path) -> None:
    found = explainer.explain(image, gradients=0).found
    done = explainer.explain(image, truth_of(found), gradients=1)
    sheet = draw_explanation(done, panels=2)
    assert sheet.dtype == np.uint8
    green = (sheet == (60, 220, 60)).all(-1)
    violet = (sheet == (190, 60, 210)).all(-1)
    orange = (sheet == (255, 150, 0)).all(-1)
    assert green.sum() > 200 and violet.sum() > 50 and orange.sum() > 20
    without = draw_explanation(explainer.explain(image, gradients=0), panels=2)
    assert not (without == (60, 220, 60)).all(-1).any()
    assert draw_explanation(done, panels=4).shape[0] * draw_explanation(done, panels=4).shape[1] > sheet[..., 0].size


def test_nothing_found_nothing_labelled(explainer: Explainer, image: Path) -> None:
    none = ImageTruth(np.zeros((0, 4), np.float32), np.zeros(0, np.int64))
    done = explainer.explain(image, none, score_min=1.0)
    assert (done.detections, done.objects, done.negatives_mined) == ((), (), 0)
    assert draw_explanation(done).size


def test_no_default_box_in_a_region_is_shown_as_a_hard_negative(explainer: Explainer, image: Path) -> None:
    truth = truth_of(explainer.explain(image, gradients=0).found)
    height, width = cv2.imread(str(image)).shape[:2]
    left = np.array([[0, 0, width / 2, height]], np.float32)
    plain, done = (explainer.explain(image, truth, ignored_px=one, gradients=0) for one in (None, left))

    def in_the_left_half(explanation) -> int:
        corners = [negative.place.box for negative in explanation.negatives]
        return sum(min(x1, width) <= width / 2 for _, _, x1, _ in corners)

    assert in_the_left_half(plain) > in_the_left_half(done) == 0
    assert done.negatives_mined == plain.negatives_mined


def test_the_objects_of_an_image_in_a_data_set(explainer: Explainer, write_voc, voc_xml, tmp_path: Path) -> None:
    xmls = {"a": voc_xml([("dog", (10, 10, 30, 30)), ("sofa", (1, 1, 9, 9)), ("cat", (20, 5, 60, 40), 1)])}
    data = write_voc(tmp_path / "voc", {**xmls, "b": voc_xml()}, {"train": ["b"], "test": ["a"]})
    truth, ignored, notes = explainer.find_objects(data, data / "JPEGImages" / "a.png")
    assert (ignored, notes) == (None, ("not classes of the model, so not explained (objects): sofa (1)",))
    assert truth.labels.tolist() == [1, 0]
    assert truth.difficult.tolist() == [False, True]
    assert truth.boxes[0].tolist() == [9, 9, 30, 30]
    copy = tmp_path / "a.png"
    copy.write_bytes((data / "JPEGImages" / "a.png").read_bytes())
    assert explainer.find_objects(data, copy)[0].labels.tolist() == [1, 0]
    xml = data / "Annotations" / "a.xml"
    xml.write_text(xml.read_text().replace("<name>dog</name>", "<name>dog</name><crowd>1</crowd>"))
    truth, ignored, notes = explainer.find_objects(data, copy)
    assert notes[1].endswith("neither as right nor as wrong (regions): 1")
    assert (truth.labels.tolist(), ignored.tolist()) == ([0], [[9, 9, 30, 30]])
    done = singleshot.explain(explainer._path, copy, labels=data, gradients=0)
    assert done.notes[: len(notes)] == notes  # neither is left out in silence
    with pytest.raises(DataError, match=r"c\.png: is not in .*voc"):
        explainer.find_objects(data, tmp_path / "c.png")


def test_options_out_of_range(explainer: Explainer, model: Path, image: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="score_min 2"):
        explainer.explain(image, score_min=2)
    for wrong in ({"score_min": -1}, {"gradients": -1}, {"out": "a.gif"}):
        with pytest.raises(ConfigError, match="want"):
            singleshot.explain(model, image, **wrong)
    with pytest.raises(DataError, match="no such image file"):
        singleshot.explain(model, tmp_path / "none.png")
