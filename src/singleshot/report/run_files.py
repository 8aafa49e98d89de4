"""What a run's folder says of it: options, course, last evaluation. Read with limits; nothing is trusted."""

from __future__ import annotations

import csv
import json
import math
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from singleshot.class_selection import ClassSelection
from singleshot.errors import ConfigError, DataError, printable
from singleshot.storage import read_limited

RUN, LOG, EVALUATION = "run.json", "log.csv", "eval.json"
_MAX_BYTES = 64 << 20
_MAX_ROWS = 100_000


@dataclass(frozen=True)
class RunFiles:
    """folder: of the run; options, recipe: as run.json has them; history: a row per epoch, None for what is not known;
    evaluation: what eval.json says, None where there is none."""

    folder: Path
    options: Mapping[str, Any]
    recipe: Mapping[str, Any]
    history: tuple[Mapping[str, float | None], ...]
    evaluation: Mapping[str, Any] | None

    @property
    def command(self) -> str:
        """A command that trains the same."""
        return train_command(self.options)

    @property
    def best_map(self) -> float | None:
        """The highest validation mAP50 of the log."""
        return max((v for row in self.history if (v := row.get("val_map50")) is not None), default=None)


def is_run(folder: Path) -> bool:
    """Whether `train` wrote into that folder."""
    return (folder / RUN).is_file()


def read_run(folder: str | Path) -> RunFiles:
    """Raises ConfigError for a folder without a run, or whose files cannot be read."""
    folder = Path(folder)
    if not is_run(folder):
        raise ConfigError(f"{printable(folder)}: no run, {RUN} is not there; give a folder that train wrote")
    content = _read_json(folder / RUN)
    options, recipe = content.get("options"), content.get("recipe")
    if not isinstance(options, dict) or not isinstance(recipe, dict):
        raise ConfigError(f"{printable(folder / RUN)}: says neither options nor recipe; give a folder that train wrote")
    evaluation = _read_json(folder / EVALUATION) if (folder / EVALUATION).is_file() else None
    return RunFiles(folder, options, recipe, tuple(_read_log(folder / LOG)), evaluation)


def _read_text(path: Path) -> str:
    try:
        return read_limited(path, _MAX_BYTES, "file").decode("utf-8", "replace")
    except DataError as error:
        raise ConfigError(str(error)) from error


def _read_json(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(_read_text(path))
    except (ValueError, RecursionError) as error:
        raise ConfigError(f"{printable(path)}: cannot be read ({printable(error)}); run it again") from error
    if not isinstance(content, dict):
        raise ConfigError(f"{printable(path)}: not what singleshot writes; run it again")
    return content


def _read_log(path: Path) -> list[dict[str, float | None]]:
    """Rows of log.csv; none where the run has not finished an epoch."""
    if not path.is_file():
        return []
    try:
        rows = list(csv.DictReader(_read_text(path).splitlines()))[:_MAX_ROWS]
    except csv.Error as error:
        raise ConfigError(f"{printable(path)}: cannot be read ({printable(error)})") from error
    return [{str(name): figure(value) for name, value in row.items()} for row in rows]


def column(history: Sequence[Mapping[str, float | None]], name: str) -> np.ndarray:
    """float64 [N] of a log's rows, nan for what is not known."""
    return np.array([np.nan if (value := row.get(name)) is None else value for row in history], float)


def figure(value: object) -> float | None:
    """A finite number, else None."""
    try:
        number = float(value)  # type: ignore[arg-type]
    except (TypeError, ValueError):
        return None
    return number if math.isfinite(number) else None


def train_command(options: Mapping[str, Any]) -> str:
    """The command line of a run's options."""
    words = ["singleshot", "train", str(options.get("data") or "DATA")]
    for name, value in options.items():
        option = "--" + name.replace("_", "-")
        if name == "fit_priors" and value is False:
            words.append("--no-fit-priors")
        if name == "data" or value is None or value is False:
            continue
        if name == "classes":
            words += [option, _classes(value)]
        elif value is True:
            words.append(option)
        else:
            words += [option, "x".join(map(str, value)) if isinstance(value, list | tuple) else str(value)]
    if options.get("time") and "--val-every" in words:  # a budget of time validates as time allows
        at = words.index("--val-every")
        del words[at : at + 2]
    if options.get("start") and "--backbone-weights" in words:
        at = words.index("--backbone-weights")
        del words[at : at + 2]
    return printable(" ".join(map(shlex.quote, words)), 4000)


def _classes(value: Any) -> str:
    """As --classes wants them: NAME, or OLD=NEW."""
    try:
        groups = ClassSelection.from_dict(value).groups
    except ConfigError:  # of another version
        return str(value)
    return ",".join(one if one == group.name else f"{one}={group.name}" for group in groups for one in group.members)
