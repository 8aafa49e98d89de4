"""The training loop: batches through a Stepper, validation, checkpoints, and stopping well."""

from __future__ import annotations

import contextlib
import functools
import logging
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch

from singleshot.datasets.dataset import Dataset
from singleshot.devices import pick_precision, place_model
from singleshot.evaluation.validate import Validation, validate
from singleshot.loading.cache import open_cache
from singleshot.loading.loader import EvalLoader, TrainLoader
from singleshot.loading.shard_stream import ShardStream
from singleshot.memory import keep_freed_memory, release_freed_memory
from singleshot.models import SSD
from singleshot.records import Batch, Losses
from singleshot.runtime.detections import Detections
from singleshot.runtime.drawing import draw_detections
from singleshot.thresholds import Thresholds
from singleshot.training.objective import recipe_loss
from singleshot.training.recipes import Recipe
from singleshot.training.reports import COLUMNS, Reporter
from singleshot.training.schedule import Budget, lr_factor
from singleshot.training.state import Progress, is_finite, load_state, save_state
from singleshot.training.step import NonFiniteLossError, Stepper
from singleshot.training.stopping import StopRequest
from singleshot.weights.checkpoint import ModelInfo, save_checkpoint

log = logging.getLogger(__name__)

BEST, LAST, STATE = "best.safetensors", "last.safetensors", "resume.safetensors"
# With a wall-clock budget validation may take this part of the time (not counting the last one).
_VALIDATION_SHARE = 0.08
_SAVE_EVERY = 60.0  # seconds at least between two saved states in the middle of a training


@dataclass(frozen=True)
class Settings:
    """What a run needs beside model, data and recipe. seconds: wall-clock budget in place of epochs; cache: where
    decoded training images are kept ("none", "ram" or a folder), at most cache_bytes of them."""

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
    update_ratios: bool = False
    pictures: int = 4


@dataclass(frozen=True)
class Result:
    """How a training ended. interrupted: by Ctrl-C; best_map is None when there was no validation data."""

    epochs: int
    steps: int
    seconds: float
    best_map: float | None
    interrupted: bool
    images_per_second: float


