"""The training set, or of it the classes that were asked for."""

from __future__ import annotations

import logging
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from singleshot.api.train_options import TrainOptions
from singleshot.class_selection import Classes, ClassSelection, list_names, select_classes
from singleshot.errors import printable

if TYPE_CHECKING:
    from singleshot.datasets.dataset import Dataset
    from singleshot.loading.shard_stream import ShardStream

log = logging.getLogger(__name__)


def open_selected(options: TrainOptions) -> Dataset | ShardStream:
    """The split to train on, of it the classes that were asked for; the log says what is left out.

    Raises DataError, and ConfigError for a class that the data does not have.
    """
    from singleshot.datasets import open_source
    from singleshot.datasets.build_dataset import build_dataset
    from singleshot.loading.shard_stream import open_stream, open_training_set

    split = options.split or "train"
    if options.classes is None:
        return open_training_set(options.data, split, clip_boxes=options.clip_boxes)
    source = open_source(options.data)
    if source.form == "shards":
        stream = open_stream(options.data, split, clip_boxes=options.clip_boxes)
        selection = _select(options, options.classes, stream.own_names, stream.source)
        return _said_of_shards(replace(stream, class_names=selection.names, selection=selection))
    raw = source.read(split)
    (name,) = raw.splits
    if not raw.class_names:  # no object at all, which is what to say
        return build_dataset(raw, name, None, options.clip_boxes)
    selection = _select(options, options.classes, raw.class_names, f"{raw.source} ({name})")
    return said(build_dataset(raw, name, None, options.clip_boxes, selection))


def _select(options: TrainOptions, wanted: Classes, known: tuple[str, ...], where: str) -> ClassSelection:
    if options.resume:  # the run's own: other data need not have them all
        return ClassSelection.from_dict(wanted)
    return select_classes(wanted, known, printable(where))


def said(data: Dataset) -> Dataset:
    """The same; the log says which classes are learnt and how many objects are left out."""
    if data.selection is None:
        return data
    parts = [f"classes: {data.selection.summary()}"]
    if data.left_out:
        counts = list_names([f"{count} {name}" for name, count in data.left_out.items()])
        parts.append(f"left out: {sum(data.left_out.values())} objects ({counts})")
        empty = int((np.diff(data.ptr) == 0).sum())
        parts.append(f"{empty} of {len(data)} images have none of these classes and are background")
    log.info("%s: %s", printable(data.source), "; ".join(parts))
    return data


def _said_of_shards(stream: ShardStream) -> ShardStream:
    assert stream.selection is not None
    known = stream.selection.labels()
    others = [name for name in stream.own_names if name not in known]
    left = f"; left out, uncounted since shards are read in a stream: {list_names(others)}" if others else ""
    log.info("%s: classes: %s%s", printable(stream.source), stream.selection.summary(), left)
    return stream
