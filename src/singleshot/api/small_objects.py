"""What helps where objects are small in their images, with values for the data set: `data info` and `train` name it."""

from __future__ import annotations

import math
from typing import NamedTuple

from singleshot.errors import DataError
from singleshot.input_shape import size_words

# Objects under this part of their image's side are small: at 320 pixels they have 32, COCO's bound of small ones.
SMALL = 0.10
# What the median object shall have of a tile's side.
_OF_A_TILE = 0.15
_ROOM = 1.25  # a tile has this many times the side of all but the largest objects, and an image that of a tile
_MULTIPLE = 32
_MOST_SIZE = 2.0  # times the model's own input


class Extents(NamedTuple):
    """Of a data set's objects and images.

    share: the median object's side (root of the area) in parts of the input's. half_px, most_px: the side that half of
    the objects, and 95 % of them, do not exceed, in pixels of their images. width, height: of the median image, in
    pixels. shape: width to height of an input that suits the images, see `shape_of_pictures`.
    """

    share: float
    half_px: float
    most_px: float
    width: float
    height: float
    shape: float = 1.0


def small_objects(found: Extents, input_px: float) -> str | None:
    """A sentence for data whose median object is small; None for other data. input_px: the input's side."""
    if found.share >= SMALL:
        return None
    seen_px = found.share * input_px
    return (
        f"Half of the objects are under {found.share:.1%} of the side of their image, {seen_px:.0f} px of"
        f" {input_px:.0f}; below {SMALL:.0%} they are hard to find in whole images."
    )


def ways(found: Extents, input_px: float) -> list[str]:
    """Options of `train` that help to find small objects, each with what it costs."""
    return [*_size(found, input_px), *_tile(found)]


def _size(found: Extents, input_px: float) -> list[str]:
    """A larger input of the images' shape, no larger than the images and twice the model's own."""
    wanted = input_px * min(SMALL / found.share, _MOST_SIZE)
    size = round(min(wanted, math.sqrt(found.width * found.height)) / _MULTIPLE) * _MULTIPLE
    if size <= input_px:
        return []
    root = math.sqrt(found.shape)
    height, width = (max(round(side / _MULTIPLE), 1) * _MULTIPLE for side in (size / root, size * root))
    cost = height * width / input_px**2
    return [f"--size {size_words((height, width))}, {cost:.1f} times the time per image"]


def _tile(found: Extents) -> list[str]:
    """Tiles in which the median object is not small and all but the largest are whole."""
    wanted = max(found.half_px / _OF_A_TILE, _ROOM * found.most_px)
    side = max(math.ceil(wanted / _MULTIPLE) * _MULTIPLE, _MULTIPLE)
    if max(found.width, found.height) < _ROOM * side:
        return []
    from singleshot.tiling import Tiling

    try:
        tiles = len(Tiling(side, whole=False).windows(int(found.width), int(found.height)))
    except DataError:  # more than are looked at
        return []
    return [f"--tile {side}, objects at {found.half_px / side:.0%} of its side, {tiles} times the time per image"]
