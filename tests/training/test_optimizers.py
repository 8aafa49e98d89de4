"""Optimizers: which parameters are in which group, what a step does to them, and averaged weights."""

from __future__ import annotations

import pytest
import torch

from singleshot.models import build
from singleshot.training.optimizers import ModelEMA, make_optimizer, parameter_groups, set_lr
from singleshot.training.recipes import Recipe


@pytest.mark.parametrize(
    ("decay_only", "decays"),
    [("convolutions", [1, 0, 0, 0]), ("all-but-biases", [1, 0, 1, 0]), ("everything", [1, 1, 1, 1])],
)
def test_what_decays_and_biases_get_twice_the_rate(decay_only: str, decays: list[int]) -> None:
    model = build("ssd320-mini", 2)
    groups = parameter_groups(model, 5e-4, 2.0, decay_only)
    weights, biases, scales, shifts = (group["params"] for group in groups)
    assert [g["weight_decay"] for g in groups] == [5e-4 * d for d in decays]
    assert [g["factor"] for g in groups] == [1.0, 2.0, 1.0, 1.0]
    assert all(p.ndim == 4 for p in weights)
    assert sum(len(g["params"]) for g in groups) == len({id(p) for g in groups for p in g["params"]})
    assert len(weights) + len(biases) + len(scales) + len(shifts) == len(list(model.parameters()))
    norms = [m for m in model.modules() if isinstance(m, torch.nn.BatchNorm2d)]
    assert {id(p) for p in scales} == {id(m.weight) for m in norms}
    assert {id(p) for p in shifts} == {id(m.bias) for m in norms}
    assert {id(p) for p in biases} == {id(h.bias) for m in model.heads for h in (m.location, m.confidence)}
    vgg = build("ssd300-vgg16", 2)
    _, biases, scales, shifts = (group["params"] for group in parameter_groups(vgg, 5e-4, 2.0, decay_only))
    assert len(biases) == 15 + 8 + 12
    assert [p.shape for p in scales] == [(512,)]  # the scale of conv4_3's normalisation
    assert shifts == []


@pytest.mark.parametrize("name", ["sgd", "adamw"])
def test_a_step_without_gradient_shows_what_decays(name: str) -> None:
    model = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 1), torch.nn.BatchNorm2d(4))
    torch.nn.init.ones_(model[0].bias), torch.nn.init.ones_(model[1].bias)
    for decay_only, moved in (
        ("convolutions", {"0.weight"}),
        ("all-but-biases", {"0.weight", "1.weight"}),
        ("everything", {"0.weight", "0.bias", "1.weight", "1.bias"}),
    ):
        before = {k: v.detach().clone() for k, v in model.named_parameters()}
        optimizer = make_optimizer(model, Recipe(optimizer=name, weight_decay=0.1, decay_only=decay_only), 0.1)
        for parameter in model.parameters():
            parameter.grad = torch.zeros_like(parameter)
        optimizer.step()
        assert {k for k, v in model.named_parameters() if not torch.equal(v, before[k])} == moved


@pytest.mark.parametrize("name", ["sgd", "adamw"])
def test_set_lr_keeps_the_factors(name: str) -> None:
    optimizer = make_optimizer(build("ssd320-mini", 2), Recipe(optimizer=name), 0.1)
    set_lr(optimizer, 0.5)
    assert [g["lr"] for g in optimizer.param_groups] == [0.5, 1.0, 0.5, 0.5]


def test_average_is_the_recurrence() -> None:
    model = torch.nn.BatchNorm1d(3)
    average, slow = ModelEMA(model, 0.9), [v.clone() for v in model.state_dict().values()]
    for n in range(1, 30):
        with torch.no_grad():
            model.weight.add_(torch.randn(3))
            model.running_mean.add_(1.0)
            model.num_batches_tracked += 1
        average.update()
        decay = min(0.9, (1 + n) / (10 + n))
        slow = [
            a * decay + v * (1 - decay) if v.is_floating_point() else v.clone()
            for a, v in zip(slow, model.state_dict().values(), strict=True)
        ]
    for a, b in zip(average.state.values(), slow, strict=True):
        torch.testing.assert_close(a, b)


@pytest.mark.parametrize("name", ["sgd", "adamw"])
def test_three_steps_are_those_of_the_formulas(name: str) -> None:
    """SGD with momentum and L2 decay, AdamW with decoupled decay, for one weight and one bias at twice the rate."""
    torch.manual_seed(0)
    model = torch.nn.Conv2d(1, 1, 1)
    decay, momentum, rate = 0.1, 0.8, 0.05
    recipe = Recipe(optimizer=name, weight_decay=decay, momentum=momentum, bias_lr_factor=2.0)
    optimizer = make_optimizer(model, recipe, rate)
    set_lr(optimizer, rate)
    values = {"weight": float(model.weight.detach()), "bias": float(model.bias.detach())}
    first, second = dict.fromkeys(values, 0.0), dict.fromkeys(values, 0.0)
    for step in range(1, 4):
        for key, slope in (("weight", 0.3 * step), ("bias", -0.2 * step)):
            parameter = getattr(model, key)
            parameter.grad = torch.full_like(parameter, slope)
            lr, pull = (rate, decay) if key == "weight" else (2 * rate, 0.0)
            if name == "sgd":
                first[key] = momentum * first[key] + slope + pull * values[key]
                values[key] -= lr * first[key]
            else:
                values[key] -= lr * pull * values[key]
                first[key] = momentum * first[key] + (1 - momentum) * slope
                second[key] = 0.999 * second[key] + 0.001 * slope**2
                mean, square = first[key] / (1 - momentum**step), second[key] / (1 - 0.999**step)
                values[key] -= lr * mean / (square**0.5 + 1e-8)
        optimizer.step()
        assert float(model.weight.detach()) == pytest.approx(values["weight"], rel=1e-5)
        assert float(model.bias.detach()) == pytest.approx(values["bias"], rel=1e-5)


def test_what_does_not_learn_is_in_no_group() -> None:
    model = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 1), torch.nn.Conv2d(4, 4, 1))
    model[0].requires_grad_(False)
    found = [p for group in parameter_groups(model, 0.1, 2.0) for p in group["params"]]
    assert {id(p) for p in found} == {id(p) for p in model[1].parameters()}


def test_an_average_goes_on_where_it_was_saved() -> None:
    torch.manual_seed(0)
    model = torch.nn.BatchNorm1d(3)
    straight = ModelEMA(model, 0.9)

    def move(average: ModelEMA) -> None:
        with torch.no_grad():
            model.weight.mul_(1.1)
        average.update()

    for _ in range(5):
        move(straight)
    other = ModelEMA(model, 0.9)
    other.load({key: value.clone() for key, value in straight.state.items()}, straight.updates)
    kept = model.weight.detach().clone()
    move(straight)
    with torch.no_grad():
        model.weight.copy_(kept)
    move(other)
    assert straight.updates == other.updates == 6
    assert all(torch.equal(a, b) for a, b in zip(straight.state.values(), other.state.values(), strict=True))


def test_an_average_follows_weights_that_are_loaded() -> None:
    """Loading copies into the tensors that the average watches."""
    model, other = torch.nn.Linear(2, 2), torch.nn.Linear(2, 2)
    average = ModelEMA(model, 0.0)
    model.load_state_dict(other.state_dict())
    average.update()
    assert torch.allclose(average.state["weight"], other.weight)
