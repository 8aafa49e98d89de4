"""How large a network is, and what it computes for an image."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

from singleshot.models.dry_run import on_meta, shapes_pass
from singleshot.models.ssd import SSD


class ModelCost(NamedTuple):
    """parameters: learnable numbers; gflops: 10^9 floating point operations for one image, a product and a sum as two,
    of convolutions and matrix products alone."""

    parameters: int
    gflops: float


def model_cost(model: SSD) -> ModelCost:
    """Of a model on any device; shapes alone are run."""
    channels, (height, width) = model.input_spec.channels, model.input_spec.sides
    counter = _Operations()
    shapes = on_meta(model).eval()
    with torch.no_grad(), shapes_pass(shapes), counter:
        shapes(torch.zeros(1, channels, height, width, device="meta"))
    return ModelCost(sum(one.numel() for one in model.parameters()), counter.count / 1e9)


class _Operations(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Counts as PyTorch's FlopCounterMode, which first takes every other operator apart: three times the time."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.count = 0

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        formula = flop_registry.get(func._overloadpacket)
        if formula is not None:
            self.count += formula(*args, **(kwargs or {}), out_val=result)
        return result
