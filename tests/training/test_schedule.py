"""The learning rate and the budget as functions of how far a training is."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from singleshot.loading.augment_spec import AUGMENTS
from singleshot.training.recipes import load_recipe
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


def test_time_is_kept_for_a_validation_of_which_none_is_known() -> None:
    budget = Budget(None, 60.0)
    budget.expect(10.0)
    assert budget.reserve == 10.0
    budget.expect(1000.0)
    assert budget.reserve == 30.0  # half is for training
    assert [budget.is_late(seconds, 10.0) for seconds in (60.0, 65.0, 67.0)] == [False, False, True]
    assert not budget.is_late(67.0, 1.0)  # a step took it
    steps = Budget(100)
    steps.expect(10.0)
    assert (steps.reserve, steps.is_late(1e9, 1e9)) == (0.0, False)


def test_time_left_by_steps_and_by_seconds() -> None:
    assert Budget(100).seconds_left(0.25, 50.0) == pytest.approx(150.0)
    assert Budget(100).seconds_left(0.001, 50.0) is None
    assert Budget(None, 60.0).seconds_left(0.001, 20.0) == 40.0


def test_warm_up_is_no_longer_than_its_steps() -> None:
    assert Budget(100_000).warmup(0.02, 500) == 0.005
    assert Budget(1000).warmup(0.02, 500) == 0.02
    assert Budget(None, 60.0).warmup(0.02, 500) == 0.02


def test_what_falls_with_the_progress_does_not_rise_again() -> None:
    """Less time has to be kept back for a validation than was expected."""
    budget = Budget(None, seconds=100.0)
    budget.expect(40.0)
    assert budget.furthest(budget.progress(1, 48.0)) == 0.8
    budget.reserve = 4.0
    assert budget.progress(2, 52.8) == pytest.approx(0.55)
    assert budget.furthest(budget.progress(2, 52.8)) == 0.8
    assert budget.furthest(budget.progress(3, 90.0)) == pytest.approx(0.9375)
