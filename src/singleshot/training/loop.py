"""The training loop: batches through a Stepper, validation, checkpoints, and stopping well."""

from __future__ import annotations

import contextlib
import functools
import logging
from collections.abc import Mapping, Sequence
from math import isnan
from typing import Any

from singleshot.datasets.dataset import Dataset
from singleshot.errors import SingleshotError, printable
from singleshot.loading.shard_stream import ShardStream
from singleshot.models import SSD
from singleshot.records import Batch, SeenImage
from singleshot.training.build import build_parts
from singleshot.training.checkpoints import BEST, LAST, LOG, STATE
from singleshot.training.clock import RunClock
from singleshot.training.distributed import World
from singleshot.training.failures import StoppedAtOnceError, TrainingStoppedError, describe
from singleshot.training.meter import Meter, layer_weights, update_ratios
from singleshot.training.progressive import phase_at
from singleshot.training.recipes import Recipe
from singleshot.training.reports import COLUMNS, Reporter
from singleshot.training.schedule import lr_factor
from singleshot.training.seen import Validated, seen_images
from singleshot.training.settings import Result, Settings
from singleshot.training.state import Progress, share_state
from singleshot.training.step import NonFiniteLossError
from singleshot.training.stopping import StopRequest
from singleshot.training.synced_norm import release_norms

__all__ = [
    "BEST",
    "LAST",
    "LOG",
    "STATE",
    "NonFiniteLossError",
    "Result",
    "Settings",
    "Trainer",
    "TrainingStoppedError",
]

log = logging.getLogger(__name__)

_SHOWN = 20  # classes in a line
# Seconds between two saved states, in the middle of an epoch too: with a step and the write less than a minute is lost.
_SAVE_EVERY = 50.0
_PASSED_ON = 5.0  # seconds in which torchrun passes a signal on that its processes may have had already
_SAVE_BEFORE_VALIDATION = 2.0  # seconds of work that a validation which ends badly may cost


