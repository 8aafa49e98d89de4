"""A recipe's choices reach matching and loss."""

from __future__ import annotations

import pytest
import torch

from singleshot.losses import LOSS_RULES, multibox_loss
from singleshot.matching import RULES, match
from singleshot.models import build
from singleshot.training.recipes import Recipe
from singleshot.training.step import Objective

CHOICES = [
    {},
    {"ignore_from": 0.3},
    {"iou_min": 0.3, "negative_ratio": 1.5, "alpha": 4.0, "min_negatives": 50, "label_smoothing": 0.1},
    *({"loss": name} for name in LOSS_RULES),
    *({"matching": name} for name in RULES),
]


@pytest.fixture(scope="module")
def case():
    """A model, its outputs and two images, one without objects."""
    torch.manual_seed(0)
    model = build("ssd320-mini", 3)
    boxes = torch.tensor([[[0.1, 0.1, 0.4, 0.5], [0.5, 0.4, 0.95, 0.9], [0.3, 0.2, 0.9, 0.24]], [[0.0] * 4] * 3])
    with torch.no_grad():
        raw = model(torch.randint(0, 256, (2, 3, 320, 320), dtype=torch.uint8))
    return model, raw, boxes, torch.tensor([[0, 2, 1], [-1, -1, -1]])


@pytest.mark.parametrize("choice", CHOICES, ids=lambda c: " ".join(map(str, c.values())) or "default")
def test_the_loss_is_that_of_the_recipe(choice: dict, case) -> None:
    model, raw, boxes, labels = case
    found = Objective(model, Recipe(**choice))(raw, boxes, labels)
    targets = match(
        model.priors,
        boxes,
        labels,
        choice.get("iou_min", 0.5),
        choice.get("matching", "caffe"),
        ignore_from=choice.get("ignore_from"),
    )
    names = {
        "loss": "rule",
        "negative_ratio": "negative_ratio",
        "alpha": "alpha",
        "min_negatives": "min_negatives",
        "label_smoothing": "label_smoothing",
    }
    want = multibox_loss(raw, targets, **{names[k]: v for k, v in choice.items() if k in names})
    for a, b in zip(found, want, strict=True):
        assert torch.equal(a, b)
    assert torch.isfinite(found.total)
    assert found.total > 0
    if choice.get("loss", "caffe") != "caffe" or "alpha" in choice:
        assert found.total != Objective(model, Recipe())(raw, boxes, labels).total or choice["loss"] == "batch-mean"
