"""Holding parts of a pretrained backbone as they are: what is frozen costs no backward pass."""

from __future__ import annotations

from torch.nn.modules.batchnorm import _BatchNorm

from singleshot.errors import ConfigError, printable
from singleshot.models import SSD
from singleshot.training.single_values import always_running_statistics


def freeze_backbone(model: SSD, parts: int, norms: bool) -> None:
    """Keep the first parts of a model's backbone as they are, in place.

    Args:
        model: Its backbone names its parts in the order in which an image passes them (`parts()`).
        parts: How many; their weights and running statistics stay, whatever the mode of the model.
        norms: Whether the running statistics of the whole backbone stay; its scales and shifts are trained on.

    Raises:
        ConfigError: The backbone has fewer parts, or is an imported network, which names none.
    """
    frozen = []
    if parts:
        named = getattr(model.backbone, "parts", None)
        if named is None:
            raise ConfigError(
                f"--freeze {parts}: the backbone of {printable(model.name, 60)} has no parts with names; leave it out"
            )
        all_parts = named()
        if parts > len(all_parts):
            raise ConfigError(
                f"--freeze {parts}: the backbone of {model.name} has {len(all_parts)} parts; want 0 to {len(all_parts)}"
            )
        frozen = all_parts[:parts]
        for part in frozen:
            part.requires_grad_(False)
    for module in [model.backbone] if norms else frozen:
        for layer in module.modules():
            if isinstance(layer, _BatchNorm):
                always_running_statistics(layer)
