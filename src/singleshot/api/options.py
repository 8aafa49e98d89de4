"""What the records of options have in common: plain values in and out, limits, durations and sizes in words."""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, Self

from singleshot.errors import ConfigError, did_you_mean, printable
from singleshot.files import is_free

# progress(total, what): a context that gives the function to call after each of them.
Progress = Callable[[int, str], AbstractContextManager[Callable[[], None]]]

DEFAULT_MODEL = "singleshot-n"
PRETRAINED_MODEL = "ssd320-lite0"
GRADIENTS = 6  # detections whose gradient `explain` computes where nobody says
_RESULT_SUFFIXES = {".json", ".csv", ".xml", ".txt", ".jpg", ".jpeg", ".png", ".mp4", ".html", ".htm"}
_UNITS = {"s": 1.0, "m": 60.0, "h": 3600.0}


@dataclass(frozen=True)
class Options:
    """Base of the records of options, whose fields are plain values."""

    def to_dict(self) -> dict[str, Any]:
        """Plain values, of which `from_dict` makes an equal record."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Self:
        """From option names and their values; paths become text. Raises ConfigError for a name that is not known."""
        names = [field.name for field in fields(cls)]
        for name in values:
            if name not in names:
                hint = did_you_mean(str(name), names) or f"; want {', '.join(names)}"
                raise ConfigError(f"option {printable(name, 60)}: not known{hint}")
        return cls(**{name: _plain(value) for name, value in values.items()})

    @classmethod
    def of(cls, arguments: Mapping[str, Any]) -> Self:
        """From the arguments of a function, its `locals()`: those that are options; `compile_` stands for `compile`."""
        names = {field.name for field in fields(cls)}
        return cls.from_dict({k.rstrip("_"): v for k, v in arguments.items() if k.rstrip("_") in names})


def _plain(value: Any) -> Any:
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    return tuple(map(_plain, value)) if isinstance(value, list | tuple) else value


def check_range(option: str, value: float | None, low: float, high: float) -> None:
    """Raise ConfigError unless the value is None or from `low` to `high`; option: its name in words."""
    if value is not None and not low <= value <= high:
        raise ConfigError(f"{option} {value}: want {low:g} to {high:g}")


def refuse_place(path: Path, *suffixes: str, others: Mapping[str, str] | None = None) -> None:
    """Raise ConfigError for a name with another suffix, and where something is already.

    others: suffixes that would do with another option, by that option.
    """
    if path.suffix not in suffixes:
        other = next((f", or {option}" for option, suffix in (others or {}).items() if suffix == path.suffix), "")
        raise ConfigError(f"--out {printable(path)}: want a name that ends in {suffixes[0]}{other}")
    for file in (path, path.with_suffix(".bin")) if path.suffix == ".xml" else (path,):
        if file.exists():
            raise ConfigError(f"{printable(file)}: is there already; give another --out, or remove it")


def check_folder_name(option: str, out: str) -> None:
    """Raise ConfigError for a name that is meant for a file, unless there is such a folder."""
    folder = Path(out)
    if folder.suffix.lower() in _RESULT_SUFFIXES and not folder.is_dir():
        raise ConfigError(f"{option} {printable(out)}: want a folder; the results file goes into it")


def check_results_folder(option: str, out: str, stopped: str = "") -> None:
    """Raise ConfigError unless it is a new or an empty folder. stopped: the file that a run that was stopped and can be
    resumed leaves in it."""
    check_folder_name(option, out)
    folder = Path(out)
    if not is_free(folder):
        what = "is not empty" if folder.is_dir() else "is a file"
        goes_on = bool(stopped) and (folder / stopped).is_file()
        other = ", or go on with the run that was stopped there: --resume" if goes_on else ""
        raise ConfigError(f"{option} {printable(out)}: {what}; give a new or empty folder{other}")


def parse_duration(text: str | float, option: str = "--time") -> float:
    """Seconds of "90s", "20m", "1h30m", "1.5h" or plain seconds. Raises ConfigError."""
    text = str(text).strip().lower()
    parts = re.findall(r"(\d+(?:\.\d+)?)([smh])", text)
    if parts and "".join(number + unit for number, unit in parts) == text:
        seconds = sum(float(number) * _UNITS[unit] for number, unit in parts)
    elif re.fullmatch(r"\d+(\.\d+)?", text):
        seconds = float(text)
    else:
        raise ConfigError(f"{option} {printable(text)!r}: want a time such as 90s, 20m or 1h30m")
    if not 1 <= seconds <= 365 * 86400:
        raise ConfigError(f"{option} {printable(text)}: want between 1 second and a year")
    return seconds


def duration_words(text: str | float) -> str:
    """A duration as it was given; the unit of plain seconds is said, whose giver may have meant minutes."""
    return f"{text} s" if re.fullmatch(r"[\d.]+", str(text).strip()) else str(text)


def parse_bytes(text: str | int, option: str) -> int:
    """Bytes of "500M", "4G", "1.5 GB", "64MiB" or a plain number; K, M, G and T are powers of 1024. ConfigError."""
    match = re.fullmatch(r"(\d{1,15}(?:\.\d{1,9})?)\s*([kmgt]?)i?b?", str(text).strip().lower())
    if match is None:
        raise ConfigError(f"{option} {printable(text)!r}: want a size such as 500M or 4G")
    return int(float(match[1]) * 1024 ** " kmgt".index(match[2] or " "))


def no_progress(total: int, what: str) -> AbstractContextManager[Callable[[], None]]:
    """A Progress that shows nothing."""
    return contextlib.nullcontext(lambda: None)
