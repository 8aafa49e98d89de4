"""What `data info` advises where objects are small in their images, with values for that data set."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from singleshot.errors import DataError

if TYPE_CHECKING:
    from singleshot.datasets.statistics import DataInfo

# Objects under this part of their image's side are small: at 320 pixels they have 32, COCO's bound of small ones.
SMALL = 0.10
# What the median object shall have of a tile's side.
_OF_A_TILE = 0.15
_ROOM = 1.25  # a tile has this many times the side of all but the largest objects, and an image that of a tile
_MULTIPLE = 32
_MOST_SIZE = 2.0  # times the model's own input
_MATCHED = 0.95  # share of the objects that default boxes should match


def small_objects(found: DataInfo) -> list[str]:
    """Sentences for data whose median object is small; none for other data."""
    from singleshot.datasets.statistics import POINTS

    if not {"square_side", "side", "image_width", "image_height"} <= found.quantiles.keys():
        return []
    half, most = POINTS.index(0.5), POINTS.index(0.95)
    share = found.quantiles["square_side"][half] / found.input_px
    if share >= SMALL:
        return []
    width, height = (found.quantiles[name][half] for name in ("image_width", "image_height"))
    small_px, large_px = found.quantiles["side"][half], found.quantiles["side"][most]
    ways = [*_size(found, share, math.sqrt(width * height)), *_tile(small_px, large_px, width, height)]
    if (found.chosen.all.matched or 0.0) < _MATCHED:
        ways.append("default boxes fitted to them, as train does by itself from 50 objects on")
    lines = [
        f"Half of the objects are under {share:.1%} of the side of their image, {share * found.input_px:.0f} px of"
        f" {found.input_px}; below {SMALL:.0%} they are hard to find in whole images."
    ]
    return [*lines, f"Try: {'; '.join(ways)}."] if ways else lines


def _size(found: DataInfo, share: float, image_side: float) -> list[str]:
    """A larger input, no larger than the images and twice the model's own."""
    wanted = found.input_px * min(SMALL / share, _MOST_SIZE)
    size = round(min(wanted, image_side) / _MULTIPLE) * _MULTIPLE
    if size <= found.input_px:
        return []
    return [f"train --size {size}, {(size / found.input_px) ** 2:.1f} times the time per image"]


def _tile(small_px: float, large_px: float, width: float, height: float) -> list[str]:
    """Tiles in which the median object is not small and all but the largest are whole."""
    wanted = max(small_px / _OF_A_TILE, _ROOM * large_px)
    side = max(math.ceil(wanted / _MULTIPLE) * _MULTIPLE, _MULTIPLE)
    if max(width, height) < _ROOM * side:
        return []
    from singleshot.tiling import Tiling

    try:
        tiles = len(Tiling(side, whole=False).windows(int(width), int(height)))
    except DataError:  # more than are looked at
        return []
    return [f"train --tile {side}, objects at {small_px / side:.0%} of its side, {tiles} times the time per image"]
