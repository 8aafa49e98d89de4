"""The MultiBox loss against Caffe's layer, a double loop, and its edges."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from singleshot.errors import ConfigError
from singleshot.losses import hard_negatives, multibox_loss
from singleshot.matching import match
from singleshot.records import RawOutput, Targets


@pytest.mark.parametrize("table", ["voc300clip", "voc300noclip"])
def test_agrees_with_caffe(table: str, golden, golden_inputs) -> None:
    priors = torch.tensor(np.load(golden / "priors_amdegroot.npz")[table.replace("300", "300_")])
    inputs, want = np.load(golden / "matching_inputs.npz"), np.load(golden / f"loss_caffe_{table}.npz")
    ptr = inputs["gt_ptr"][:5]
    boxes, labels = torch.zeros(4, np.diff(ptr).max(), 4), torch.full((4, np.diff(ptr).max()), -1)
    for i in range(4):
        rows = slice(ptr[i], ptr[i + 1])
        boxes[i, : ptr[i + 1] - ptr[i]] = torch.tensor(inputs["gt_boxes"][rows])
        labels[i, : ptr[i + 1] - ptr[i]] = torch.tensor(inputs["gt_labels"][rows]) - 1
    conf, loc = (torch.tensor(v) for v in golden_inputs.loss_inputs())
    targets = match(priors, boxes, labels)
    losses = multibox_loss(RawOutput(loc, conf), targets)
    assert losses.positives == want["N"]
    assert losses.total.item() == pytest.approx(float(want["loss_total"]), rel=1e-5)
    assert losses.location.item() == pytest.approx(float(want["loss_loc"]), rel=1e-5)
    assert losses.confidence.item() == pytest.approx(float(want["loss_conf"]), rel=1e-5)
    hardness = conf.logsumexp(-1) - conf[..., 0]
    mined = hard_negatives(hardness, targets.labels == 0, (targets.labels > 0).sum(1) * 3)
    assert mined.sum(1).tolist() == want["num_neg"].tolist()
    theirs = [set(want["neg_idx"][a:b]) for a, b in zip(want["neg_ptr"], want["neg_ptr"][1:], strict=False)]
    for i, peer in enumerate(theirs):
        # One row of the unclipped table may differ by a tie in matching; the rest is the same set.
        assert len(peer ^ set(torch.nonzero(mined[i])[:, 0].tolist())) <= 2


def slow_loss(offsets, logits, labels, wanted_offsets, ratio=3.0):
    """The definition, one prior at a time, in float64."""
    confidence = location = 0.0
    matches = sum(int(label) > 0 for row in labels for label in row)
    for b in range(len(labels)):
        scored = []
        positives = 0
        for p, label in enumerate(labels[b].tolist()):
            total = math.log(sum(math.exp(v) for v in logits[b, p].tolist()))
            if label > 0:
                positives += 1
                confidence += total - logits[b, p, label].item()
                for d in (offsets[b, p] - wanted_offsets[b, p]).abs().tolist():
                    location += 0.5 * d * d if d < 1 else d - 0.5
            elif label == 0:
                scored.append(total - logits[b, p, 0].item())
        confidence += sum(sorted(scored, reverse=True)[: int(positives * ratio)])
    return confidence / max(matches, 1), location / max(matches, 1)


def random_case(seed: int):
    g = torch.Generator().manual_seed(seed)
    labels = torch.randint(-1, 4, (3, 40), generator=g) * (torch.rand(3, 40, generator=g) < 0.3)
    labels[1] = 0  # an image without objects
    offsets = torch.randn(3, 40, 4, generator=g, dtype=torch.float64) * 2
    logits = torch.randn(3, 40, 4, generator=g, dtype=torch.float64)
    return offsets, logits, labels, torch.randn(3, 40, 4, generator=g)


@pytest.mark.parametrize("seed", range(6))
def test_agrees_with_the_double_loop(seed: int) -> None:
    offsets, logits, labels, wanted = random_case(seed)
    losses = multibox_loss(RawOutput(offsets, logits), Targets(labels, wanted))
    confidence, location = slow_loss(offsets, logits, labels, wanted)
    assert losses.confidence.item() == pytest.approx(confidence, rel=1e-5)
    assert losses.location.item() == pytest.approx(location, rel=1e-5)
    assert losses.total.item() == pytest.approx(confidence + location, rel=1e-5)


def test_alpha_weighs_the_location_loss() -> None:
    offsets, logits, labels, wanted = random_case(0)
    losses = multibox_loss(RawOutput(offsets, logits), Targets(labels, wanted), alpha=2.5)
    assert losses.total.item() == pytest.approx((losses.confidence + 2.5 * losses.location).item())


def test_a_batch_without_any_object_has_loss_zero_and_finite_gradients() -> None:
    logits = torch.randn(2, 50, 3, requires_grad=True)
    offsets = torch.randn(2, 50, 4, requires_grad=True)
    empty = Targets(torch.zeros(2, 50, dtype=torch.long), torch.zeros(2, 50, 4))
    losses = multibox_loss(RawOutput(offsets, logits), empty)
    losses.total.backward()
    assert losses.total.item() == 0.0
    assert torch.isfinite(logits.grad).all()


def test_min_negatives_teach_background_in_images_without_objects() -> None:
    logits = torch.zeros(1, 50, 3, requires_grad=True)
    raw = RawOutput(torch.zeros(1, 50, 4), logits)
    empty = Targets(torch.zeros(1, 50, dtype=torch.long), torch.zeros(1, 50, 4))
    losses = multibox_loss(raw, empty, min_negatives=10)
    assert losses.confidence.item() == pytest.approx(10 * math.log(3), rel=1e-6)


def test_ignored_priors_count_for_nothing() -> None:
    offsets, logits, labels, wanted = random_case(1)
    labels[0, :20] = -1
    before = multibox_loss(RawOutput(offsets, logits), Targets(labels, wanted)).total
    logits[0, :20] = 1000.0
    offsets[0, :20] = 1000.0
    assert torch.equal(before, multibox_loss(RawOutput(offsets, logits), Targets(labels, wanted)).total)


def test_infinite_outputs_where_nothing_counts_do_not_make_nan() -> None:
    labels = torch.tensor([[1, 0, 0, 0, 0, 0, 0, 0]])
    logits = torch.zeros(1, 8, 2)
    logits[0, 7] = torch.tensor([500.0, -500.0])  # the easiest negative: never mined
    offsets = torch.zeros(1, 8, 4)
    offsets[0, 5] = torch.inf
    logits.requires_grad_(), offsets.requires_grad_()
    losses = multibox_loss(RawOutput(offsets, logits), Targets(labels, torch.zeros(1, 8, 4)))
    losses.total.backward()
    assert torch.isfinite(losses.total)
    assert torch.isfinite(logits.grad).all()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_outputs_give_a_float32_loss(dtype: torch.dtype) -> None:
    offsets, logits, labels, wanted = random_case(2)
    logits, offsets = (logits * 4).to(dtype), offsets.to(dtype)
    losses = multibox_loss(RawOutput(offsets, logits), Targets(labels, wanted))
    full = multibox_loss(RawOutput(offsets.float(), logits.float()), Targets(labels, wanted))
    assert losses.total.dtype is torch.float32
    assert losses.total.item() == pytest.approx(full.total.item(), rel=1e-6)


def test_gradient_is_that_of_the_definition() -> None:
    offsets, logits, labels, wanted = random_case(3)
    offsets.requires_grad_(), logits.requires_grad_()
    multibox_loss(RawOutput(offsets, logits), Targets(labels, wanted)).total.backward()
    for values, grad in ((logits, logits.grad), (offsets, offsets.grad)):
        flat, index = values.detach().flatten(), int(grad.abs().argmax())
        step = 1e-4  # the loss is computed in float32
        ends = []
        for sign in (1, -1):
            moved = flat.clone()
            moved[index] += sign * step
            args = (moved.view_as(offsets), logits) if values is offsets else (offsets, moved.view_as(logits))
            ends.append(sum(slow_loss(args[0].detach(), args[1].detach(), labels, wanted)))
        assert grad.flatten()[index].item() == pytest.approx((ends[0] - ends[1]) / (2 * step), rel=1e-3)


def test_unknown_rule_lists_the_rules() -> None:
    with pytest.raises(ConfigError, match="want one of caffe"):
        multibox_loss(RawOutput(*random_case(0)[:2]), Targets(*random_case(0)[2:]), rule="guess")
