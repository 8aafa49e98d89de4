"""Progressive resizing: a training of a given time begins on smaller inputs, of which it sees more.

As in fast.ai's entry of DAWNBench (Howard et al. 2018). Images are made smaller on the device, after augmentation: what
is drawn for them, and with it the order of all random numbers, is that of the full size.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from singleshot.errors import ConfigError
from singleshot.input_shape import MULTIPLE
from singleshot.models import SSD
from singleshot.models.dry_run import priors_on
from singleshot.priors import PriorSpec


class Phase(NamedTuple):
    """Before `until` of the training inputs have these priors, and their sides."""

    until: float
    priors: PriorSpec

    @property
    def sides(self) -> tuple[int, int]:
        """Height and width in pixels."""
        return self.priors.image


def phases_of(model: SSD, steps: Sequence[tuple[float, float]]) -> tuple[Phase, ...]:
    """The phases of a network: of (until, part of the side), without those that are no smaller than its own input.

    A phase whose input is too small for the network's layers is left out too: the next larger one begins then.
    """
    own, found = model.input_spec.sides, []
    for until, part in steps:
        sides = tuple(max(MULTIPLE, round(side * part / MULTIPLE) * MULTIPLE) for side in own)
        if sides[0] >= own[0] or sides[1] >= own[1]:
            continue
        try:
            found.append(Phase(until, priors_on(model, (sides[0], sides[1]), model.name)))
        except ConfigError:
            continue
    return tuple(found)


def phase_at(phases: Sequence[Phase], done: float) -> Phase | None:
    """The one that a training is in, None for the network's own input."""
    return next((phase for phase in phases if done < phase.until), None)


def resized(images: Tensor, sides: tuple[int, int]) -> Tensor:
    """uint8 or float [B, C, H, W] in 0..255 -> float32 of these sides, by areas as far as they shrink."""
    small = torch.nn.functional.interpolate(images.float(), sides, mode="bilinear", align_corners=False, antialias=True)
    return small.contiguous(memory_format=torch.channels_last)
