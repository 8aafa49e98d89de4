"""Validation within a training: when it is due, of which weights, and what it says."""

from __future__ import annotations

import contextlib
import functools
import itertools
import logging
import math
import time
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import cv2
import numpy as np
import torch
from torch import Tensor

from singleshot.datasets.dataset import Dataset
from singleshot.errors import DataError, OtherProcessError, printable
from singleshot.evaluation.validate import BatchLosses, Validation, validate
from singleshot.loading.loader import EvalBatch, EvalLoader
from singleshot.memory import release_freed_memory
from singleshot.metrics.operating_points import operating_points
from singleshot.metrics.voc import Curve
from singleshot.records import Batch, ImageDetections
from singleshot.runtime.detections import Detections
from singleshot.runtime.drawing import draw_detections
from singleshot.training.data_files import DataFiles
from singleshot.training.distributed import World
from singleshot.training.settings import Settings
from singleshot.training.step import Stepper

log = logging.getLogger(__name__)

# With a wall-clock budget validation may take this part of the time (not counting the last one).
_VALIDATION_SHARE = 0.08
# Where a wall-clock budget first validates, to learn how long that takes.
_FIRST_VALIDATION = 0.1
# Limits of the score from which detections are shown: an early model's best F1 may be anywhere.
_LEAST_SHOWN, _MOST_SHOWN = 0.1, 0.6
MOST_PICTURE = 800  # pixels of the longer side of a drawn validation image


class Score(NamedTuple):
    """mAP50 and the score from which detections should be shown (None where no class has an object to measure on), and
    what they were made of."""

    mean_ap: float | None
    show_min: float | None
    validation: Validation


