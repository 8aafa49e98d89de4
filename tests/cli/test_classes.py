"""`--classes` of train, eval and detect on the command line."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np


def test_checkpoint_and_exported_file_find_the_same(model: Path, exported: Path, scenes: Path, run, tmp_path) -> None:
    (tmp_path / "classes.txt").write_text("star\nring,cross=other\n", encoding="utf-16")
    found = {}
    for file in (model, exported):
        options = ["--classes", tmp_path / "classes.txt", "--score-min", 0.2, "--json", "--limit", 3]
        done = run("detect", file, scenes / "JPEGImages", *options)
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
    assert "measured as star, other (ring, cross)" in done.stderr
    report = json.loads(done.stdout)
    assert [row["name"] for row in report["per_class"]] == ["star", "other"]
    assert report["classes"] == {"star": ["star"], "other": ["ring", "cross"]}


def test_train_learns_these_and_eval_of_it_knows(scenes: Path, run, tmp_path: Path) -> None:
    options = ["--epochs", 1, "--batch", 8, "--backbone-weights", "none", "--no-tensorboard"]
    done = run("train", scenes, "--out", tmp_path / "run", "--classes", "ring,star=shape", *options)
    assert done.returncode == 0, done.stderr
    assert "classes: shape (ring, star); left out: " in done.stderr
    assert ", 1 classes;" in done.stderr
    done = run("eval", tmp_path / "run/last.safetensors", scenes)
    assert done.returncode == 0, done.stderr
    assert "measured as shape (ring, star)" in done.stderr


def test_mistakes(exported: Path, scenes: Path, refused, tmp_path: Path) -> None:
    for words in (["train", scenes], ["eval", exported, scenes], ["detect", exported, scenes / "JPEGImages"]):
        for given, says in (
            ("stra", "did you mean star?"),
            ("star,star", "names 'star' twice"),
            ("star,,ring", "an empty name"),
            ("", "names no class"),
            ("star=", "want OLD,OLD=NEW"),
            ("lists/none.txt", "no such file"),
        ):
            assert says in refused(*words, "--classes", given, cwd=tmp_path)
    assert not list(tmp_path.iterdir())
