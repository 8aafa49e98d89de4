"""The checkpoint file: round trip, and one clear line for everything that can be wrong with it."""

from __future__ import annotations

import json
import pickle
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

import singleshot
from singleshot.conventions import DETECTION, detection_rule
from singleshot.errors import CheckpointError, ConfigError
from singleshot.inputs import InputSpec
from singleshot.model_info import KEY, ModelInfo
from singleshot.models import build, build_on
from singleshot.thresholds import Thresholds
from singleshot.weights.checkpoint import load_checkpoint, load_into, read_info, save_checkpoint

NAMES = ("cat", "dog", "naïve 猫")


@pytest.fixture(scope="module")
def saved(tmp_path_factory) -> tuple[Path, object, ModelInfo]:
    torch.manual_seed(1)
    model = build(
        "ssdlite320-mobilenetv2", 3, input_spec=InputSpec(size=320, resize="letterbox", colour_order="bgr")
    ).eval()
    info = ModelInfo.of(model, NAMES, thresholds=Thresholds(keep=50, show_min=0.3), metrics={"val_map50": 0.5})
    path = tmp_path_factory.mktemp("model") / "m.safetensors"
    save_checkpoint(path, model.state_dict(), info)
    return path, model, info


def test_round_trip(saved) -> None:
    path, model, info = saved
    again, found = load_checkpoint(path)
    assert found == info == read_info(path)
    assert not again.training
    image = torch.randint(0, 256, (1, 3, 320, 320), dtype=torch.uint8)
    with torch.inference_mode():
        for a, b in zip(model(image), again(image), strict=True):
            assert torch.equal(a, b)


def test_every_threshold_survives_and_files_from_before_it_still_read(saved, tmp_path: Path) -> None:
    _, model, _ = saved
    thresholds = Thresholds(
        clip=True, candidates=500, keep_per_class=50, best_class=True, activation="sigmoid", background_competes=False
    )
    save_checkpoint(tmp_path / "all.safetensors", model.state_dict(), ModelInfo.of(model, NAMES, thresholds=thresholds))
    assert read_info(tmp_path / "all.safetensors").thresholds == thresholds
    new = ("clip", "candidates", "keep_per_class", "best_class", "background_competes")
    old = changed(saved[0], tmp_path / "old.safetensors", lambda a, t: [a["thresholds"].pop(k) for k in new] and None)
    assert read_info(old).thresholds == Thresholds(keep=50, show_min=0.3)


def test_another_rule_replaces_all_but_what_belongs_to_the_network() -> None:
    own = Thresholds(keep=50, show_min=0.3, activation="sigmoid", keep_per_class=9)
    assert own.under(detection_rule("torchvision")) == Thresholds(
        0.01, 0.45, 400, 200, activation="sigmoid", show_min=0.3, clip=True
    )
    assert Thresholds().under(detection_rule("tf-object-detection")).activation == "softmax"
    for rule in DETECTION.values():
        assert own.under(rule) == replace(rule, activation="sigmoid", show_min=0.3)
    with pytest.raises(ConfigError, match="want one of caffe"):
        own.under(detection_rule("yolo"))


def test_it_reads_as_plain_safetensors_with_json(saved) -> None:
    from safetensors import safe_open

    with safe_open(saved[0], framework="np") as file:
        about = json.loads(file.metadata()[KEY])
    assert about["classes"] == list(NAMES)
    assert about["version"] == singleshot.__version__
    assert about["input"]["resize"] == "letterbox"
    assert about["priors"]["maps"] == [20, 10, 5, 3, 2, 1]


def changed(path: Path, to: Path, change) -> Path:
    """A copy whose description or tensors were changed."""
    from safetensors import safe_open

    with safe_open(path, framework="pt") as file:
        about = json.loads(file.metadata()[KEY])
    tensors = load_file(path)
    metadata = change(about, tensors)
    save_file(tensors, to, metadata={KEY: json.dumps(about)} if metadata is None else metadata)
    return to


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda a, t: a.update(format=2, version="9.9"), "newer than this one"),
        (lambda a, t: a.pop("priors"), "cannot be read"),
        (lambda a, t: a.update(classes="cat"), "its classes are not a list of names"),
        (lambda a, t: a.update(classes=["a", "b"]), "tensors do not fit"),
        (lambda a, t: a.update(model="yolo"), "is not one of ssd300-vgg16"),
        (lambda a, t: a["priors"].update(maps=[10**6] * 6), "want at most"),
        (lambda a, t: a["priors"].update(maps=[20, 10, 5]), "entries"),
        (lambda a, t: a["input"].update(size=10**9), "want 32 to 4096"),
        (lambda a, t: a["input"].update(evil=1), "unknown key evil"),
        (lambda a, t: a["thresholds"].update(nms_iou=7), "nms_iou"),
        (lambda a, t: a["thresholds"].update(more=7), "unknown key more"),
        (lambda a, t: t.pop("heads.0.location.point.weight"), "1 missing: heads.0.location.point.weight"),
        (lambda a, t: t.update(extra=torch.zeros(2)), "1 unexpected: extra"),
        (lambda a, t: t.update({"heads.0.location.point.bias": torch.zeros(2)}), "1 misshapen"),
        (lambda a, t: {KEY: "{"}, "cannot be read"),
        (lambda a, t: {"other": "1"}, "not a model of singleshot"),
    ],
)
def test_a_wrong_file_says_what_is_wrong(saved, tmp_path: Path, change, says: str) -> None:
    def apply(about, tensors):
        result = change(about, tensors)
        return result if isinstance(result, dict) and ("other" in result or KEY in result) else None

    path = changed(saved[0], tmp_path / "x.safetensors", apply)
    with pytest.raises(CheckpointError, match=says) as caught:
        load_checkpoint(path)
    assert str(caught.value).startswith(str(path))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("content", [b"", b"not a model", b"\xff" * 100, pickle.dumps({"a": 1}), b"PK\x03\x04zip"])
def test_another_kind_of_file(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "m.safetensors"
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match="not a safetensors file"):
        load_checkpoint(path)


def test_no_file_a_folder_and_a_truncated_file(saved, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="no such file"):
        load_checkpoint(tmp_path / "none.safetensors")
    with pytest.raises(CheckpointError, match="is a folder"):
        load_checkpoint(tmp_path)
    short = tmp_path / "short.safetensors"
    short.write_bytes(saved[0].read_bytes()[:-1000])
    with pytest.raises(CheckpointError, match="not a safetensors file"):
        load_checkpoint(short)


def test_a_model_on_a_backbone_of_ones_own(tmp_path: Path) -> None:
    def make():
        return build_on(torch.nn.Conv2d(3, 8, 3, 16, 1), 2, InputSpec(size=128))

    model, path = make(), tmp_path / "own.safetensors"
    save_checkpoint(path, model.state_dict(), ModelInfo.of(model, ("a", "b")))
    with pytest.raises(CheckpointError, match="load_into"):
        load_checkpoint(path)
    again = make()
    assert load_into(again, path).class_names == ("a", "b")
    assert torch.equal(again.backbone.weight, model.backbone.weight)


def test_a_failed_write_leaves_nothing(saved, tmp_path: Path, monkeypatch) -> None:
    import singleshot.weights.checkpoint as module

    def fail(*args, **kwargs):
        raise OSError("disk full")

    monkeypatch.setattr(module, "save_file", fail)
    with pytest.raises(OSError, match="disk full"):
        save_checkpoint(tmp_path / "m.safetensors", saved[1].state_dict(), saved[2])
    assert list(tmp_path.iterdir()) == []
