"""One step does what PyTorch's own pieces do in the same order; mistakes stop it before the weights change."""

from __future__ import annotations

import math

import pytest
import torch

from singleshot.losses import multibox_loss
from singleshot.matching import match
from singleshot.records import Batch
from singleshot.training.recipes import Recipe
from singleshot.training.step import NonFiniteLossError, Objective, Stepper

CPU = torch.device("cpu")


def make_batch(seed: int = 0, count: int = 4) -> Batch:
    """Noise with one or two objects in each image."""
    generator = torch.Generator().manual_seed(seed)
    images = torch.randint(0, 256, (count, 96, 96, 3), dtype=torch.uint8, generator=generator).permute(0, 3, 1, 2)
    corners = torch.rand(count, 2, 2, generator=generator) * 0.5
    boxes = torch.cat([corners, corners + 0.1 + 0.4 * torch.rand(count, 2, 2, generator=generator)], dim=2)
    labels = torch.randint(0, 3, (count, 2), generator=generator)
    labels[0, 1], boxes[0, 1] = -1, 0.0
    return Batch(images, boxes, labels, torch.arange(count), tuple(f"{k}.jpg" for k in range(count)))


def plain_losses(model, batch: Batch, **more):
    raw = model(batch.images)
    targets = match(model.priors, batch.boxes, batch.labels, variances=model.prior_spec.variances)
    return multibox_loss(raw, targets, **more), int((targets.labels > 0).sum())


def test_steps_of_sgd_are_those_of_the_formula(tiny_ssd) -> None:
    """Momentum, decay of convolutions alone, biases at twice the rate, written out parameter by parameter."""
    recipe = Recipe(optimizer="sgd", momentum=0.9, weight_decay=0.01, base_batch=4, lr=0.01, bias_lr_factor=2.0)
    ours, slow = tiny_ssd(), tiny_ssd()
    stepper = Stepper(ours, recipe, 4, CPU, torch.float32)
    speed: dict[str, torch.Tensor] = {}
    for seed, factor in enumerate((1.0, 0.5, 0.1)):
        batch = make_batch(seed)
        losses = stepper(batch, factor)
        wanted, _ = plain_losses(slow, batch)
        torch.testing.assert_close(losses.total, wanted.total.detach(), rtol=1e-5, atol=1e-6)
        assert not losses.total.requires_grad
        slow.zero_grad()
        wanted.total.backward()
        with torch.no_grad():
            for name, p in slow.named_parameters():
                bias = name.endswith("bias") and p.ndim == 1 and not is_norm(slow, name)
                slope = p.grad + (0.01 * p if p.ndim > 1 else 0.0)
                speed[name] = 0.9 * speed[name] + slope if name in speed else slope
                p.sub_(0.01 * factor * (2.0 if bias else 1.0) * speed[name])
        for (name, a), b in zip(ours.named_parameters(), slow.parameters(), strict=True):
            torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-6, msg=name)


def is_norm(model: torch.nn.Module, name: str) -> bool:
    return isinstance(model.get_submodule(name.rpartition(".")[0]), torch.nn.BatchNorm2d)


def test_the_gradient_is_cut_to_its_norm(tiny_ssd) -> None:
    for limit in (0.01, 1e9):
        model, free = tiny_ssd(), tiny_ssd()
        recipe = Recipe(clip_norm=limit, momentum=0.0, weight_decay=0.0, bias_lr_factor=1.0, lr=1.0, base_batch=4)
        before = [p.detach().clone() for p in model.parameters()]
        Stepper(model, recipe, 4, CPU, torch.float32)(make_batch(), 1.0)
        moved = math.sqrt(
            sum(float((a.detach() - b).square().sum()) for a, b in zip(model.parameters(), before, strict=True))
        )
        losses, _ = plain_losses(free, make_batch())
        losses.total.backward()
        norm = math.sqrt(sum(float(p.grad.square().sum()) for p in free.parameters()))
        assert moved == pytest.approx(min(limit, norm), rel=1e-3)