class Evaluator:
    """Validates the weights that would be kept, the average where there is one.

    seconds: how long the last validation took with its pictures, 0 before the first; skipped: what is wrong with images
    left out.
    """

    def __init__(
        self, stepper: Stepper, dataset: Dataset, loader: EvalLoader, settings: Settings, files: DataFiles | None = None
    ) -> None:
        """files: of the data set, where the checksums of what is read are kept."""
        self._stepper, self._settings, self._world = stepper, settings, settings.world
        self.dataset, self._loader, self._files = dataset, loader, files
        self._indices = torch.arange(len(dataset))  # of the images in the data set that was given
        self.skipped: list[str] = []
        self.seconds = 0.0
        self.now: Callable[[], float] = time.monotonic  # or the clock of a run, which knows of pauses
        self._said = False
        self._last = self.now()
        self._read: list[Batch] = []  # by this process, where several share the images

    def close(self) -> None:
        """End the worker processes; a later validation starts new ones."""
        self._loader.close()

    def start(self) -> None:
        """The training starts: time counts from now on. A data set without an object to measure on is said."""
        self._last = self.now()
        if not (~self.dataset.difficult & ~self.dataset.crowd).any():
            self._say_nothing_to_measure()

    def is_due(self, done: float, epoch: int) -> bool:
        """Whether to validate after `epoch` epochs, with that part of the training done."""
        if done >= 1.0:
            return True
        if self._settings.seconds is None:
            return epoch % self._settings.val_every == 0
        if self.seconds == 0.0:
            return done >= _FIRST_VALIDATION
        return (self.now() - self._last) * _VALIDATION_SHARE >= self.seconds

    def __call__(self, on_image: Callable[[], None] | None = None) -> Score:
        """Losses and mAP50 of the validation images; on_image is called after each and may raise to stop."""
        started = self.now()
        try:
            result = self._validate(on_image)
        except (DataError, OtherProcessError):
            if not self._settings.skip_broken or not self._leave_out_broken():
                raise
            if self._world is not None:
                self._world.ended = False
            result = self._validate(on_image)
        if self._world is not None:
            self._world.meet()  # when its metric is computed everywhere
        release_freed_memory()
        self._last = self.now()
        self.seconds = self._last - started
        score = result.evaluation.mean_ap
        if math.isnan(score):
            self._say_nothing_to_measure()
        return Score(None if math.isnan(score) else float(score), _show_min(result.evaluation.curves), result)

    def _validate(self, on_image: Callable[[], None] | None) -> Validation:
        stepper, model, device = self._stepper, self._stepper.model, self._stepper.device
        with self._averaged_weights():
            return validate(
                model,
                self.dataset,
                self._batches(),
                stepper.thresholds,
                device,
                loss_of=stepper.objective,
                on_image=on_image,
                gather=None if self._world is None else functools.partial(self._gather, self._world),
                tiles=self._loader.tiles,
            )

    def _leave_out_broken(self) -> bool:
        """From now on without the images that cannot be read, which are counted; False where there is none, or no
        other."""
        good = []
        for i in range(len(self.dataset)):
            try:
                self.dataset.sample(i)
                good.append(i)
            except DataError as error:
                self.skipped.append(str(error))
        if not good or len(good) == len(self.dataset):
            return False
        log.warning("validation goes on with %d of %d images", len(good), len(self.dataset))
        self.dataset, self._indices = self.dataset.subset(good), self._indices[good]
        self._loader.close()
        self._loader = self._loader.of(self.dataset)
        return True

    def _batches(self) -> Iterator[EvalBatch]:
        for images in self._loader if self._world is None else self._together(self._world):
            if self._files is not None:
                self._files.note(self._shown(images.batch.indices), images.batch.checksums)
            yield images

    def _shown(self, samples: Tensor) -> Tensor:
        """The places, in the data set that was given, of the images that samples of the loader are of."""
        tiles = self._loader.tiles
        return self._indices[samples if tiles is None else torch.from_numpy(tiles.image_of)[samples]]

    def _together(self, world: World) -> Iterator[EvalBatch]:
        """This process' batches. All meet before each of them, so that what ends one of them ends all."""
        self._read = []
        with contextlib.closing(iter(self._loader)) as batches:  # type: ignore[type-var]
            for _ in range(math.ceil(len(self._loader) / world.size)):
                images = world.each(lambda: next(batches, None))
                if images is not None:
                    self._read.append(images.batch)
                    yield images
        world.meet()

    def _gather(
        self, world: World, losses: BatchLosses, detections: list[ImageDetections]
    ) -> tuple[BatchLosses, list[ImageDetections]]:
        """The losses and detections of all processes in the order of the images or tiles; their checksums are kept."""
        nothing = ImageDetections(np.zeros((0, 4), np.float32), np.zeros(0, np.float32), np.zeros(0, np.int64))
        columns = [np.concatenate(column) for column in zip(*(detections or [nothing]), strict=True)]
        none = torch.zeros(0, dtype=torch.int64)
        tensors = {
            "indices": torch.cat([none, *(one.indices for one in self._read)]),
            "checksums": torch.cat([none, *(one.checksums for one in self._read if one.checksums is not None)]),
            "counts": torch.tensor([len(one.scores) for one in detections], dtype=torch.int64),
        }
        tensors |= {name: torch.from_numpy(one) for name, one in zip(ImageDetections._fields, columns, strict=True)}
        everyone: list[ImageDetections] = [nothing] * self._loader.samples
        messages = world.gather(losses, tensors)
        for _, found in messages:
            ends = found["counts"].cumsum(0).tolist()
            for i, start, end in zip(found["indices"].tolist(), [0, *ends], ends, strict=False):
                everyone[i] = ImageDetections(*(found[name][start:end].numpy() for name in ImageDetections._fields))
            if self._files is not None:
                self._files.note(self._shown(found["indices"]), found["checksums"])
        rounds = itertools.zip_longest(*(message.values for message in messages))
        return [(one[0], one[1]) for some in rounds for one in some if one is not None], everyone

    def _say_nothing_to_measure(self) -> None:
        """Once: the log says why there is no mAP50."""
        if not self._said:
            images = len(self.dataset)
            counted = f"{images} image{'s' if images != 1 else ''} of {printable(self.dataset.source)}"
            log.warning("nothing to measure on val: no object counts in the %s; best is the last", counted)
        self._said = True

    @property
    def samples(self) -> int:
        """How many images or tiles a validation looks at."""
        return self._loader.samples

    def count_time(self, started: float) -> float:
        """Count what came after the last validation, which began at `started`, as a part of it; its seconds."""
        self._last = self.now()
        self.seconds = max(self.seconds, self._last - started)
        return self.seconds

    def pictures(self, score: Score) -> list[np.ndarray]:
        """The first validation images, uint8 RGB [H, W, 3], with what was found on them; large ones reduced to
        MOST_PICTURE pixels a side, for they are compressed and kept at each validation."""
        result = score.validation
        shown = self._stepper.thresholds.show_min if score.show_min is None else score.show_min
        drawn = []
        for i in range(min(self._settings.pictures, len(self.dataset))):
            image, (boxes, scores, labels) = self.dataset.sample(i).image, result.detections[i]
            names = tuple(self.dataset.class_names[label] for label in labels)
            reduced = min(MOST_PICTURE / max(image.shape[:2]), 1.0)
            if reduced < 1.0:
                image = cv2.resize(image, None, fx=reduced, fy=reduced, interpolation=cv2.INTER_AREA)
                boxes = boxes * reduced
            height, width = image.shape[:2]
            found = Detections(boxes, scores, labels, names, self.dataset.names[i], width, height)
            drawn.append(draw_detections(image, found.above(shown)))
        return drawn

    @contextlib.contextmanager
    def _averaged_weights(self) -> Iterator[None]:
        """The averaged weights in the model while entered: a second network would double the memory."""
        model = self._stepper.model
        kept, mode = {key: value.clone() for key, value in model.state_dict().items()}, model.training
        model.load_state_dict(self._stepper.eval_state())
        try:
            yield
        finally:
            model.load_state_dict(kept)
            model.train(mode)


def _show_min(curves: Sequence[Curve]) -> float | None:
    """Where the mean of the classes' F1 is greatest: the scores of a quality focal loss are lower than those of a
    softmax, and no fixed limit suits both."""
    best = operating_points(curves).best
    return None if best is None else min(max(best, _LEAST_SHOWN), _MOST_SHOWN)
