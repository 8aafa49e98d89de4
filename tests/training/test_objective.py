"""A recipe's choices reach matching and loss."""

from __future__ import annotations

import pytest
import torch

from singleshot.boxes import decode
from singleshot.errors import ConfigError
from singleshot.losses import BOX_LOSSES, LOSS_RULES, BoxLoss, multibox_loss
from singleshot.matching import RULES, match
from singleshot.models import build
from singleshot.records import RawOutput
from singleshot.sigmoid_losses import SIGMOID_RULES, sigmoid_loss
from singleshot.training.recipes import Recipe
from singleshot.training.step import Objective

CHOICES = [
    {},
    {"ignore_from": 0.3},
    {"iou_min": 0.3, "negative_ratio": 1.5, "alpha": 4.0, "min_negatives": 50, "label_smoothing": 0.1},
    *({"loss": name} for name in LOSS_RULES),
    *({"matching": name} for name in RULES),
    *({"loss": name, "matching": "simota", "alpha": 2.0} for name in SIGMOID_RULES),
    *({"box_loss": name} for name in BOX_LOSSES),
    {"box_loss": "ciou", "loss": "focal", "matching": "atss"},
    {"class_weights": {"b": 3.0}},
    {"class_weights": {"c": 0.5, "a": 2.0}, "loss": "quality-focal"},
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
    found = Objective(model, Recipe(**choice), ("a", "b", "c"))(raw, boxes, labels)
    targets = match(
        model.priors,
        boxes,
        labels,
        choice.get("iou_min", 0.5),
        choice.get("matching", "caffe"),
        ignore_from=choice.get("ignore_from"),
        spec=model.prior_spec,
        raw=raw,
        activation="sigmoid" if choice.get("loss") in SIGMOID_RULES else "softmax",
    )
    weights = choice.get("class_weights")
    given = {
        "rule": choice.get("loss", "caffe"),
        "alpha": choice.get("alpha", 1.0),
        "class_weights": weights and torch.tensor([weights.get(name, 1.0) for name in "abc"]),
    }
    box_loss = BoxLoss(choice.get("box_loss", "smooth-l1"), lambda offsets: decode(offsets, model.priors) * 320)
    if choice.get("loss") in SIGMOID_RULES:
        want = sigmoid_loss(raw, targets, box_loss, **given)
    else:
        given |= {key: choice[key] for key in ("negative_ratio", "min_negatives", "label_smoothing") if key in choice}
        want = multibox_loss(raw, targets, box_loss=box_loss, **given)
    for a, b in zip(found, want, strict=True):
        assert torch.equal(a, b)
    assert torch.isfinite(found.total)
    assert found.total > 0
    usual = {"loss": ("caffe", "batch-mean"), "box_loss": ("smooth-l1",), "alpha": (1.0,), "class_weights": ()}
    if any(choice[key] not in same for key, same in usual.items() if key in choice):
        assert found.total != Objective(model, Recipe())(raw, boxes, labels).total


IGNORING = [
    *({"loss": name} for name in LOSS_RULES),
    *({"loss": name, "min_negatives": 10_000} for name in LOSS_RULES),
    *({"loss": name, "matching": "simota"} for name in SIGMOID_RULES),
    *({"matching": name} for name in RULES),
]


@pytest.mark.parametrize("choice", IGNORING, ids=lambda c: " ".join(map(str, c.values())))
def test_nothing_is_learnt_where_a_prior_is_ignored(choice: dict, case) -> None:
    """Under every rule, and however many negatives are wanted; what is matched there teaches as ever."""
    model, raw, boxes, labels = case
    raw = RawOutput(*(values.clone().requires_grad_() for values in raw))
    objective = Objective(model, Recipe(**choice), ("a", "b", "c"))
    ignored = torch.tensor([[[0.0, 0.0, 0.6, 1.0], [0.0] * 4], [[0.2, 0.2, 0.5, 0.9], [0.7, 0.0, 1.0, 1.0]]])
    plain, targets = (objective.match(boxes, labels, raw, one) for one in (None, ignored))
    off = targets.labels == -1
    assert off[0].sum() > 500 and off[1].sum() > 500 and not (plain.labels == -1).any()
    assert torch.equal(targets.labels > 0, plain.labels > 0)
    found = objective(raw, boxes, labels, ignored)
    assert found.positives == objective(raw, boxes, labels).positives
    found.total.backward()
    learnt = raw.logits.grad.abs().sum(dim=-1) > 0
    assert not learnt[off].any()
    assert learnt[targets.labels > 0].all()
    assert learnt[targets.labels == 0].any()


def test_weights_of_classes_that_the_data_does_not_have_are_refused(case) -> None:
    with pytest.raises(
        ConfigError, match=r"^class_weights: leav is no class of the data \(cross, leaf\); did you mean leaf"
    ):
        Objective(case[0], Recipe(class_weights={"leav": 2.0}), ("cross", "leaf"))


def test_no_gradient_flows_through_predictions_that_are_matched_by(case) -> None:
    model, raw, boxes, labels = case
    raw = RawOutput(*(values.clone().requires_grad_() for values in raw))
    objective = Objective(model, Recipe(matching="simota", loss="focal", box_loss="giou"), ("a", "b", "c"))
    targets = objective.match(boxes, labels, raw)
    assert not targets.offsets.requires_grad
    objective.loss(raw, targets).total.backward()
    assert raw.offsets.grad[targets.labels <= 0].abs().sum() == 0
    assert raw.offsets.grad[targets.labels > 0].abs().sum() > 0
    assert raw.logits.grad[..., 0].abs().sum() == 0  # the background's column is not trained
