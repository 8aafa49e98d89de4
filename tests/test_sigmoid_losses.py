"""Losses by sigmoid and of boxes, against their formulas as slow loops and against torchvision's."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torchvision.ops import complete_box_iou_loss, distance_box_iou_loss, generalized_box_iou_loss, sigmoid_focal_loss

from singleshot.boxes import decode, encode
from singleshot.errors import ConfigError
from singleshot.losses import BOX_LOSSES, BoxLoss, multibox_loss
from singleshot.priors import make_priors, sized_for
from singleshot.records import RawOutput, Targets
from singleshot.sigmoid_losses import SIGMOID_RULES, prior_bias, sigmoid_loss

PRIORS = make_priors(sized_for([3, 1], 64))
SIDE = 64.0


def boxes_of(offsets: torch.Tensor) -> torch.Tensor:
    return decode(offsets, PRIORS) * SIDE


def case(seed: int, matched: int = 7, ignored: int = 3, classes: int = 3) -> tuple[RawOutput, Targets]:
    generator = torch.Generator().manual_seed(seed)
    shape = 2, len(PRIORS)
    labels = torch.zeros(shape, dtype=torch.long)
    for row in labels:
        places = torch.randperm(len(row), generator=generator)
        row[places[:matched]] = torch.randint(1, classes + 1, (matched,), generator=generator)
        row[places[matched : matched + ignored]] = -1
    offsets, noise = (torch.randn(*shape, 4, generator=generator) for _ in range(2))
    wanted = torch.where((labels > 0).unsqueeze(-1), offsets + 0.5 * noise, 0.0)
    logits = 2 * torch.randn(*shape, classes + 1, generator=generator)
    return RawOutput(offsets.requires_grad_(), logits.requires_grad_()), Targets(labels, wanted)


def iou_of(a: np.ndarray, b: np.ndarray) -> float:
    width, height = (max(0.0, min(a[i + 2], b[i + 2]) - max(a[i], b[i])) for i in (0, 1))
    both = width * height
    return both / ((a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - both)


def box_distance(name: str, a: np.ndarray, b: np.ndarray) -> float:
    """1 - IoU and the penalties of Rezatofighi et al. 2019 and Zheng et al. 2020."""
    overlap = iou_of(a, b)
    width, height = (max(a[i + 2], b[i + 2]) - min(a[i], b[i]) for i in (0, 1))
    if name == "giou":
        union = sum((x[2] - x[0]) * (x[3] - x[1]) for x in (a, b)) * 1.0
        union = union / (1 + overlap)  # |A| + |B| = |A u B| + |A n B|
        return 1 - (overlap - (width * height - union) / (width * height))
    apart = sum(((a[i] + a[i + 2] - b[i] - b[i + 2]) / 2) ** 2 for i in (0, 1)) / (width**2 + height**2)
    if name == "diou":
        return 1 - overlap + apart
    angles = [math.atan((x[2] - x[0]) / (x[3] - x[1])) for x in (a, b)]
    v = 4 / math.pi**2 * (angles[0] - angles[1]) ** 2
    return 1 - overlap + apart + v * v / (1 - overlap + v)


def slow_confidence(rule: str, raw: RawOutput, targets: Targets) -> float:
    total, matches = 0.0, 0
    for b, p in np.ndindex(*targets.labels.shape):
        label = int(targets.labels[b, p])
        if label < 0:
            continue
        matches += label > 0
        quality = 0.0
        if label > 0:
            found, wanted = (boxes_of(x)[b, p].detach().double().numpy() for x in (raw.offsets, targets.offsets))
            quality = iou_of(found, wanted)
        for c, logit in enumerate(raw.logits[b, p, 1:].tolist(), 1):
            s = 1 / (1 + math.exp(-logit))
            if rule == "focal":
                total += -0.25 * (1 - s) ** 2 * math.log(s) if c == label else -0.75 * s**2 * math.log(1 - s)
                continue
            q = quality if c == label else 0.0
            entropy = -q * math.log(s) - (1 - q) * math.log(1 - s)
            if rule == "quality-focal":
                total += (q - s) ** 2 * entropy
            else:
                total += q * entropy if c == label else 0.75 * s**2 * entropy
    return total / max(matches, 1)


@pytest.mark.parametrize("rule", list(SIGMOID_RULES))
@pytest.mark.parametrize("box_loss", list(BOX_LOSSES))
def test_the_loss_is_its_slow_loop(rule: str, box_loss: str) -> None:
    raw, targets = case(len(rule) + len(box_loss))
    found = sigmoid_loss(raw, targets, BoxLoss(box_loss, boxes_of), rule, alpha=2.5)
    location = 0.0
    for b, p in torch.nonzero(targets.labels > 0).tolist():
        if box_loss == "smooth-l1":
            difference = (raw.offsets[b, p] - targets.offsets[b, p]).abs().tolist()
            location += sum(d * d / 2 if d < 1 else d - 0.5 for d in difference)
        else:
            pair = (boxes_of(x)[b, p].detach().double().numpy() for x in (raw.offsets, targets.offsets))
            location += box_distance(box_loss, *pair)
    assert int(found.positives) == 14
    found = type(found)(*(value.detach() for value in found))
    assert float(found.location) == pytest.approx(location / 14, rel=1e-4)
    assert float(found.confidence) == pytest.approx(slow_confidence(rule, raw, targets), rel=1e-4)
    assert float(found.total) == pytest.approx(float(found.confidence + 2.5 * found.location), rel=1e-6)


def test_focal_loss_and_its_gradient_are_torchvisions() -> None:
    raw, targets = case(3, ignored=0)
    ours = sigmoid_loss(raw, targets, BoxLoss("smooth-l1", boxes_of)).confidence
    aim = torch.nn.functional.one_hot(targets.labels, 4)[..., 1:].float()
    theirs = sigmoid_focal_loss(raw.logits[..., 1:], aim, reduction="sum") / 14
    torch.testing.assert_close(ours, theirs)
    mine, other = (torch.autograd.grad(value, raw.logits)[0] for value in (ours, theirs))
    torch.testing.assert_close(mine, other, atol=1e-6, rtol=1e-4)


@pytest.mark.parametrize("name", ["giou", "diou", "ciou"])
def test_box_losses_take_the_place_of_smooth_l1_under_every_rule(name: str) -> None:
    raw, targets = case(5)
    box_loss, matched = BoxLoss(name, boxes_of), targets.labels > 0
    theirs = {"giou": generalized_box_iou_loss, "diou": distance_box_iou_loss, "ciou": complete_box_iou_loss}[name]
    want = theirs(boxes_of(raw.offsets)[matched], boxes_of(targets.offsets)[matched], reduction="sum")
    found, plain = (multibox_loss(raw, targets, box_loss=one) for one in (box_loss, None))
    torch.testing.assert_close(found.location, want / 14)
    assert torch.equal(found.confidence, plain.confidence)
    torch.testing.assert_close(multibox_loss(raw, targets, "batch-size", box_loss=box_loss).location, want / 2)


@pytest.mark.parametrize("name", list(BOX_LOSSES))
def test_offsets_of_priors_that_do_not_count_may_be_anything(name: str) -> None:
    raw, targets = case(6)
    offsets = torch.where((targets.labels > 0).unsqueeze(-1), raw.offsets.detach(), 1e4).requires_grad_()
    for loss in (
        sigmoid_loss(RawOutput(offsets, raw.logits), targets, BoxLoss(name, boxes_of), "quality-focal"),
        multibox_loss(RawOutput(offsets, raw.logits), targets, box_loss=BoxLoss(name, boxes_of)),
    ):
        (gradient,) = torch.autograd.grad(loss.total, offsets)
        assert torch.isfinite(gradient).all()
        assert gradient[targets.labels <= 0].abs().sum() == 0
        assert gradient[targets.labels > 0].abs().sum() > 0


@settings(max_examples=50)
@given(st.floats(-1.0, 1.0), st.floats(-1.0, 1.0), st.floats(0.2, 3.0), st.floats(0.2, 3.0))
def test_a_box_on_its_object_costs_nothing_and_another_something(x: float, y: float, w: float, h: float) -> None:
    prior = PRIORS[-1]
    low = prior[:2] - prior[2:] / 2
    moved = torch.cat(
        [low + torch.tensor([x, y]) / 4, low + torch.tensor([x, y]) / 4 + prior[2:] * torch.tensor([w, h])]
    )
    wanted = torch.zeros(1, len(PRIORS), 4)
    offsets = wanted.clone()
    offsets[0, -1] = encode(moved, prior)
    matched = torch.zeros(1, len(PRIORS), dtype=torch.bool)
    matched[0, -1] = True
    for name in BOX_LOSSES:
        box_loss = BoxLoss(name, boxes_of)
        assert float(box_loss(wanted, wanted, matched)[0, -1]) == pytest.approx(0, abs=1e-6)
        cost, quality = (
            float(box_loss(offsets, wanted, matched)[0, -1]),
            float(box_loss.quality(offsets, wanted, matched)[0, -1]),
        )
        assert 0 <= quality <= 1 + 1e-6
        assert cost >= (1 - quality if name != "smooth-l1" else 0) - 1e-5


def test_without_objects_the_loss_is_a_number_and_teaches_background() -> None:
    raw, targets = case(7, matched=0)
    for rule in SIGMOID_RULES:
        loss = sigmoid_loss(raw, targets, BoxLoss("ciou", boxes_of), rule)
        assert loss.location == 0
        (gradient,) = torch.autograd.grad(loss.total, raw.logits)
        assert (gradient[..., 1:][targets.labels == 0] > 0).all()
        assert gradient[targets.labels == -1].abs().sum() == 0
        assert gradient[..., 0].abs().sum() == 0


def test_class_weights_count_at_the_priors_of_their_class_alone() -> None:
    raw, targets = case(8)
    weights, ones = torch.tensor([1.0, 3.0, 1.0]), torch.ones(3)
    for loss in (
        lambda given: sigmoid_loss(raw, targets, BoxLoss("smooth-l1", boxes_of), class_weights=given),
        lambda given: multibox_loss(raw, targets, class_weights=given),
    ):
        plain, same, weighted = loss(None), loss(ones), loss(weights)
        assert torch.equal(plain.total, same.total)
        assert torch.equal(plain.location, weighted.location)
        a, b = (torch.autograd.grad(one.confidence, raw.logits)[0] for one in (plain, weighted))
        torch.testing.assert_close(a[targets.labels != 2], b[targets.labels != 2])
        aim = a[targets.labels == 2][:, 2], b[targets.labels == 2][:, 2]
        torch.testing.assert_close(3 * aim[0], aim[1])


def test_a_shared_number_of_matches_divides_as_it_does_elsewhere() -> None:
    raw, targets = case(9)
    box_loss = BoxLoss("smooth-l1", boxes_of)
    whole, shared = (
        sigmoid_loss(raw, targets, box_loss),
        sigmoid_loss(raw, targets, box_loss, batch_matches=torch.tensor(28.0)),
    )
    torch.testing.assert_close(whole.total, 2 * shared.total)


def test_unknown_rules_are_refused_and_the_bias_is_that_of_the_probability() -> None:
    raw, targets = case(1)
    with pytest.raises(ConfigError, match="want one of focal, quality-focal, varifocal"):
        sigmoid_loss(raw, targets, BoxLoss("giou", boxes_of), "caffe")
    with pytest.raises(ConfigError, match="want one of smooth-l1, giou, diou, ciou"):
        BoxLoss("iou", boxes_of)
    assert 1 / (1 + math.exp(-prior_bias(0.02))) == pytest.approx(0.02)
