"""A model that was trained by a loss of sigmoids is evaluated, saved, exported and run by sigmoids."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import singleshot
from singleshot.datasets import open_dataset
from singleshot.weights.checkpoint import read_info

RECIPE = """
optimizer = "adamw"
lr = 1e-4
base_batch = 4
loss = "quality-focal"
matching = "task-aligned"
box_loss = "giou"
sampling = "repeat"
repeat_threshold = 0.9
augment = "none"
warmup = 0
[class_weights]
ring = 2.0
"""


@pytest.fixture(scope="module")
def sigmoid_run(scenes: Path, tmp_path_factory) -> singleshot.Run:
    folder = tmp_path_factory.mktemp("sigmoid")
    (folder / "r.toml").write_text(RECIPE)
    return singleshot.train(
        scenes, out=folder / "run", recipe=folder / "r.toml", epochs=2, batch=4, size=128,
        backbone_weights="none", workers=0, tensorboard=False,
    )  # fmt: skip


@pytest.fixture(scope="module")
def exported(sigmoid_run: singleshot.Run, tmp_path_factory) -> Path:
    return singleshot.export(sigmoid_run.last, out=tmp_path_factory.mktemp("exported") / "m.onnx")


def found_by(path: Path, images: list[np.ndarray], **options) -> list[singleshot.Detections]:
    return [singleshot.load(path, "cpu", **options).detect(image, score_min=0.0) for image in images]


def test_evaluation_detects_by_sigmoid(sigmoid_run: singleshot.Run, scenes: Path) -> None:
    for path in (sigmoid_run.best, sigmoid_run.last):
        assert read_info(path).thresholds.activation == "sigmoid"
    again = singleshot.evaluate(sigmoid_run.last, scenes, split="val", device="cpu", workers=0)
    assert again.mean_ap == pytest.approx(sigmoid_run.history[-1]["val_map50"], abs=1e-6)
    # Of improbable classes: a softmax over logits near -4.6 and a background that is not trained would say otherwise.
    (found,) = found_by(sigmoid_run.last, [open_dataset(scenes, "val").sample(0).image])
    assert len(found) > 0
    assert found.scores.max() < 0.5


@pytest.mark.slow
@pytest.mark.parametrize("engine", ["openvino", "onnxruntime"])
def test_boxes_of_the_exported_file_are_pytorchs(
    sigmoid_run: singleshot.Run, exported: Path, scenes: Path, engine: str
) -> None:
    pytest.importorskip(engine)
    data = open_dataset(scenes, "val")
    images = [data.sample(i).image for i in range(2)]
    ours, theirs = found_by(sigmoid_run.last, images), found_by(exported, images, engine=engine)
    for a, b in zip(ours, theirs, strict=True):
        assert len(a) == len(b) > 0
        order_a, order_b = (np.lexsort((one.boxes[:, 0].round(1), -one.scores.round(4))) for one in (a, b))
        assert np.abs(a.scores[order_a] - b.scores[order_b]).max() < 1e-3
        near = np.abs(a.boxes[:, None] - b.boxes[None]).max(-1) < 0.1
        same = (a.labels[:, None] == b.labels[None]) & (np.abs(a.scores[:, None] - b.scores[None]) < 1e-4)
        assert (near & same).any(1).all()


@pytest.mark.slow
def test_going_on_and_starting_from_it(sigmoid_run: singleshot.Run, scenes: Path, tmp_path: Path, caplog) -> None:
    """Resumed it stays as it is; a softmax recipe makes a softmax model of it, a sigmoid one keeps what it knows."""
    common = {"epochs": 1, "batch": 4, "workers": 0, "tensorboard": False, "start": str(sigmoid_run.last)}
    soft = singleshot.train(scenes, out=tmp_path / "soft", val_split="none", **common)
    assert read_info(soft.last).thresholds.activation == "softmax"
    more = singleshot.train(resume=True, out=sigmoid_run.folder, epochs=3, workers=0, tensorboard=False)
    assert read_info(more.last).thresholds.activation == "sigmoid"
    assert more.epochs == 3


@pytest.mark.slow
def test_int8_goes_by_sigmoid_too(sigmoid_run: singleshot.Run, scenes: Path, tmp_path: Path) -> None:
    pytest.importorskip("nncf")
    path = singleshot.export(sigmoid_run.last, out=tmp_path / "m.onnx", int8=str(scenes))
    data = open_dataset(scenes, "val")
    (ours,), (theirs,) = (found_by(p, [data.sample(0).image]) for p in (sigmoid_run.last, path))
    assert len(theirs) > 0
    assert abs(float(ours.scores.max() - theirs.scores.max())) < 0.05


def test_the_classes_of_a_new_head_start_improbable(sigmoid_run: singleshot.Run, scenes: Path, tmp_path: Path) -> None:
    from singleshot.weights.initial_weights import start_from_checkpoint
    from singleshot.weights.open_model import open_model

    old, info = open_model(sigmoid_run.last)
    model, *_ = start_from_checkpoint(str(sigmoid_run.last), (info.class_names[1], "novel"), class_bias=-4.5)
    for head, before in zip(model.heads, old.heads, strict=True):
        bias, known = (h.confidence.state_dict() for h in (head, before))
        key = list(bias)[-1]
        rows, had = bias[key].view(-1, 3), known[key].view(-1, len(info.class_names) + 1)
        assert (rows[:, 2] == -4.5).all()
        assert (rows[:, 1] == had[:, 2]).all()
