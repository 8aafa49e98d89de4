"""Default boxes fitted to a data set, and how well they meet its objects before and after."""

from __future__ import annotations

import logging
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from singleshot.api.class_names import read_groups
from singleshot.api.options import DEFAULT_MODEL, Options, Progress, check_range, no_progress
from singleshot.class_selection import Classes, select_classes
from singleshot.datasets import open_source
from singleshot.datasets.findings import CollectErrors
from singleshot.datasets.splits import resolve_split
from singleshot.datasets.statistics import BoxTable, Cover, measure_cover, tabulate, to_measure
from singleshot.errors import ConfigError, DataError, did_you_mean, printable
from singleshot.extras import needs, require
from singleshot.files import atomic_write
from singleshot.input_shape import AUTO, sides_of_words, size_words
from singleshot.inputs import InputSpec, boxes_in_input
from singleshot.presets import MODELS
from singleshot.prior_boxes import PriorSpec
from singleshot.prior_coverage import IOU_MIN
from singleshot.prior_files import write_priors
from singleshot.prior_fitting import fit_priors as fit_table
from singleshot.prior_tables import PRIORS

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class FitPriorsOptions(Options):
    """What default boxes are fitted to; see `fit_priors`."""

    data: str
    model: str = DEFAULT_MODEL
    split: str = "train"
    size: str | int | tuple[int, ...] | None = None
    resize: str | None = None
    iou_min: float = IOU_MIN
    max_priors: int | None = None
    seed: int = 0
    classes: Classes | None = None
    score_min: float | None = None
    follow_links: bool = False
    out: str | None = None

    def __post_init__(self) -> None:
        if self.size is not None and size_words(self.size) == AUTO:
            raise ConfigError("--size auto: is chosen by train; give the size that it is to have, such as 288x512")
        check_range("--iou-min", self.iou_min, 0.05, 0.95)
        check_range("--seed", self.seed, 0, 2**31 - 1)
        if self.out is not None and Path(self.out).suffix.lower() != ".json":
            raise ConfigError(
                f"--out {printable(self.out)}: want a name that ends in .json; the picture goes next to it"
            )


class SplitFit(NamedTuple):
    """How default boxes meet the objects of a split, before and after."""

    name: str
    before: Cover
    after: Cover


@dataclass(frozen=True)
class PriorFit:
    """Default boxes that were fitted to a split of a data set.

    options: what was asked for; source: the data; input_spec: how the model sees it; old, table: the default boxes
    before and after; splits: how they meet the objects of every split, that which they were fitted to first; boxes:
    float [M, 4], its objects that are not difficult, in parts of the input.
    """

    options: FitPriorsOptions
    source: str
    input_spec: InputSpec
    old: PriorSpec
    table: PriorSpec
    splits: tuple[SplitFit, ...]
    boxes: np.ndarray

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return {
            "model": self.options.model,
            "data": self.source,
            "split": self.splits[0].name,
            "input": self.input_spec.to_dict(),
            "iou_min": self.options.iou_min,
            "count_before": self.old.count,
            "count": self.table.count,
            "max_priors": self.options.max_priors or self.old.count,
            "splits": [
                {"name": one.name, "before": _figures(one.before), "after": _figures(one.after)} for one in self.splits
            ],
            "priors": self.table.to_dict(),
        }

    def save(self, path: str | Path) -> None:
        """Write the table as JSON, for `train --priors`, and a picture with the same name and .png.

        Raises ConfigError where it cannot be written, MissingExtraError without matplotlib.
        """
        from singleshot.report.priors_picture import draw_priors

        shapes = [
            (table, one) for table, one in ((self.old, self.splits[0].before), (self.table, self.splits[0].after))
        ]
        path = Path(path)
        about = f"fitted to {self.source} ({self.splits[0].name}) for {self.options.model}"
        with atomic_write(path.with_suffix(".png")) as temporary:
            draw_priors(temporary, about, self.boxes, shapes, self.options.iou_min)
            write_priors(path, self.table, path.stem, about)


def _figures(cover: Cover) -> dict[str, Any]:
    names = ("all", "difficult", "sizes", "sides", "classes", "unmatched")
    return {name: value for name, value in asdict(cover).items() if name in names}


