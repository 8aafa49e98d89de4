"""Which engine is fastest for a file on this machine: measured once, then remembered in the user's cache folder."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import time
from collections.abc import Callable, Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np

from singleshot.devices import cores, processor_name
from singleshot.errors import SingleshotError
from singleshot.files import atomic_write
from singleshot.runtime.engines.table import ENGINES, EngineOptions

FORMAT = 1
_ENTRIES = 500  # files remembered; the oldest go
_EDGE = 1 << 20  # bytes at each end of the file that are hashed
_ROUNDS = 5


def cache_file() -> Path:
    """XDG_CACHE_HOME/singleshot/engines.json, by default in ~/.cache."""
    base = os.environ.get("XDG_CACHE_HOME", "")
    folder = Path(base) if Path(base).is_absolute() else Path("~/.cache").expanduser()
    return folder / "singleshot" / "engines.json"


def choice_key(path: str | Path, names: tuple[str, ...], options: EngineOptions) -> str:
    """A digest of all that the choice between engines depends on: the file, the processor, their releases, options."""
    path = Path(path)
    size = path.stat().st_size
    digest = hashlib.sha256()
    with path.open("rb") as file:
        digest.update(file.read(_EDGE))
        file.seek(max(size - _EDGE, 0))
        digest.update(file.read(_EDGE))
    asked = {**options._asdict(), "batch": options.batch or 1}
    kept = [(name, asked[name]) for name in ("batch", "device", "precision", "threads")]
    about = [size, digest.hexdigest(), processor_name(), cores(), _releases(names), kept]
    return hashlib.sha256(json.dumps(about, default=str).encode()).hexdigest()


def _releases(names: tuple[str, ...]) -> dict[str, str]:
    found = {}
    for row in (ENGINES[name] for name in names):
        for package in row.releases or (row.package,):
            with contextlib.suppress(PackageNotFoundError):
                found[package] = version(package)
    return found


def remembered(key: str, names: tuple[str, ...]) -> str | None:
    """The engine chosen for that key, if it is one of `names`; a cache that cannot be read remembers nothing."""
    choice = _read().get(key)
    name = choice.get("engine") if isinstance(choice, dict) else None
    return name if name in names else None


def remember(key: str, engine: str, seconds: Mapping[str, float]) -> None:
    """Add the choice to the cache; where that cannot be written it is measured again next time."""
    choices = {k: v for k, v in _read().items() if k != key}
    choices[key] = {"engine": engine, "seconds": {name: round(value, 6) for name, value in seconds.items()}}
    kept = dict(list(choices.items())[-_ENTRIES:])
    with contextlib.suppress(SingleshotError, OSError, RuntimeError), atomic_write(cache_file()) as temporary:
        temporary.write_text(json.dumps({"format": FORMAT, "choices": kept}, indent=1), encoding="utf-8")


def _read() -> dict[str, Any]:
    try:
        values = json.loads(cache_file().read_text(encoding="utf-8"))
        choices = values["choices"] if values["format"] == FORMAT else {}
        return choices if isinstance(choices, dict) else {}
    except (OSError, ValueError, KeyError, TypeError, RecursionError, RuntimeError):  # RuntimeError: no home folder
        return {}


def measure(runs: Mapping[str, Callable[[np.ndarray], object]], images: np.ndarray) -> dict[str, float]:
    """Seconds of the best of a few runs of each engine; in turns, so that a drifting machine hits all alike."""
    best = dict.fromkeys(runs, float("inf"))
    for number in range(_ROUNDS + 1):
        for name, run in runs.items():
            started = time.perf_counter()
            run(images)
            if number:  # the first run prepares
                best[name] = min(best[name], time.perf_counter() - started)
    return best
