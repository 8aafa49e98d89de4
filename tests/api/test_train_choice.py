"""What a training takes where nothing was chosen, and that it says why."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest

from singleshot.api.train import TrainOptions, prepare, resolve
from singleshot.api.train_choice import choose_model, choose_recipe, pretrained_by_start
from singleshot.models import build
from singleshot.weights import lite0_backbone


def test_the_model_follows_from_the_weights(monkeypatch: pytest.MonkeyPatch) -> None:
    assert choose_model(None).value == choose_model("auto").value == "ssd320-lite0"
    assert choose_model("none").value == "singleshot-n"
    monkeypatch.setattr(lite0_backbone, "PACKAGE", "a_package_that_is_not_there")
    assert choose_model(None).value == "singleshot-n"
    assert "singleshot[pretrained]" in choose_model(None).reason
    assert choose_model("imagenet").value == "ssd320-lite0"  # whose line names the extra


def test_what_a_start_brings_follows_from_the_classes_that_it_knows() -> None:
    known = {
        (kept, total): pretrained_by_start(kept, total) for kept, total in [(0, 3), (1, 3), (2, 3), (2, 4), (3, 3)]
    }
    assert list(known.values()) == ["backbone", "detector", "most", "most", "detector"]


def test_few_images_are_seen_many_times() -> None:
    model = build("ssdlite320-mobilenetv2", 1)
    chosen = {images: choose_recipe(model, "backbone", images) for images in (1, 500, 501, None)}
    assert [choice.value for choice in chosen.values()] == ["finetune-small", "finetune-small", "finetune", "finetune"]
    assert "the images (500) are few" in chosen[500].reason
    for pretrained in ("nothing", "detector", "most"):
        assert choose_recipe(model, pretrained, 1) == choose_recipe(model, pretrained, None)


def test_tiles_and_other_batches_take_the_usual_recipe(scenes: Path, tmp_path: Path) -> None:
    for more in ({"tile": "64"}, {"batch": 4}):
        options = TrainOptions.of(
            {"data": str(scenes), "model": "ssd320-lite0", "out": str(tmp_path / "run"), "workers": 0, **more}
        )
        assert prepare(resolve(options))[1].recipe == "finetune", more


def test_what_was_chosen_is_said_and_kept(caplog: pytest.LogCaptureFixture, scenes: Path, tmp_path: Path) -> None:
    with caplog.at_level(logging.INFO, "singleshot"):
        trainer, options, initial = prepare(resolve(TrainOptions(str(scenes), out=str(tmp_path / "run"), workers=0)))
    assert (trainer.model.name, options.model, options.recipe) == ("ssd320-lite0", "ssd320-lite0", "finetune-small")
    assert "EfficientNet-Lite0" in initial
    said = [r.getMessage() for r in caplog.records if "chooses another" in r.getMessage()]
    assert [line.partition(":")[0] for line in said] == ["model ssd320-lite0", "recipe finetune-small"]
    caplog.clear()
    with caplog.at_level(logging.INFO, "singleshot"):
        given = TrainOptions(str(scenes), "ssd320-mini", str(tmp_path / "run"), "scratch", workers=0)
        prepare(resolve(given))
    assert not [r for r in caplog.records if "chooses another" in r.getMessage()]
