"""What four numbers of rows of boxes mean, where the form does not say it: two corners, a corner and a size, or a
centre and a size. The sizes of the images tell, or they do not.

Of a whole set nearly all boxes lie in their images if the numbers are read rightly; read otherwise, boxes near the
edges reach out. A meaning counts as certain where it alone fits, and where boxes enough speak against both others.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

import numpy as np

from singleshot.datasets.raw import Box

# Five numbers with commas between them, as YOLO's would be without.
COMMA_ROW = re.compile(rb"\A\d{1,4}(?:, ?\d{1,9}(?:\.\d{1,12})?){4}\s*(?:\n|\Z)")

CORNERS, CORNER_SIZE, CENTRE_SIZE = "left top right bottom", "left top width height", "x y width height"
MEANINGS = (CORNERS, CORNER_SIZE, CENTRE_SIZE)
# Shares of boxes that may reach out of their images in the right reading (slips of the hand), and that must in others.
_SLIPS, _TELLING, _FEWEST = 0.01, 0.05, 3


def corners_of(numbers: Sequence[float], meaning: str) -> Box:
    """The corners of a box, by the meaning of its four numbers."""
    a, b, c, d = numbers
    if meaning == CORNERS:
        return a, b, c, d
    if meaning == CORNER_SIZE:
        return a, b, a + c, b + d
    return a - c / 2, b - d / 2, a + c / 2, b + d / 2


def find_meaning(rows: Iterable[tuple[Sequence[float], tuple[float, float]]], edge: float) -> str | None:
    """The meaning of the numbers of all rows, with the width and height of the image of each; None where it is not
    certain. edge: how far a box may reach out by rounding, in the unit of the numbers."""
    table = np.array([(*numbers, *size) for numbers, size in rows], np.float64).reshape(-1, 6)
    if not len(table) or not np.isfinite(table).all():
        return None
    wrong = {}
    for meaning in MEANINGS:
        x0, y0, x1, y1 = corners_of(tuple(table[:, :4].T), meaning)
        fits = (x0 >= -edge) & (y0 >= -edge) & (x1 <= table[:, 4] + edge) & (y1 <= table[:, 5] + edge)
        wrong[meaning] = int((~(fits & (x0 < x1) & (y0 < y1))).sum())
    right = min(wrong, key=lambda meaning: wrong[meaning])
    others = min(count for meaning, count in wrong.items() if meaning != right)
    is_certain = wrong[right] <= _SLIPS * len(table) and others >= max(_FEWEST, _TELLING * len(table))
    return right if is_certain else None
