"""What is labelled in the image that is explained."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from singleshot.errors import DataError, printable

if TYPE_CHECKING:
    from singleshot.evaluation.measured_classes import ModelClasses
    from singleshot.records import ImageTruth


class LabelledImage(NamedTuple):
    """truth: the objects of classes that the model has, under its labels; ignored_px: the regions that training
    ignores, as in Sample; notes: what else is labelled, a line each."""

    truth: ImageTruth
    ignored_px: np.ndarray | None
    notes: tuple[str, ...]


def find_objects(model: ModelClasses, data: str | Path, image: str | Path, follow_links: bool) -> LabelledImage:
    """The objects of an image in a data set, by its path, or else by its file's name.

    Raises DataError where it is not there, or there twice.
    """
    from singleshot.class_selection import list_names
    from singleshot.datasets import open_source
    from singleshot.datasets.build_dataset import build_dataset
    from singleshot.evaluation.measured_classes import meet_classes
    from singleshot.images.decode import image_size
    from singleshot.records import ImageTruth

    raw = open_source(data, follow_links=follow_links).read()
    found = raw.images[_find_image(raw.images, str(image), raw.source)]
    classes = meet_classes(model, raw.class_names, None, printable(raw.source))
    dataset = build_dataset(raw._replace(images=[found], splits={"one": [0]}), "one", None, True, classes.data)
    boxes, labels, difficult, ignored_px = dataset.objects(0, *image_size(str(image)))
    own = {measured: label for label, measured in enumerate(classes.labels) if measured >= 0}
    truth = ImageTruth(boxes, np.array([own[label] for label in labels.tolist()], np.int64), difficult)
    unknown = {member: row for row, members in classes.unknown.items() for member in members}
    counts = Counter(unknown[obj.name] for obj in found.objects if obj.name in unknown and not obj.crowd)
    notes = []
    if counts:
        listed = list_names([f"{name} ({count})" for name, count in counts.items()])
        notes.append(f"not classes of the model, so not explained (objects): {listed}")
    if ignored_px is not None and len(ignored_px):
        notes.append(f"crowds, in which a detection counts neither as right nor as wrong (regions): {len(ignored_px)}")
    return LabelledImage(truth, ignored_px, tuple(notes))


def _find_image(images: Sequence[Any], path: str, source: str) -> int:
    """The place of an image in a data set."""
    whole = os.path.realpath(path)
    same = [i for i, one in enumerate(images) if os.path.realpath(one.path) == whole]
    same = same or [i for i, one in enumerate(images) if Path(one.path).name == Path(path).name]
    if len(same) != 1:
        what = "is not in" if not same else f"is there {len(same)} times, in other folders, in"
        raise DataError(f"{printable(path)}: {what} {printable(source)}; give the path that it has there")
    return same[0]
