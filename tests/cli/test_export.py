"""`singleshot export`, run for real on networks that nothing was trained with."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from torchvision.models.detection import ssd300_vgg16

from singleshot.models import build
from singleshot.weights.checkpoint import ModelInfo, save_checkpoint
from singleshot.weights.foreign import import_checkpoint


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
    assert "want one of torchvision" in refused("export", vgg, "--to", "tensorrt")
    assert "ends in .pth" in refused("export", vgg, "--to", "torchvision", "--out", tmp_path / "w.onnx")
    assert "no such file" in refused("export", tmp_path / "none.safetensors", "--to", "torchvision")
    line = refused("export", vgg, "--to", "amdegroot", "--out", tmp_path / "w.pth")
    assert "cats.safetensors: amdegroot/ssd.pytorch has other default boxes" in line
    assert "--to amdegroot-unclipped" in line
    assert list(tmp_path.iterdir()) == []


def test_help_shows_an_example(run) -> None:
    done = run("export", "--help")
    text = " ".join(done.stdout.replace("│", " ").split())
    assert "Example: singleshot export" in text
    assert "Other formats come later" in text