def fit_priors(
    data: str | Path,
    *,
    model: str = DEFAULT_MODEL,
    split: str = "train",
    size: str | int | tuple[int, int] | None = None,
    resize: str | None = None,
    iou_min: float = IOU_MIN,
    max_priors: int | None = None,
    seed: int = 0,
    classes: Classes | None = None,
    score_min: float | None = None,
    follow_links: bool = False,
    out: str | Path | None = None,
) -> PriorFit:
    """Fit a model's default boxes to the objects of a data set: as many of them as can be matched, at a high IoU.

    Args:
        data: Folder, file or address in any form that `singleshot data check` reads.
        model: For which network, a key of singleshot.models.MODELS.
        split: To whose objects; all splits are measured.
        size: Of the network's input, as the training is to have it: 512, (288, 512) for height and width, or "288x512";
            None for the model's. Another size needs PyTorch.
        resize: "stretch" or "letterbox", as the training is to have it; None for the model's.
        iou_min: The IoU from which a prior matches, as the recipe is to have it.
        max_priors: The most that there may be; None for as many as the model has.
        seed: The same data and seed give the same default boxes.
        classes: Of the data's classes these only, as `train` takes them.
        score_min: Of detections that are read as labels, the lowest score to take; None for all.
        follow_links: Follow links in the data's folder that lead out of it.
        out: FILE.json to write the table to, for `train(priors=...)`; a picture goes to FILE.png.

    Raises:
        ConfigError: An option is wrong.
        DataError: The data cannot be used, or the split has no objects.
        MissingExtraError: `out` was given, and matplotlib is not installed.
    """
    return run_fit(FitPriorsOptions.of(locals()))


def run_fit(options: FitPriorsOptions, progress: Progress = no_progress) -> PriorFit:
    """As `fit_priors`, with its options as a record."""
    if options.out is not None:
        require("report", "--out: the picture", "matplotlib")
    if options.model not in MODELS:
        hint = did_you_mean(options.model, MODELS)
        raise ConfigError(f"--model {printable(options.model)}: want one of {', '.join(MODELS)}{hint}")
    preset = MODELS[options.model]
    old, inputs = PRIORS[preset.priors], preset.input_spec
    inputs = replace(inputs, resize=options.resize or inputs.resize)
    if options.size is not None and (sides := sides_of_words(size_words(options.size))) != inputs.sides:
        with needs("train", "--size: the maps of another input"):
            from singleshot.models.zoo import usual_priors
        old, inputs = usual_priors(options.model, sides), replace(inputs, height=sides[0], width=sides[1])
    source, table, splits = _read(options, progress)
    rows = {name: at[table.placed[at]] for name, at in splits.items()}
    first = next(iter(rows))
    boxes = {
        name: boxes_in_input(table.boxes_px[at], table.sizes[table.image[at]], inputs) for name, at in rows.items()
    }
    if not len(boxes[first]):
        raise DataError(f"{printable(source)} ({printable(first)}): no object to fit default boxes to")
    found = fit_table(boxes[first], old, iou_min=options.iou_min, max_priors=options.max_priors, seed=options.seed)
    covers = tuple(
        SplitFit(name, *(measure_cover(table, at, spec, boxes[name], options.iou_min) for spec in (old, found)))
        for name, at in rows.items()
    )
    plain = boxes[first][~table.difficult[rows[first]]]
    fit = PriorFit(options, source, inputs, old, found, covers, plain)
    if options.out is not None:
        fit.save(options.out)
    return fit


def _read(options: FitPriorsOptions, progress: Progress) -> tuple[str, BoxTable, dict[str, np.ndarray]]:
    """The data's name, its objects, and of each split the rows of those that are compared; the fitted split first."""
    source = open_source(options.data, score_min=options.score_min, follow_links=options.follow_links)
    problems = CollectErrors(most=0)
    raw = source.read(None, problems)
    wanted = resolve_split(options.split, raw.splits, raw.source)
    with progress(to_measure(raw), "measuring images") as advance:
        table = tabulate(raw, advance)
    if wrong := sum(problems.counts.values()) + sum(table.problems.values()):
        log.warning("%s: %d problems in the labels are left out; list them: singleshot data check", raw.source, wrong)
    if options.classes is not None:
        selection = select_classes(read_groups(options.classes), table.class_names, printable(raw.source))
        labels = np.array(selection.labels_of(table.class_names))[table.label]
        table = table._replace(class_names=selection.names, label=labels)
    splits = {}
    for name in (wanted, *(name for name in raw.splits if name != wanted)):
        there = np.zeros(len(table.sizes), bool)
        there[raw.splits[name]] = True
        splits[name] = np.flatnonzero(there[table.image] & (table.label >= 0))
    return raw.source, table, splits
