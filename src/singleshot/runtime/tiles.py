"""Large images in tiles: windows of an image become inputs of the network."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from singleshot.inputs import InputSpec, Placement, to_square
from singleshot.tiling import Window

if TYPE_CHECKING:
    from singleshot.images.large import LargeImage

TILES_PER_CALL = 64  # an image with more tiles takes several calls


class Tile(NamedTuple):
    """A window of an image as an input of the network. number: of the window; place: where the window lies in the
    square."""

    number: int
    window: Window
    square: np.ndarray
    place: Placement


def cut(image: np.ndarray | LargeImage, windows: list[Window], spec: InputSpec) -> Iterator[list[Tile]]:
    """The windows of an image, as many at a time as go to the engine together."""
    for first in range(0, len(windows), TILES_PER_CALL):
        some = enumerate(windows[first : first + TILES_PER_CALL], first)
        yield [Tile(number, window, *_square(image, window, spec)) for number, window in some]


def _square(image: np.ndarray | LargeImage, window: Window, spec: InputSpec) -> tuple[np.ndarray, Placement]:
    x0, y0, x1, y1 = window
    pixels = image[y0:y1, x0:x1]
    square, place = to_square(pixels, spec)
    # What is read of a very large image may be a part of the window's size.
    across, down = pixels.shape[1] / (x1 - x0), pixels.shape[0] / (y1 - y0)
    return square, Placement(place.scale_x * across, place.scale_y * down, place.shift_x, place.shift_y)
