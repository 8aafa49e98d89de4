"""What a training takes where nothing was chosen, and that it says why."""

from __future__ import annotations

import logging
from pathlib import Path

import cv2
import numpy as np
import pytest

from singleshot.api.train import TrainOptions, prepare, resolve
from singleshot.api.train_choice import choose_model
from singleshot.datasets import open_dataset
from singleshot.loading.colours import has_colours
from singleshot.weights import lite0_backbone


def coco(folder: Path, tint: int, ending: str = ".png") -> Path:
    """Eight noisy pictures whose red is `tint` values above the rest, as YOLO has them."""
    rng = np.random.default_rng(0)
    for split in ("train", "val"):
        (folder / split / "images").mkdir(parents=True)
        (folder / split / "labels").mkdir()
        for i in range(4):
            grey = np.repeat(rng.integers(20, 200, (48, 64, 1), np.uint8), 3, axis=2)
            grey[..., 2] += np.uint8(tint)
            cv2.imwrite(str(folder / split / "images" / f"{i}{ending}"), grey)
            (folder / split / "labels" / f"{i}.txt").write_text("0 0.5 0.5 0.4 0.4\n")
    (folder / "data.yaml").write_text("train: train/images\nval: val/images\nnames: [spot]\n")
    return folder


@pytest.mark.parametrize(
    ("tint", "ending", "coloured"), [(0, ".png", False), (0, ".jpg", False), (60, ".png", True), (60, ".jpg", True)]
)
def test_colours_are_seen_and_greys_in_jpeg_are_none(tint: int, ending: str, coloured: bool, tmp_path: Path) -> None:
    assert has_colours(open_dataset(coco(tmp_path / "set", tint, ending), "train")) is coloured


def test_the_model_follows_from_pictures_and_weights(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    colour = open_dataset(coco(tmp_path / "colour", 60), "train")
    grey = open_dataset(coco(tmp_path / "grey", 0), "train")
    assert choose_model(colour, None).value == "ssd320-lite0"
    assert choose_model(grey, None).value == "ssd320-mini"
    assert "grey" in choose_model(grey, "auto").reason
    assert choose_model(colour, "none").value == "ssd320-mini"
    assert choose_model(grey, "imagenet").value == "ssd320-lite0"
    monkeypatch.setattr(lite0_backbone, "PACKAGE", "a_package_that_is_not_there")
    assert choose_model(colour, None).value == "ssd320-mini"
    assert "singleshot[pretrained]" in choose_model(colour, None).reason


def test_what_was_chosen_is_said_and_kept(caplog: pytest.LogCaptureFixture, tmp_path: Path) -> None:
    data = coco(tmp_path / "set", 60)
    with caplog.at_level(logging.INFO, "singleshot"):
        trainer, options, initial = prepare(resolve(TrainOptions(str(data), out=str(tmp_path / "run"), workers=0)))
    assert (trainer.model.name, options.model, options.recipe) == ("ssd320-lite0", "ssd320-lite0", "finetune")
    assert "EfficientNet-Lite0" in initial
    said = [r.getMessage() for r in caplog.records if "chooses another" in r.getMessage()]
    assert [line.partition(":")[0] for line in said] == ["model ssd320-lite0", "recipe finetune"]
    caplog.clear()
    with caplog.at_level(logging.INFO, "singleshot"):
        given = TrainOptions(str(data), "ssd320-mini", str(tmp_path / "run"), "scratch", workers=0)
        prepare(resolve(given))
    assert not [r for r in caplog.records if "chooses another" in r.getMessage()]
