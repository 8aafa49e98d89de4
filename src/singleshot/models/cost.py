"""How large a network is, and what it computes for an image."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch.utils.flop_counter import FlopCounterMode

from singleshot.models.dry_run import on_meta
from singleshot.models.ssd import SSD


class ModelCost(NamedTuple):
    """parameters: learnable numbers; gflops: 10^9 floating point operations for one image, a product and a sum as two,
    of convolutions and matrix products alone."""

    parameters: int
    gflops: float


def model_cost(model: SSD) -> ModelCost:
    """Of a model on any device; shapes alone are run."""
    channels, (height, width) = model.input_spec.channels, model.input_spec.sides
    counter = FlopCounterMode(display=False)
    with torch.no_grad(), counter:
        on_meta(model).eval()(torch.zeros(1, channels, height, width, device="meta"))
    return ModelCost(sum(one.numel() for one in model.parameters()), counter.get_total_flops() / 1e9)
