"""`singleshot detect` with a real model."""

from __future__ import annotations

import json
from pathlib import Path

import pytest


@pytest.fixture
def pictures(scenes: Path) -> list[Path]:
    return sorted((scenes / "JPEGImages").iterdir())[:5]


def test_the_same_image_gives_the_same_boxes_as_in_python_and_in_eval(model, pictures, scenes, run, tmp_path) -> None:
    import numpy as np
    import torch

    import singleshot
    from singleshot.data import open_dataset
    from singleshot.data.loader import EvalLoader
    from singleshot.training.validate import detect_all
    from singleshot.weights.checkpoint import load_checkpoint

    done = run("detect", model, *pictures, "--score-min", 0.05, "--json")
    assert done.returncode == 0, done.stderr
    images = json.loads(done.stdout)["images"]
    detector = singleshot.load(str(model), device="cpu")
    network, info = load_checkpoint(model)
    data = open_dataset(scenes, "trainval") if (scenes / "ImageSets/Main/trainval.txt").exists() else None
    assert data is not None
    for path, image in zip(pictures, images, strict=True):
        alone = detector.detect(str(path), score_min=0.05)
        assert len(image["detections"]) == len(alone)
        for row, box, score in zip(image["detections"], alone.boxes, alone.scores, strict=True):
            assert row["box"] == pytest.approx(box.tolist(), abs=0.1)
            assert row["score"] == pytest.approx(float(score), abs=1e-4)
        places = [i for i in range(len(data)) if data.names[i] == str(path)]
        if not places:
            continue
        loader = EvalLoader(data.subset(places), network.input_spec, 1, 0)
        found = next(iter(detect_all(network, loader, info.thresholds, torch.device("cpu"))))
        shown = found.scores >= 0.05
        np.testing.assert_allclose(found.boxes[shown][: len(alone)], alone.boxes, atol=0.05)


@pytest.mark.parametrize("form", ["json", "coco", "voc", "yolo", "csv"])
def test_every_form_is_written(form: str, model, pictures, run, tmp_path) -> None:
    out = tmp_path / "found"
    done = run("detect", model, *pictures, "--format", form, "--score-min", 0.05, "--out", out)
    assert done.returncode == 0, done.stderr
    assert len(list((out / "pictures").iterdir())) == 5
    assert [p for p in out.rglob("*") if p.is_file() and p.parent.name != "pictures"]


def test_one_unreadable_image_is_reported_and_skipped(model, pictures, run, tmp_path) -> None:
    bad = tmp_path / "bad one.jpg"
    bad.write_bytes(pictures[0].read_bytes()[:500])
    done = run("detect", model, pictures[0], bad, pictures[1], "--json")
    assert done.returncode == 3
    assert "bad one.jpg" in done.stderr
    assert "Traceback" not in done.stderr
    images = json.loads(done.stdout)["images"]
    assert sum("error" not in image or image["error"] is None for image in images) == 2


def test_standard_input(model, pictures, run) -> None:
    done = run("detect", model, "-", "--json", "--score-min", 0.05, stdin=pictures[0].read_bytes())
    assert done.returncode == 0, done.stderr
    assert len(json.loads(done.stdout)["images"]) == 1


def test_mistakes(model, pictures, refused, tmp_path) -> None:
    (tmp_path / "empty").mkdir()
    assert "nothing.jpg" in refused("detect", model, "nothing.jpg", cwd=tmp_path)
    assert "empty" in refused("detect", model, tmp_path / "empty")
    assert "no such file" in refused("detect", "none.safetensors", pictures[0])
    text = tmp_path / "note.txt"
    text.write_text("hello")
    assert "not a safetensors file" in refused("detect", text, pictures[0])
