"""Clock times of a run, kept apart from its state: what a stopped training that goes on does not repeat."""

from __future__ import annotations

import csv
import json
import threading
import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

from singleshot.files import atomic_write

CLOCK = "clock.json"
COLUMNS = ("seconds", "images_per_second")
# A log of more than this is not one that a training wrote.
_MAX_BYTES = 2**28

_LOOK_SECONDS = 0.25
# A longer gap between two looks is a pause, if the process computed for less than that part of it.
_PAUSE_SECONDS, _BUSY = 2.0, 0.1


class RunClock:
    """Seconds by the monotonic clock, which no change of the date moves, less those in which the process was paused.

    While entered, a thread looks at the clock several times a second. It misses its looks where the whole process
    stands still, by SIGSTOP or in a debugger, which takes no processor time.
    """

    def __init__(self) -> None:
        self._paused, self._last, self._computed = 0.0, 0.0, 0.0
        self._lock = threading.Lock()
        self._ended: threading.Event | None = None

    def __enter__(self) -> RunClock:
        self._last, self._computed = time.monotonic(), time.process_time()
        self._ended = ended = threading.Event()
        threading.Thread(target=self._watch, args=(ended,), name="singleshot-clock", daemon=True).start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._ended is not None:
            self._ended.set()
        self._ended = None

    def now(self) -> float:
        """Seconds from some moment on."""
        with self._lock:
            moment, computed = time.monotonic(), time.process_time()
            gap = moment - self._last
            if self._ended is not None and gap > _PAUSE_SECONDS and computed - self._computed < _BUSY * gap:
                self._paused += gap
            self._last, self._computed = moment, computed
            return moment - self._paused

    def _watch(self, ended: threading.Event) -> None:
        while not ended.wait(_LOOK_SECONDS):
            self.now()


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
