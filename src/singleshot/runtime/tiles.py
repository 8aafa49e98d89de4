"""Large images in tiles, for objects that are too small in the whole: where tiles lie, and cutting them."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from singleshot.errors import ConfigError, DataError, printable
from singleshot.inputs import InputSpec, Placement, Size, sides_of, to_square

if TYPE_CHECKING:
    from singleshot.images.large import LargeImage

Window = tuple[int, int, int, int]

OVERLAP = 0.25
MOST_TILES = 10_000
TILES_PER_CALL = 64  # an image with more tiles takes several calls


@dataclass(frozen=True)
class Tiling:
    """Tiles of `side` pixels of the image, neighbours sharing at least `overlap` of their sides.

    A tile has the shape of the model's input, of which `side` is the longer side.

    An object no larger than the overlap is whole in some tile.

    Attributes:
        side: In pixels, 32 to 100000.
        overlap: As a share of the side, 0 to .9.
        whole: Look at the whole image too, for objects that are larger than a tile; a detector that was never trained
            on anything as small as the objects are there gives false positives in it.

    Raises:
        ConfigError: A value is out of range.
    """

    side: int
    overlap: float = OVERLAP
    whole: bool = True

    def __post_init__(self) -> None:
        if not 32 <= self.side <= 100_000:
            raise ConfigError(f"tile {self.side}: want 32 to 100000 pixels a side")
        if not 0 <= self.overlap <= 0.9:
            raise ConfigError(f"tile overlap {self.overlap}: want a number from 0 to 0.9")

    @classmethod
    def of(cls, value: Tiling | int | tuple[int, float] | str) -> Tiling:
        """From 640, (640, 0.25), "640" or "640:0.25". Raises ConfigError."""
        if isinstance(value, Tiling):
            return value
        try:
            if isinstance(value, str):
                side, colon, overlap = value.partition(":")
                return cls(int(side), float(overlap) if colon else OVERLAP)
            if isinstance(value, tuple):
                return cls(int(value[0]), float(value[1]))
            return cls(int(value))
        except (TypeError, ValueError, IndexError) as error:
            raise ConfigError(
                f"tile {printable(value, 40)!r}: want pixels a side, or with the overlap as in 640:0.25"
            ) from error

    def windows(self, width: int, height: int, name: str = "image", shape: Size = 1) -> list[Window]:
        """x0 y0 x1 y1 of the whole image where it is wanted, then of every tile, row by row; the whole alone where it
        is one tile. shape: of the model's input, in any unit.

        Raises DataError for an image that has more than MOST_TILES.
        """
        rows, columns = sides_of(shape)
        tall, wide = (max(round(self.side * length / max(rows, columns)), 1) for length in (rows, columns))
        across, down = self._starts(width, wide), self._starts(height, tall)
        whole = (0, 0, width, height)
        if len(across) * len(down) > MOST_TILES:
            raise DataError(
                f"{printable(name)}: {width} x {height} pixels make {len(across) * len(down)} tiles of {self.side}"
                f" (at most {MOST_TILES}); give larger tiles"
            )
        if len(across) == len(down) == 1:
            return [whole]
        tiles = [(x, y, min(x + wide, width), min(y + tall, height)) for y in down for x in across]
        return [whole, *tiles] if self.whole else tiles

    def _starts(self, length: int, side: int) -> list[int]:
        if length <= side:
            return [0]
        step = max(side * (1 - self.overlap), 1.0)
        count = math.ceil((length - side) / step) + 1
        return [round(i * (length - side) / (count - 1)) for i in range(count)]


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
