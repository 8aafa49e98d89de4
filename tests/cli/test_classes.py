"""`--classes` of train, eval and detect on the command line."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np

import singleshot


def test_checkpoint_and_exported_file_find_the_same(model: Path, exported: Path, scenes: Path, run, tmp_path) -> None:
    (tmp_path / "classes.txt").write_text("star\nring,cross=other\n", encoding="utf-16")
    image = next((scenes / "JPEGImages").iterdir())
    scores = singleshot.load(model, "cpu").detect(image, score_min=0.0).scores
    least = float(scores[50] + scores[51]) / 2  # more, and the file's own limit of 200 boxes would show
    found = {}
    for file in (model, exported):
        options = ["--classes", tmp_path / "classes.txt", "--score-min", least, "--json"]
        done = run("detect", file, image, *options)
        assert done.returncode == 0, done.stderr
        found[file] = json.loads(done.stdout)
        assert found[file]["classes"] == ["star", "other"]
    for one, other in zip(found[model]["images"], found[exported]["images"], strict=True):
        assert [row["name"] for row in one["detections"]] == [row["name"] for row in other["detections"]]
        assert {row["name"] for row in one["detections"]} <= {"star", "other"}
        boxes = [[row["box"] for row in image["detections"]] for image in (one, other)]
        np.testing.assert_allclose(*boxes, atol=0.5)


def test_eval_measures_these_and_says_what_is_missing(exported: Path, scenes: Path, run) -> None:
    done = run("eval", exported, scenes, "--classes", "star", "--classes", "ring,cross=other", "--json")
    assert done.returncode == 0, done.stderr
    assert "measured as star, other (cross, ring)" in done.stderr
    report = json.loads(done.stdout)
    assert [row["name"] for row in report["per_class"]] == ["star", "other"]
    assert report["classes"] == {"star": ["star"], "other": ["cross", "ring"]}


def test_train_learns_these_and_eval_of_it_knows(few: Path, run, tmp_path: Path) -> None:
    options = ["--epochs", 1, "--batch", 8, "--backbone-weights", "none", "--no-tensorboard"]
    done = run("train", few, "--out", tmp_path / "run", "--classes", "ring,star=shape", *options)
    assert done.returncode == 0, done.stderr
    assert "classes: shape (ring, star); left out: " in done.stderr
    assert ", 1 class;" in done.stderr
    done = run("eval", tmp_path / "run/last.safetensors", few)
    assert done.returncode == 0, done.stderr
    assert "measured as shape (ring, star)" in done.stderr


def test_mistakes(exported: Path, scenes: Path, refused, tmp_path: Path) -> None:
    for words, given, says in (
        (["train", scenes], "stra", "did you mean star?"),
        (["train", scenes], "star,star", "names 'star' twice"),
        (["eval", exported, scenes], "lists/none.txt", "no such file"),
        (["detect", exported, scenes / "JPEGImages"], "Star", "did you mean star?"),
        (["detect", exported, scenes / "JPEGImages"], "", "names no class"),
    ):
        assert says in refused(*words, "--classes", given, cwd=tmp_path)
    assert not list(tmp_path.iterdir())
