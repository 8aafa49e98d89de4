"""What a run is given besides model, data and recipe, and how it ended."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import torch

from singleshot.tiling import Tiling
from singleshot.training.distributed import World


@dataclass(frozen=True)
class Settings:
    """How and where to train.

    Attributes:
        out: The run's folder.
        epochs: Times through the training images.
        batch: Images in a step.
        seconds: Wall-clock budget in place of epochs.
        seed: Of order and augmentation.
        device: What computes.
        precision: A name of devices.PRECISIONS.
        compiled: Whether the network is compiled first.
        workers: Of the loaders; None for what suits the machine.
        cache: Where decoded training images are kept: "none", "ram" or a folder.
        cache_bytes: The most that they may take.
        val_every: Epochs between two validations; with `seconds` they come as time allows.
        validate_start: Whether the weights are validated before the first step too.
        update_ratios: Whether reports say how far each layer's weights move.
        pictures: Validation images that are drawn for reporters that want them.
        report_seconds: At least so many between two reports within an epoch.
        split: Name of the split that is trained on, which a run that goes on compares.
        val_split: Likewise of the one that is validated on.
        skip_broken: Whether an image that cannot be read is replaced by another and counted.
        world: The processes that train together; None for one alone.
        tiling: The tiles that are trained and validated on; None for whole images.
    """

    out: Path
    epochs: int
    batch: int
    seconds: float | None = None
    seed: int = 0
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    precision: str = "auto"
    compiled: bool = False
    workers: int | None = None
    cache: str = "none"
    cache_bytes: int = 4 << 30
    val_every: int = 1
    validate_start: bool = False
    update_ratios: bool = False
    pictures: int = 4
    report_seconds: float = 0.5
    split: str = "train"
    val_split: str = "val"
    skip_broken: bool = False
    world: World | None = None
    tiling: Tiling | None = None


@dataclass(frozen=True)
class Result:
    """How a training ended. interrupted: by Ctrl-C; best_map is None when there was nothing to validate on."""

    epochs: int
    steps: int
    seconds: float
    best_map: float | None
    interrupted: bool
    images_per_second: float
