"""What the bases of all forms are made of."""

from __future__ import annotations

from typing import NamedTuple

Files = dict[str, bytes]

CLASSES = ("cat", "dog", "Mülltonne")


class Picture(NamedTuple):
    """One image of a base: stem, ending, the file's bytes, width and height, boxes x0 y0 x1 y1 in pixels, classes."""

    stem: str
    ending: str
    data: bytes
    width: int
    height: int
    boxes: list[tuple[int, int, int, int]]
    labels: list[int]

    @property
    def name(self) -> str:
        return f"{self.stem}.{self.ending}"
