"""`singleshot priors fit` as the real command, and what takes its file."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

import singleshot
from singleshot.cli.priors import fit_lines
from singleshot.datasets.statistics import Part
from singleshot.prior_files import read_priors


@pytest.fixture(scope="module")
def written(run, scenes, tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("priors") / "priors.json"
    done = run("priors", "fit", scenes, "--out", out)
    assert done.returncode == 0, done.stderr
    for words in (
        "split train",
        "split test",
        "class star",
        "medium (COCO)",
        "side 32-64 px, 10.0% to 20.0% of the input",
    ):
        assert words in done.stdout, words
    assert "9624 priors before, " in done.stdout
    assert f"written: {out}, {out.with_suffix('.png')}" in done.stderr
    assert f"--priors {out}" in done.stderr
    return out


def test_the_picture_and_the_table(run, written):
    assert sorted(path.name for path in written.parent.iterdir()) == ["priors.json", "priors.png"]
    assert written.with_suffix(".png").read_bytes().startswith(b"\x89PNG")
    table = read_priors(str(written))
    assert table.count <= 9624
    done = run("priors", "show", written, "--json")
    shown = json.loads(done.stdout)
    assert (shown["count"], tuple(shown["maps"])) == (table.count, table.maps)


def test_json_says_the_same_each_time(run, scenes, written):
    first, second = (run("priors", "fit", scenes, "--json") for _ in range(2))
    assert first.stdout == second.stdout
    report = json.loads(first.stdout)
    assert report["splits"][0]["name"] == "train"
    assert {part["name"] for part in report["splits"][0]["after"]["classes"]} == {"star", "leaf", "ring", "cross"}
    assert report["count"] == read_priors(str(written)).count <= report["max_priors"] == 9624


def test_another_model_bound_and_split(run, scenes):
    words = "--model", "ssdlite320-mobilenetv2", "--max-priors", 1200, "--split", "val", "--resize", "letterbox"
    report = json.loads(run("priors", "fit", scenes, *words, "--json").stdout)
    assert report["count"] <= 1200
    assert (report["split"], report["input"]["resize"]) == ("val", "letterbox")


def test_another_input(run, scenes, tmp_path):
    """The boxes of a wide input are those that `train --size` would fit, and its training takes the file."""
    out = tmp_path / "wide.json"
    done = run(
        "priors", "fit", scenes, "--model", "ssd320-mini", "--size", "96x160", "--resize", "letterbox", "--out", out
    )
    assert done.returncode == 0, done.stderr
    assert "input 96 x 160 px, letterbox" in done.stdout
    assert "--model ssd320-mini --size 96x160 --resize letterbox --priors" in done.stderr
    table = read_priors(str(out))
    assert table.image == (96, 160)
    trained = run(
        "train", scenes, "--model", "ssd320-mini", "--size", "96x160", "--resize", "letterbox", "--priors", out,
        "--time", "1s", "--batch", 2, "--out", tmp_path / "run",
    )  # fmt: skip
    assert trained.returncode == 0, trained.stderr
    assert read_priors(str(tmp_path / "run" / "priors.json")) == table


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--max-priors", 5], "--max-priors 5: want at least 2139, one of each cell"),
        (["--model", "ssd320-minni"], "did you mean ssd320-mini?"),
        (["--split", "none"], "no split 'none' (there are: "),
        (["--out", "priors.txt"], "want a name that ends in .json"),
        (["--resize", "crop"], "want one of stretch, letterbox"),
        (["--size", "auto"], "--size auto: is chosen by train"),
        (["--size", "288by512"], "--size '288by512': want 512, 288x512"),
        (["--size", "64x512", "--model", "ssd300-vgg16"], "is too small for its layers"),
        (["--classes", "stra"], "stra"),
    ],
)
def test_refused(refused, scenes, tmp_path, words, message):
    assert message in refused("priors", "fit", scenes, *words, cwd=tmp_path)
    assert not list(tmp_path.iterdir())


def test_a_split_without_objects(refused, tmp_path, write_voc, voc_xml):
    folder = write_voc(
        tmp_path / "voc", {"a": voc_xml(), "b": voc_xml([("cat", (1, 1, 30, 30))])}, {"train": ["a"], "val": ["b"]}
    )
    assert "(train): no object to fit default boxes to" in refused("priors", "fit", folder)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--priors", "ssd300-voc"], "--priors ssd300-voc: for an input of 300 px with maps of (38, 19, 10, 5, 3, 1)"),
        (["--priors", "none.json"], "--priors none.json: no such priors file"),
        (["--priors", "broken.json"], "want a table as `singleshot priors show ssd300-voc --json` prints it"),
        (["--priors", "ssdlite320-fine", "--fit-priors"], "exclude each other"),
    ],
)
def test_train_refuses_what_is_not_for_the_model(refused, scenes, tmp_path, words, message):
    (tmp_path / "broken.json").write_text("[1]")
    assert message in refused("train", scenes, "--backbone-weights", "none", *words, "--out", "run", cwd=tmp_path)
    assert not (tmp_path / "run").exists()


def test_train_takes_the_file(run, few, written, tmp_path):
    words = (
        "--backbone-weights",
        "none",
        "--epochs",
        1,
        "--batch",
        8,
        "--workers",
        0,
        "--no-tensorboard",
        "--val-split",
        "none",
    )
    done = run("train", few, *words, "--priors", written, "--out", tmp_path / "run")
    assert done.returncode == 0, done.stderr
    assert read_priors(str(tmp_path / "run" / "priors.json")) == read_priors(str(written))


def test_many_classes_are_cut_short(scenes):
    found = singleshot.fit_priors(scenes, split="val", max_priors=2139)
    (first, *_) = found.splits
    many = [replace(cover, classes=tuple(Part(f"c{k}", 5, 1.0, 0.7) for k in range(30))) for cover in first[1:]]
    lines = fit_lines(replace(found, splits=(first._replace(before=many[0], after=many[1]),)))
    assert sum(line.startswith("class ") for line in lines) == 24
    assert "... 6 classes more (--json)" in lines
