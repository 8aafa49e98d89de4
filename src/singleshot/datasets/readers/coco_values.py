"""Values of COCO files as tools really write them: ids as 2.0 or "2", numbers as texts, polygons without boxes."""

from __future__ import annotations

import math
from typing import Any, TypeGuard

from singleshot.datasets.readers.common import surround
from singleshot.datasets.readers.shapes import to_number


def whole(value: object) -> TypeGuard[int]:
    """Whether it is a whole number, as JSON has them."""
    return isinstance(value, int) and not isinstance(value, bool)


def id_of(value: object) -> object:
    """An id as a whole number where it is one that was written as 2.0 or "2"; anything else as it is."""
    if isinstance(value, float) and value.is_integer():
        return int(value)
    if isinstance(value, str) and value.isascii() and value.isdecimal() and len(value) < 19:
        return int(value)
    return value


def number(value: object) -> float:
    """A number, which some tools write as a text; NaN for anything else."""
    parsed = None if isinstance(value, str) and len(value) >= 99 else to_number(value)
    return math.nan if parsed is None else parsed


def box_of(item: dict[str, Any]) -> list[float]:
    """x, y, width, height of the bbox; where there is none, what surrounds the polygons of its segmentation."""
    box, outline = item.get("bbox"), item.get("segmentation")
    if isinstance(box, list) and len(box) == 4:
        return [number(value) for value in box]
    if box in (None, []) and isinstance(outline, list) and outline:
        parts = outline if isinstance(outline[0], list) else [outline]
        numbers = [number(value) for part in parts if isinstance(part, list) for value in part]
        if len(numbers) >= 6 and len(numbers) % 2 == 0:
            x0, y0, x1, y1 = surround(numbers[::2], numbers[1::2])
            return [x0, y0, x1 - x0, y1 - y0]
    return [math.nan]
