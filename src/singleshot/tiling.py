"""Tiles of large images, for objects that are too small in the whole: how large they are and where they lie.

The same in detection, in evaluation and in the validation of a training.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np

from singleshot.errors import ConfigError, DataError, printable
from singleshot.inputs import Size, sides_of

Window = tuple[int, int, int, int]

OVERLAP = 0.25
MOST_TILES = 10_000
NONE = "none"  # no tiles, where a model has some of its own


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
            if isinstance(value, bool):
                raise TypeError(value)
            return cls(int(value))
        except (TypeError, ValueError, IndexError) as error:
            raise ConfigError(
                f"tile {printable(value, 40)!r}: want pixels a side, or with the overlap as in 640:0.25"
            ) from error

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Tiling:
        """Inverse of `to_dict`. Raises ConfigError, KeyError, TypeError or ValueError for anything else."""
        side, overlap, whole = values["side"], values["overlap"], values["whole"]
        if type(side) is not int or type(whole) is not bool:
            raise ValueError("tiling: want a whole number of pixels, and whether the whole image is looked at")
        return cls(side, float(overlap), whole)

    def to_dict(self) -> dict[str, Any]:
        """Plain values."""
        return asdict(self)

    @property
    def text(self) -> str:
        """As `of` takes it: "640", or "640:0.1" with another overlap than the usual one."""
        return str(self.side) if self.overlap == OVERLAP else f"{self.side}:{self.overlap:g}"

    @property
    def words(self) -> str:
        """For messages."""
        return f"tiles of {self.side} px" + (" and the whole image" if self.whole else "")

    def sides(self, shape: Size) -> tuple[int, int]:
        """Height and width of a tile in pixels. shape: of the model's input, in any unit."""
        rows, columns = sides_of(shape)
        tall, wide = (max(round(self.side * length / max(rows, columns)), 1) for length in (rows, columns))
        return tall, wide

    def windows(self, width: int, height: int, name: str = "image", shape: Size = 1) -> list[Window]:
        """x0 y0 x1 y1 of the whole image where it is wanted, then of every tile, row by row; the whole alone where it
        is one tile. shape: of the model's input, in any unit.

        Raises DataError for an image that has more than MOST_TILES.
        """
        tall, wide = self.sides(shape)
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


def choose_tiling(
    own: Tiling | None, tile: Tiling | int | tuple[int, float] | str | bool | None, tiles_only: bool | None = None
) -> Tiling | None:
    """The tiles that are looked at; None for the whole image alone.

    Args:
        own: Those that the model was trained on.
        tile: What is asked for, as `Tiling.of` takes it; False or "none" for no tiles, None for the model's own.
        tiles_only: Whether not to look at the whole image too; None for what `tile` says where it is a Tiling, else for
            what the model was trained on, which without tiles is the whole image.

    Raises:
        ConfigError: A value is out of range, or tiles_only without tiles.
    """
    if tile is None:
        tiling = own
    elif tile is False or tile == NONE:
        tiling = None
    else:
        tiling = Tiling.of(tile)
        if own is not None and not isinstance(tile, Tiling):
            tiling = replace(tiling, whole=own.whole)
    if tiles_only is None:
        return tiling
    if tiling is None:
        raise ConfigError(f"{'tiles-only' if tiles_only else 'whole-too'}: of what size? give --tile N too")
    return replace(tiling, whole=not tiles_only)


def window_with(
    boxes_px: np.ndarray, image_sizes: np.ndarray, sides: tuple[int, int], rng: np.random.Generator
) -> np.ndarray:
    """int64 [N, 4]: a window for each box [N, 4] of images of these sizes [N, 2], width and height, anywhere where it
    has the box whole, or is a part of one that is larger. sides: height and width of a tile; no window is larger than
    its image."""
    size = np.minimum(image_sizes, sides[::-1]).astype(np.int64)
    room = image_sizes - size
    ends = np.sort([boxes_px[:, 2:].astype(np.float64) - size, boxes_px[:, :2]], axis=0)
    low, high = np.ceil(ends[0]).clip(0, room), np.floor(ends[1]).clip(0, room)
    start = rng.integers(low.astype(np.int64), np.maximum(low, high).astype(np.int64), endpoint=True)
    return np.concatenate([start, start + size], axis=1)


def parts_in_tiles(
    boxes_px: np.ndarray, image_sizes: np.ndarray, sides: tuple[int, int], rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """As a training in tiles sees boxes [N, 4]: in pixels of a window that has them, and the windows' sizes [N, 2].

    The arguments are those of `window_with`.
    """
    windows = window_with(boxes_px, image_sizes, sides, rng)
    corner, size = np.tile(windows[:, :2], 2), windows[:, 2:] - windows[:, :2]
    return (boxes_px - corner).clip(0, np.tile(size, 2)), size


def boxes_in_window(boxes_px: np.ndarray, window: Window) -> tuple[np.ndarray, np.ndarray]:
    """Boxes [N, 4] in pixels of an image -> those of a window of it, in its pixels, and int64 [K] which they are.

    An object belongs to a window that has its centre, edges included (MeetEmitConstraint, Caffe's im_transforms.cpp:
    the rule of every crop in training), and is clipped to it.
    """
    x0, y0, x1, y1 = window
    x, y = boxes_px[:, 0::2].mean(axis=1), boxes_px[:, 1::2].mean(axis=1)
    kept = np.flatnonzero((x >= x0) & (x <= x1) & (y >= y0) & (y <= y1))
    inside = boxes_px[kept].clip((x0, y0, x0, y0), (x1, y1, x1, y1)) - np.array((x0, y0, x0, y0), boxes_px.dtype)
    return inside.astype(boxes_px.dtype), kept


def clip_regions(regions: np.ndarray, window: tuple[float, float, float, float]) -> np.ndarray:
    """Regions [N, 4] in pixels of an image -> the parts of them [K, 4] that lie in a window of it, in the same pixels.

    Unlike an object, of which a part may not say what it is, a region is kept where any of it is there.
    """
    x0, y0, x1, y1 = window
    inside = regions.clip((x0, y0, x0, y0), (x1, y1, x1, y1)).astype(regions.dtype, copy=False)
    parts: np.ndarray = inside[(inside[:, 2:] > inside[:, :2]).all(axis=1)]
    return parts
