"""What a run's folder says, whole or damaged."""

from __future__ import annotations

import json
import shlex
from pathlib import Path

import pytest

from singleshot.errors import ConfigError
from singleshot.report.compare import compare_sections, run_names
from singleshot.report.page import render_page
from singleshot.report.run_files import read_run, train_command

LOG = "epoch,step,seconds,lr,loss,val_map50\n0,5,1.5,0.1,3.0,\n1,10,3.0,0.05,2.0,0.5\n2,15,4.5,nan,1.5,0.25\n"


def write_run(folder: Path, options=None, evaluation=None, log: str | None = LOG, recipe=None) -> Path:
    folder.mkdir(parents=True)
    content = {"options": {"data": "d", **(options or {})}, "recipe": recipe or {"lr": 0.1}}
    (folder / "run.json").write_text(json.dumps(content))
    if log is not None:
        (folder / "log.csv").write_text(log)
    if evaluation is not None:
        (folder / "eval.json").write_text(json.dumps(evaluation))
    return folder


def test_reads_a_run(tmp_path) -> None:
    run = read_run(write_run(tmp_path / "a", evaluation={"mean_ap": 0.5}))
    assert [row["epoch"] for row in run.history] == [0, 1, 2]
    assert run.history[0]["val_map50"] is None  # not 0
    assert run.history[2]["lr"] is None
    assert run.best_map == 0.5
    assert run.evaluation == {"mean_ap": 0.5}


def test_a_run_that_has_just_begun(tmp_path) -> None:
    run = read_run(write_run(tmp_path / "a", log=None))
    assert run.history == ()
    assert run.best_map is None
    assert run.evaluation is None


@pytest.mark.parametrize(
    ("name", "content"),
    [("run.json", ""), ("run.json", "[]"), ("run.json", "{}"), ("run.json", "[" * 5000), ("eval.json", "{"),
     ("eval.json", "3")],
)  # fmt: skip
def test_damaged_files_are_one_line_that_names_them(tmp_path, name: str, content: str) -> None:
    folder = write_run(tmp_path / "a", evaluation={})
    (folder / name).write_text(content)
    with pytest.raises(ConfigError, match=name) as caught:
        read_run(folder)
    assert "\n" not in str(caught.value)


def test_a_folder_without_a_run(tmp_path) -> None:
    with pytest.raises(ConfigError, match=r"no run, run\.json is not there"):
        read_run(tmp_path)


def test_the_command_has_the_options_of_the_run() -> None:
    options = {"data": "my data", "time": "5m", "val_every": 1, "grey": True, "clip_boxes": False, "lr": None,
               "fit_priors": False, "size": [288, 512],
               "classes": {"cat": ["cat"], "vehicle": ["car", "truck"]}}  # fmt: skip
    words = shlex.split(train_command(options))
    assert words == ["singleshot", "train", "my data", "--time", "5m", "--grey", "--no-fit-priors", "--size", "288x512",
                     "--classes", "cat,car=vehicle,truck=vehicle"]  # fmt: skip
    started = shlex.split(train_command({"data": "d", "start": "a.onnx", "backbone_weights": "auto"}))
    assert started == ["singleshot", "train", "d", "--start", "a.onnx"]


def evaluation(ap: float | None) -> dict:
    classes = [{"name": "<b>cat</b>", "ap": ap}, {"name": "dog", "ap": None}]
    curves = {"threshold": [0, 0.5, 1], "f1": [0.1, 0.9, None], "precision": [0.1, 0.9, None], "recall": [1, 0.9, 0]}
    return {"metric": "voc", "about": "8 images", "per_class": classes, "coco": {"AP50": ap, "AP": None},
            "score_threshold": 0.435, "mean_curves": curves, "run": {"parameters": 123456, "gflops": 2.5}}  # fmt: skip


def test_runs_are_compared_by_name(tmp_path) -> None:
    folders = [
        write_run(
            tmp_path / "x" / "run", {"epochs": 3, "seed": 0}, evaluation(0.625), recipe={"lr": 0.1, "loss": "caffe"}
        ),
        write_run(tmp_path / "y" / "run", {"epochs": 9, "seed": 0}, recipe={"lr": 0.2}),
        write_run(tmp_path / "z", {"epochs": 3, "seed": 0}, log=None),
    ]
    runs = [read_run(folder) for folder in folders]
    assert run_names(runs) == ["x/run", "y/run", f"{tmp_path.name}/z"]
    sections = {one.anchor: str(one.body) for one in compare_sections(runs)}
    assert "0.625" in sections["figures"]
    assert "123456" in sections["figures"]
    assert "&lt;b&gt;cat&lt;/b&gt;" in sections["classes"]
    assert "epochs" in sections["settings"]
    assert "recipe: lr" in sections["settings"]
    assert "seed" not in sections["settings"]  # the same in all
    assert "loss" not in sections["settings"]  # of two it is not known
    assert f"{tmp_path.name}/z (not measured)" in sections["course"]
    assert "<b>cat" not in render_page("t", "s", [], compare_sections(runs))


def test_what_a_file_says_may_be_anything(tmp_path) -> None:
    odd = {"metric": 3, "about": ["x"], "per_class": [3, {"name": None, "ap": "x"}], "coco": [1], "run": "x",
           "mean_curves": {"threshold": [1, "a"], "f1": "no"}, "score_threshold": {}}  # fmt: skip
    runs = [read_run(write_run(tmp_path / "a", {"x": {"y": [None]}}, odd, log="epoch,loss\nx,1\n2\n1,2,3,4\n"))]
    assert render_page("t", "s", [], compare_sections(runs * 2))
