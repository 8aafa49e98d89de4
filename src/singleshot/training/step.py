"""One step of training: forward, matching, loss, backward, update. No wait for the accelerator anywhere in it."""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from singleshot.boxes import decode
from singleshot.devices import autocast
from singleshot.errors import ConfigError, SingleshotError, did_you_mean, printable
from singleshot.losses import LOSS_RULES, BoxLoss, SharedBatch, multibox_loss
from singleshot.matching import RULES, match
from singleshot.models import SSD
from singleshot.priors import PriorSpec, make_priors
from singleshot.records import Batch, Losses, RawOutput, Targets
from singleshot.sigmoid_losses import sigmoid_loss
from singleshot.thresholds import Thresholds
from singleshot.training.distributed import World
from singleshot.training.failures import is_out_of_memory
from singleshot.training.optimizers import ModelEMA, make_optimizer, set_lr
from singleshot.training.progressive import Phase, resized
from singleshot.training.recipes import Recipe

log = logging.getLogger(__name__)


class NonFiniteLossError(SingleshotError):
    """The loss became infinite or NaN; names the files of the batch. elsewhere: those that another process has."""

    def __init__(self, value: float, names: list[str], elsewhere: bool = False) -> None:
        self.elsewhere = elsewhere
        shown = ", ".join(printable(name) for name in names[:64])
        more = f" and {len(names) - 64} more" if len(names) > 64 else ""
        super().__init__(
            f"the loss became {value} on a batch of these files: {shown}{more};"
            " look at their boxes, lower --lr, or use --precision float32"
        )


class Objective:
    """What a recipe wants of raw outputs: the same matching and loss in a training step and in validation.

    raw: the model's outputs; boxes: [B, G, 4] normalised; labels: [B, G], -1 where there is no object; ignored: the
    regions [B, K, 4] of a Batch, None where it has none; all on the model's device.
    """

    def __init__(
        self, model: SSD, recipe: Recipe, class_names: Sequence[str] = (), priors: PriorSpec | None = None
    ) -> None:
        """class_names: by label, for a recipe with class_weights; priors: of inputs of another size, None for the
        model's own. Raises ConfigError for weights of other classes."""
        self._recipe, self._spec = recipe, priors or model.prior_spec
        self._priors = model.priors if priors is None else make_priors(priors).to(model.priors.device)
        self._box_loss = BoxLoss(recipe.box_loss, self._boxes_px)
        self._class_weights = _class_weights(recipe.class_weights, class_names, model.priors.device)

    def __call__(self, raw: RawOutput, boxes: Tensor, labels: Tensor, ignored: Tensor | None = None) -> Losses:
        """Losses of a batch."""
        return self.loss(raw, self.match(boxes, labels, raw, ignored))

    @torch.no_grad()
    def match(self, boxes: Tensor, labels: Tensor, raw: RawOutput | None, ignored: Tensor | None = None) -> Targets:
        """Targets of a batch by the recipe's rule of matching; raw: for rules that go by predictions."""
        recipe, spec = self._recipe, self._spec
        return match(
            self._priors,
            boxes,
            labels,
            recipe.iou_min,
            recipe.matching,
            spec.variances,
            ignore_from=recipe.ignore_from,
            spec=spec,
            raw=None if raw is None else RawOutput(*(values.detach() for values in raw)),
            activation=recipe.activation,
            ignored=ignored,
        )

    def loss(
        self,
        raw: RawOutput,
        targets: Targets,
        positives: Tensor | None = None,
        shared: SharedBatch | None = None,
    ) -> Losses:
        """Losses by the recipe's rule; positives: what takes the place of the batch's own number of matched priors
        where the rule divides by it; shared: of what batch this is a part (see `losses.multibox_loss`)."""
        recipe, weights = self._recipe, self._class_weights
        if recipe.activation == "sigmoid":
            if shared is not None:
                positives = shared.gather((targets.labels > 0).sum(dim=1)).sum()
            return sigmoid_loss(raw, targets, self._box_loss, recipe.loss, recipe.alpha, positives, weights)
        factors = recipe.negative_ratio, recipe.alpha, recipe.min_negatives, recipe.label_smoothing
        box_loss = None if recipe.box_loss == "smooth-l1" else self._box_loss
        return multibox_loss(raw, targets, recipe.loss, *factors, positives, box_loss, weights, shared)

    def _boxes_px(self, offsets: Tensor) -> Tensor:
        height, width = self._spec.image
        boxes = decode(offsets, self._priors, self._spec.variances)
        return torch.stack([v * side for v, side in zip(boxes.unbind(-1), (width, height) * 2, strict=True)], dim=-1)


