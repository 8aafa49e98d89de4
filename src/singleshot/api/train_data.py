"""The sets to train and to validate on, of them the classes and the detections that were asked for."""

from __future__ import annotations

import logging
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from singleshot.api.held_out import held_out_share
from singleshot.api.options import parse_bytes
from singleshot.api.train_options import DEFAULTS, TrainOptions
from singleshot.class_selection import Classes, ClassSelection, list_names, select_classes
from singleshot.datasets import Dataset, find_split, open_source
from singleshot.datasets.build_dataset import build_dataset
from singleshot.datasets.raw import RawSet, above_score, has_scores
from singleshot.datasets.splits import hold_out
from singleshot.errors import ConfigError, DataError, TooFewImagesError, printable

if TYPE_CHECKING:
    from singleshot.loading.shard_stream import ShardStream

log = logging.getLogger(__name__)


class _HeldOut(NamedTuple):
    """What is held out to validate on, of how many images."""

    raw: RawSet
    whole: int


def open_sets(options: TrainOptions) -> tuple[Dataset | ShardStream, Dataset | None]:
    """The split to train on, of it the classes that were asked for, and the one to validate on with the same classes,
    None where there is none; the log says what is left out. Labels of which a part is held out are read once.

    Raises DataError, and ConfigError for a class that the data does not have, or an option that shards cannot meet.
    """
    train_set, held = _open_train(options)
    return train_set, _open_validation(options, train_set, held)


def _open_train(options: TrainOptions) -> tuple[Dataset | ShardStream, _HeldOut | None]:
    split = options.split or "train"
    source = open_source(options.data, score_min=options.score_min, follow_links=options.follow_links)
    if source.form == "shards":
        if held_out_share(options.val_split) is not None:
            raise ConfigError(
                f"--val-split {options.val_split}: {printable(options.data)} is shards, which are read in a stream;"
                " name a split, or give --val-split none"
            )
        return _open_shards(options, split), None
    raw, held = _divide(source.read(split), options.val_split)
    (name,) = raw.splits
    if options.classes is None or not raw.class_names:  # no object at all, which is what to say
        return _with_objects(options, build_dataset(raw, name, None, options.clip_boxes)), held
    selection = _select(options, options.classes, raw.class_names, f"{raw.source} ({name})")
    return _with_objects(options, _said(build_dataset(raw, name, None, options.clip_boxes, selection))), held


def _with_objects(options: TrainOptions, data: Dataset) -> Dataset:
    """The same; the log names the classes of which nothing can be learnt. Raises DataError where that is all of them;
    the data of a run that goes on was looked at when it began."""
    if options.resume or not len(data):
        return data
    counts = np.bincount(data.labels[~data.crowd], minlength=len(data.class_names))
    if not counts.any():
        raise DataError(
            f"{printable(data.source)}: {len(data)} images and no object in any of them: there is nothing to learn;"
            " label some before training"
        )
    absent = [name for name, count in zip(data.class_names, counts, strict=True) if not count]
    if absent:
        log.warning("%s: no object of %s: nothing of it can be learnt", printable(data.source), list_names(absent))
    return data


def _open_validation(options: TrainOptions, train_set: Dataset | ShardStream, held: _HeldOut | None) -> Dataset | None:
    raw = _read_validation(options) if held is None else held.raw
    if raw is None:
        return None
    if held is not None:
        images = len(raw.images)
        log.info("%s: held out to validate on: %d of %d images", printable(options.data), images, held.whole)
    (name,) = raw.splits
    return _said(build_dataset(raw, name, train_set.class_names, options.clip_boxes, train_set.selection))


def _read_validation(options: TrainOptions) -> RawSet | None:
    """The split that is named, or val where there is one."""
    wanted = options.val_split or "val"
    if wanted == "none":
        return None
    source = open_source(options.data, follow_links=options.follow_links)
    if wanted == "val" and find_split("val", source.splits) is None:
        share = "" if source.form == "shards" else "--val-split 10% holds out a tenth of the training images; or "
        log.warning("no split 'val' in the data: training without validation (%sname a split)", share)
        return None
    try:
        raw = source.read(wanted)
    except TooFewImagesError as error:
        log.warning("%s: training without validation", str(error).partition(";")[0])
        return None
    if options.score_min is not None and has_scores(raw):  # labels made by hand validate what detections teach
        raw = above_score(raw, options.score_min)
    return raw


def _divide(raw: RawSet, val_split: str | None) -> tuple[RawSet, _HeldOut | None]:
    """A split to train on, and what of it is held out to validate on."""
    share = held_out_share(val_split)
    if share is None:
        return raw, None
    ((name, members),) = raw.splits.items()
    images = [raw.images[i] for i in members]
    stay, held = hold_out([image.path for image in images], share)
    if not held:
        what = "has one image" if len(images) == 1 else "all images are copies of one"
        raise ConfigError(
            f"--val-split {val_split}: {printable(raw.source)} ({printable(name)}): {what}, so that none can be held"
            " out; name a split, or give --val-split none"
        )
    parts = ((name, stay), (f"{val_split} of {name}", held))
    first, second = (
        raw._replace(images=[images[i] for i in rows], splits={part: list(range(len(rows)))}) for part, rows in parts
    )
    return first, _HeldOut(second, len(images))


def _open_shards(options: TrainOptions, split: str) -> ShardStream:
    from singleshot.loading.shard_stream import open_stream

    if options.score_min is not None:
        raise ConfigError(f"--score-min: {printable(options.data)} is shards, which hold no scores; leave it out")
    stream = open_stream(options.data, split, None, options.clip_boxes, options.follow_links)
    if options.cache == "ram":
        raise ConfigError("--cache ram: shards are read in a stream; give a folder (of remote shards), or leave it out")
    if options.cache not in (None, "auto", "none"):
        limit = parse_bytes(options.cache_size or DEFAULTS["cache_size"], "--cache-size")
        stream = stream.cached_in(Path(str(options.cache)), limit)
    if options.classes is None:
        return stream
    selection = _select(options, options.classes, stream.own_names, stream.source)
    return _said_of_shards(replace(stream, class_names=selection.names, selection=selection))


def _select(options: TrainOptions, wanted: Classes, known: tuple[str, ...], where: str) -> ClassSelection:
    if options.resume:  # the run's own: other data need not have them all
        return ClassSelection.from_dict(wanted)
    return select_classes(wanted, known, printable(where))


def _said(data: Dataset) -> Dataset:
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
