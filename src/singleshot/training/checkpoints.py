"""The files of a run: the best weights, the latest, and the state to go on from."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from singleshot.class_selection import ClassSelection
from singleshot.errors import CheckpointError, ConfigError, printable
from singleshot.thresholds import Thresholds
from singleshot.tiling import Tiling
from singleshot.training.clock import read_seconds, with_clock, write_seconds
from singleshot.training.data_summary import check_class_names
from singleshot.training.fingerprint import PROCESSES, THREADS, Fingerprint, in_words
from singleshot.training.state import Progress, SavedAbout, SavedState, put_state, read_state, save_state
from singleshot.training.step import Stepper
from singleshot.weights.checkpoint import ModelInfo, checksum_of, read_info, read_tensors, save_checkpoint

log = logging.getLogger(__name__)

BEST, LAST, STATE, LOG = "best.safetensors", "last.safetensors", "resume.safetensors", "log.csv"
BEFORE = "resume-before.safetensors"  # the state before, where STATE turns out damaged
_MOST_THREADS = 4096
BEST_BEFORE = "best-before.safetensors"  # what lay in BEST's place where the best starts anew


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
        fingerprint: Fingerprint,
        about: dict[str, Any],
        selection: ClassSelection | None = None,
        category_ids: Mapping[str, int] | None = None,
        tiling: Tiling | None = None,
    ) -> None:
        """Write nothing yet.

        Args:
            folder: Of the run.
            stepper: Whose weights are saved.
            fingerprint: Of the data, "train" which names the classes and "val" where there is validation (without it
                the latest weights count as the best), and of what else decides the bits.
            about: What the checkpoints say of the training besides how far it is; plain values.
            selection: Which of the data's classes are learnt, where it is not all by their names.
            category_ids: COCO's of the data's classes.
            tiling: The tiles that are trained on.
        """
        self._folder, self._stepper, self._about = folder, stepper, about
        self.fingerprint, self._data = fingerprint, fingerprint.data
        self._set_aside = False  # whether what is called BEST is not this run's
        self._selection, self._category_ids, self._tiling = selection, category_ids, tiling

    def save(self, progress: Progress) -> None:
        """The state and the latest weights; the state first, which is what a full disk should still take."""
        save_state(self._folder / STATE, self._stepper, progress, self.fingerprint, self._folder / BEFORE)
        self.saved_step = progress.step
        write_seconds(self._folder, progress.seconds)
        self._save_last(progress)
        if "val" not in self._data or not progress.measurable:
            self._save_weights(BEST, progress, None)

    def save_best(self, progress: Progress) -> None:
        """The weights that were just validated."""
        progress.best_checksum = self._save_weights(BEST, progress, progress.last_map)

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

    def load(self, accept_changes: bool = False) -> Progress:
        """Put the saved state back.

        Raises CheckpointError where it cannot be read, ConfigError for data of other classes, and for anything else
        that is not what the run had before, unless accept_changes: the log then says what it is.
        """
        saved = self._newest_whole()
        then, where = saved.about.fingerprint, printable(self._folder)
        if "train" not in then.data and (self._folder / LAST).is_file():  # a state from before it knew its data
            names = read_info(self._folder / LAST).class_names
            check_class_names(names, self._data["train"].class_names, self._folder)
        self._keep_threads(then)
        differences = then.differences(self.fingerprint, saved.tensors, self._folder)
        differences += self._other_processes(saved.about)
        if differences and not accept_changes:
            raise ConfigError(
                f"{where}: not what the run was trained with: {in_words(differences)}; put it back, or go on with what"
                " is there now: --accept-changes"
            )
        if differences:
            log.warning("%s: going on with changes: %s", where, in_words(differences))
        progress = put_state(saved, self._stepper)
        self._restore_clock(progress)
        self._check_best(progress)
        if any(one.startswith("val") for one in differences):
            # What was reached on other images says nothing about these.
            log.warning("%s: validation is another, so the best of it starts anew", where)
            self._start_best_anew(progress)
            progress.last_map, progress.show_min, progress.measurable = None, None, True
        batch = then.values.get("batch", self.fingerprint.values["batch"])
        progress.batch = progress.batch * batch // self.fingerprint.values["batch"]
        self.saved_step = progress.step
        return progress

    def _other_processes(self, then: SavedAbout) -> list[str]:
        """What another number of processes changes, in words; the log says that there is one."""
        before, now = (one.values.get(PROCESSES, 1) for one in (then.fingerprint, self.fingerprint))
        if before == now:
            return []
        numbers = f"{printable(before, 20)} processes then, {now} now"
        if self.fingerprint.streamed and then.progress.batch > 0:
            return [f"{numbers}, in the middle of an epoch of shards, which would show images twice or not at all"]
        log.info("%s: %s: the same batches, whose sums round otherwise", printable(self._folder), numbers)
        return []

    def _keep_threads(self, then: Fingerprint) -> None:
        """Compute with as many as the run did before: another number gives other bits."""
        threads = then.values.get(THREADS)
        if then.values.get(PROCESSES, 1) != self.fingerprint.values.get(PROCESSES, 1):
            return
        now = self.fingerprint.values[THREADS]
        if threads is None or now is None or threads == now:  # not known, or on an accelerator
            return
        if type(threads) is not int or not 1 <= threads <= _MOST_THREADS:
            raise CheckpointError(f"{printable(self._folder / STATE)}: threads {printable(threads, 60)}: want a number")
        torch.set_num_threads(threads)
        log.info("%s: going on with %d threads, as before; here it would be %d", printable(self._folder), threads, now)
        self.fingerprint = replace(self.fingerprint, values={**self.fingerprint.values, THREADS: threads})

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
            info = read_info(path)
            checksum = _checksum(info, read_tensors(path)[0])
        except CheckpointError as error:
            log.warning("%s; the best starts anew", error)
        else:
            if checksum != info.training.get("checksum"):
                log.warning("%s: damaged, its checksum is another; the best starts anew", printable(path))
            elif checksum == progress.best_checksum or _is_newer(info, progress):
                return
            else:
                log.warning(
                    "%s: not the best of this run, which has mAP50 %.4f; it starts anew", printable(path), progress.best
                )
        self._start_best_anew(progress)

    def _start_best_anew(self, progress: Progress) -> None:
        """The next validation makes the best; what is in its place by then is kept as BEST_BEFORE."""
        progress.best, progress.best_checksum, self._set_aside = -1.0, "", True

    def _thresholds(self, progress: Progress) -> Thresholds:
        thresholds, shown = self._stepper.thresholds, progress.show_min
        return thresholds if shown is None else replace(thresholds, show_min=shown)

    def _save_weights(self, name: str, progress: Progress, score: float | None) -> str:
        """The weights to keep; gives their checksum."""
        position = {"epochs": progress.epoch, "steps": progress.step}
        metrics = {} if score is None else {"val_map50": round(score, 6)}
        info = ModelInfo.of(
            self._stepper.model,
            self._data["train"].class_names,
            self._thresholds(progress),
            metrics,
            training={**position, **self._about},
        )
        info = replace(info, selection=self._selection, category_ids=self._category_ids, tiling=self._tiling)
        state = self._stepper.eval_state()
        checksum = _checksum(info, state)
        info = replace(info, training={**info.training, "checksum": checksum})
        aside = name == BEST and self._set_aside
        save_checkpoint(self._folder / name, state, info, self._folder / BEST_BEFORE if aside else None)
        if aside:
            self._set_aside = False
        return checksum


class SilentCheckpoints(Checkpoints):
    """Of a process that writes nothing, since another one does."""

    def save(self, progress: Progress) -> None:
        """Take it as written."""
        self.saved_step = self.weights_step = progress.step

    save_best = save_if_whole = save


def _is_newer(info: ModelInfo, progress: Progress) -> bool:
    """Whether a best was written after the state, by a run that was killed then: its validation is made once more."""
    steps = info.training.get("steps", 0)
    after = steps > progress.step or (steps == progress.step and progress.pending is not None)
    return after and info.metrics.get("val_map50", -1.0) >= round(progress.best, 6)


def _checksum(info: ModelInfo, tensors: Mapping[str, Tensor]) -> str:
    """Of a checkpoint's tensors and all that it says but this."""
    values = json.loads(info.to_json())
    values["training"].pop("checksum", None)
    return checksum_of(tensors, json.dumps(values, sort_keys=True))
