"""Clock times of a run, kept apart from its state: what a stopped training that goes on does not repeat."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from singleshot.files import atomic_write

CLOCK = "clock.json"
COLUMNS = ("seconds", "images_per_second")
# A log of more than this is not one that a training wrote.
_MAX_BYTES = 2**28


def write_seconds(folder: Path, seconds: float) -> None:
    """Keep the time that was spent training so far."""
    with atomic_write(folder / CLOCK) as temporary:
        temporary.write_text(json.dumps({"seconds": round(seconds, 3)}))


def read_seconds(folder: Path) -> float | None:
    """The time that was spent training; None where it is not known."""
    try:
        seconds = float(json.loads((folder / CLOCK).read_text(encoding="utf-8"))["seconds"])
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return None
    return seconds if 0 <= seconds < float("inf") else None


def without_clock(row: Mapping[str, Any]) -> dict[str, Any]:
    """A row of the log as every run of the same training has it."""
    return {key: value for key, value in row.items() if key not in COLUMNS}


def with_clock(rows: Iterable[Mapping[str, Any]], log: Path) -> list[dict[str, Any]]:
    """Rows with the times that `log` has for their steps, None where it has none."""
    times: dict[tuple[str, str], dict[str, float]] = {}
    try:
        if log.stat().st_size <= _MAX_BYTES:
            with log.open(newline="", encoding="utf-8") as file:
                for one in csv.DictReader(file):
                    times[one["epoch"], one["step"]] = {key: float(one[key]) for key in COLUMNS if one.get(key)}
    except (OSError, ValueError, KeyError, csv.Error):
        pass  # what was read until there is what is known
    return [{**row, **dict.fromkeys(COLUMNS), **times.get((str(row["epoch"]), str(row["step"])), {})} for row in rows]
