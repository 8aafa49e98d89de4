"""`singleshot export`, run for real on networks that nothing was trained with."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from torchvision.models.detection import ssd300_vgg16

from singleshot.models import build
from singleshot.weights.checkpoint import ModelInfo, save_checkpoint
from singleshot.weights.importing import import_checkpoint


@pytest.fixture(scope="module")
def vgg(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("models") / "cats.safetensors"
    model = build("ssd300-vgg16", 2)
    save_checkpoint(path, model.state_dict(), ModelInfo.of(model, ("cat", "dog")))
    return path


def test_torchvision_loads_what_it_writes(vgg: Path, run, tmp_path: Path) -> None:
    done = run("export", vgg, "--to", "torchvision", "--out", tmp_path / "w.pth", "--json")
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    assert (report["out"], report["tensors"], report["classes"]) == (str(tmp_path / "w.pth"), 71, ["cat", "dog"])
    assert report["bytes"] == (tmp_path / "w.pth").stat().st_size
    assert "num_classes=3" in report["loaded_by"]
    with torch.device("meta"):
        theirs = ssd300_vgg16(weights=None, weights_backbone=None, num_classes=3)
    theirs.load_state_dict(torch.load(tmp_path / "w.pth", weights_only=True), strict=True, assign=True)
    # What is there already stays.
    again = run("export", vgg, "--to", "torchvision", "--out", tmp_path / "w.pth")
    assert again.returncode == 2
    assert "is there already" in again.stderr


def test_amdegroot_by_its_usual_name_and_back(vgg: Path, run, tmp_path: Path) -> None:
    done = run("export", vgg, "--to", "amdegroot-unclipped", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stdout == "written: cats-amdegroot-unclipped.pth\n"
    assert "'clip': False" in done.stderr
    assert "1 cat, 2 dog" in done.stderr
    state = torch.load(tmp_path / "cats-amdegroot-unclipped.pth", weights_only=True)
    assert import_checkpoint(state, source="amdegroot").num_classes == 2
    # A checkpoint of another project is as good a model: this one becomes amdegroot's own.
    done = run("export", tmp_path / "cats-amdegroot-unclipped.pth", "--to", "amdegroot", "--quiet", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    own = torch.load(tmp_path / "cats-amdegroot-unclipped-amdegroot.pth", weights_only=True)
    assert all(torch.equal(own[key], state[key]) for key in state)


def test_mistakes(vgg: Path, refused, tmp_path: Path) -> None:
    assert "want one of onnx, openvino, torch, tflite, torchvision" in refused("export", vgg, "--to", "tensorrt")
    assert "--raw has no meaning" in refused("export", vgg, "--to", "torchvision", "--raw")
    assert "ends in .pth" in refused("export", vgg, "--to", "torchvision", "--out", tmp_path / "w.onnx")
    assert "no such file" in refused("export", tmp_path / "none.safetensors", "--to", "torchvision")
    line = refused("export", vgg, "--to", "amdegroot", "--out", tmp_path / "w.pth")
    assert "cats.safetensors: amdegroot/ssd.pytorch has other default boxes" in line
    assert "--to amdegroot-unclipped" in line
    assert list(tmp_path.iterdir()) == []


# ------------------------------------------------------------------------------------------------------ for engines


def test_one_file_that_is_checked(exported: Path, export_report) -> None:
    report = export_report
    assert report["files"] == [str(exported)]
    assert (report["outputs"], report["precision"], report["to"]) == ("detections", "float32", "onnx")
    assert report["bytes"] == exported.stat().st_size
    assert report["classes"] == ["cross", "leaf", "ring", "star"]
    pytorch, *engines = report["engines"]
    assert pytorch["engine"] == "pytorch"
    assert [row["engine"] for row in engines] == ["openvino", "onnxruntime"]
    for row in engines:
        assert row["agreement"]["boxes"] > 100
        assert row["agreement"]["box_px"] < 0.5
        assert row["agreement"]["score"] < 0.001
        assert row["ms_per_image"] > 0


def test_a_table_for_people_on_pictures_of_theirs(model: Path, scenes: Path, run, tmp_path: Path) -> None:
    done = run("export", model, "--to", "openvino", "--images", scenes, "--batch", 3, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert lines[:2] == ["written: best.xml", "written: best.bin"]
    assert lines[2].split() == ["engine", "MB", "ms/image", "boxes", "box", "px", "score"]
    assert [line.split()[0] for line in lines[3:5]] == ["pytorch", "openvino"]
    assert lines[5] == "largest differences from PyTorch on 8 pictures; 3 images a run"
    assert sorted(p.name for p in tmp_path.iterdir()) == ["best.bin", "best.xml"]


def test_int8(model: Path, few: Path, run, tmp_path: Path) -> None:
    pytest.importorskip("nncf")
    out = tmp_path / "small.onnx"
    done = run("export", model, "--int8", few, "--split", "train", "--out", out, "--json")
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    said = report["quantisation"]
    assert report["precision"] == "int8"
    assert said["map50_before"] - said["map50_after"] <= 0.005
    assert (said["calibration_images"], said["validation_images"], said["split"]) == (16, 16, "train")
    assert len(said["float_layers"]) <= said["layers"] // 2
    assert out.stat().st_size < model.stat().st_size / 2
    assert "calibrating on 16 images" in done.stderr


def test_mistakes_of_exports(model: Path, scenes: Path, exported: Path, refused, tmp_path: Path) -> None:
    pytest.importorskip("nncf")
    out = tmp_path / "m.onnx"
    for name, other in {"m.xml": "openvino", "m.tflite": "tflite", "m.pt2": "torch", "m.pth": "torchvision"}.items():
        said = refused("export", model, "--out", tmp_path / name)
        assert f"want a name that ends in .onnx, or --to {other}" in said
    assert "is there already" in refused("export", model, "--out", exported)
    assert "--half: goes with --to openvino" in refused("export", model, "--half", "--out", out)
    assert "want one of them" in refused("export", model, "--half", "--int8", scenes, "--to", "openvino")
    assert "its own quantisation" in refused("export", model, "--int8", scenes, "--tensorrt")
    assert "--int8 has no meaning" in refused("export", model, "--int8", scenes, "--to", "torch")
    assert "no such" in refused("export", model, "--images", tmp_path / "none", "--out", out)
    (tmp_path / "empty").mkdir()
    assert "empty" in refused("export", model, "--int8", tmp_path / "empty", "--out", out)
    (tmp_path / "other").mkdir()
    shutil.copy(next((scenes / "JPEGImages").iterdir()), tmp_path / "other" / "a.jpg")
    (tmp_path / "other" / "train.csv").write_text("file,xmin,ymin,xmax,ymax,class\na.jpg,1,1,9,9,cat\n")
    line = refused("export", model, "--int8", tmp_path / "other", "--out", out)
    assert "cat" in line
    assert "cross, leaf, ring, star" in line
    assert "no such" in refused("export", model, "--int8", tmp_path / "none", "--out", out)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["empty", "other"]


def test_help_shows_an_example(run) -> None:
    done = run("export", "--help")
    text = " ".join(done.stdout.replace("│", " ").split())
    assert "Example: singleshot export" in text
    assert "--int8 path/to/data" in text
    assert "TensorRT is not run here" in text
