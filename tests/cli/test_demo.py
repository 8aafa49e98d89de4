"""`singleshot demo`, shortened."""

from __future__ import annotations

import json
from pathlib import Path


def test_the_demo_does_the_whole_job_and_says_what_to_type_next(few: Path, run, tmp_path: Path) -> None:
    done = run("demo", few, "--time", "2s", "--out", tmp_path / "demo")
    assert done.returncode == 0, done.stderr
    folder = tmp_path / "demo" / "run-1"
    for word in ("mAP50", str(folder / "best.safetensors"), "singleshot train", "singleshot detect"):
        assert word in done.stdout
    results = json.loads((folder / "detections" / "results.json").read_text())
    pictures = sorted((folder / "detections" / "pictures").iterdir())
    assert len(results["images"]) == len(pictures) == 4
    report = json.loads((folder / "eval.json").read_text())
    assert report["split"] == "test"
    assert report["images"] == 4
    assert (folder / "curves.png").exists()
    assert (folder / "log.csv").exists()


def test_data_without_an_unseen_split_is_refused_before_training(scenes: Path, refused, tmp_path: Path) -> None:
    import shutil

    data = tmp_path / "data"
    shutil.copytree(scenes, data)
    for name in ("test", "val", "trainval"):
        (data / "ImageSets" / "Main" / f"{name}.txt").unlink()
    assert "no split test or val" in refused("demo", data, "--time", "8s", "--out", tmp_path / "demo")
    assert not (tmp_path / "demo").exists()


def test_where_no_object_counts_there_is_no_figure() -> None:
    from singleshot.cli.demo import _score
    from singleshot.metrics import evaluate

    nothing = evaluate([], [], "voc", ["cat"])
    assert _score(nothing) == "nothing to measure (no mAP50): no object counts"
    found, truth = ([[0, 0, 9, 9]], [0.9], [0]), ([[0, 0, 9, 9]], [0])
    assert _score(evaluate([found], [truth], "voc", ["cat"])) == "mAP50 1.0000"  # type: ignore[list-item]
