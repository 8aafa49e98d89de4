"""The files of a run: the best weights, the latest, and the state to go on from."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

from singleshot.training.state import Progress, load_state, save_state
from singleshot.training.step import Stepper
from singleshot.weights.checkpoint import ModelInfo, save_checkpoint

log = logging.getLogger(__name__)

BEST, LAST, STATE = "best.safetensors", "last.safetensors", "resume.safetensors"


class Checkpoints:
    """Writes best.safetensors (highest validation mAP50), last.safetensors (the latest) and resume.safetensors."""

    def __init__(
        self, folder: Path, stepper: Stepper, class_names: tuple[str, ...], about: dict[str, Any], validated: bool
    ) -> None:
        """Write nothing yet.

        Args:
            folder: Of the run.
            stepper: Whose weights are saved.
            class_names: One for each label.
            about: What the checkpoints say of the training besides how far it is; plain values.
            validated: Whether there is validation; without it the latest weights count as the best.
        """
        self._folder, self._stepper, self._class_names = folder, stepper, class_names
        self._about, self._validated = about, validated

    def save(self, progress: Progress) -> None:
        """The latest weights and the state."""
        self._save_weights(LAST, progress, progress.last_map)
        if not self._validated:
            self._save_weights(BEST, progress, None)
        save_state(self._folder / STATE, self._stepper, progress)

    def save_best(self, progress: Progress) -> None:
        """The weights that were just validated."""
        self._save_weights(BEST, progress, progress.last_map)

    def save_unless_broken(self, progress: Progress) -> None:
        """As `save`, but nothing where the weights hold NaN: those saved last do not."""
        if self._stepper.is_finite():
            self.save(progress)
        else:  # an accelerator is looked at now and then only
            log.warning("the weights hold NaN; %s keeps the last good state", self._folder / STATE)

    def load(self) -> Progress:
        """Put the saved state back. Raises CheckpointError."""
        return load_state(self._folder / STATE, self._stepper)

    def _save_weights(self, name: str, progress: Progress, score: float | None) -> None:
        position = {"epochs": progress.epoch, "steps": progress.step, "seconds": round(progress.seconds, 1)}
        metrics = {} if score is None else {"val_map50": round(score, 6)}
        info = ModelInfo.of(
            self._stepper.model, self._class_names, metrics=metrics, training={**position, **self._about}
        )
        save_checkpoint(self._folder / name, self._stepper.eval_state(), info)
