"""The input of a training's model: its own, another size or shape, one channel, or a size that suits the data."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from singleshot.api.small_objects import Extents, small_objects, ways
from singleshot.api.train_options import TrainOptions
from singleshot.datasets.dataset import Dataset
from singleshot.datasets.measure import measured, placed_objects
from singleshot.errors import ConfigError, printable
from singleshot.input_shape import AUTO, as_grey, shape_of_pictures, sides_of_words, size_words, suited_sides
from singleshot.inputs import InputSpec, boxes_in_input

if TYPE_CHECKING:
    from singleshot.loading.shard_stream import ShardStream
    from singleshot.models import SSD

log = logging.getLogger(__name__)

_MOST = 20_000  # pictures that are looked at
_FEWEST = 20  # objects from which on something is said of their sizes


def choose_input(
    options: TrainOptions, train_set: Dataset | ShardStream, spec: InputSpec, network: Callable[[], SSD]
) -> InputSpec:
    """A model's input as `--size` and `--grey` want it; the log says which size was chosen by the data, and why.

    Args:
        options: Of the training.
        train_set: What is trained on.
        spec: The model's own input.
        network: Gives the model, of which no value is needed.

    Raises:
        ConfigError: Colours for a model of one channel, or a size by data that has none.
        DataError: A picture cannot be measured.
    """
    if options.grey:
        spec = as_grey(spec)
    elif options.grey is False and spec.channels == 1:
        raise ConfigError("grey=False: the model to start from takes one channel; leave it out")
    if options.size is None:
        return spec
    sides = sides_of_words(str(options.size)) if options.size != AUTO else _suited(options, train_set, network())
    return replace(spec, height=sides[0], width=sides[1])


def _suited(options: TrainOptions, train_set: Dataset | ShardStream, model: SSD) -> tuple[int, int]:
    from singleshot.models.dry_run import smallest_side

    where = printable(train_set.source)
    if not isinstance(train_set, Dataset):
        raise ConfigError(f"--size auto: {where} is shards, which are not read ahead; give a size such as 288x512")
    if not len(train_set):
        raise ConfigError(f"--size auto: {where} has no pictures")
    chosen = np.unique(np.linspace(0, len(train_set) - 1, _MOST).round().astype(int))
    data = train_set if len(train_set) <= _MOST else train_set.subset(chosen)
    data = measured(data, skip_broken=options.skip_broken)
    data = data.subset(np.flatnonzero((data.sizes > 0).all(axis=1)))
    if not len(data):
        raise ConfigError(f"--size auto: {where} has no picture that can be read")
    sizes, image = data.sizes.astype(np.int64), data.image_of[~data.crowd]
    boxes = data.boxes_px[~data.crowd].astype(np.float64)
    area = (boxes[:, 2:] - boxes[:, :2]).prod(axis=1).clip(0)
    objects = np.sqrt(area / sizes[image].prod(axis=1))
    sides, why = suited_sides(sizes, objects[objects > 0], model.prior_spec, smallest_side(model))
    log.info("size auto: %s (height x width): %s", size_words(sides), why)
    return sides


def with_sizes(options: TrainOptions, train_set: Dataset | ShardStream) -> Dataset | ShardStream:
    """What is decided by: the set with the sizes of the images that show an object, read once from their headers where
    labels do not say them; of more than _MOST such images so many. Shards and the set of a run that goes on stay as
    they are.

    Raises DataError for a picture that cannot be measured, unless `skip_broken`.
    """
    if options.resume or not isinstance(train_set, Dataset):
        return train_set
    return measured(train_set, only_with_objects=True, skip_broken=options.skip_broken, most=_MOST)


def hint_small(options: TrainOptions, train_set: Dataset | ShardStream, spec: InputSpec) -> None:
    """Where objects are small in whole images and no size was asked for, the log says what helps.

    train_set: of `with_sizes`. spec: the input that was chosen.
    """
    if options.size or options.resume or not isinstance(train_set, Dataset):
        return
    boxes, sizes = placed_objects(train_set)
    if len(boxes) < _FEWEST:
        return
    parts = boxes_in_input(boxes, sizes, spec)
    side, share = (np.sqrt((one[:, 2:] - one[:, :2]).astype(np.float64).clip(0).prod(axis=1)) for one in (boxes, parts))
    known = train_set.sizes[(train_set.sizes > 0).all(axis=1)]
    width, height = np.median(known, axis=0).tolist()
    half, most = np.quantile(side, (0.5, 0.95)).tolist()
    shape, _ = shape_of_pictures(known[:, 0] / known[:, 1])
    extents = Extents(float(np.median(share)), half, most, width, height, shape)
    input_px = float(np.sqrt(np.prod(spec.sides)))
    sentence, helps = small_objects(extents, input_px), ways(extents, input_px)
    if sentence is not None and helps:
        log.info("%s: %s Try: %s", printable(train_set.source), sentence[0].lower() + sentence[1:], "; ".join(helps))
