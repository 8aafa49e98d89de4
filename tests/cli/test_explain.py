"""`singleshot explain`, run for real."""

from __future__ import annotations

import json
from pathlib import Path

import pytest


@pytest.fixture(scope="module")
def photo(scenes: Path) -> Path:
    name = (scenes / "ImageSets/Main/test.txt").read_text().split()[0]
    return next((scenes / "JPEGImages").glob(f"{name}.*"))


def test_says_and_draws_why(model: Path, scenes: Path, photo: Path, run, tmp_path: Path) -> None:
    out = tmp_path / "why.png"
    done = run("explain", model, photo, "--labels", scenes, "--score-min", 0.15, "--gradients", 1, "--out", out)
    assert done.returncode == 0, done.stderr
    assert out.read_bytes().startswith(b"\x89PNG")
    assert done.stderr == f"written: {out}\n"
    assert "default box" in done.stdout and " px by its layers, " in done.stdout
    assert "missed" in done.stdout and "it appears" in done.stdout
    assert "loss caffe: of the checkpoint" in done.stdout


def test_as_json_it_has_the_detections_of_detect(model: Path, photo: Path, run) -> None:
    done = run("explain", model, photo, "--score-min", 0.15, "--gradients", 0, "--json")
    assert (done.returncode, done.stderr) == (0, "")
    ours = json.loads(done.stdout)
    found = json.loads(run("detect", model, photo, "--score-min", 0.15, "--json").stdout)["images"][0]["detections"]
    assert len(found) > 0
    assert [round(one["score"], 6) for one in ours["detections"]] == [one["score"] for one in found]
    for one, other in zip(ours["detections"], found, strict=True):
        assert one["box"] == pytest.approx(other["box"], abs=1e-3)
        assert one["name"] == other["name"]
        assert {"place", "offsets", "scores", "runners_up", "field"} <= one["origin"].keys()


def test_an_exported_file_says_what_it_cannot(exported: Path, scenes: Path, photo: Path, run) -> None:
    done = run("explain", exported, photo, "--labels", scenes)
    assert done.returncode == 0, done.stderr
    assert "note: " in done.stdout and "give the checkpoint" in done.stdout


def test_mistakes(model: Path, scenes: Path, photo: Path, refused, tmp_path: Path) -> None:
    assert "no such image file" in refused("explain", model, tmp_path / "none.jpg")
    assert "a folder; want one image file" in refused("explain", model, scenes)
    assert "is not in" in refused("explain", model, scenes.parent / "other.jpg", "--labels", scenes)
    assert "want a name that ends in .png or .jpg" in refused("explain", model, photo, "--out", tmp_path / "a.gif")
    assert "want 0 to 1" in refused("explain", model, photo, "--score-min", 2)
    assert "--tile" in refused("explain", model, photo, "--tile", 320)
    assert "want one of caffe" in refused("explain", model, photo, "--rule", "none")
    text = tmp_path / "text.jpg"
    text.write_text("no image")
    assert "text.jpg" in refused("explain", model, text)