class Trainer:
    """Trains `model` on train_set, validates on val_set (may be None), writes into settings.out.

    best.safetensors holds the weights with the highest validation mAP50, last.safetensors the latest, and
    resume.safetensors everything needed to go on. validated: the best validation of this part of the run, the last one
    where none was the best; seen_images: some of its first batch.
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
        self._world = settings.world
        parts = build_parts(model, train_set, val_set, recipe, settings)
        self.stepper, self.cache, self.loader, self.evaluator, self.checkpoints, self.budget = parts
        self.dtype = self.stepper.dtype
        self.progress = Progress()
        self.validated: Validated | None = None
        self._validated_step: int | None = None
        self.seen_images: list[SeenImage] = []
        self._stop, self._clock = StopRequest(), RunClock()
        if self._world is not None:
            self._stop = StopRequest(_PASSED_ON, quiet=not self._world.leads)
            self._world.now, self._world.asked_to_stop = self._clock.now, lambda: self._stop.asked
        if self.evaluator is not None:
            self.evaluator.now = self._now
        self._meter = self._new_meter()
        self._before = 0.0
        self._first_step_done: tuple[int, float] | None = None
        self._started = self._last_save = self._now()

    def resume(self, accept_changes: bool = False) -> None:
        """Go on from the state in settings.out; raises as `Checkpoints.load`."""
        checkpoints, world = self.checkpoints, self._world
        if world is None:
            progress = checkpoints.load(accept_changes)
        else:
            load = functools.partial(checkpoints.load, accept_changes)
            progress = share_state(world, self.stepper, checkpoints.fingerprint, load)
            checkpoints.saved_step = progress.step
        self.progress = progress
        self._before = progress.seconds
        self.stepper.parts = progress.parts
        if progress.batch:
            self._meter = self._new_meter(progress.losses, progress.counted)

    @property
    def seconds(self) -> float:
        """Spent training so far, those before a resume included."""
        return self._before + self._now() - self._started

    def _now(self) -> float:
        """Seconds from some moment on: of several processes by the clock of the first, when they last agreed."""
        return self._clock.now() if self._world is None else self._world.seconds

    def _check_stop(self) -> None:
        """Raise KeyboardInterrupt if stopping was asked for; several processes agree on that (`_agree`)."""
        if self._world is None:
            self._stop.check()

    def _agree(self, batch: Batch) -> None:
        """Between two steps: whatever ends one of several processes ends all of them here."""
        if self._world is not None:
            self.progress.note_skipped(self._world.meet(notes=batch.skipped))

    @property
    def done(self) -> float:
        """How far the training is, 0 to 1; by whole epochs, which counts right where a resumed run's data changed."""
        steps = self.progress.epoch * len(self.loader) + self.progress.batch
        return self.budget.progress(steps, self.seconds)

    @property
    def over(self) -> bool:
        """Whether a run that was gone on from has nothing left to do."""
        between = self.progress.pending is None and self.progress.batch < len(self.loader)
        return between and (self.done >= 1.0 or self.progress.finished == self._length)

    @property
    def _length(self) -> str:
        seconds = self.settings.seconds
        return f"{self.settings.epochs} epochs" if seconds is None else f"{seconds} s"

    def run(self, about: Mapping[str, Any] | None = None) -> Result:
        """Train to the end, or to Ctrl-C. about: what reporters hear of the run when it begins, what run.json holds.

        Raises NonFiniteLossError, DataError and the like as they came, TrainingStoppedError for anything else that
        ended it (a worker that died, a full disk, no memory); the last whole step is saved before, where it can be
        (see `saved_step`).
        """
        if self._world is not None:
            self._world.meet()
        self._started = self._last_save = self._now()
        first_step = self.progress.step
        interrupted = False
        self.model.train()
        with self._stop, self._clock:
            try:
                try:
                    for reporter in self.reporters:
                        reporter.on_start(self.settings.out, about or {})
                    self._train()
                except KeyboardInterrupt:
                    interrupted = True
                self._save_last(interrupted)
                for reporter in self.reporters:
                    reporter.on_end(interrupted)
            except Exception as error:
                agreed = error if self._world is None else self._agreed_end(error, self._world)
                self._rescue()
                if isinstance(error, SingleshotError) and agreed is error:
                    raise
                if isinstance(agreed, SingleshotError):
                    raise agreed from error
                raise TrainingStoppedError(describe(error)) from error
            finally:
                self._close()
        progress, spent = self.progress, max(self._now() - self._started, 1e-9)
        return Result(
            epochs=progress.epoch,
            steps=progress.step,
            seconds=self.seconds,
            best_map=progress.best if progress.best >= 0 else None,
            interrupted=interrupted,
            images_per_second=(progress.step - first_step) * self.settings.batch / spent,
        )

    @property
    def saved_step(self) -> int | None:
        """The step after which resume.safetensors goes on; None where there is none."""
        return self.checkpoints.saved_step

    @property
    def weights_step(self) -> int | None:
        """The step after which the weights in last.safetensors were saved; None where this run saved none."""
        return self.checkpoints.weights_step

    def _train(self) -> None:
        if self.saved_step is None:  # before the first step, too, there is something to go on from
            self._save()
        if self.evaluator is not None:
            self.evaluator.start()
            if self.settings.validate_start and self.progress.step == 0:
                self._validate_start()
        if self.progress.pending is not None:  # stopped between an epoch's last step and its end
            self._end_epoch()
        elif self.progress.batch >= len(self.loader):  # after its last step, or the data has fewer batches than it had
            self._finish_epoch()
        while self.done < 1.0:
            self._epoch()

    def _validate_start(self) -> None:
        """What the weights reach as they are is the first best, which the training has to beat."""
        score = self._validate()["val_map50"]
        if score is not None and self.validated is not None:
            each = self.validated.result.evaluation.per_class[:_SHOWN]
            parts = [f"{printable(one.name, 40)} {'none there' if isnan(one.ap) else f'{one.ap:.4f}'}" for one in each]
            log.info("before the first step: mAP50 %.4f (%s)", score, ", ".join(parts))

    def _save_last(self, interrupted: bool) -> None:
        self.progress.seconds = self.seconds
        if interrupted:
            if self._stop.twice:  # at once, in the middle of whatever it was
                raise StoppedAtOnceError("stopped at once, by a second signal")
            self.stepper.check()
            self._keep_losses()
            self.checkpoints.save_if_whole(self.progress)
            if self.saved_step != self.progress.step:
                raise StoppedAtOnceError("stopped in the middle of a step")
        else:
            self.progress.finished = self._length
            self._save()

    def _rescue(self) -> None:
        """Save after an error, as far as that is possible: the error that ends the training is the one to tell of."""
        self.progress.seconds, self.progress.finished = self.seconds, ""
        if self._stop.twice:
            return
        if self._world is not None and self._world.lost and self.settings.device.type != "cpu":
            return  # sums that never come are still in the accelerator's queue, and what is after them in the weights
        try:
            self._keep_losses()
            self.checkpoints.save_if_whole(self.progress)
        except Exception as error:
            log.debug("saving after an error: %s", describe(error), exc_info=error)

    def _agreed_end(self, error: Exception, world: World) -> Exception:
        """Have the other processes end with this one, where they are not in the middle of a step; what to raise."""
        if world.ended or world.lost:  # it came from there, or they know
            return error
        if self._stop.twice or not self.stepper.whole:  # they wait for this one, until its connections close
            world.lost = True
            return error if world.leads else TrainingStoppedError(f"{world.words}: {describe(error)}")
        try:
            world.meet(error)
        except SingleshotError as agreed:
            return agreed
        return error

    def _close(self) -> None:
        """Close everything: what fails on the way does not keep the rest open, nor hide what ended the training."""
        for part in (self.loader, self.evaluator, self.cache, *self.reporters):
            if part is None:
                continue
            try:
                part.close()
            except Exception as error:
                log.warning("closing %s: %s", type(part).__name__, describe(error))
        release_norms(self.model)

    def _epoch(self) -> None:
        """From the next batch to the end of its epoch, or of the training."""
        progress, meter = self.progress, self._meter
        meter.start()
        batches = self.loader.epoch(progress.epoch, progress.batch)
        with contextlib.closing(batches):  # type: ignore[type-var]
            for batch in batches:
                self._agree(batch)
                done = self.done
                if done >= 1.0:
                    break
                self._stop.ignore_children()
                self._check_stop()
                self._step(batch, self.budget.furthest(done), meter)
                if self._now() - self._last_save >= _SAVE_EVERY:
                    self._save()
        self.stepper.check()
        self._finish_epoch()

    def _finish_epoch(self) -> None:
        """The row of an epoch whose steps are done, all or as many as the training has; then its end.

        Where time was over before its first step, there is a row only if the last weights have to be validated yet.
        """
        progress, meter = self.progress, self._meter
        values: dict[str, float | None] = dict(meter.values())
        if meter.state()[1] == 0 and progress.batch < len(self.loader):
            if self.evaluator is None or self._validated_step == progress.step:
                return
            values = dict.fromkeys(values)
        if progress.batch >= len(self.loader):
            progress.epoch, progress.batch = progress.epoch + 1, 0
        progress.pending = {**values, **self._position()}
        progress.pending["whole"] = whole = progress.batch == 0 and progress.epoch > 0
        progress.pending["epoch"] = progress.epoch - whole
        self._meter = self._new_meter()
        self._end_epoch()

    def _step(self, batch: Batch, done: float, meter: Meter) -> None:
        recipe, progress = self.recipe, self.progress
        warmup = self.budget.warmup(recipe.warmup, recipe.warmup_steps)
        factor = lr_factor(done, recipe.schedule, warmup, recipe.milestones, recipe.gamma, recipe.final_lr)
        before = layer_weights(self.model) if (due := meter.due()) and self.settings.update_ratios else None
        self._note_files(batch)
        if not self.seen_images:
            self.seen_images = seen_images(batch)
        losses = self.stepper(batch, factor, phase_at(self.stepper.phases, done))
        progress.parts = self.stepper.parts
        if self._world is None:
            progress.note_skipped(batch.skipped)
        progress.step, progress.batch = progress.step + 1, progress.batch + 1
        if self.evaluator is not None and self.evaluator.seconds == 0.0:
            first, now = self._first_step_done, self._now()
            if first is None:  # it starts workers and compiles, and shows no speed
                self._first_step_done = progress.step, now
            else:
                an_image = (now - first[1]) / ((progress.step - first[0]) * self.settings.batch)
                self.budget.expect(an_image * self.evaluator.samples)
        progress.lr = self.stepper.lr * factor  # of what learns at the recipe's rate: a backbone may have a part of it
        meter.add(losses)
        if due:
            values = {**meter.values(), **self._position()}
            if before is not None:
                values |= update_ratios(before, layer_weights(self.model))
            for reporter in self.reporters:
                reporter.on_step(values)

    def _note_files(self, batch: Batch) -> None:
        """Keep the checksums of the files that the batch was made of, those of other processes too."""
        read = batch.indices, batch.checksums
        if self._world is not None and batch.checksums is not None:
            read = self._world.indices(batch.indices, batch.checksums)
        self.checkpoints.fingerprint.files["train"].note(*read)

    def _end_epoch(self) -> None:
        """Validation, where it is due, and reports of the epoch whose row is pending."""
        progress = self.progress
        assert progress.pending is not None
        row = dict(progress.pending)
        if self.evaluator is not None and self.evaluator.is_due(self.done, progress.epoch):
            if self.evaluator.seconds == 0.0 or self._now() - self._last_save >= _SAVE_BEFORE_VALIDATION:
                self._save()
            row |= self._validate()
        progress.history.append({key: row.get(key) for key in COLUMNS})
        progress.pending = None
        for reporter in self.reporters:
            reporter.on_epoch(row)
        is_due = self._now() - self._last_save >= _SAVE_EVERY or progress.epoch == 1
        if is_due and self.done < 1.0:  # the end saves too
            self._save()

    def _validate(self) -> dict[str, Any]:
        assert self.evaluator is not None
        progress, started = self.progress, self._now()
        found = self.evaluator(self._check_stop)
        score, result = found.mean_ap, found.validation
        progress.note_skipped(self.evaluator.skipped)
        self._validated_step = progress.step
        progress.last_map, progress.measurable = score, score is not None
        progress.show_min = found.show_min
        best = score is not None and score > progress.best
        if score is not None and best:
            progress.best, progress.seconds = score, self.seconds
            self.checkpoints.save_best(progress)
        if best or self.validated is None or not self.validated.best:
            self.validated = Validated(result, self.evaluator.dataset, progress.epoch, best)
        if any(reporter.wants_pictures for reporter in self.reporters):
            pictures = self.evaluator.pictures(found)
            for reporter in self.reporters:
                reporter.on_pictures(progress.step, pictures)
        self.budget.reserve = spent = self.evaluator.count_time(started)
        if self.budget.is_late(self.seconds, spent):
            log.warning(
                "the last validation took %.0f s, more than was left: fewer images to validate on end in time", spent
            )
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
            "lr": progress.lr,
            "last_map": progress.last_map,
            "seconds_left": self.budget.seconds_left(done, seconds),
        }

    def _new_meter(self, losses: Sequence[float] = (), counted: int = 0) -> Meter:
        return Meter(self.settings.batch, self.settings.report_seconds, losses, counted)

    def _keep_losses(self) -> None:
        """Into the progress, for a state in the middle of an epoch."""
        self.progress.losses, self.progress.counted = self._meter.state()

    def _save(self) -> None:
        self.stepper.check()  # weights that hold NaN are not worth keeping
        self.progress.seconds = self.seconds
        self._keep_losses()
        self.checkpoints.save(self.progress)
        self._last_save = self._now()
