"""Reading data sets: the format is detected automatically. Imports no torch."""

from __future__ import annotations

import os
from collections.abc import Sequence

from singleshot.class_selection import ClassSelection
from singleshot.datasets.build_dataset import build_dataset
from singleshot.datasets.dataset import Dataset
from singleshot.datasets.sources import Source, open_source
from singleshot.datasets.splits import find_split

__all__ = ["Dataset", "Source", "available_splits", "find_split", "open_dataset", "open_source"]


def open_dataset(
    path: str | os.PathLike[str],
    split: str = "train",
    class_names: Sequence[str] | None = None,
    clip_boxes: bool = False,
    selection: ClassSelection | None = None,
    follow_links: bool = False,
) -> Dataset:
    """Open one split of a data set: a folder, a file or an address in any form of `singleshot.datasets.formats`.

    A file that the user names is one split (`split` is unused) unless it says splits itself. class_names None takes
    the data's own; given, the data's classes are looked up in it by name. selection: in its place, some classes under
    new names; objects of others are left out. Boxes without area or more than 2 px outside their image are errors;
    with clip_boxes they are dropped or cut, and counted in a warning. With follow_links links may lead out of the
    folder. Raises DataError for anything that cannot be used.
    """
    raw = open_source(path, follow_links=follow_links).read(split)
    (name,) = raw.splits  # under the name that it has in the data: "valid" for "val"
    return build_dataset(raw, name, class_names, clip_boxes, selection)


def available_splits(path: str | os.PathLike[str], follow_links: bool = False) -> tuple[str, ...]:
    """Names of the splits that `open_dataset` would find or make."""
    return open_source(path, follow_links=follow_links).splits
