"""Boxes as OpenCV's own reader of Caffe files finds them, of networks that differ from the usual ones."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
import torch

from singleshot.postprocess import to_detections
from singleshot.weights.importing import import_foreign

PRIORS = {
    "min_size": [10],
    "max_size": [20],
    "aspect_ratio": [2],
    "flip": True,
    "clip": False,  # Caffe's default, not OpenCV's
    "variance": [0.1, 0.1, 0.2, 0.2],
    "offset": 0.5,
}
END = {"confidence_threshold": 0.3, "share_location": True, "background_label_id": 0}
CHANGES = {
    "usual": {},
    "grey": {"channels": 1},
    "wide": {"sides": (48, 96)},
    "tall and grey": {"sides": (96, 48), "channels": 1},
    "a box of the only class": {"columns": 2, "of_class": 2, "end": {"share_location": False}},
    "background last": {"end": {"background_label_id": 2}},
    "variances of their own": {"priors": {"variance": [0.1, 0.15, 0.2, 0.3]}},
    "steps down and across": {"priors": {"step_h": 5, "step_w": 3.5}, "sides": (48, 96)},
    "clipped priors": {"priors": {"clip": True}},
    "clipped boxes": {"end": {"clip": True}},
    "few": {"end": {"keep_top_k": 10, "nms_param": {"nms_threshold": 0.3, "top_k": 15}}},
}


@pytest.fixture
def written(caffe, tmp_path):
    """`written(...)`: a caffemodel with its prototxt, of two maps."""

    def write(columns=3, of_class=1, channels=3, sides=(64, 64), priors=(), end=()):
        rows = [caffe.conv("c1", "data", 8, 3, 4, 1), caffe.relu("r", "c1"), caffe.conv("c2", "c1", 8, 3, 2, 1)]
        for source in ("c1", "c2"):
            head = caffe.head(source, {**PRIORS, **dict(priors)}, 4, columns)
            head[0] = caffe.conv(f"{source}_mbox_loc", source, 16 * of_class, 3, pad=1)
            rows += head
        rows += caffe.end(["c1", "c2"], columns, **{**END, **dict(end)})
        path = caffe.both(tmp_path, caffe.weights(rows, channels=channels), rows, 64)
        text = path.with_suffix(".prototxt")
        shape = f"dim: {channels} dim: {sides[0]} dim: {sides[1]}"
        text.write_text(text.read_text().replace("dim: 3 dim: 64 dim: 64", shape))
        return path

    return write


def image_of(model):
    return np.random.default_rng(1).integers(0, 256, model.input_spec.shape).astype(np.float32)


def found_by(foreign, image):
    with torch.inference_mode():
        raw = foreign.model(torch.from_numpy(image).permute(2, 0, 1)[None])
    spec, rule = foreign.model.prior_spec, foreign.thresholds.for_postprocess()
    return raw, to_detections(raw, foreign.model.priors, variances=spec.variances, **rule)[0]


@pytest.mark.skipif(not hasattr(cv2.dnn, "readNetFromCaffe"), reason="OpenCV 5 reads no Caffe files; 4 does")
@pytest.mark.parametrize("changes", CHANGES.values(), ids=CHANGES.keys())
def test_detections_are_those_of_opencv(changes, written):
    path = written(**changes)
    foreign = import_foreign(path)
    spec = foreign.model.input_spec
    assert spec.shape == (*changes.get("sides", (64, 64)), changes.get("channels", 3))
    image = image_of(foreign.model)
    net = cv2.dnn.readNetFromCaffe(str(path.with_suffix(".prototxt")), str(path))
    prepared = (image - np.float32(spec.mean)) / np.float32(spec.std)
    net.setInput(prepared[..., ::-1].transpose(2, 0, 1)[None].copy())
    rows = net.forward("detection_out").reshape(-1, 7)
    rows = rows[np.argsort(-rows[:, 2], kind="stable")]
    _, found = found_by(foreign, image)
    assert len(rows) == len(found.scores) > 3
    assert abs(rows[:, 2] - found.scores.numpy()).max() < 1e-4
    assert abs(rows[:, 3:] - found.boxes.numpy()).max() < 1e-4
    background = changes.get("end", {}).get("background_label_id", 0)
    assert np.array_equal(rows[:, 1].astype(int) - (background == 0), found.labels.numpy())


@pytest.mark.parametrize("sides", [(64, 64), (48, 96), (96, 48)])
def test_a_grey_network_computes_what_its_layers_say(sides, written, caffe):
    """Without OpenCV: its last convolutions layer by layer, of an image that is grey, square or not."""
    path = written(channels=1, sides=sides)
    foreign = import_foreign(path)
    assert (foreign.model.input_spec.shape, foreign.model.input_spec.mean) == ((*sides, 1), (0.0,))
    assert "grey, 0 to 255, is assumed" in foreign.notes[0]
    image = image_of(foreign.model)
    raw, _ = found_by(foreign, image)
    rows = [caffe.conv("c1", "data", 8, 3, 4, 1), caffe.relu("r", "c1"), caffe.conv("c1_mbox_loc", "c1", 16, 3, pad=1)]
    wanted = caffe.compute(rows, _arrays(path), torch.from_numpy(image).permute(2, 0, 1))["c1_mbox_loc"]
    wanted = wanted[0].permute(1, 2, 0).reshape(-1, 4)
    assert (raw.offsets[0, : len(wanted)] - wanted).abs().max() < 1e-4


def _arrays(path):
    from singleshot.weights.readers.sniff import read_foreign

    return {key: value.numpy() for key, value in read_foreign(path).items()}


def test_the_box_of_the_only_class_is_taken(written):
    """Offsets of two boxes for each prior, background's and its own: those of its own remain."""
    from singleshot.weights.importing import import_checkpoint

    path = written(columns=2, of_class=2, end={"share_location": False})
    model = import_checkpoint(path)
    weight = _arrays(path)["c1_mbox_loc[0]"].reshape(4, 2, 4, 8, 3, 3)[:, 1].reshape(16, 8, 3, 3)
    assert np.array_equal(model.heads[0].location.weight.detach().numpy(), weight)


def test_variances_that_differ_go_into_the_weights(written):
    from singleshot.weights.importing import import_checkpoint

    path = written(priors={"variance": [0.1, 0.15, 0.2, 0.3]})
    model = import_checkpoint(path)
    assert model.prior_spec.variances == (0.1, 0.2)
    ratio = model.heads[0].location.weight.detach().numpy() / _arrays(path)["c1_mbox_loc[0]"]
    assert np.allclose(ratio.mean(axis=(1, 2, 3)), [1, 1.5, 1, 1.5] * 4)
