"""What several commands share: types of options, the progress bar."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from typing import Annotated

import typer

from singleshot.errors import ConfigError
from singleshot.files import is_free as is_free
from singleshot.runtime.engines.table import ENGINES

SKIPPED = 3  # exit code where something was left undone
STOPPED = 130  # exit code after Ctrl-C: 128 + SIGINT, as a shell counts

DeviceOption = Annotated[str, typer.Option("--device", help="cpu, cuda, cuda:N, or auto.")]
RuleOption = Annotated[
    str | None,
    typer.Option("--rule", help="Detect as another codebase does: caffe, torchvision, ... Default: the model's own."),
]
EngineOption = Annotated[
    str | None,
    typer.Option("--engine", help=f"{', '.join(ENGINES)}, or auto: the fastest here, measured once."),
]
ClassesOption = Annotated[
    list[str] | None,
    typer.Option(
        "--classes",
        metavar="A,B|OLD,OLD=NEW|FILE",
        help="These classes only, in this order; OLD=NEW renames or joins. May be repeated; a file has one a line.",
    ),
]
ThreadsOption = Annotated[int | None, typer.Option("--threads", min=1, max=1024, help="Cores for the network.")]
PrecisionOption = Annotated[
    str | None,
    typer.Option("--precision", help="float32, bfloat16, float16, or fastest of this machine. Default: float32."),
]
FollowLinksOption = Annotated[
    bool, typer.Option("--follow-links", help="Follow links that lead out of the data's folder, where it is your own.")
]
QuietOption = Annotated[bool, typer.Option("--quiet", "-q", help="Print results and errors only.")]
WorkersOption = Annotated[int | None, typer.Option("--workers", min=0, max=64, help="Processes that load images.")]
JsonOption = Annotated[bool, typer.Option("--json", help="Print the result as JSON on standard output.")]
LabelScoreOption = Annotated[
    float | None,
    typer.Option("--score-min", min=0, max=1, help="Of detections that are read as labels: the lowest score to take."),
]

TileOption = Annotated[
    str | None,
    typer.Option(
        "--tile",
        metavar="N[:OVERLAP]",
        help="Look at tiles of N pixels a side too, for small objects in large images. N: so that objects look as large"
        " as in training. Overlap: 0.25 of a tile. Default: what the model was trained on.",
    ),
]
NoTileOption = Annotated[
    bool, typer.Option("--no-tile", help="Whole images alone, also for a model that was trained on tiles.")
]
TilesOnlyOption = Annotated[
    bool | None,
    typer.Option(
        "--tiles-only/--whole-too",
        help="Whether not to look at the whole image too, which finds large objects. Default: as the model was trained;"
        " --tile with any other looks at both.",
    ),
]


def one_tile(tile: str | None, no_tile: bool) -> str | None:
    """Of --tile and --no-tile the one that is given. Raises ConfigError for both."""
    if tile is not None and no_tile:
        raise ConfigError("--tile and --no-tile exclude each other: leave one of them out")
    return "none" if no_tile else tile


def count_of(number: int, one: str, many: str | None = None) -> str:
    """A number and what it counts: "1 image", "2 classes"; many: the plural where it is not `one` and an s."""
    return f"{number} {one if number == 1 else many or one + 's'}"


def hush_stdout() -> None:
    """After a BrokenPipeError: the reader has gone, and Python would complain once more when it flushes at exit."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


@contextlib.contextmanager
def stop_on_signals() -> Iterator[None]:
    """SIGTERM and SIGHUP raise KeyboardInterrupt, as Ctrl-C does, unless whoever started us has them ignored."""
    names = ("SIGTERM", "SIGHUP") if threading.current_thread() is threading.main_thread() else ()
    before = {}
    for number in (getattr(signal, name) for name in names if hasattr(signal, name)):
        if signal.getsignal(number) == signal.SIG_DFL:
            before[number] = signal.signal(number, signal.default_int_handler)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


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
