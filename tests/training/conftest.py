"""A few small images to train on, and a network that does so in milliseconds."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from singleshot.datasets import open_dataset
from singleshot.inputs import InputSpec
from singleshot.models import SSD, build_on
from singleshot.models.blocks import conv
from singleshot.scenes.scenes import write_scenes
from singleshot.training import checkpoints, loop
from singleshot.training.recipes import Recipe, load_recipe
from singleshot.training.reports import CsvReporter


@pytest.fixture(scope="session")
def scenes(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("data") / "scenes"
    write_scenes(folder, train=24, test=8, val=8)
    return folder


class Tiny(torch.nn.Module):
    """Two maps of a 96-pixel input."""

    def __init__(self) -> None:
        super().__init__()
        low = [m for _, m in conv(3, 16, 3, 4, 1, norm=True)] + [m for _, m in conv(16, 32, 3, 2, 1, norm=True)]
        self.low = torch.nn.Sequential(*low)
        self.high = torch.nn.Sequential(*[m for _, m in conv(32, 48, 3, 2, 1, norm=True)])

    def forward(self, x: torch.Tensor) -> list[torch.Tensor]:
        low = self.low(x)
        return [low, self.high(low)]


@pytest.fixture(scope="session")
def tiny_ssd() -> Callable[..., SSD]:
    """tiny_ssd(classes, seed): a new model."""

    def make(num_classes: int = 3, seed: int = 0) -> SSD:
        torch.manual_seed(seed)
        return build_on(Tiny(), num_classes, InputSpec(size=96), extra_channels=(32, 32)).train()

    return make


@pytest.fixture(scope="session")
def trainer_of(scenes: Path, tiny_ssd) -> Callable[..., loop.Trainer]:
    """trainer_of(out): of three steps an epoch, into `out`, which goes on where there is a state; what else is given is
    of its settings."""

    def make(
        out: Path, data: Path = scenes, val: bool = True, seed: int = 0, recipe: Recipe | None = None, **options
    ) -> loop.Trainer:
        out.mkdir(exist_ok=True)
        train_set, val_set = open_dataset(data, "train"), open_dataset(data, "val") if val else None
        settings = loop.Settings(out=out, epochs=2, batch=8, precision="float32", workers=0, pictures=0)
        model = tiny_ssd(len(train_set.class_names), seed)
        chosen = recipe or load_recipe("scratch")
        trainer = loop.Trainer(model, train_set, val_set, chosen, replace(settings, **options))
        if checkpoints.has_state(out):
            trainer.resume()
        trainer.reporters.append(CsvReporter(out / loop.LOG, trainer.progress.history))
        return trainer

    return make


@pytest.fixture(scope="session")
def before_step() -> Callable[[loop.Trainer, int, Callable[[], object]], None]:
    """before_step(trainer, step, what): `what` is called in the forward pass of a step, counted over this part."""

    def meddle(trainer: loop.Trainer, step: int, what: Callable[[], object]) -> None:
        forward, steps = trainer.stepper.forward, iter(range(10**6))

        def meddled(images):
            if next(steps) == step:
                what()
            return forward(images)

        trainer.stepper.forward = meddled

    return meddle
