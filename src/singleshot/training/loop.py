"""The training loop: batches through a Stepper, validation, checkpoints, and stopping well."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from singleshot.datasets.dataset import Dataset
from singleshot.loading.shard_stream import ShardStream
from singleshot.models import SSD
from singleshot.records import Batch
from singleshot.training.build import build_parts
from singleshot.training.checkpoints import BEST, LAST, STATE
from singleshot.training.meter import Meter, layer_weights, update_ratios
from singleshot.training.recipes import Recipe
from singleshot.training.reports import COLUMNS, Reporter
from singleshot.training.schedule import lr_factor
from singleshot.training.settings import Settings
from singleshot.training.state import Progress
from singleshot.training.step import NonFiniteLossError
from singleshot.training.stopping import StopRequest

__all__ = ["BEST", "LAST", "STATE", "NonFiniteLossError", "Result", "Settings", "Trainer"]

_SAVE_EVERY = 60.0  # seconds at least between two saved states in the middle of a training


@dataclass(frozen=True)
class Result:
    """How a training ended. interrupted: by Ctrl-C; best_map is None when there was nothing to validate on."""

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
        """Build everything; raises as `build_parts` does."""
        self.model, self.train_set, self.val_set = model, train_set, val_set
        self.recipe, self.settings, self.reporters = recipe, settings, list(reporters)
        parts = build_parts(model, train_set, val_set, recipe, settings)
        self.stepper, self.cache, self.loader, self.evaluator, self.checkpoints, self.budget = parts
        self.dtype = self.stepper.dtype
        self.progress = Progress()
        self._stop = StopRequest()
        self._before = 0.0
        self._started = self._last_save = time.monotonic()

    def resume(self) -> None:
        """Go on from the state in settings.out.

        Raises CheckpointError where it cannot be read, ConfigError for data of other classes.
        """
        self.progress = self.checkpoints.load()
        self._before = self.progress.seconds
        if self.progress.batch >= len(self.loader):  # the data has fewer batches than it had
            self.progress.epoch, self.progress.batch = self.progress.epoch + 1, 0

    @property
    def seconds(self) -> float:
        """Spent training so far, those before a resume included."""
        return self._before + time.monotonic() - self._started

    @property
    def done(self) -> float:
        """How far the training is, 0 to 1; by whole epochs, which counts right where a resumed run's data changed."""
        steps = self.progress.epoch * len(self.loader) + self.progress.batch
        return self.budget.progress(steps, self.seconds)

    def run(self) -> Result:
        """Train to the end, or to Ctrl-C. Raises NonFiniteLossError after saving."""
        self._started = self._last_save = time.monotonic()
        if self.evaluator is not None:
            self.evaluator.start()
        first_step = self.progress.step
        interrupted = False
        self.model.train()
        try:
            with self._stop:
                while self.done < 1.0:
                    self._epoch()
        except KeyboardInterrupt:
            interrupted = True
        except NonFiniteLossError:
            self.progress.seconds = self.seconds
            self.checkpoints.save_unless_broken(self.progress)
            raise
        finally:
            self._close()
        self._save()
        progress, spent = self.progress, max(time.monotonic() - self._started, 1e-9)
        return Result(
            epochs=progress.epoch,
            steps=progress.step,
            seconds=self.seconds,
            best_map=progress.best if progress.best >= 0 else None,
            interrupted=interrupted,
            images_per_second=(progress.step - first_step) * self.settings.batch / spent,
        )

    def _close(self) -> None:
        self.loader.close()
        if self.cache is not None:
            self.cache.close()
        for reporter in self.reporters:
            reporter.close()

    def _epoch(self) -> None:
        """From the next batch to the end of its epoch, or of the training."""
        progress, meter = self.progress, Meter(self.settings.batch, self.settings.report_seconds)
        batches = self.loader.epoch(progress.epoch, progress.batch)
        with contextlib.closing(batches):  # type: ignore[type-var]
            for batch in batches:
                done = self.done
                if done >= 1.0:
                    break
                self._stop.check()
                self._step(batch, done, meter)
        self.stepper.check()
        if progress.batch >= len(self.loader):
            progress.epoch, progress.batch = progress.epoch + 1, 0
        self._end_epoch(meter)

    def _step(self, batch: Batch, done: float, meter: Meter) -> None:
        recipe, progress = self.recipe, self.progress
        warmup = self.budget.warmup(recipe.warmup, recipe.warmup_steps)
        factor = lr_factor(done, recipe.schedule, warmup, recipe.milestones, recipe.gamma, recipe.final_lr)
        due = meter.due()
        before = layer_weights(self.model) if due and self.settings.update_ratios else None
        losses = self.stepper(batch, factor)
        progress.step, progress.batch = progress.step + 1, progress.batch + 1
        meter.add(losses)
        if due:
            values = {**meter.values(), **self._position()}
            if before is not None:
                values |= update_ratios(before, layer_weights(self.model))
            for reporter in self.reporters:
                reporter.on_step(values)

    def _end_epoch(self, meter: Meter) -> None:
        progress, done = self.progress, self.done
        row: dict[str, Any] = {**meter.values(), **self._position()}
        row["epoch"] = progress.epoch - (1 if progress.batch == 0 else 0)
        if self.evaluator is not None and self.evaluator.is_due(done, progress.epoch):
            row |= self._validate()
        progress.history.append({key: row.get(key) for key in COLUMNS})
        for reporter in self.reporters:
            reporter.on_epoch(row)
        if done >= 1.0 or time.monotonic() - self._last_save >= _SAVE_EVERY or progress.epoch == 1:
            self._save()

    def _validate(self) -> dict[str, Any]:
        assert self.evaluator is not None
        progress = self.progress
        score, result = self.evaluator(self._stop.check)
        self.budget.reserve = self.evaluator.seconds
        progress.last_map, progress.measurable = score, score is not None
        best = score is not None and score > progress.best
        if score is not None and best:
            progress.best, progress.seconds = score, self.seconds
            self.checkpoints.save_best(progress)
        if any(reporter.wants_pictures for reporter in self.reporters):
            pictures = self.evaluator.pictures(result)
            for reporter in self.reporters:
                reporter.on_pictures(progress.step, pictures)
        return {
            "val_loss_location": result.location,
            "val_loss_confidence": result.confidence,
            "val_map50": score,
            "last_map": score,
            "best": best,
        }

    def _position(self) -> dict[str, Any]:
        """Where the training is, for reports."""
        progress, seconds, done = self.progress, self.seconds, self.done
        return {
            "epoch": progress.epoch,
            "step": progress.step,
            "seconds": round(seconds, 2),
            "progress": done,
            "lr": self.stepper.optimizer.param_groups[0]["lr"],
            "last_map": progress.last_map,
            "seconds_left": self.budget.seconds_left(done, seconds),
        }

    def _save(self) -> None:
        self.progress.seconds = self.seconds
        self.checkpoints.save(self.progress)
        self._last_save = time.monotonic()
