"""What several commands share: option types, folders for results, durations."""

from __future__ import annotations

import contextlib
import os
import re
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Annotated

import typer

from singleshot.errors import ConfigError, printable
from singleshot.runtime.engines.table import ENGINES

DeviceOption = Annotated[str, typer.Option("--device", help="cpu, cuda, cuda:N, or auto.")]
RuleOption = Annotated[
    str | None,
    typer.Option("--rule", help="Detect as another codebase does: caffe, torchvision, ... Default: the model's own."),
]
EngineOption = Annotated[
    str | None,
    typer.Option("--engine", help=f"{', '.join(ENGINES)}, or auto: the fastest here, measured once."),
]
ThreadsOption = Annotated[int | None, typer.Option("--threads", min=1, max=1024, help="Cores for the network.")]
PrecisionOption = Annotated[
    str | None,
    typer.Option("--precision", help="float32, bfloat16, float16, or fastest of this machine. Default: float32."),
]
QuietOption = Annotated[bool, typer.Option("--quiet", "-q", help="Print results and errors only.")]
WorkersOption = Annotated[int | None, typer.Option("--workers", min=0, max=64, help="Processes that load images.")]
JsonOption = Annotated[bool, typer.Option("--json", help="Print the result as JSON on standard output.")]

_UNITS = {"s": 1.0, "m": 60.0, "h": 3600.0}


def parse_duration(text: str, option: str = "--time") -> float:
    """Seconds of "90s", "20m", "1h30m", "1.5h" or plain seconds. Raises ConfigError."""
    text = text.strip().lower()
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


def parse_bytes(text: str, option: str) -> int:
    """Bytes of "500M", "4G", "1.5 GB", "64MiB" or a plain number; K, M, G and T are powers of 1024. ConfigError."""
    match = re.fullmatch(r"(\d{1,12}(?:\.\d{1,6})?)\s*([kmgt]?)i?b?", text.strip().lower())
    if match is None:
        raise ConfigError(f"{option} {printable(text)!r}: want a size such as 500M or 4G")
    return int(float(match[1]) * 1024 ** " kmgt".index(match[2] or " "))


def is_free(path: Path) -> bool:
    """Whether results may go there: nothing is there yet, or an empty folder."""
    return not path.exists() or (path.is_dir() and next(path.iterdir(), None) is None)


def hush_stdout() -> None:
    """After a BrokenPipeError: the reader has gone, and Python would complain once more when it flushes at exit."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def numbered_folder(parent: Path, name: str) -> Path:
    """parent/name-1, or the first number that is not there yet."""
    number = 1
    while (parent / f"{name}-{number}").exists():
        number += 1
    return parent / f"{name}-{number}"


@contextlib.contextmanager
def progress_bar(total: int | None, what: str, quiet: bool = False) -> Iterator[Callable[[], None]]:
    """A bar on standard error where that is a terminal, nothing elsewhere; gives the function that moves it by one."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    console = Console(stderr=True)
    columns = TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn()
    with Progress(*columns, console=console, transient=True, disable=quiet or not console.is_terminal) as bar:
        task = bar.add_task(what, total=total)
        yield lambda: bar.advance(task)