def _class_weights(weights: Mapping[str, float], class_names: Sequence[str], device: torch.device) -> Tensor | None:
    """[C], 1 for a class that is not named; None where none is."""
    for name in weights:
        if name not in class_names:
            known = ", ".join(printable(one, 40) for one in class_names[:20])
            hint = did_you_mean(name, class_names)
            raise ConfigError(f"class_weights: {printable(name, 40)} is no class of the data ({known}){hint}")
    return torch.tensor([weights.get(name, 1.0) for name in class_names], device=device) if weights else None


class _Pending(NamedTuple):
    """own: of the images here, where other processes have more."""

    total: Tensor
    own: Tensor
    names: tuple[str, ...]


class Stepper:
    """Holds the model, optimizer, gradient scaler and weight average; calling it trains on one batch.

    thresholds: how the outputs of a model that is trained so become detections.
    """

    def __init__(
        self,
        model: SSD,
        recipe: Recipe,
        batch_size: int,
        device: torch.device,
        dtype: torch.dtype,
        compiled: bool = False,
        world: World | None = None,
        class_names: Sequence[str] = (),
        phases: Sequence[Phase] = (),
    ) -> None:
        """Make the optimizer and what else the recipe wants.

        Args:
            model: On the device already.
            recipe: Optimizer, matching, loss, averaging.
            batch_size: Of all processes together; the learning rate is in proportion to it.
            device: Where the model is.
            dtype: Of autocast in the forward pass; float32 for none.
            compiled: Whether the network is compiled first.
            world: The processes that share a step, each with its part of a batch; None for one alone.
            class_names: By label, for a recipe with class_weights.
            phases: Smaller inputs, of which a step may be.
        """
        self.model, self.recipe, self.device, self.dtype = model, recipe, device, dtype
        self.lr = recipe.learning_rate(batch_size)
        self.optimizer = make_optimizer(model, recipe, self.lr)
        self.average = ModelEMA(model, recipe.ema) if recipe.ema > 0 else None
        self.scaler = torch.amp.GradScaler(device.type, enabled=dtype is torch.float16)
        self.objective = Objective(model, recipe, class_names)
        self.phases = tuple(phases)
        self._small = {phase: Objective(model, recipe, class_names, phase.priors) for phase in self.phases}
        self._phase: Phase | None = None
        self.thresholds = Thresholds(activation=recipe.activation, box_voting=recipe.box_voting)
        self.forward = torch.compile(model) if compiled else model
        # Asking an accelerator for a number stops its queue, so there many steps share one look.
        self.check_every = 1 if device.type == "cpu" else 50
        # False while weights are updated: an error then leaves them half old, half new.
        self.whole = True
        # In how many a batch is trained, one after another, where memory has no room for it at once.
        self.parts = 1
        self._world = world
        self._autocast = autocast(device, dtype)
        self._pending: list[_Pending] = []

    def __call__(self, batch: Batch, factor: float, phase: Phase | None = None) -> Losses:
        """Train on a batch at `factor` of the learning rate; the losses stay on the device. phase: of `phases`, whose
        size the images are made; None for their own.

        Where memory has no room for it, it is trained in twice as many parts, whose gradients are summed, from then on.
        Raises NonFiniteLossError, on a CPU before the weights are touched.
        """
        set_lr(self.optimizer, self.lr * factor)
        self._phase = phase
        if self._world is not None:
            return self._shared_step(batch, self._world)
        while (losses := self._gradients(batch)) is None:
            self.parts *= 2
            log.warning(
                "out of memory: a batch of %d is trained in %d parts from now on, whose gradients are summed (their"
                " normalisation sees a part); for more room give a smaller --batch",
                len(batch.names),
                self.parts,
            )
        losses = Losses(*(value.detach() for value in losses))
        self._pending.append(_Pending(losses.total, losses.total, batch.names))
        if len(self._pending) >= self.check_every:
            self.check()
        self._update()
        return losses

    def _shared_step(self, batch: Batch, world: World) -> Losses:
        """As a step of the whole batch, of which a part is here. An error in the middle leaves running statistics half
        old, half new, and the other processes waiting; there is no going on in smaller parts."""
        self.whole = False
        with world.reached():
            self.optimizer.zero_grad(set_to_none=True)
            images, boxes, labels, ignored = self._to_device(batch)
            with self._autocast:
                raw = self.forward(images)
            objective = self._objective
            targets = objective.match(boxes, labels, raw, ignored)
            own = objective.loss(raw, targets, shared=world.shared(len(images)))
            self._backward(own.total)
            world.sum_gradients([p for group in self.optimizer.param_groups for p in group["params"]])
            losses = Losses(*world.sum(torch.stack([value.detach().double() for value in own])).unbind())
        self.whole = True
        losses = Losses(*(value.to(one.dtype) for value, one in zip(losses, own, strict=True)))
        self._pending.append(_Pending(losses.total, own.total.detach(), batch.names))
        if len(self._pending) >= self.check_every:
            self.check()
        self._update()
        return losses

    def _gradients(self, batch: Batch) -> Losses | None:
        """Losses of a batch whose gradients are computed; None where memory has no room and smaller parts may have."""
        try:
            self.optimizer.zero_grad(set_to_none=True)
            return self._whole_batch(batch) if self.parts == 1 else self._in_parts(batch)
        except (MemoryError, RuntimeError) as error:
            if not (is_out_of_memory(error) and self._divisible) or 2 * self.parts > len(batch.names):
                raise
        # Past the handler, so that the error holds no tensors any more.
        self.optimizer.zero_grad(set_to_none=True)
        if self.device.type == "cuda":
            torch.cuda.empty_cache()
        return None

    def _whole_batch(self, batch: Batch) -> Losses:
        images, boxes, labels, ignored = self._to_device(batch)
        with self._autocast:
            raw = self.forward(images)
        losses = self._objective(raw, boxes, labels, ignored)
        self._backward(losses.total)
        return losses

    @property
    def _divisible(self) -> bool:
        """Whether the loss of a batch can be put together from its parts: not by sigmoids, nor with targets that need
        the outputs of all of it."""
        return self.recipe.loss in LOSS_RULES and not RULES[self.recipe.matching].by_predictions

    def _in_parts(self, batch: Batch) -> Losses:
        """As of the whole batch, but for normalisation and for negatives that images compete for."""
        images, boxes, labels, ignored = self._to_device(batch)
        objective = self._objective
        targets = objective.match(boxes, labels, None, ignored)
        matches = (targets.labels > 0).sum(dim=1)
        positives = matches.sum()
        weigh = LOSS_RULES[self.recipe.loss].weigh
        weights = weigh(matches.float(), positives)
        found = []
        for part in torch.arange(len(images), device=matches.device).chunk(self.parts):
            with self._autocast:
                raw = self.forward(images[part])
            losses = objective.loss(raw, Targets(targets.labels[part], targets.offsets[part]), positives)
            # What the rule divides a part by, against what it divides the batch by.
            own = weigh(matches[part].float(), positives)
            share = weights[part].sum() / own.sum().clamp(min=1e-12)
            total, location, confidence = (value * share for value in losses[:3])
            self._backward(total)
            found.append(Losses(total.detach(), location.detach(), confidence.detach(), losses.positives))
        return Losses(*(torch.stack(values).sum() for values in zip(*found, strict=True)))

    @property
    def _objective(self) -> Objective:
        return self.objective if self._phase is None else self._small[self._phase]

    def _to_device(self, batch: Batch) -> tuple[Tensor, Tensor, Tensor, Tensor | None]:
        images, boxes, labels = (
            value.to(self.device, non_blocking=True) for value in (batch.images, batch.boxes, batch.labels)
        )
        ignored = None if batch.ignored is None else batch.ignored.to(self.device, non_blocking=True)
        if self._phase is not None:
            images = resized(images, self._phase.sides)
        return images, boxes, labels, ignored

    def _backward(self, loss: Tensor) -> None:
        self.scaler.scale(loss).backward()  # type: ignore[no-untyped-call]

    def _update(self) -> None:
        if self.recipe.clip_norm > 0:
            self.scaler.unscale_(self.optimizer)
            torch.nn.utils.clip_grad_norm_(self.model.parameters(), self.recipe.clip_norm, foreach=True)
        self.whole = False
        self.scaler.step(self.optimizer)
        self.scaler.update()
        if self.average is not None:
            self.average.update()
        self.whole = True

    def check(self) -> None:
        """Raise NonFiniteLossError if a loss since the last check was not finite."""
        pending, self._pending = self._pending, []
        if not pending:
            return
        totals = torch.stack([p.total for p in pending]).tolist()
        for value, (_, own, names) in zip(totals, pending, strict=True):
            if not math.isfinite(value):
                raise NonFiniteLossError(value, list(names), elsewhere=bool(own.isfinite()))

    def is_finite(self) -> bool:
        """Whether every weight and running statistic is a finite number."""
        values = [v for v in self.model.state_dict().values() if v.is_floating_point()]
        return bool(torch.stack([v.isfinite().all() for v in values]).all())

    def eval_state(self) -> dict[str, Tensor]:
        """The weights to evaluate and keep: the average where there is one."""
        return self.average.state if self.average is not None else self.model.state_dict()
