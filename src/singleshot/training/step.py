"""One step of training: forward, matching, loss, backward, update. No wait for the accelerator anywhere in it."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from singleshot.devices import autocast
from singleshot.errors import SingleshotError, printable
from singleshot.models import SSD
from singleshot.records import Batch, Losses
from singleshot.training.objective import recipe_loss
from singleshot.training.optimizers import ModelEMA, make_optimizer, set_lr
from singleshot.training.recipes import Recipe


class NonFiniteLossError(SingleshotError):
    """The loss became infinite or NaN; names the files of the batches since the last check."""

    def __init__(self, value: float, names: list[str]) -> None:
        shown = ", ".join(printable(name) for name in names[:64])
        more = f" and {len(names) - 64} more" if len(names) > 64 else ""
        super().__init__(
            f"the loss became {value} on a batch of these files: {shown}{more};"
            " look at their boxes, lower --lr, or use --precision float32"
        )


class _Pending(NamedTuple):
    total: Tensor
    names: tuple[str, ...]


class Stepper:
    """Holds the model, optimizer, gradient scaler and weight average; calling it trains on one batch."""

    def __init__(
        self,
        model: SSD,
        recipe: Recipe,
        batch_size: int,
        device: torch.device,
        dtype: torch.dtype,
        compiled: bool = False,
    ) -> None:
        self.model, self.recipe, self.device, self.dtype = model, recipe, device, dtype
        self.lr = recipe.learning_rate(batch_size)
        self.optimizer = make_optimizer(model, recipe, self.lr)
        self.average = ModelEMA(model, recipe.ema) if recipe.ema > 0 else None
        self.scaler = torch.amp.GradScaler(device.type, enabled=dtype is torch.float16)
        self.forward = torch.compile(model) if compiled else model
        # Asking an accelerator for a number stops its queue, so there many steps share one look.
        self.check_every = 1 if device.type == "cpu" else 50
        self._pending: list[_Pending] = []

    def __call__(self, batch: Batch, factor: float) -> Losses:
        """Train on a batch at `factor` of the learning rate; the losses stay on the device.

        Raises NonFiniteLossError, on a CPU before the weights are touched.
        """
        recipe, model = self.recipe, self.model
        set_lr(self.optimizer, self.lr * factor)
        images = batch.images.to(self.device, non_blocking=True)
        boxes = batch.boxes.to(self.device, non_blocking=True)
        labels = batch.labels.to(self.device, non_blocking=True)
        with autocast(self.device, self.dtype):
            raw = self.forward(images)
        losses = recipe_loss(model, raw, boxes, labels, recipe)
        self._pending.append(_Pending(losses.total.detach(), batch.names))
        if len(self._pending) >= self.check_every:
            self.check()
        self.optimizer.zero_grad(set_to_none=True)
        self.scaler.scale(losses.total).backward()
        if recipe.clip_norm > 0:
            self.scaler.unscale_(self.optimizer)
            torch.nn.utils.clip_grad_norm_(model.parameters(), recipe.clip_norm, foreach=True)
        self.scaler.step(self.optimizer)
        self.scaler.update()
        if self.average is not None:
            self.average.update()
        return Losses(*(value.detach() for value in losses))

    def check(self) -> None:
        """Raise NonFiniteLossError if a loss since the last check was not finite."""
        pending, self._pending = self._pending, []
        if not pending:
            return
        totals = torch.stack([p.total for p in pending]).tolist()
        for value, (_, names) in zip(totals, pending, strict=True):
            if not math.isfinite(value):
                raise NonFiniteLossError(value, list(names))

    def eval_state(self) -> dict[str, Tensor]:
        """The weights to evaluate and keep: the average where there is one."""
        return self.average.state if self.average is not None else self.model.state_dict()
