"""A batch of one image trains with every model, also where a map is a single cell."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

import singleshot
from singleshot.models import SSD, build
from singleshot.presets import MODELS
from singleshot.training.single_values import use_running_statistics


def image(model: SSD) -> torch.Tensor:
    return torch.randint(0, 256, (1, 3, *model.input_spec.sides), generator=torch.Generator().manual_seed(0))


LARGE = ("ssd300-vgg16", "ssd512-vgg16", "ssd512-vgg16-bn")  # the one that is left has their layers


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=pytest.mark.slow) if name in LARGE else name for name in MODELS]
)
def test_every_model_takes_one_image_in_training(name: str) -> None:
    torch.manual_seed(0)
    model = build(name, 2).train()
    layers = use_running_statistics(model, 1)
    assert model.training
    with torch.no_grad():
        raw = model(image(model))
    assert raw.logits.isfinite().all()
    if layers:  # it is needed
        with pytest.raises(ValueError, match="more than 1 value"):
            build(name, 2).train()(image(model))


def test_layers_with_more_values_learn_their_statistics_as_ever() -> None:
    torch.manual_seed(0)
    model = build("ssd320-mini", 2).train()
    single = use_running_statistics(model, 1)
    before = {key: value.clone() for key, value in model.state_dict().items() if "running_mean" in key}
    model.train()
    with torch.no_grad():
        model(image(model))
    same = [key for key, value in before.items() if torch.equal(value, model.state_dict()[key])]
    assert 0 < len(same) == single < len(before)


def test_larger_batches_are_left_alone() -> None:
    model = build("ssd320-mini", 2)
    assert use_running_statistics(model, 2) == 0
    assert not any(module._forward_pre_hooks for module in model.modules())


def test_a_run_of_single_images(shared: Path, tmp_path: Path) -> None:
    data = shared / "cases" / "class-renamed" / "before"
    run = singleshot.train(
        data, out=tmp_path / "run", batch=1, epochs=1, workers=0, backbone_weights="none", tensorboard=False
    )
    assert run.steps == 2