class Trainer:
    """Trains `model` on train_set, validates on val_set (may be None), writes into settings.out.

    best.safetensors holds the weights with the highest validation mAP50, last.safetensors the latest, and
    resume.safetensors everything needed to go on.
    """

    def __init__(
        self,
        model: SSD,
        train_set: Dataset | ShardStream,
        val_set: Dataset | None,
        recipe: Recipe,
        settings: Settings,
        reporters: Sequence[Reporter] = (),
    ) -> None:
        if settings.device.type == "cpu":
            keep_freed_memory()
        self.recipe, self.settings, self.reporters = recipe, settings, list(reporters)
        self.train_set, self.val_set = train_set, val_set
        place_model(model, settings.device)
        self.model = model
        self.dtype = pick_precision(settings.precision, settings.device)
        self.stepper = Stepper(model, recipe, settings.batch, settings.device, self.dtype, settings.compiled)
        size, pinned = model.input_spec.size, settings.device.type == "cuda"
        self.cache = None
        if not isinstance(train_set, ShardStream):
            self.cache = open_cache(train_set, size, settings.cache, settings.cache_bytes)
        self.loader = TrainLoader(
            self.cache or train_set, recipe.augment, model.input_spec, settings.batch, settings.seed,
            settings.workers, pin_memory=pinned,
        )  # fmt: skip
        self.val_loader = (
            EvalLoader(val_set, model.input_spec, settings.batch, settings.workers, pin_memory=pinned)
            if val_set is not None
            else None
        )
        self.progress = Progress()
        self._stop = StopRequest()
        total = None if settings.seconds is not None else settings.epochs * len(self.loader)
        self.clock = Budget(total, settings.seconds)
        self._started = self._last_save = self._last_val = time.monotonic()
        self._before = 0.0
        self._val_seconds = 0.0

    def resume(self) -> None:
        """Go on from the state in settings.out. Raises CheckpointError."""
        self.progress = load_state(self.settings.out / STATE, self.stepper)
        self._before = self.progress.seconds

    @property
    def seconds(self) -> float:
        """Spent training so far, those before a resume included."""
        return self._before + time.monotonic() - self._started

    def run(self) -> Result:
        """Train to the end, or to Ctrl-C. Raises NonFiniteLossError after saving."""
        self._started = self._last_save = self._last_val = time.monotonic()
        first_step = self.progress.step
        interrupted = False
        self.model.train()
        try:
            with self._stop:
                while self.clock.progress(self.progress.step, self.seconds) < 1.0:
                    self._epoch()
        except KeyboardInterrupt:
            interrupted = True
        except NonFiniteLossError:
            self._save_unless_broken()
            raise
        finally:
            self.loader.close()
            if self.cache is not None:
                self.cache.close()
            for reporter in self.reporters:
                reporter.close()
        self._save()
        spent = max(time.monotonic() - self._started, 1e-9)
        steps = self.progress.step - first_step
        best = self.progress.best if self.progress.best >= 0 else None
        return Result(
            self.progress.epoch,
            self.progress.step,
            self.seconds,
            best,
            interrupted,
            steps * self.settings.batch / spent,
        )

    def _epoch(self) -> None:
        """From the next batch to the end of its epoch, or of the training."""
        progress, meter = self.progress, _Meter(self.settings.batch)
        batches = self.loader.epoch(progress.epoch, progress.batch)
        with contextlib.closing(batches):  # type: ignore[type-var]
            for batch in batches:
                done = self.clock.progress(progress.step, self.seconds)
                if done >= 1.0:
                    break
                self._stop.check()
                self._step(batch, done, meter)
        self.stepper.check()
        if progress.batch >= len(self.loader):
            progress.epoch, progress.batch = progress.epoch + 1, 0
        self._end_epoch(meter)

    def _step(self, batch: Batch, done: float, meter: _Meter) -> None:
        recipe, progress = self.recipe, self.progress
        factor = lr_factor(done, recipe.schedule, self._warmup(), recipe.milestones, recipe.gamma, recipe.final_lr)
        tell = meter.due()
        before = self._weights() if tell and self.settings.update_ratios else None
        losses = self.stepper(batch, factor)
        progress.step, progress.batch = progress.step + 1, progress.batch + 1
        meter.add(losses)
        if tell:
            values = {**meter.values(), **self._position()}
            if before is not None:
                values |= _update_ratios(before, self._weights())
            for reporter in self.reporters:
                reporter.on_step(values)

    def _warmup(self) -> float:
        """Warm-up as a part of the training: the recipe's, but no longer than its number of steps."""
        steps = self.clock.total_steps
        if steps is not None:
            return min(self.recipe.warmup, self.recipe.warmup_steps / max(steps, 1))
        return self.recipe.warmup

    def _position(self) -> dict[str, Any]:
        progress, seconds = self.progress, self.seconds
        done = self.clock.progress(progress.step, seconds)
        left: float | None = None
        if self.settings.seconds is not None:
            left = self.settings.seconds - seconds
        elif done > 0.005:
            left = seconds * (1 - done) / done
        return {
            "epoch": progress.epoch, "step": progress.step, "seconds": round(seconds, 2), "progress": done,
            "lr": self.stepper.optimizer.param_groups[0]["lr"], "last_map": progress.last_map, "seconds_left": left,
        }  # fmt: skip

    def _weights(self) -> dict[str, torch.Tensor]:
        return {k: p.detach().clone() for k, p in self.model.named_parameters() if p.ndim > 1}

    def _end_epoch(self, meter: _Meter) -> None:
        progress = self.progress
        done = self.clock.progress(progress.step, self.seconds)
        row: dict[str, Any] = {**meter.values(), **self._position()}
        row["epoch"] = progress.epoch - (1 if progress.batch == 0 else 0)
        if self.val_set is not None and self._validation_is_due(done):
            row |= self._validate()
        progress.history.append({key: row.get(key) for key in COLUMNS})
        progress.seconds = self.seconds
        for reporter in self.reporters:
            reporter.on_epoch(row)
        if done >= 1.0 or time.monotonic() - self._last_save >= _SAVE_EVERY or progress.epoch == 1:
            self._save()

    def _validation_is_due(self, done: float) -> bool:
        if done >= 1.0:
            return True
        if self.settings.seconds is None:
            return self.progress.epoch % self.settings.val_every == 0
        since = time.monotonic() - self._last_val
        if self._val_seconds == 0.0:
            return done >= 0.1
        return since * _VALIDATION_SHARE >= self._val_seconds

    def _validate(self) -> dict[str, Any]:
        assert self.val_set is not None
        assert self.val_loader is not None
        started = time.monotonic()
        # The averaged weights are judged, by swapping them in: a second network would double the memory.
        kept = {key: value.clone() for key, value in self.model.state_dict().items()}
        self.model.load_state_dict(self.stepper.eval_state())
        try:
            result = validate(
                self.model, self.val_set, self.val_loader, Thresholds(), self.settings.device, "voc",
                functools.partial(recipe_loss, self.model, recipe=self.recipe), self._stop.check,
            )  # fmt: skip
            self._tell_pictures(result)
            progress = self.progress
            score = result.evaluation.mean_ap
            score = 0.0 if np.isnan(score) else float(score)
            progress.last_map = score
            best = score > progress.best
            if best:
                progress.best = score
                save_checkpoint(self.settings.out / BEST, self.model.state_dict(), self._info(score))
        finally:
            self.model.load_state_dict(kept)
        release_freed_memory()
        self._last_val = time.monotonic()
        self._val_seconds = self._last_val - started
        self.clock.reserve = self._val_seconds
        return {
            "val_loss_location": result.location, "val_loss_confidence": result.confidence,
            "val_map50": score, "last_map": score, "best": best,
        }  # fmt: skip

    def _tell_pictures(self, result: Validation) -> None:
        if not any(reporter.wants_pictures for reporter in self.reporters):
            return
        assert self.val_set is not None
        pictures = []
        for i in range(min(self.settings.pictures, len(self.val_set))):
            image, (boxes, scores, labels) = self.val_set.sample(i).image, result.detections[i]
            names = tuple(self.val_set.class_names[label] for label in labels)
            height, width = image.shape[:2]
            found = Detections(boxes, scores, labels, names, self.val_set.names[i], width, height)
            pictures.append(draw_detections(image, found.above(Thresholds().show_min)))
        for reporter in self.reporters:
            reporter.on_pictures(self.progress.step, pictures)

    def _info(self, score: float | None) -> ModelInfo:
        progress = self.progress
        training = {
            "epochs": progress.epoch, "steps": progress.step, "seconds": round(self.seconds, 1),
            "seed": self.settings.seed, "batch": self.settings.batch, "data": self.train_set.source,
            "recipe": self.recipe.plain(),
        }  # fmt: skip
        metrics = {} if score is None else {"val_map50": round(score, 6)}
        return ModelInfo.of(self.model, self.train_set.class_names, metrics=metrics, training=training)

    def _save(self) -> None:
        progress = self.progress
        progress.seconds = self.seconds
        out = self.settings.out
        last = progress.last_map
        save_checkpoint(out / LAST, self.stepper.eval_state(), self._info(last))
        if self.val_set is None:
            save_checkpoint(out / BEST, self.stepper.eval_state(), self._info(None))
        save_state(out / STATE, self.stepper, progress)
        self._last_save = time.monotonic()

    def _save_unless_broken(self) -> None:
        if is_finite(self.stepper):
            self._save()
        else:  # an accelerator is looked at now and then only: the weights are spoilt, the last saved ones are not
            log.warning("the weights hold NaN; %s keeps the last good state", self.settings.out / STATE)


