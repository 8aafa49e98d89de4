"""A training of a given time begins on smaller inputs: with their own default boxes, and only then."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from singleshot.errors import ConfigError
from singleshot.input_shape import scaled_priors
from singleshot.losses import multibox_loss
from singleshot.matching import match
from singleshot.models.zoo import build
from singleshot.priors import make_priors
from singleshot.records import Batch
from singleshot.training.progressive import phase_at, phases_of, resized
from singleshot.training.recipes import Recipe, load_recipe
from singleshot.training.step import Stepper

CPU = torch.device("cpu")


def make_batch() -> Batch:
    rng = torch.Generator().manual_seed(3)
    images = torch.randint(0, 256, (4, 96, 96, 3), dtype=torch.uint8, generator=rng).permute(0, 3, 1, 2)
    low = torch.rand(4, 2, 2, generator=rng) * 0.5
    boxes = torch.cat([low, low + 0.1 + 0.4 * torch.rand(4, 2, 2, generator=rng)], dim=2)
    return Batch(images, boxes, torch.randint(0, 3, (4, 2), generator=rng), torch.arange(4), tuple("abcd"))


def test_phases_have_sides_of_whole_cells_and_priors_of_their_maps(tiny_ssd) -> None:
    model = tiny_ssd().eval()
    phases = phases_of(model, ((0.3, 0.34), (0.6, 0.7), (0.9, 0.99)))
    assert [(phase.until, phase.sides) for phase in phases] == [(0.3, (32, 32)), (0.6, (64, 64))]  # .99 is its own
    for phase in phases:
        maps = [tuple(one.shape[2:]) for one in model.feature_maps(torch.zeros(1, 3, *phase.sides))]
        assert phase.priors == scaled_priors(model.prior_spec, maps, phase.sides)
    assert [phase_at(phases, done) for done in (0.0, 0.29, 0.3, 0.6, 1.0)] == [
        phases[0],
        phases[0],
        phases[1],
        None,
        None,
    ]


def test_a_size_that_the_layers_do_not_take_is_left_out() -> None:
    """VGG16's last layers are not padded."""
    with torch.device("meta"):
        model = build("ssd300-vgg16", 3)
    assert phases_of(model, ((0.5, 0.3),)) == ()


@pytest.mark.parametrize("parts", [1, 2])
def test_a_step_is_that_of_the_smaller_input(tiny_ssd, parts: int) -> None:
    model, batch = tiny_ssd().eval(), make_batch()
    (phase,) = phases = phases_of(model, ((0.5, 0.67),))
    stepper = Stepper(model, Recipe(lr=1e-9), 4, CPU, torch.float32, phases=phases)
    stepper.parts = parts
    images, priors = resized(batch.images, (64, 64)), make_priors(phase.priors)
    targets = match(priors, batch.boxes, batch.labels, variances=phase.priors.variances)
    want = multibox_loss(model(images), targets).total.detach()
    torch.testing.assert_close(stepper(batch, 1.0, phase).total, want)
    whole = match(model.priors, batch.boxes, batch.labels, variances=model.prior_spec.variances)
    want = multibox_loss(model(batch.images), whole).total.detach()
    torch.testing.assert_close(stepper(batch, 1.0).total, want)


def test_pixels_are_means_of_areas() -> None:
    image = torch.arange(16, dtype=torch.uint8).reshape(1, 1, 4, 4)
    assert resized(image, (2, 2)).mean().item() == pytest.approx(7.5)
    flat = resized(torch.full((2, 3, 96, 96), 9, dtype=torch.uint8), (64, 64))
    torch.testing.assert_close(flat, torch.full((2, 3, 64, 64), 9.0))


@pytest.mark.parametrize("options", [{"batch": 1}, {"compiled": True}])
def test_what_cannot_be_resized_is_not_and_says_so(trainer_of, options: dict, tmp_path: Path, caplog) -> None:
    """A single image leaves one value a channel where maps get small; each size would be compiled."""
    caplog.set_level("INFO", logger="singleshot")
    recipe = load_recipe("scratch").model_copy(update={"progressive": ((0.5, 0.67),)})
    trainer = trainer_of(tmp_path / "run", recipe=recipe, seconds=9.0, **options)
    assert trainer.stepper.phases == ()
    assert "progressive resizing" in caplog.text


@pytest.mark.parametrize("seconds", [2.5, None])
def test_only_a_training_of_a_given_time_begins_small(trainer_of, tmp_path: Path, seconds: float | None) -> None:
    recipe = load_recipe("scratch").model_copy(update={"progressive": ((0.5, 0.67),)})
    trainer = trainer_of(tmp_path / "run", recipe=recipe, seconds=seconds)
    forward, seen = trainer.stepper.forward, []

    def watched(images):
        seen.append(tuple(images.shape[2:]))
        return forward(images)

    trainer.stepper.forward = watched
    if seconds is not None:
        passed = iter(range(10**6))
        trainer._clock.now = lambda: next(passed) / 20
    trainer.run()
    if seconds is None:
        assert set(seen) == {(96, 96)}
    else:
        change = seen.index((96, 96))
        assert set(seen[:change]) == {(64, 64)} and set(seen[change:]) == {(96, 96)}


@pytest.mark.parametrize("phases", [((0.5, 0.7), (0.4, 0.8)), ((0.5, 1.0),), ((1.2, 0.7),), ((0.5, 0.1),)])
def test_phases_that_say_nothing_are_refused(phases) -> None:
    with pytest.raises((ValueError, ConfigError), match="progressive"):
        Recipe(progressive=phases)
