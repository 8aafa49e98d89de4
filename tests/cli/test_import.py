"""`singleshot import` as a user calls it."""

from __future__ import annotations

import json
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from singleshot.weights.importers import IMPORTERS

# vgg.N of amdegroot/ssd.pytorch: inputs, outputs, kernel.
VGG = {
    0: (3, 64, 3), 2: (64, 64, 3), 5: (64, 128, 3), 7: (128, 128, 3), 10: (128, 256, 3), 12: (256, 256, 3),
    14: (256, 256, 3), 17: (256, 512, 3), 19: (512, 512, 3), 21: (512, 512, 3), 24: (512, 512, 3), 26: (512, 512, 3),
    28: (512, 512, 3), 31: (512, 1024, 3), 33: (1024, 1024, 1),
}  # fmt: skip
EXTRAS = (
    (1024, 256, 1), (256, 512, 3), (512, 128, 1), (128, 256, 3), (256, 128, 1), (128, 256, 3), (256, 128, 1),
    (128, 256, 3),
)  # fmt: skip
SOURCES = ((512, 4), (1024, 6), (512, 6), (256, 6), (256, 4), (256, 4))


@pytest.fixture(scope="module")
def foreign(tmp_path_factory) -> Path:
    """A checkpoint of amdegroot/ssd.pytorch for three classes, with random weights."""
    torch.manual_seed(0)
    layers = {f"vgg.{i}": shape for i, shape in VGG.items()}
    layers |= {f"extras.{i}": shape for i, shape in enumerate(EXTRAS)}
    for i, (channels, boxes) in enumerate(SOURCES):
        layers |= {f"loc.{i}": (channels, boxes * 4, 3), f"conf.{i}": (channels, boxes * 4, 3)}  # 3 classes + 1
    state = {"L2Norm.weight": torch.full((512,), 20.0)}
    for name, (inputs, outputs, kernel) in layers.items():
        state[f"{name}.weight"] = torch.randn(outputs, inputs, kernel, kernel) * (2 / (inputs * kernel**2)) ** 0.5
        state[f"{name}.bias"] = torch.zeros(outputs)
    path = tmp_path_factory.mktemp("foreign") / "ssd300 three.pth"
    torch.save(state, path)
    return path


@pytest.fixture(scope="module")
def photo(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("photo") / "photo.png"
    assert cv2.imwrite(str(path), np.random.default_rng(0).integers(0, 256, (90, 120, 3), np.uint8))
    return path


def test_says_what_it_was_and_tries_it(run, foreign, photo, tmp_path):
    done = run("import", foreign, "--classes", "cat,dog,cow", "--image", photo, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "amdegroot/ssd.pytorch SSD300 on VGG16" in done.stdout
    assert "300 x 300, stretch, RGB, mean 123 117 104" in done.stdout
    assert "8732 on maps of 38 19 10 5 3 1, clip center" in done.stdout
    assert "classes 3: cat, dog, cow" in done.stdout
    assert "raw outputs differ by 0 at most" in done.stderr
    assert cv2.imread(str(tmp_path / "ssd300 three.jpg")).shape == (90, 120, 3)
    written = tmp_path / "ssd300 three.safetensors"
    assert written.is_file()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["ssd300 three.jpg", "ssd300 three.safetensors"]
    # What was written is a model like any other, and the file itself may be used in its place.
    mine, theirs = (
        json.loads(run("detect", model, photo, "--json", "--score-min", 0, cwd=tmp_path).stdout)
        for model in (written, foreign)
    )
    scores = [[thing["score"] for thing in told["images"][0]["detections"]] for told in (mine, theirs)]
    assert scores[0] == scores[1]
    assert scores[0]
    assert "is there already" in run("import", foreign, "--classes", "cat,dog,cow", cwd=tmp_path).stderr


def test_a_list_in_another_encoding_is_refused(refused, foreign, tmp_path):
    (tmp_path / "labels.txt").write_bytes("cat\ndög\ncow\n".encode("cp1252"))
    assert "labels.txt:2: is not UTF-8" in refused("import", foreign, "--classes", tmp_path / "labels.txt")


def test_json_and_a_list_of_classes(run, foreign, tmp_path):
    names = tmp_path / "names.txt"
    names.write_text("cat\ndog\n\ncow\n")
    done = run("import", foreign, "--classes", names, "--out", tmp_path / "new" / "m.safetensors", "--json")
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    assert told["classes"] == ["cat", "dog", "cow"]
    assert told["priors"]["count"] == 8732
    assert told["thresholds"]["nms_iou"] == 0.45
    assert (tmp_path / "new" / "m.safetensors").is_file()


def test_lists_what_is_known(run):
    assert any(line.startswith("amdegroot ") for line in run("import", "--list").stdout.splitlines())
    rows = json.loads(run("import", "--list", "--json").stdout)
    assert {row["name"]: row["about"] for row in rows} == {i.name: i.about for i in IMPORTERS}
    assert len(rows) == len({row["name"] for row in rows})


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["FILE"], "does not name its 3 classes; give --classes"),
        (["FILE", "--classes", "a,b"], "2 names, but the model has 3 classes"),
        (["FILE", "--classes", "a,b,c", "--out", "model.pth"], "ends in .safetensors"),
        (["FILE", "--classes", "a,b,c", "--source", "amdegrot"], "want auto or one of"),
        (["FILE", "--classes", "a,b,c", "--image", "nothing.jpg"], "nothing.jpg: no such image file"),
        (["nothing.pth"], "nothing.pth: no such file"),
        ([], "want a checkpoint file"),
        (["text.pth"], "text.pth: "),
        (["."], "is a folder"),
    ],
)
def test_a_mistake_is_one_line_and_writes_nothing(refused, foreign, tmp_path, words, said):
    (tmp_path / "text.pth").write_text("this is no checkpoint\n" * 9)
    line = refused("import", *(foreign if word == "FILE" else word for word in words), cwd=tmp_path)
    assert said in line
    assert [path.name for path in tmp_path.iterdir()] == ["text.pth"]


def test_no_code_in_a_file_is_run(refused, tmp_path):
    class Hostile:
        def __reduce__(self):
            return (eval, (f"open({str(tmp_path / 'ran')!r}, 'w')",))

    torch.save({"state_dict": {"a": Hostile()}}, tmp_path / "hostile.pth")
    line = refused("import", tmp_path / "hostile.pth", cwd=tmp_path)
    assert "hostile.pth" in line
    assert not (tmp_path / "ran").exists()