class _Meter:
    """Mean losses and speed since it was made, without asking the device more than a few times a second."""

    def __init__(self, batch: int, interval: float = 0.5) -> None:
        self._batch, self._interval = batch, interval
        self._sums: torch.Tensor | None = None
        self._steps = 0
        self._started = self._last = time.monotonic()

    def due(self) -> bool:
        """Whether to report again; at most twice a second."""
        if time.monotonic() - self._last < self._interval:
            return False
        self._last = time.monotonic()
        return True

    def add(self, losses: Losses) -> None:
        values = torch.stack([losses.total, losses.location, losses.confidence])
        self._sums = values if self._sums is None else self._sums + values
        self._steps += 1

    def values(self) -> dict[str, Any]:
        total, location, confidence = (
            (self._sums / self._steps).tolist() if self._sums is not None else [float("nan")] * 3
        )
        speed = self._steps * self._batch / max(time.monotonic() - self._started, 1e-9)
        return {"loss": total, "loss_location": location, "loss_confidence": confidence, "images_per_second": speed}


def _update_ratios(before: dict[str, torch.Tensor], after: dict[str, torch.Tensor]) -> dict[str, float]:
    """Length of each layer's last change over the length of its weights; about 1e-3 is healthy."""
    ratios = {k: ((after[k] - w).norm() / w.norm().clamp(min=1e-12)) for k, w in before.items()}
    values = torch.stack(list(ratios.values())).tolist()
    return {f"update_ratio/{key}": value for key, value in zip(ratios, values, strict=True)}
