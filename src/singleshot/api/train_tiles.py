"""The tiles of a training: what is asked for or its start was trained on, and what that means for its data."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

import numpy as np

from singleshot.api.train_options import TrainOptions
from singleshot.datasets.dataset import Dataset
from singleshot.datasets.measure import measured
from singleshot.errors import CheckpointError, printable
from singleshot.hub import local_model
from singleshot.tiling import NONE, Tiling, choose_tiling

if TYPE_CHECKING:
    from singleshot.inputs import Size
    from singleshot.loading.shard_stream import ShardStream

log = logging.getLogger(__name__)


def tile_of_run(options: TrainOptions) -> str:
    """As run.json keeps it, "none" for whole images: what is asked for, else that of the model that it starts from."""
    from singleshot.weights.checkpoint import read_info
    from singleshot.weights.open_model import is_ours

    if options.tile is not None:
        return str(options.tile)
    if options.resume or not options.start:
        return NONE
    start = local_model(options.start)
    if not is_ours(start):
        return NONE
    try:
        own = read_info(start).tiling
    except CheckpointError:
        return NONE  # said when the model is read
    if own is None:
        return NONE
    log.info(
        "%s: was trained on %s, and so is this run; --no-tile for whole images", printable(options.start), own.words
    )
    return own.text


def tiling_of(tile: str | int | bool | None) -> Tiling | None:
    """Tiles of a training: without the whole images, which it does not see."""
    tiling = choose_tiling(None, tile)
    return tiling if tiling is None else choose_tiling(None, tiling, tiles_only=True)


def check_tiles(
    tiling: Tiling | None, train_set: Dataset | ShardStream, shape: Size, skip_broken: bool = False
) -> None:
    """The log says where tiles do not suit the data. shape: of the model's input.

    Raises DataError for an image that cannot be measured, unless skip_broken.
    """
    if tiling is None or not isinstance(train_set, Dataset):
        return
    data, (tall, wide) = measured(train_set, skip_broken=skip_broken), tiling.sides(shape)
    where = printable(train_set.source)
    if (data.sizes <= (wide, tall)).all():
        log.warning("%s: no image is larger than a tile of %d x %d px, so --tile cuts nothing", where, wide, tall)
        return
    sides = (data.boxes_px[:, 2:] - data.boxes_px[:, :2])[~data.crowd]
    larger = int((sides > np.array((wide, tall))).any(axis=1).sum())
    if larger:
        log.warning(
            "%s: %d of %d objects are larger than a tile of %d x %d px: they are learnt and found in parts, which a"
            " larger --tile avoids",
            where, larger, len(sides), wide, tall,
        )  # fmt: skip
