"""The boxes round rotated and round shapes; values of JSON as numbers, flags and as messages show them."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from singleshot.datasets.findings import RaiseErrors
from singleshot.datasets.raw import Box, Hull
from singleshot.datasets.readers.common import json_number, parse_number, surround
from singleshot.errors import printable

# Attributes of an object that say a flag, in small letters.
FLAG_NAMES = {"difficult": "difficult", "crowd": "crowd", "iscrowd": "crowd", "is_crowd": "crowd"}
_FLAG: dict[object, bool] = {
    None: False,
    "": False,
    "0": False,
    "1": True,
    "false": False,
    "true": True,
    False: False,
    True: True,
}


def surround_rotated_box(box: Box, degrees: float) -> Box:
    """What surrounds the box after a turn about its centre."""
    x0, y0, x1, y1 = box
    cosine, sine = _turn(degrees)
    half_width, half_height = (x1 - x0) / 2, (y1 - y0) / 2
    reach_x = abs(half_width * cosine) + abs(half_height * sine)
    reach_y = abs(half_width * sine) + abs(half_height * cosine)
    return _around((x0 + x1) / 2, (y0 + y1) / 2, reach_x, reach_y)


def surround_rotated_corner(box: Box, degrees: float) -> Box:
    """What surrounds the box after a turn about its top left corner."""
    x0, y0, x1, y1 = box
    if not degrees:
        return box
    cosine, sine = _turn(degrees)
    across = ((x1 - x0) * cosine, (x1 - x0) * sine)
    down = ((y0 - y1) * sine, (y1 - y0) * cosine)
    return surround(
        (x0, x0 + across[0], x0 + down[0], x0 + across[0] + down[0]),
        (y0, y0 + across[1], y0 + down[1], y0 + across[1] + down[1]),
    )


def surround_ellipse(x: float, y: float, radius_x: float, radius_y: float, degrees: float = 0.0) -> Box:
    """What surrounds an ellipse about x, y after a turn about its centre."""
    cosine, sine = _turn(degrees)
    reach_x = math.hypot(radius_x * cosine, radius_y * sine)
    reach_y = math.hypot(radius_x * sine, radius_y * cosine)
    return _around(x, y, reach_x, reach_y)


def to_number(value: Any) -> float | None:
    """A number, or a text that is one, as float; None for anything else."""
    if isinstance(value, str):
        return parse_number(value)
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    return json_number(value)


def read_flags(attributes: Mapping[str, Any]) -> dict[str, bool] | str:
    """difficult and crowd, those that the attributes say, or what is wrong with one of them."""
    flags: dict[str, bool] = {}
    for key, value in attributes.items():
        flag = FLAG_NAMES.get(key.strip().lower())
        if flag is None:
            continue
        known: Any = value.strip().lower() if isinstance(value, str) else value
        if isinstance(value, dict):  # boxes to tick, as VIA has them
            known = any(ticked is True for ticked in value.values())
        if not isinstance(known, str | int | None) or known not in _FLAG:
            return f"{key.strip()} {show(value)}; want true or false"
        flags[flag] = flags.get(flag, False) or _FLAG[known]
    return flags


def report_passed(problems: RaiseErrors, path: str, passed: Mapping[str, int]) -> None:
    """Say how many shapes of each kind are no objects; nothing where there are none."""
    if passed:
        there = ", ".join(f"{count} {printable(kind, 40)}" for kind, count in passed.items())
        problems.add("shapes-passed-over", path, f"{there}: no objects with a box, passed over")


def show(value: Any) -> str:
    """A value for messages; of what holds others the kind alone."""
    if isinstance(value, dict | list):
        return "braces" if isinstance(value, dict) else "a list"
    if isinstance(value, int) and not -(10**30) < value < 10**30:
        return "a number beyond all"
    return "missing" if value is None else printable(repr(value[:200] if isinstance(value, str) else value), 60)


def _turn(degrees: float) -> tuple[float, float]:
    """Cosine and sine, exact for quarter turns; NaN for what is no angle (radians near the largest number overflow)."""
    if not math.isfinite(degrees):
        return math.nan, math.nan
    quarters = degrees / 90
    if quarters == round(quarters):
        return ((1.0, 0.0), (0.0, 1.0), (-1.0, 0.0), (0.0, -1.0))[round(quarters) % 4]
    return math.cos(math.radians(degrees)), math.sin(math.radians(degrees))


def _around(x: float, y: float, reach_x: float, reach_y: float) -> Box:
    return Hull((x - reach_x, y - reach_y, x + reach_x, y + reach_y))
