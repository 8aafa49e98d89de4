"""`detect` and `eval` of exported files, through their engines."""

from __future__ import annotations

import json

import numpy as np
import pytest


@pytest.mark.parametrize("engine", ["openvino", "onnxruntime"])
def test_eval_of_the_exported_file_is_that_of_the_checkpoint(engine: str, exported, model, scenes, run) -> None:
    pytest.importorskip(engine)
    reports = []
    for path, options in ((model, ()), (exported, ("--engine", engine, "--batch", 3, "--threads", 1))):
        done = run("eval", path, scenes, "--split", "test", "--json", *options)
        assert done.returncode == 0, done.stderr
        reports.append(json.loads(done.stdout))
    assert reports[0]["mean_ap"] > 0
    assert reports[1]["mean_ap"] == pytest.approx(reports[0]["mean_ap"], abs=5e-4)
    assert reports[1]["images"] == reports[0]["images"]


def test_detect_finds_the_same(exported, model, scenes, run, tmp_path) -> None:
    pictures = sorted((scenes / "JPEGImages").iterdir())[:5]
    found = {}
    for name, path, options in (
        ("torch", model, ()),
        ("openvino", exported, ("--engine", "openvino", "--threads", 1)),
        ("onnxruntime", exported, ("--engine", "onnxruntime", "--batch", 2)),
        ("float32", exported, ("--precision", "float32")),
    ):
        done = run("detect", path, *pictures, "--score-min", 0.05, "--json", *options)
        assert done.returncode == 0, done.stderr
        images = json.loads(done.stdout)["images"]
        found[name] = [{**row, "image": i} for i, image in enumerate(images) for row in image["detections"]]
    assert found["torch"]

    def same(row: dict, other: dict) -> bool:
        close = abs(row["score"] - other["score"]) < 1e-3 and np.abs(np.subtract(row["box"], other["box"])).max() < 0.5
        return row["name"] == other["name"] and row["image"] == other["image"] and bool(close)

    # A short training gives many scores that are nearly tied: their order, and one at the limit, may differ.
    for name in ("openvino", "onnxruntime", "float32"):
        assert len(found[name]) == pytest.approx(len(found["torch"]), rel=0.02)
        for rows, others in ((found[name], found["torch"]), (found["torch"], found[name])):
            assert sum(any(same(row, other) for other in others) for row in rows) >= 0.98 * len(rows)


def test_mistakes(exported, model, scenes, refused) -> None:
    picture = next((scenes / "JPEGImages").iterdir())
    assert "want one of openvino, onnxruntime, litert, torch, auto" in refused(
        "detect", exported, picture, "--engine", "tf"
    )
    assert "`singleshot export`" in refused("detect", model, picture, "--engine", "openvino")
    assert "precision double" in refused("detect", exported, picture, "--precision", "double")
    assert "for exported files" in refused("eval", model, scenes, "--engine", "onnxruntime")
    assert "has them built in" in refused("eval", exported, scenes, "--nms-iou", 0.5)
    assert "no such file" in refused("eval", "none.onnx", scenes)