def test_a_step_takes_no_negatives_from_regions_at_once_or_in_parts(tiny_ssd) -> None:
    regions = torch.zeros(4, 2, 4)
    regions[0, 0], regions[2] = torch.tensor([0.0, 0.0, 1.0, 1.0]), torch.tensor([[0.0, 0.0, 0.5, 1.0]] * 2)
    batch = make_batch()._replace(ignored=regions)
    recipe, found = Recipe(lr=1e-6, min_negatives=50), []
    for parts, given in ((1, batch), (2, batch), (1, make_batch())):
        stepper = Stepper(tiny_ssd().eval(), recipe, 4, CPU, torch.float32)
        stepper.parts = parts
        found.append(stepper(given, 1.0))
    model = tiny_ssd().eval()
    targets = match(
        model.priors, batch.boxes, batch.labels, variances=model.prior_spec.variances, ignored=batch.ignored
    )
    assert (targets.labels[0] != 0).all() and (targets.labels == 0).any()
    want = multibox_loss(model(batch.images), targets, min_negatives=50)
    for losses in found[:2]:
        torch.testing.assert_close(losses.total, want.total.detach())
    assert found[2].total != want.total


def test_rules_that_divide_by_something_else_take_no_number(tiny_ssd) -> None:
    model, batch = tiny_ssd(), make_batch()
    objective = Objective(model, Recipe(loss="per-image"))
    raw = model(batch.images)
    targets = objective.match(batch.boxes, batch.labels, raw)
    own, other = objective.loss(raw, targets), objective.loss(raw, targets, torch.tensor(1))
    assert torch.equal(own.total, other.total)


def test_a_loss_that_is_not_finite_stops_before_the_weights_change(tiny_ssd) -> None:
    model = tiny_ssd()
    stepper = Stepper(model, Recipe(), 4, CPU, torch.float32)
    stepper.forward = lambda images: (raw := model(images))._replace(logits=raw.logits * math.nan)
    before = {k: p.detach().clone() for k, p in model.named_parameters()}
    with pytest.raises(NonFiniteLossError, match=r"the loss became nan on a batch of these files: 0\.jpg, 1\.jpg, 2"):
        stepper(make_batch(), 1.0)
    assert all(torch.equal(p, before[k]) for k, p in model.named_parameters())
    assert stepper.is_finite()
    with torch.no_grad():
        next(model.parameters()).fill_(math.inf)
    assert not stepper.is_finite()


def test_an_accelerator_is_asked_now_and_then_only(tiny_ssd) -> None:
    """All batches since the last look are searched for the one that broke."""
    model = tiny_ssd()
    stepper = Stepper(model, Recipe(lr=1e-6), 4, CPU, torch.float32)
    stepper.check_every = 50
    stepper(make_batch(0), 1.0)
    stepper.check()
    stepper.forward = lambda images: (raw := model(images))._replace(logits=raw.logits * math.nan)
    stepper(make_batch(1)._replace(names=("a", "b", "c", "d")), 1.0)
    with pytest.raises(NonFiniteLossError, match="a, b, c, d"):
        stepper.check()
    stepper.check()  # nothing new


def test_the_average_is_what_is_evaluated(tiny_ssd) -> None:
    without, model = Stepper(tiny_ssd(), Recipe(ema=0.0), 4, CPU, torch.float32), tiny_ssd()
    assert without.average is None
    assert without.eval_state().keys() == model.state_dict().keys()
    stepper = Stepper(model, Recipe(ema=0.5), 4, CPU, torch.float32)
    slow = {k: v.detach().clone() for k, v in model.state_dict().items()}
    for n in range(1, 4):
        stepper(make_batch(n), 1.0)
        decay = min(0.5, (1 + n) / (10 + n))
        slow = {
            k: slow[k] * decay + v * (1 - decay) if v.is_floating_point() else v.clone()
            for k, v in model.state_dict().items()
        }
    for key, value in stepper.eval_state().items():
        torch.testing.assert_close(value, slow[key], msg=key)
