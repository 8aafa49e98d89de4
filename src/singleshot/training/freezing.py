"""Holding parts of a pretrained backbone as they are: what is frozen costs no backward pass."""

from __future__ import annotations

import logging

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from singleshot.errors import ConfigError, printable
from singleshot.models import SSD
from singleshot.models.blocks import Part
from singleshot.training.recipes import Recipe
from singleshot.training.single_values import always_running_statistics

log = logging.getLogger(__name__)


def freeze_backbone(model: SSD, recipe: Recipe) -> None:
    """Keep the first parts of a model's backbone as they are, in place, as the recipe says.

    The weights and running statistics of frozen parts stay, whatever the mode of the model. With `freeze_norms` the
    running statistics of the whole backbone do; its scales and shifts are trained on.

    Args:
        model: Its backbone names its parts in the order in which an image passes them (`parts()`).
        recipe: freeze: how many; None for those whose maps have a stride of `freeze_stride` at most.

    Raises:
        ConfigError: The backbone has fewer parts, or `freeze` counts those of one that names none.
    """
    named = getattr(model.backbone, "parts", None)
    frozen = _frozen(model.name, None if named is None else named(), recipe)
    for part in frozen:
        part.requires_grad_(False)
    for module in [model.backbone] if recipe.freeze_norms else frozen:
        for layer in module.modules():
            if isinstance(layer, _BatchNorm):
                always_running_statistics(layer)


def _frozen(name: str, parts: list[Part] | None, recipe: Recipe) -> list[nn.Module]:
    count = recipe.freeze
    if parts is None:
        if count:
            raise ConfigError(f"--freeze {count}: the backbone of {printable(name, 60)} names no parts; leave it out")
        if recipe.freeze_stride and count is None:
            log.info("%s: its backbone names no parts, so none is frozen", printable(name, 60))
        return []
    if count is None:
        return [part.module for part in parts if part.stride <= recipe.freeze_stride]
    if count > len(parts):
        raise ConfigError(f"--freeze {count}: the backbone of {name} has {len(parts)} parts; want 0 to {len(parts)}")
    return [part.module for part in parts[:count]]
