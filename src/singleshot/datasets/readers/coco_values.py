"""Values of COCO files as tools really write them: ids as 2.0 or "2", numbers as texts, outlines without boxes."""

from __future__ import annotations

import math
from typing import Any, TypeGuard

from singleshot.datasets.raw import Box
from singleshot.datasets.readers.common import surround
from singleshot.datasets.readers.run_lengths import surround_rle
from singleshot.datasets.readers.shapes import to_number
from singleshot.errors import printable


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


def box_of(item: dict[str, Any]) -> list[float] | str:
    """x, y, width, height of the bbox; where there is none, of what surrounds the polygons or the mask of its
    segmentation; where neither says a box, what is wrong."""
    box = item.get("bbox")
    if isinstance(box, list) and len(box) == 4:
        numbers = [number(value) for value in box]
        if not any(map(math.isnan, numbers)):
            return numbers
    elif box in (None, []) and (found := _surround_outline(item.get("segmentation"))) is not None:
        if isinstance(found, str):
            return found
        x0, y0, x1, y1 = found
        return [x0, y0, x1 - x0, y1 - y0]
    return f"bbox {printable(repr(box), 80)}; want the four numbers x, y, width, height"


def is_points_alone(item: object) -> bool:
    """Whether an annotation has key points and neither a box nor an outline."""
    return (
        isinstance(item, dict)
        and isinstance(item.get("keypoints"), list)
        and all(item.get(key) in (None, []) for key in ("bbox", "segmentation"))
    )


def _surround_outline(outline: object) -> Box | str | None:
    """The box round polygons or a mask, or what is wrong with the mask; None where there is nothing to surround."""
    if isinstance(outline, dict):
        return surround_rle(outline)
    if not isinstance(outline, list) or not outline:
        return None
    parts = outline if isinstance(outline[0], list) else [outline]
    numbers = [number(value) for part in parts if isinstance(part, list) for value in part]
    if len(numbers) < 6 or len(numbers) % 2 or any(map(math.isnan, numbers)):
        return None
    return surround(numbers[::2], numbers[1::2])
