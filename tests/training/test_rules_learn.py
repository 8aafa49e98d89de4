"""Every rule of matching, loss and box loss teaches: on the same few drawn scenes the loss falls."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from singleshot.datasets import open_dataset
from singleshot.inputs import InputSpec
from singleshot.loading.loader import EvalLoader
from singleshot.losses import BOX_LOSSES, LOSS_RULES
from singleshot.matching import RULES
from singleshot.models import SSD, build
from singleshot.models.prior_probability import set_class_bias
from singleshot.records import Batch
from singleshot.scenes.scenes import SCENE_CLASSES
from singleshot.sigmoid_losses import SIGMOID_RULES, prior_bias
from singleshot.training.recipes import Recipe
from singleshot.training.step import Stepper

CHOICES: list[dict[str, str]] = [
    *({"matching": name} for name in RULES),
    *({"loss": name} for name in LOSS_RULES),
    *({"loss": name, "matching": "task-aligned"} for name in SIGMOID_RULES),
    *({"box_loss": name, "loss": "focal", "matching": "atss"} for name in BOX_LOSSES),
]


def batch_of(scenes: Path, spec: InputSpec, count: int) -> Batch:
    loader = EvalLoader(open_dataset(scenes, "train"), spec, count, 0)
    return next(iter(loader)).batch


def losses_of(model: SSD, choice: dict[str, str], batch: Batch, steps: int) -> list[float]:
    recipe = Recipe(optimizer="adamw", base_batch=len(batch.images), **choice)
    if recipe.activation == "sigmoid":
        set_class_bias(model, prior_bias())
    stepper = Stepper(model.train(), recipe, len(batch.images), torch.device("cpu"), torch.float32)
    return [float(stepper(batch, 1.0).total) for _ in range(steps)]


@pytest.mark.parametrize("choice", CHOICES, ids=lambda choice: " ".join(choice.values()))
def test_the_loss_falls(choice: dict[str, str], scenes: Path, tiny_ssd) -> None:
    model = tiny_ssd(len(SCENE_CLASSES))
    losses = losses_of(model, choice, batch_of(scenes, model.input_spec, 4), 12)
    assert sum(losses[-3:]) / 3 < 0.9 * sum(losses[:3]) / 3, losses


@pytest.mark.slow
@pytest.mark.parametrize("choice", CHOICES, ids=lambda choice: " ".join(choice.values()))
def test_the_loss_falls_with_a_whole_model(choice: dict[str, str], scenes: Path) -> None:
    torch.manual_seed(0)
    model = build("ssd320-mini", len(SCENE_CLASSES))
    losses = losses_of(model, choice, batch_of(scenes, model.input_spec, 2), 8)
    assert sum(losses[-2:]) / 2 < 0.9 * sum(losses[:2]) / 2, losses


def test_the_bias_of_the_real_classes_alone_is_set_in_every_kind_of_head() -> None:
    for name, kinds in (("ssd320-mini", "conv"), ("ssdlite320-mobilenetv2", "lite and point")):
        model = build(name, 3).eval()
        before = [head.confidence.state_dict() for head in model.heads]
        before = [{key: value.clone() for key, value in state.items()} for state in before]
        set_class_bias(model, -4.5)
        with torch.no_grad():
            for head, old in zip(model.heads, before, strict=True):
                changed = [k for k, v in head.confidence.state_dict().items() if not torch.equal(v, old[k])]
                (key,) = changed
                assert key.endswith("bias"), kinds
                rows = head.confidence.state_dict()[key].view(-1, 4)
                assert (rows[:, 1:] == -4.5).all()
                assert torch.equal(rows[:, 0], old[key].view(-1, 4)[:, 0])
