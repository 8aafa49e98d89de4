"""Learning rates, recipes and optimizer groups."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from singleshot.errors import ConfigError
from singleshot.loading.augment_spec import AUGMENTS
from singleshot.models import build
from singleshot.training.optimizers import ModelEMA, make_optimizer, parameter_groups, set_lr
from singleshot.training.recipes import Recipe, load_recipe, recipe_names
from singleshot.training.schedule import Budget, lr_factor


def test_step_schedule_is_the_published_one() -> None:
    """120k iterations, / 10 at 80k and 100k."""
    recipe = load_recipe("paper")
    rates = [
        recipe.lr * lr_factor(i / 120_000, recipe.schedule, 0.0, recipe.milestones, recipe.gamma)
        for i in (0, 79_000, 81_000, 99_000, 101_000, 119_999)
    ]
    assert rates == pytest.approx([1e-3, 1e-3, 1e-4, 1e-4, 1e-5, 1e-5])
    assert (recipe.momentum, recipe.weight_decay, recipe.batch, recipe.optimizer) == (0.9, 5e-4, 32, "sgd")
    assert recipe.bias_lr_factor == 2.0
    assert recipe.augment == AUGMENTS["caffe"]


def test_cosine_falls_from_one_to_its_end_after_the_warmup() -> None:
    assert lr_factor(0.0, "cosine", 0.1) == pytest.approx(0.1)
    assert lr_factor(0.1, "cosine", 0.1) == pytest.approx(1.0)
    assert lr_factor(0.55, "cosine", 0.1) == pytest.approx(0.5)
    assert lr_factor(1.0, "cosine", 0.1, final=0.02) == pytest.approx(0.02)


@given(st.floats(0, 1), st.floats(0, 0.5), st.sampled_from(["step", "cosine"]))
def test_factor_is_always_between_zero_and_one(progress: float, warmup: float, schedule: str) -> None:
    assert 0.0 <= lr_factor(progress, schedule, warmup, (0.5, 0.8)) <= 1.0


def test_budget_by_steps_and_by_seconds() -> None:
    assert Budget(100).progress(25, 9999) == 0.25
    budget = Budget(None, 60.0)
    assert budget.progress(10**6, 30.0) == 0.5
    budget.reserve = 10.0
    assert budget.progress(0, 50.0) == 1.0


def test_learning_rate_scales_with_the_batch() -> None:
    assert load_recipe("paper").learning_rate(8) == pytest.approx(1e-3 / 4)


@pytest.mark.parametrize("name", recipe_names())
def test_every_recipe_loads_and_survives_its_dict(name: str) -> None:
    recipe = load_recipe(name)
    assert Recipe(**recipe.to_dict()) == recipe


def test_the_three_recipes_of_the_readme_exist() -> None:
    assert {"paper", "scratch", "finetune"} <= set(recipe_names())


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("lr = -1", "lr: Input should be greater than 0"),
        ("lr = 'x'", "lr"),
        ("epoch = 3", "epoch: Extra inputs"),
        ("milestones = [0.9, 0.1]", "milestones must rise"),
        ("augment = 'wild'", "augment 'wild': want one of"),
        ("[augment]\nmirror_p = 7", "mirror_p"),
        ("[augment]\nspin = 7", "spin"),
        ("a = [", "not TOML"),
        ("optimizer = 'lion'", "optimizer"),
        ("matching = 'caffee'", r"matching 'caffee': want one of caffe, .*; did you mean caffe\?"),
        ("loss = 'per-batch'", r"loss 'per-batch': want one of caffe, .*; did you mean batch\?"),
        ("loss = 3", "loss: Input should be a valid string"),
        ("label_smoothing = 1.0", "label_smoothing: Input should be less than 1"),
        ("decay_only = 'weights'", "decay_only: Input should be 'convolutions', 'all-but-biases' or 'everything'"),
    ],
)
def test_a_wrong_recipe_names_file_and_key(tmp_path: Path, text: str, says: str) -> None:
    path = tmp_path / "r.toml"
    path.write_text(text)
    with pytest.raises(ConfigError, match=says) as caught:
        load_recipe(str(path))
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_recipe_that_does_not_exist_suggests_one() -> None:
    with pytest.raises(ConfigError, match="did you mean scratch"):
        load_recipe("scrach")


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
    for decay_only, moved in (("convolutions", {"0.weight"}), ("all-but-biases", {"0.weight", "1.weight"}),
                              ("everything", {"0.weight", "0.bias", "1.weight", "1.bias"})):  # fmt: skip
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
        slow = [a * decay + v * (1 - decay) if v.is_floating_point() else v.clone()
                for a, v in zip(slow, model.state_dict().values(), strict=True)]  # fmt: skip
    for a, b in zip(average.state.values(), slow, strict=True):
        torch.testing.assert_close(a, b)
