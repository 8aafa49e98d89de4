"""What a recipe wants of raw outputs: the same matching and loss in a training step and in validation."""

from __future__ import annotations

import torch
from torch import Tensor

from singleshot.losses import multibox_loss
from singleshot.matching import match
from singleshot.models import SSD
from singleshot.records import Losses, RawOutput
from singleshot.training.recipes import Recipe


def recipe_loss(model: SSD, raw: RawOutput, boxes: Tensor, labels: Tensor, recipe: Recipe) -> Losses:
    """Losses of a batch by the recipe's rules.

    raw: the model's outputs; boxes: [B, G, 4] normalised; labels: [B, G], -1 where there is no object; all on the
    model's device.
    """
    with torch.no_grad():
        targets = match(
            model.priors,
            boxes,
            labels,
            recipe.iou_min,
            recipe.matching,
            model.prior_spec.variances,
            ignore_from=recipe.ignore_from,
        )
    return multibox_loss(
        raw,
        targets,
        recipe.loss,
        recipe.negative_ratio,
        recipe.alpha,
        recipe.min_negatives,
        recipe.label_smoothing,
    )
