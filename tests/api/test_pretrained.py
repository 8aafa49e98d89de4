"""What a model file says of the weights that it started from, from the first checkpoint to the exported file."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

import singleshot
from singleshot.errors import CheckpointError
from singleshot.model_info import ModelInfo
from singleshot.models import build
from singleshot.pretrained import PretrainedWeights
from singleshot.weights.checkpoint import load_checkpoint, read_info, save_checkpoint
from singleshot.weights.importing import import_foreign
from singleshot.weights.initial_weights import start_from_checkpoint

WEIGHTS = PretrainedWeights("a backbone", "a package 1.0", "Apache-2.0")


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory) -> Path:
    model = build("ssd320-mini", 1)
    model.pretrained = WEIGHTS
    path = tmp_path_factory.mktemp("m") / "m.safetensors"
    save_checkpoint(path, model.state_dict(), ModelInfo.of(model, ("leaf",)))
    return path


def test_a_start_keeps_it(checkpoint: Path) -> None:
    assert start_from_checkpoint(str(checkpoint), ("leaf", "ring"))[0].pretrained == WEIGHTS


@pytest.mark.slow
def test_it_stays_through_start_training_and_resume(checkpoint: Path, scenes: Path, tmp_path) -> None:
    how = {"out": tmp_path / "run", "batch": 8, "workers": 0, "tensorboard": False}
    singleshot.train(scenes, start=str(checkpoint), epochs=1, recipe="scratch", **how)
    assert read_info(tmp_path / "run" / "last.safetensors").pretrained == WEIGHTS
    singleshot.train(scenes, epochs=2, resume=True, recipe="scratch", **how)
    info = read_info(tmp_path / "run" / "last.safetensors")
    assert (info.training["epochs"], info.pretrained) == (2, WEIGHTS)


def test_of_an_import_it_is_the_foreign_file_without_a_licence(tmp_path) -> None:
    import torch
    import torchvision

    theirs = torchvision.models.detection.ssdlite320_mobilenet_v3_large(weights=None, weights_backbone=None)
    torch.save(theirs.state_dict(), tmp_path / "lite.pth")
    found = import_foreign(tmp_path / "lite.pth").model.pretrained
    assert found is not None
    assert (found.source, found.licence) == ("lite.pth", None)
    assert "torchvision" in found.name
    assert found.in_words.endswith("of lite.pth (licence not known)")


@pytest.mark.parametrize(
    "wrong", ["a name", {"name": "a"}, {"name": 1, "source": "b"}, {"name": "a", "source": "b", "licence": 3}]
)
def test_a_wrong_record_is_refused(checkpoint: Path, wrong: object) -> None:
    values = json.loads(read_info(checkpoint).to_json())
    with pytest.raises(CheckpointError, match="cannot be read"):
        ModelInfo.from_json(json.dumps({**values, "pretrained": wrong}), "m")


def test_a_file_without_it_reads_as_before(checkpoint: Path) -> None:
    values = json.loads(read_info(checkpoint).to_json())
    values.pop("pretrained")
    assert ModelInfo.from_json(json.dumps(values), "m").pretrained is None
    assert load_checkpoint(checkpoint)[0].pretrained == WEIGHTS
