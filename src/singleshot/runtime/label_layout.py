"""Where labels stand in a picture: at their boxes, none over another, none over a small object; the best come first."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import numpy as np

# Width, height above the baseline and depth below it of a text whose letters are so many pixels high.
Measure = Callable[[str, int], tuple[int, int, int]]
Corners = tuple[int, int, int, int]

_LEAST = 11  # pixels: smaller letters cannot be read
_CELLS = 240  # along the shorter side, at the resolution of which it is kept what is taken
_LETTERS = 8  # a label may be so many letters wide, however narrow its box
# A label may hide this share of its own box, and no part of another whose shorter side is under so many labels' height.
_OWN_SHARE, _SMALL = 0.3, 3.0


class Label(NamedTuple):
    """A text of `pixels` in a ground of width x height, whose left top corner is x, y; baseline: below y."""

    text: str
    pixels: int
    x: int
    y: int
    width: int
    height: int
    pad: int
    baseline: int


class LabelLayout:
    """Finds room for one label after the other in a picture of height x width.

    pixels: of letters where the box is large; boxes: all of them, left, top, right and bottom pixel, both ends inside.
    """

    def __init__(self, height: int, width: int, pixels: int, boxes: Sequence[Corners], measure: Measure) -> None:
        self._height, self._width, self._pixels, self._measure = height, width, pixels, measure
        self._cell = max(1, min(height, width) // _CELLS)
        shape = -(-height // self._cell), -(-width // self._cell)
        self._taken = np.zeros(shape, bool)
        self._small = np.zeros(shape, np.uint16)  # how many small boxes lie there
        limit = _SMALL * pixels
        for box in boxes:
            if min(box[2] - box[0], box[3] - box[1]) < limit:
                self._small[self._inner(box)] += 1

    def place(self, box: Corners, name: str, score: str) -> Label | None:
        """A label that says both, else a shortened name and the score, else the score alone; None without room."""
        wide, high = box[2] - box[0] + 1, box[3] - box[1] + 1
        pixels = min(self._pixels, max(_LEAST, round(0.25 * (wide * high) ** 0.5)))
        room = max(wide, _LETTERS * pixels)
        for text in dict.fromkeys((self._shortened(name, score, pixels, room), score or self._cut(name, pixels, wide))):
            label = self._find_room(box, text, pixels) if text else None
            if label is not None:
                self._taken[self._cells((label.x, label.y, label.x + label.width - 1, label.y + label.height - 1))] = (
                    True
                )
                return label
        return None

    def _shortened(self, name: str, score: str, pixels: int, room: int) -> str:
        whole = f"{name} {score}".strip()
        if self._measure(whole, pixels)[0] <= room:
            return whole
        return f"{self._cut(name, pixels, room - self._measure(f' {score}', pixels)[0])} {score}".strip()

    def _cut(self, name: str, pixels: int, room: int) -> str:
        """As much of the name as has room, and three dots where that is not all; at least its first letter."""
        if self._measure(name, pixels)[0] <= room:
            return name
        low, high = 1, len(name)
        while low < high:
            middle = (low + high + 1) // 2
            if self._measure(name[:middle].rstrip() + "...", pixels)[0] <= room:
                low = middle
            else:
                high = middle - 1
        return name[:low].rstrip() + "..."

    def _find_room(self, box: Corners, text: str, pixels: int) -> Label | None:
        pad = max(2, pixels // 6)
        wide, ascent, descent = self._measure(text, pixels)
        width, height = wide + 2 * pad, ascent + descent + 2 * pad
        if width > self._width or 4 * height > self._height:
            return None  # a thumbnail: the box alone is clearer than text that hides the picture
        for x, y, inside in self._spots(box, width, height):
            place = (x, y, x + width - 1, y + height - 1)
            if not self._taken[self._cells(place)].any() and not self._hides(place, box, inside):
                return Label(text, pixels, x, y, width, height, pad, pad + ascent)
        return None

    def _spots(self, box: Corners, width: int, height: int) -> Iterator[tuple[int, int, bool]]:
        """Left top corners inside the picture: above and inside the box, below it, each at its left and its right."""
        left = min(max(0, box[0]), self._width - width)
        right = min(max(0, box[2] + 1 - width), self._width - width)
        for y, inside in ((box[1] - height, False), (box[1], True), (box[3] + 1, False), (box[3] + 1 - height, True)):
            if 0 <= y <= self._height - height:
                yield left, y, inside
                if right != left:
                    yield right, y, inside

    def _hides(self, place: Corners, box: Corners, inside: bool) -> bool:
        """Whether a label there hides a small object, or too much of its own."""
        area = (place[2] - place[0] + 1) * (place[3] - place[1] + 1)
        if inside and area > _OWN_SHARE * (box[2] - box[0] + 1) * (box[3] - box[1] + 1):
            return True
        around = self._cells(place)
        there = int(self._small[around].sum())
        if there and min(box[2] - box[0], box[3] - box[1]) < _SMALL * self._pixels:
            there -= math.prod(
                max(0, min(a.stop, b.stop) - max(a.start, b.start))
                for a, b in zip(around, self._inner(box), strict=True)
            )
        return there > 0

    def _cells(self, place: Corners) -> tuple[slice, slice]:
        cell = self._cell
        return slice(place[1] // cell, place[3] // cell + 1), slice(place[0] // cell, place[2] // cell + 1)

    def _inner(self, place: Corners) -> tuple[slice, slice]:
        """The cells that lie in it altogether: what is next to it shares none of them."""
        cell = self._cell
        return (
            slice(-(-place[1] // cell), (place[3] + 1) // cell),
            slice(-(-place[0] // cell), (place[2] + 1) // cell),
        )
