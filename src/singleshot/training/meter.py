"""What a training reports between two epochs: mean losses, speed, and how far the weights move."""

from __future__ import annotations

import time
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from singleshot.records import Losses


class Meter:
    """Mean losses and speed since it was made, without asking the device more than once in `interval` seconds."""

    def __init__(self, batch: int, interval: float, losses: Sequence[float] = (), counted: int = 0) -> None:
        """batch: images in a step; losses, counted: what `state` gave, to go on from."""
        self._batch, self._interval = batch, interval
        self._sums = torch.tensor(losses, dtype=torch.float32) if counted else None
        self._steps, self._before = counted, counted
        self._started = self._last = time.monotonic()

    def start(self) -> None:
        """Now the steps begin: the speed is theirs, without the validation before them."""
        self._started = time.monotonic()

    def due(self) -> bool:
        """Whether to report again."""
        if time.monotonic() - self._last < self._interval:
            return False
        self._last = time.monotonic()
        return True

    def add(self, losses: Losses) -> None:
        """Count a step; its losses may still be in the making on the device."""
        values = torch.stack([losses.total, losses.location, losses.confidence])
        self._sums = values if self._sums is None else self._sums.to(values) + values
        self._steps += 1

    def state(self) -> tuple[list[float], int]:
        """Sums of the losses so far, exactly, and over how many steps."""
        return (self._sums.tolist() if self._sums is not None else []), self._steps

    def values(self) -> dict[str, float]:
        """loss, loss_location, loss_confidence (NaN before the first step) and images_per_second."""
        total, location, confidence = (
            (self._sums / self._steps).tolist() if self._sums is not None else [float("nan")] * 3
        )
        speed = (self._steps - self._before) * self._batch / max(time.monotonic() - self._started, 1e-9)
        return {"loss": total, "loss_location": location, "loss_confidence": confidence, "images_per_second": speed}


def layer_weights(model: nn.Module) -> dict[str, Tensor]:
    """Copies of the weights of its layers, without biases and scales."""
    return {key: p.detach().clone() for key, p in model.named_parameters() if p.ndim > 1}


def update_ratios(before: dict[str, Tensor], after: dict[str, Tensor]) -> dict[str, float]:
    """update_ratio/LAYER: length of each layer's last change over the length of its weights; about 1e-3 is healthy.

    before, after: what `layer_weights` gave round a step.
    """
    ratios = {k: ((after[k] - w).norm() / w.norm().clamp(min=1e-12)) for k, w in before.items()}
    values = torch.stack(list(ratios.values())).tolist()
    return {f"update_ratio/{key}": value for key, value in zip(ratios, values, strict=True)}
