"""The classes that a model and a data set have in common, by name: what of both an evaluation compares.

No torch: an exported file is evaluated in the runtime half.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from singleshot.class_selection import Classes, ClassGroup, ClassSelection, list_names, select_classes
from singleshot.datasets import open_source
from singleshot.datasets.build_dataset import build_dataset
from singleshot.datasets.dataset import Dataset
from singleshot.errors import DataError, did_you_mean, printable

log = logging.getLogger(__name__)


class ModelClasses(NamedTuple):
    """names: of a model, by label; learnt: which of its training data's classes they are, None where all go by name."""

    names: tuple[str, ...]
    learnt: ClassSelection | None = None


class MeasuredClasses(NamedTuple):
    """What is compared.

    data: the classes measured, each with its names in the data; labels: of each of the model's labels its place among
    them, -1 for what is not compared; rows: the classes to report, those that cannot be measured too; unlabelled:
    classes of the model that the data does not label; unknown: classes of the data that the model does not know, with
    their names there.
    """

    data: ClassSelection
    labels: tuple[int, ...]
    rows: tuple[str, ...]
    unlabelled: tuple[str, ...]
    unknown: Mapping[str, tuple[str, ...]]


def meet_classes(
    model: ModelClasses, data_names: Sequence[str], wanted: Classes | None = None, where: str = "the data"
) -> MeasuredClasses:
    """Match a model's classes and a data set's by name, after what the model learnt some as, and what is asked for.

    Args:
        model: Its classes.
        data_names: Those of the data; where nothing is labelled, all of the model's are there with nothing to measure.
        wanted: Compare these only, by new names; None for all.
        where: The data, for messages.

    Raises:
        ConfigError: What is wanted is not there.
        DataError: They have no class in common.
    """
    learnt = {} if model.learnt is None else model.learnt.labels()
    as_model = {name: model.names[learnt[name]] if name in learnt else name for name in data_names or model.names}
    row_of = {name: name for name in (*model.names, *as_model.values())}
    rows = tuple(row_of)
    if wanted is not None:
        selection = select_classes(wanted, tuple(dict.fromkeys((*rows, *as_model))), f"the model and of {where}")
        rows, labels = selection.names, selection.labels()
        as_model = {name: name if name in labels else its for name, its in as_model.items()}
        row_of = {name: rows[label] for name, label in labels.items()}
    members: dict[str, tuple[str, ...]] = {}
    for name, its in as_model.items():
        if its in row_of:
            members[row_of[its]] = (*members.get(row_of[its], ()), name)
    found = {row_of[name] for name in model.names if name in row_of}
    measured = [row for row in rows if row in found and row in members]
    if not measured:
        hint = "map some with --classes OLD=NEW" if wanted is None else "want a class that both have"
        raise DataError(
            f"{where}: nothing to measure: it labels {list_names(data_names)}; the model finds"
            f" {list_names(model.names)}; {hint}"
        )
    place = {row: label for label, row in enumerate(measured)}
    return MeasuredClasses(
        ClassSelection(tuple(ClassGroup(row, members[row]) for row in measured)),
        tuple(place.get(row_of.get(name, ""), -1) for name in model.names),
        rows if wanted is not None else tuple(row for row in rows if row in members),
        tuple(row for row in rows if row not in members),
        {row: members[row] for row in rows if row in members and row not in found},
    )


class MeasuredSet(NamedTuple):
    """A split to evaluate on. rows: the classes to report; unknown: of those that the model does not know how many
    objects count (not difficult, not crowd)."""

    dataset: Dataset
    classes: MeasuredClasses
    rows: tuple[str, ...]
    unknown: Mapping[str, int]


def open_measured(
    data: str,
    split: str,
    model: ModelClasses,
    wanted: Classes | None = None,
    clip_boxes: bool = False,
    follow_links: bool = False,
) -> MeasuredSet:
    """Open the split that a model is evaluated on; the log says which classes are left out, and why.

    Raises DataError, ConfigError as `meet_classes` and `open_dataset`.
    """
    raw = open_source(data, follow_links=follow_links).read(split)
    (name,) = raw.splits
    where = f"{printable(raw.source)} ({printable(name)})"
    classes = meet_classes(model, raw.class_names, wanted, where)
    dataset = build_dataset(raw, name, None, clip_boxes, classes.data)
    counts = Counter(
        obj.name for i in raw.splits[name] for obj in raw.images[i].objects if not (obj.difficult or obj.crowd)
    )
    unknown = {row: sum(counts[member] for member in members) for row, members in classes.unknown.items()}
    _say(classes, unknown, where)
    asked = wanted is not None
    rows = tuple(row for row in classes.rows if asked or unknown.get(row) != 0)  # a list may declare more than there is
    return MeasuredSet(dataset, classes, rows, unknown)


def _say(classes: MeasuredClasses, unknown: Mapping[str, int], where: str) -> None:
    if classes.data.renames:
        log.info("%s: measured as %s", where, classes.data.summary())
    if classes.unlabelled:
        log.info("%s: not labelled there, so left out: %s", where, list_names(classes.unlabelled))
    missing = [name for name, count in unknown.items() if count]
    if missing:
        near = did_you_mean(missing[0], classes.unlabelled) if len(missing) == 1 else ""
        counted = list_names([f"{name} ({unknown[name]})" for name in missing])
        log.info("%s: not a class of the model, so not measured (objects): %s%s", where, counted, near)
