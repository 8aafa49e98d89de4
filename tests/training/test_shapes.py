"""A network whose input is not square, or grey, goes the whole way from a folder to boxes in an image."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch

import singleshot
from singleshot.datasets import open_dataset
from singleshot.inputs import InputSpec
from singleshot.models import SSD, build
from singleshot.priors import sized_for
from singleshot.training import loop
from singleshot.training.recipes import load_recipe
from singleshot.weights.checkpoint import ModelInfo, save_checkpoint
from singleshot.weights.open_model import open_model

SPECS = {
    "wide": InputSpec(height=96, width=160),
    "tall letterbox": InputSpec(height=128, width=96, resize="letterbox"),
    "grey": InputSpec(96, channels=1),
}


def mini(spec: InputSpec, classes: int) -> SSD:
    """ssd320-mini on another input."""
    grids = [(-(-spec.height // stride), -(-spec.width // stride)) for stride in (8, 16, 32, 64, 128, 256, 512)]
    return build("ssd320-mini", classes, sized_for(grids, spec.sides), spec)


@pytest.mark.parametrize("spec", SPECS.values(), ids=SPECS)
def test_trained_saved_evaluated_and_used(spec: InputSpec, scenes: Path, tmp_path: Path) -> None:
    torch.manual_seed(0)
    data = open_dataset(scenes, "train")
    recipe = load_recipe("paper")
    recipe = recipe.model_copy(
        update={"augment": recipe.augment.from_dict({**recipe.augment.to_dict(), "mosaic_p": 0.3})}
    )
    settings = loop.Settings(out=tmp_path, epochs=1, batch=12, precision="float32", workers=0, pictures=0, cache="ram")
    trainer = loop.Trainer(mini(spec, len(data.class_names)), data, open_dataset(scenes, "val"), recipe, settings)
    result = trainer.run()
    assert result.steps == 2
    assert all(math.isfinite(value) for value in (*trainer.progress.history[0].values(), result.best_map) if value)

    model, info = open_model(tmp_path / loop.BEST)
    assert info.input_spec == spec
    assert model.prior_spec == trainer.model.prior_spec
    evaluation = singleshot.evaluate(tmp_path / loop.BEST, scenes, split="val")
    assert evaluation.mean_ap == pytest.approx(result.best_map, abs=1e-4)
    detector = singleshot.load(tmp_path / loop.BEST)
    found = detector.detect(data.sample(0).image, score_min=0.0)
    height, width = data.sample(0).image.shape[:2]
    assert len(found.boxes) > 0
    assert (found.boxes >= 0).all()
    assert (found.boxes <= np.array([width, height, width, height])).all()


def test_boxes_found_lie_where_the_objects_are(tmp_path: Path) -> None:
    """A head that answers with its priors: what comes back in pixels is each prior's own place in the image."""
    spec = InputSpec(height=96, width=160, resize="letterbox")
    model = mini(spec, 1).eval()
    for head in model.heads:
        for layer in (head.location, head.confidence):
            torch.nn.init.zeros_(layer.weight)
            torch.nn.init.zeros_(layer.bias)
    save_checkpoint(tmp_path / "m.safetensors", model.state_dict(), ModelInfo.of(model, ("any",)))
    # Twice the input in height and half of it in width lies between borders left and right.
    found = singleshot.load(tmp_path / "m.safetensors").detect(np.zeros((192, 80, 3), np.uint8), score_min=0.3)
    cx, cy, w, h = model.priors.double().numpy().T
    corners = np.stack([cx - w / 2, cy - h / 2, cx + w / 2, cy + h / 2], axis=1) * (160, 96, 160, 96)
    back = np.clip((corners - (60, 0, 60, 0)) * 2, 0, (80, 192, 80, 192))
    assert len(found.boxes) > 10
    for box in found.boxes:
        assert np.abs(back - box).max(axis=1).min() < 0.01
