"""The default boxes of a training: fitted to the data, the model's own, or those of a file."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from singleshot.api.train_options import PRIORS_FILE, TrainOptions
from singleshot.api.train_tiles import tiling_of
from singleshot.datasets.build_dataset import build_dataset
from singleshot.datasets.dataset import Dataset
from singleshot.datasets.measure import measured, placed_objects
from singleshot.datasets.sources import open_source
from singleshot.errors import ConfigError, printable
from singleshot.inputs import InputSpec, boxes_in_input
from singleshot.prior_boxes import PriorSpec
from singleshot.prior_coverage import FITTED_FROM, MATCHED_ENOUGH, best_iou, prior_grids
from singleshot.prior_files import read_priors
from singleshot.prior_fitting import fit_priors
from singleshot.tiling import parts_in_tiles

if TYPE_CHECKING:
    from singleshot.loading.shard_stream import ShardStream

log = logging.getLogger(__name__)

_MOST = 20_000  # objects that are compared, and images that are measured, of more a sample


@dataclass
class PriorChoice:
    """Which default boxes a training gets. iou_min: of its recipe; fitted: whether they were fitted to the data."""

    options: TrainOptions
    train_set: Dataset | ShardStream
    iou_min: float
    fitted: bool = False

    def __call__(self, own: PriorSpec, inputs: InputSpec) -> PriorSpec:
        """In place of a model's own, for its input; the log says which, and where they match few objects how many.

        Raises ConfigError for a table that is not for the model, DataError for images that cannot be measured.
        """
        options, chosen = self.options, own
        fixed = Path(str(options.out)) / PRIORS_FILE
        if options.resume and fixed.is_file():
            return read_priors(str(fixed))
        if options.priors is not None:
            chosen = _for_model(options.priors, own)
        elif options.fit_priors:
            data = self._with_labels()
            boxes = boxes_in_inputs(options, data, inputs)
            if not len(boxes):
                raise ConfigError(f"--fit-priors: {printable(data.source)} has no object to fit default boxes to")
            return self._fit(own, boxes)
        if not options.resume and isinstance(self.train_set, Dataset):
            boxes = boxes_in_inputs(options, self.train_set, inputs)
            if len(boxes) and (matched := self._matched(boxes, chosen)) < MATCHED_ENOUGH:
                if self._may_fit and len(boxes) >= FITTED_FROM:
                    return self._fit(own, boxes, "; --no-fit-priors keeps the model's own")
                given = "" if options.priors is None else f" of {printable(options.priors, 60)}"
                log.warning(
                    "%s: %.1f %% of the %d objects are matched by no default box%s (IoU %g)%s",
                    printable(self.train_set.source),
                    100 * (1 - matched),
                    len(boxes),
                    given,
                    self.iou_min,
                    "; --fit-priors fits them to it" if options.priors is None and options.fit_priors is None else "",
                )
        return chosen

    @property
    def _may_fit(self) -> bool:
        """Whether nothing speaks for others: a start has outputs for its own, and `paper` is for published ones."""
        given = self.options
        return given.fit_priors is None and given.priors is None and given.start is None and given.recipe != "paper"

    def _fit(self, own: PriorSpec, boxes: np.ndarray, unasked: str = "") -> PriorSpec:
        found = fit_priors(boxes, own, iou_min=self.iou_min)
        log.info(
            "%s: default boxes fitted, %d (%d before); they match %.1f %% of the %d objects (%.1f %% before)%s",
            printable(self.train_set.source),
            found.count,
            own.count,
            100 * self._matched(boxes, found),
            len(boxes),
            100 * self._matched(boxes, own),
            unasked,
        )
        self.fitted = True
        return found

    def _with_labels(self) -> Dataset:
        """What is trained on, whose labels are read where it is a stream."""
        if isinstance(self.train_set, Dataset):
            return self.train_set
        options = self.options
        raw = open_source(options.data, follow_links=options.follow_links).read(options.split or "train")
        (name,) = raw.splits
        selection, names = self.train_set.selection, self.train_set.class_names
        return build_dataset(raw, name, names, options.clip_boxes, selection)

    def _matched(self, boxes: np.ndarray, table: PriorSpec) -> float:
        if len(boxes) > _MOST:
            boxes = np.random.default_rng(0).choice(boxes, _MOST, replace=False)
        return float((best_iou(boxes, prior_grids(table)) >= self.iou_min).mean())


def boxes_in_inputs(options: TrainOptions, data: Dataset, inputs: InputSpec) -> np.ndarray:
    """float64 [M, 4] the objects in parts of the input, without crowds.

    Where more than _MOST images are to be measured, those of so many. Raises DataError for an image that cannot be
    measured, unless `skip_broken`: its objects are left out.
    """
    data = measured(data, only_with_objects=True, skip_broken=options.skip_broken, most=_MOST)
    boxes, sizes = placed_objects(data)
    tiling = tiling_of(options.tile)
    if tiling is not None:
        boxes, sizes = parts_in_tiles(boxes, sizes, tiling.sides(inputs.sides), np.random.default_rng(0))
    return boxes_in_input(boxes, sizes, inputs)


def _for_model(name: str, own: PriorSpec) -> PriorSpec:
    """A table by its name or of a file. Raises ConfigError where it is not for the input and maps of `own`."""
    table = read_priors(name)
    if (table.image, table.grids) != (own.image, own.grids):
        words = (f"an input of {one.image_size} px with maps of {one.maps} cells" for one in (table, own))
        raise ConfigError("--priors {}: for {}, but the model has {}".format(printable(name, 60), *words))
    return table
