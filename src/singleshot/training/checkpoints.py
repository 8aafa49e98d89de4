"""The files of a run: the best weights, the latest, and the state to go on from."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from singleshot.class_selection import ClassSelection
from singleshot.errors import CheckpointError, printable
from singleshot.training.clock import read_seconds, with_clock, write_seconds
from singleshot.training.data_summary import DataSummary, check_class_names
from singleshot.training.state import Progress, SavedState, put_state, read_state, save_state
from singleshot.training.step import Stepper
from singleshot.weights.checkpoint import ModelInfo, read_info, save_checkpoint

log = logging.getLogger(__name__)

BEST, LAST, STATE, LOG = "best.safetensors", "last.safetensors", "resume.safetensors", "log.csv"
BEFORE = "resume-before.safetensors"  # the state before, where STATE turns out damaged


def has_state(folder: Path) -> bool:
    """Whether there is a state to go on from in a run's folder."""
    return any((folder / name).is_file() for name in (STATE, BEFORE))


class Checkpoints:
    """Writes best.safetensors (highest validation mAP50), last.safetensors (the latest) and resume.safetensors.

    saved_step: the step after which resume.safetensors goes on; None before there is one. weights_step: that of
    last.safetensors, likewise.
    """

    saved_step: int | None = None
    weights_step: int | None = None

    def __init__(
        self,
        folder: Path,
        stepper: Stepper,
        data: Mapping[str, DataSummary],
        about: dict[str, Any],
        selection: ClassSelection | None = None,
        category_ids: Mapping[str, int] | None = None,
    ) -> None:
        """Write nothing yet.

        Args:
            folder: Of the run.
            stepper: Whose weights are saved.
            data: "train", which names the classes, and "val" where there is validation; without it the latest weights
                count as the best.
            about: What the checkpoints say of the training besides how far it is; plain values.
            selection: Which of the data's classes are learnt, where it is not all by their names.
            category_ids: COCO's of the data's classes.
        """
        self._folder, self._stepper, self._data, self._about = folder, stepper, data, about
        self._selection, self._category_ids = selection, category_ids

    def save(self, progress: Progress) -> None:
        """The state and the latest weights; the state first, which is what a full disk should still take."""
        save_state(self._folder / STATE, self._stepper, progress, self._data, self._folder / BEFORE)
        self.saved_step = progress.step
        write_seconds(self._folder, progress.seconds)
        self._save_last(progress)
        if "val" not in self._data or not progress.measurable:
            self._save_weights(BEST, progress, None)

    def save_best(self, progress: Progress) -> None:
        """The weights that were just validated."""
        self._save_weights(BEST, progress, progress.last_map)

    def save_if_whole(self, progress: Progress) -> None:
        """As `save`, but nothing where weights are half updated or hold NaN: those saved last are not, do not."""
        if not (self._stepper.whole and self._stepper.is_finite()):  # an accelerator is looked at now and then only
            return
        try:
            self.save(progress)
        except Exception:
            if self.weights_step != progress.step:  # they take a quarter of the room that the state does
                self._save_last(progress)
            raise

    def _save_last(self, progress: Progress) -> None:
        self._save_weights(LAST, progress, progress.last_map)
        self.weights_step = progress.step

    def load(self) -> Progress:
        """Put the saved state back; the log says what changed in the data since.

        Raises CheckpointError where it cannot be read, ConfigError for data of other classes.
        """
        saved = self._newest_whole()
        before = saved.about.data
        if "train" in before:
            known: tuple[str, ...] | None = before["train"].class_names
        else:  # a state from before it knew its data
            known = read_info(self._folder / LAST).class_names if (self._folder / LAST).is_file() else None
        if known is not None:
            check_class_names(known, self._data["train"].class_names, self._folder)
        for split in before.keys() & self._data.keys():
            changes = before[split].changes(self._data[split])
            if changes:
                log.warning("%s: the data changed since (%s: %s)", printable(self._folder), split, changes)
        progress = put_state(saved, self._stepper)
        self._restore_clock(progress)
        self._check_best(progress)
        if "val" in before and ("val" not in self._data or before["val"].changes(self._data["val"])):
            # What was reached on other images says nothing about these.
            log.warning("%s: validation is another, so the best of it starts anew", printable(self._folder))
            progress.best, progress.last_map, progress.measurable = -1.0, None, True
        self.saved_step = progress.step
        return progress

    def _newest_whole(self) -> SavedState:
        """The newest state, or the one before where that is damaged, which the log says."""
        newest = self._folder / STATE
        try:
            return read_state(newest)
        except CheckpointError as error:
            try:
                saved = read_state(self._folder / BEFORE)
            except CheckpointError:
                raise error from None
            reason = error if newest.exists() else f"{printable(newest)}: is not there"
            log.warning("%s; going on from the state before it, of step %d", reason, saved.about.progress.step)
            return saved

    def _restore_clock(self, progress: Progress) -> None:
        progress.history = with_clock(progress.history, self._folder / LOG)
        known = [row["seconds"] for row in progress.history if row["seconds"] is not None]
        seconds = read_seconds(self._folder)
        progress.seconds = seconds if seconds is not None else known[-1] if known else progress.seconds

    def _check_best(self, progress: Progress) -> None:
        """The best starts anew, which the log says, where its file is not the one that this run wrote."""
        if progress.best < 0:
            return
        path = self._folder / BEST
        try:
            score = read_info(path).metrics.get("val_map50")
        except CheckpointError as error:
            log.warning("%s; the best starts anew", error)
        else:
            if score is not None and score >= round(progress.best, 6):
                return
            log.warning(
                "%s: not the best of this run, which has mAP50 %.4f; it starts anew", printable(path), progress.best
            )
        progress.best = -1.0

    def _save_weights(self, name: str, progress: Progress, score: float | None) -> None:
        position = {"epochs": progress.epoch, "steps": progress.step}
        metrics = {} if score is None else {"val_map50": round(score, 6)}
        info = ModelInfo.of(
            self._stepper.model,
            self._data["train"].class_names,
            self._stepper.thresholds,
            metrics,
            training={**position, **self._about},
        )
        info = replace(info, selection=self._selection, category_ids=self._category_ids)
        save_checkpoint(self._folder / name, self._stepper.eval_state(), info)
