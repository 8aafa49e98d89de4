"""`singleshot import` with what its file does not say."""

from __future__ import annotations

import json
from itertools import pairwise
from pathlib import Path

import pytest
import torch
from torch import nn


def _conv(inputs, outputs, kernel=3, stride=1, groups=1):
    return [nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, groups=groups, bias=False), nn.BatchNorm2d(outputs)]


def _names(classes=3):
    """Names and tensors of qfgaohao/pytorch-ssd's mb1-ssd with an eighth of its channels."""
    widths = [4, 8, 16, 16, 32, 32, 64, 64, 64, 64, 64, 64, 128, 128]
    layers = {f"base_net.0.{i}": layer for i, layer in enumerate(_conv(3, 4))}
    for i, (a, b) in enumerate(pairwise(widths), 1):
        parts = dict(zip((0, 1, 3, 4), _conv(a, a, groups=a) + _conv(a, b, 1), strict=True))
        layers |= {f"base_net.{i}.{part}": layer for part, layer in parts.items()}
    seen = [64, 128]
    for i, inner in enumerate((32, 16, 16, 16)):
        layers |= {f"extras.{i}.0": nn.Conv2d(seen[-1], inner, 1), f"extras.{i}.2": nn.Conv2d(inner, 2 * inner, 3)}
        seen.append(2 * inner)
    for i, channels in enumerate(seen):
        layers[f"classification_headers.{i}"] = nn.Conv2d(channels, 6 * (classes + 1), 3)
        layers[f"regression_headers.{i}"] = nn.Conv2d(channels, 24, 3)
    return {f"{name}.{part}": value for name, layer in layers.items() for part, value in layer.state_dict().items()}


@pytest.fixture
def checkpoint(tmp_path) -> Path:
    torch.manual_seed(0)
    torch.save(_names(), tmp_path / "mb1-ssd-Epoch-9.pth")
    return tmp_path / "mb1-ssd-Epoch-9.pth"


def read(run, *words, cwd):
    done = run("import", *words, "--json", cwd=cwd)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_a_training_of_pytorch_ssd_with_its_labels(run, checkpoint, tmp_path):
    (tmp_path / "labels.txt").write_text("BACKGROUND\ncat\ndog\ncow\n")
    done = run("import", checkpoint, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "classes 3: cat, dog, cow" in done.stdout
    assert "class names from labels.txt next to it, its background left out" in done.stdout
    assert "assumed: input 300 x 300 and default boxes ssd300-mobilenet-qfgaohao, the source's own" in done.stdout


@pytest.mark.parametrize(
    "data",
    [b"BACKGROUND\ncat\ndog\ncow\n", b"\xef\xbb\xbfcat\ndog\ncow\n\n", "cat\ndog\ncow\n".encode("utf-16")],
    ids=["background first", "mark", "utf-16"],
)
def test_lists_of_classes_as_people_have_them(run, checkpoint, tmp_path, data):
    (tmp_path / "names.txt").write_bytes(data)
    assert read(run, checkpoint, "--classes", "names.txt", cwd=tmp_path)["classes"] == ["cat", "dog", "cow"]


def test_another_resolution_and_normalisation(run, checkpoint, tmp_path):
    options = ("--size", 512, "--mean", "123,117,104", "--std", 1, "--colour-order", "bgr", "--classes", "numbered")
    report = read(run, checkpoint, *options, cwd=tmp_path)
    assert report["input"]["size"] == report["priors"]["image_size"] == 512
    assert report["priors"]["maps"] == [32, 16, 8, 4, 2, 1]
    assert report["priors"]["min_sizes"][0] == 51.2
    assert (report["input"]["mean"], report["input"]["colour_order"]) == ([123.0, 117.0, 104.0], "bgr")
    assert report["classes"] == ["class 1", "class 2", "class 3"]
    again = run("-c", f"import singleshot; print(singleshot.load({report['out']!r}).input_spec)", cwd=tmp_path)
    assert "height=512" in again.stdout, again.stderr
    assert "colour_order='bgr'" in again.stdout


def test_default_boxes_that_priors_show_prints(run, checkpoint, tmp_path):
    table = run("priors", "show", "ssd320-mobilenet-lufficc", "--json").stdout
    (tmp_path / "boxes.json").write_text(table)
    report = read(run, checkpoint, "--priors", "boxes.json", "--classes", "a,b,c", cwd=tmp_path)
    assert report["input"]["size"] == 320
    assert report["priors"]["count"] == json.loads(table)["count"]


def test_a_prefix_of_its_names_and_a_list_that_is_named(run, checkpoint, tmp_path):
    torch.save({"state_dict": {f"net.{k}": v for k, v in torch.load(checkpoint).items()}}, tmp_path / "lightning.ckpt")
    (tmp_path / "my names.md").write_text("cat\ndog\ncow\n")
    report = read(run, "lightning.ckpt", "--beside", "my names.md", cwd=tmp_path)
    assert report["classes"] == ["cat", "dog", "cow"]
    assert "prefix net. of its names left out" in report["notes"]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["FILE"], "does not name its 3 classes; give --classes a,b,... or a file, or --classes numbered"),
        (["FILE", "--size", "0"], "input size 0: want 32 to 4096"),
        (["FILE", "--priors", "ssd300-voc"], "4 6 6 6 4 4 boxes a cell, but the heads"),
        (["FILE", "--mean", "red"], "--mean red: want a number, or three as in 123,117,104"),
        (["FILE", "--std", "0.5"], "--std 127.5"),
        (["FILE", "--colour-order", "rbg"], "want one of rgb, bgr"),
        (["FILE", "--beside", "short.txt"], "--beside short.txt: 2 names, but the model has 3 classes"),
        (["FILE", "--beside", "three.txt", "--classes", "a,b,c"], "--beside three.txt names the classes, and so does"),
        (["FILE", "--classes", "short.txt"], "--classes short.txt: 2 names, but the model has 3 classes"),
        (["ssd.engine"], "a TensorRT engine"),
    ],
)
def test_what_cannot_be_honoured_is_one_line(refused, checkpoint, tmp_path, words, message):
    (tmp_path / "short.txt").write_text("cat\ndog\n")
    (tmp_path / "three.txt").write_text("cat\ndog\ncow\n")
    (tmp_path / "ssd.engine").write_bytes(b"ftrt" + bytes(99))
    assert message in refused("import", *(checkpoint if word == "FILE" else word for word in words), cwd=tmp_path)
    assert not list(tmp_path.glob("*.safetensors"))


def test_two_lists_that_differ(run, refused, checkpoint, tmp_path):
    (tmp_path / "labels.txt").write_text("cat\ndog\ncow\n")
    (tmp_path / "classes.txt").write_text("cow\ndog\ncat\n")
    assert "classes.txt and labels.txt next to it fit and differ" in refused("import", checkpoint, cwd=tmp_path)
    assert read(run, checkpoint, "--classes", "classes.txt", cwd=tmp_path)["classes"] == ["cow", "dog", "cat"]
