"""`singleshot eval`, `priors` and the help texts, run for real."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

COMMANDS = [["train"], ["eval"], ["detect"], ["explain"], ["demo"], ["priors", "show"]]


@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
def test_help_shows_an_example(command: list[str], run) -> None:
    done = run(*command, "--help")
    assert done.returncode == 0
    assert f"singleshot {' '.join(command)}" in " ".join(done.stdout.replace("│", " ").split())
    assert "Example" in done.stdout


def test_version(run) -> None:
    import singleshot

    assert run("--version").stdout.strip() == f"singleshot {singleshot.__version__}"


def test_the_figure_of_the_training_is_what_eval_finds(model: Path, scenes: Path, trained: Path, run, tmp_path) -> None:
    done = run("eval", model, scenes, "--split", "val", "--json", "--out", tmp_path / "report")
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    from singleshot.weights.checkpoint import read_info

    assert report["mean_ap"] == pytest.approx(read_info(model).metrics["val_map50"], abs=1e-4)
    assert report["images"] == 8
    assert set(report["errors"]["gains"]) > set(report["errors"]["counts"]) == set(report["errors"]["by_class"]["ring"])
    assert sum(one["objects"] for one in report["errors"]["by_size"][:3]) == sum(
        c["truths"] for c in report["per_class"]
    )
    assert json.loads((tmp_path / "report" / "eval.json").read_text())["mean_ap"] == report["mean_ap"]
    assert (tmp_path / "report" / "curves.png").read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"
    table = run("eval", model, scenes, "--split", "val").stdout
    assert "errors at IoU 0.5" in table and "objects found: under 32 px" in table


@pytest.mark.parametrize("metric", ["voc07", "coco"])
def test_metrics(metric: str, model: Path, scenes: Path, run) -> None:
    done = run("eval", model, scenes, "--split", "test", "--metric", metric)
    assert done.returncode == 0, done.stderr
    assert all(name in done.stdout for name in ("cross", "leaf", "ring", "star"))


def test_another_codebase_s_rule(model: Path, scenes: Path, run, refused) -> None:
    figures = {}
    for rule in ("caffe", "bubbliiiing-predict"):
        done = run("eval", model, scenes, "--split", "test", "--json", "--rule", rule)
        assert done.returncode == 0, done.stderr
        figures[rule] = json.loads(done.stdout)["mean_ap"]
    assert figures["bubbliiiing-predict"] < figures["caffe"]  # only what is over .5
    line = refused("eval", "not-even-there", scenes, "--rule", "torchvison")
    assert "want one of caffe, " in line
    assert "did you mean torchvision?" in line


def test_mistakes(model: Path, scenes: Path, shared: Path, refused, tmp_path: Path) -> None:
    assert "want one of voc07" in refused("eval", model, scenes, "--metric", "map")
    assert "no such file" in refused("eval", "none.safetensors", scenes)
    assert "testing" in refused("eval", model, scenes, "--split", "testing")
    assert "want a folder" in refused("eval", model, scenes, "--out", tmp_path / "report.html")
    assert not (tmp_path / "report.html").exists()
    other = tmp_path / "other.safetensors"
    other.write_bytes(b"PK\x03\x04 something else")
    assert "not a safetensors file" in refused("eval", other, scenes)
    # A class that is not in the model.
    line = refused("eval", model, shared / "data" / "bccd", "--split", "test")
    assert "RBC" in line or "Platelets" in line or "WBC" in line


def test_priors_show(run) -> None:
    done = run("priors", "show", "--json")
    models = json.loads(done.stdout)["models"]
    assert models["ssd300-vgg16"]["count"] == 8732
    assert models["ssd512-vgg16"]["count"] == 24564
    assert "42.4x21.2" in run("priors", "show", "ssd300-voc").stdout
    assert run("priors", "show", "ssd299").returncode == 2
    table = run("priors", "show", "ssdlite320-fine").stdout
    assert run("priors", "show", "singleshot-n").stdout == table  # a model's name stands for its table
