"""`singleshot detect`: objects in images, folders, videos, cameras and streams."""

from __future__ import annotations

import itertools
import os
import sys
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, TextIO

import typer

from singleshot.cli.common import (
    SKIPPED,
    STOPPED,
    ClassesOption,
    DeviceOption,
    EngineOption,
    PrecisionOption,
    RuleOption,
    ThreadsOption,
    hush_stdout,
)
from singleshot.errors import ConfigError, DataError, printable
from singleshot.files import is_free

if TYPE_CHECKING:
    from rich.status import Status

    from singleshot.api.detect import Counts, Detected, DetectOptions
    from singleshot.runtime.detector import Found

EXIT_PIPE = 141  # 128 + SIGPIPE
_FEW = 20  # images that get a line each
_PLAIN_EVERY = 100  # images between two lines of progress when there is no terminal


class Format(StrEnum):
    """Forms of results."""

    json = "json"
    coco = "coco"
    voc = "voc"
    yolo = "yolo"
    csv = "csv"


def detect(
    model: Annotated[str, typer.Argument(help="A checkpoint or an exported file, such as best.safetensors.")],
    sources: Annotated[
        list[str],
        typer.Argument(
            metavar="SOURCE...",
            help="Image, folder, 'glob pattern', .txt list of paths, video, camera number, address, or - for standard "
            "input (an image, or a list of paths).",
        ),
    ],
    out: Annotated[
        Path | None,
        typer.Option(help="Folder for the results; must be new or empty. Default: detections, then detections-2, ..."),
    ] = None,
    form: Annotated[
        Format,
        typer.Option(
            "--format",
            help="json: one object per image; coco: COCO results; voc: XML per image; yolo: text per image; csv.",
        ),
    ] = Format.json,
    like: Annotated[
        str | None,
        typer.Option(metavar="FILE", help="With --format coco: a COCO file whose class and image ids to use."),
    ] = None,
    classes: ClassesOption = None,
    score_min: Annotated[
        float | None, typer.Option(help="Lowest score to report, 0 to 1. Default: the model's own.")
    ] = None,
    rule: RuleOption = None,
    batch: Annotated[
        str, typer.Option(metavar="N|auto", help="Images per run of the network; auto: what suits engine and source.")
    ] = "auto",
    tile: Annotated[
        str | None,
        typer.Option(
            metavar="N[:OVERLAP]",
            help="Look at tiles of N pixels a side too, for small objects in large images. N: about the side of the"
            " training images. Overlap: 0.25 of a tile.",
        ),
    ] = None,
    tiles_only: Annotated[
        bool, typer.Option("--tiles-only", help="With --tile: not at the whole image too, which finds large objects.")
    ] = False,
    draw: Annotated[
        bool | None,
        typer.Option("--draw/--no-draw", help="Write annotated pictures and videos too. Default: draw."),
    ] = None,
    line_width: Annotated[
        int | None, typer.Option(min=1, max=100, help="Pixels of the drawn lines. Default: what suits the picture.")
    ] = None,
    labels: Annotated[bool, typer.Option("--labels/--no-labels", help="Draw names and scores at the boxes.")] = True,
    scores: Annotated[bool, typer.Option("--scores/--no-scores", help="Draw scores in the labels.")] = True,
    crop: Annotated[
        bool, typer.Option("--crop", help="Write each object as a picture of its own too, in folders of classes.")
    ] = False,
    device: DeviceOption = "auto",
    engine: EngineOption = None,
    threads: ThreadsOption = None,
    precision: PrecisionOption = None,
    limit: Annotated[int | None, typer.Option(help="Stop after this many images or frames.")] = None,
    as_json: Annotated[
        bool,
        typer.Option(
            "--json",
            help="JSON to standard output, of --format coco COCO's; files only with --out or --draw.",
        ),
    ] = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Say nothing but what went wrong.")] = False,
) -> None:
    """Find objects in images and videos.

    Example: singleshot detect best.safetensors photos/ clip.mp4 --out found

    An input that cannot be read is named on standard error and skipped.

    Exit code 0: all done.

    Exit code 2: nothing could be read, or an option is wrong.

    Exit code 3: done, but some inputs were skipped.

    Exit code 130: stopped with Ctrl-C; what was finished is kept.
    """
    from singleshot.api.detect import DetectOptions

    # OpenCV reads it when its first video opens: FFmpeg's own complaints would repeat ours, many times over.
    os.environ.setdefault("OPENCV_FFMPEG_LOGLEVEL", "-8")
    values = {**locals(), "batch": _batch_size(batch), "draw": draw is not False, "classes": classes or None}
    if as_json and crop and out is None and draw is None:
        values["draw"] = False  # crops were asked for, and nothing else
    if out is None and (not as_json or draw or crop):
        values["out"] = _default_folder()
    console = RunPrinter(to_stderr=as_json, quiet=quiet)
    raise typer.Exit(run(DetectOptions.of(values), console, sys.stdout if as_json else None))


def run(options: DetectOptions, printer: RunPrinter, stream: TextIO | None = None) -> int:
    """Detect, and print how it goes; returns the exit code."""
    from singleshot.api.detect import Listener, run_detection

    try:
        with printer:
            done = run_detection(options, stream, Listener(printer.image, printer.skip))
    except BrokenPipeError:
        hush_stdout()
        return EXIT_PIPE
    printer.end(done)
    if done.interrupted:
        return STOPPED
    return SKIPPED if done.counts.skipped else 0


class RunPrinter:
    """Prints how a run of `detect` goes: first a line for each image, then now and then one for all."""

    def __init__(self, to_stderr: bool = False, quiet: bool = False) -> None:
        self.to_stderr, self.quiet = to_stderr, quiet
        self._status: Status | None = None

    def __enter__(self) -> RunPrinter:
        return self

    def __exit__(self, *error: object) -> None:
        if self._status is not None:
            self._status.stop()

    def _print(self, text: str) -> None:
        if not self.quiet:
            print(text, file=sys.stderr if self.to_stderr else sys.stdout, flush=True)

    def skip(self, error: DataError) -> None:
        """Name an input that could not be read."""
        text = f"skipped: {printable(error, limit=500)}"
        if self._status is not None:  # above the moving line, and not broken at the terminal's width
            self._status.console.print(text, markup=False, highlight=False, soft_wrap=True)
        else:
            print(text, file=sys.stderr, flush=True)

    def image(self, found: Found, counts: Counts) -> None:
        """Print what was found in an image, or where the run is."""
        assert found.detections is not None
        if self.quiet:
            return
        line = f"{counts.images} images, {counts.objects} objects, {counts.skipped} skipped"
        if counts.images <= _FEW:
            self._print(f"{printable(found.frame.name)}: {printable(found.detections.summary(), limit=400)}")
        elif sys.stderr.isatty():
            if self._status is None:
                from rich.console import Console
                from rich.status import Status

                self._status = Status("", console=Console(stderr=True))
                self._status.start()
            self._status.update(line)
        elif counts.images % _PLAIN_EVERY == 0:
            self._print(line)

    def end(self, done: Detected) -> None:
        """Sum up, and name what was written."""
        images, objects, skipped = done.counts
        rate = images / max(done.seconds, 1e-9)
        text = f"{'stopped after ' if done.interrupted else ''}{images} images, {objects} objects, {rate:.1f} images/s"
        self._print(f"{text}, {skipped} skipped" if skipped else text)
        for what, where in (("results", done.results), ("pictures", done.pictures)):
            if where is not None:
                self._print(f"{what}: {printable(where)}")


def _batch_size(text: str) -> int | None:
    """A number, or None for auto."""
    if text.strip().lower() == "auto":
        return None
    if not (text.isascii() and text.isdigit() and 1 <= int(text[:9]) <= 4096):
        raise ConfigError(f"--batch {printable(text, 40)}: want 1 to 4096, or auto")
    return int(text)


def _default_folder() -> Path:
    """detections, or the first of detections-2, ... that holds nothing yet."""
    names = itertools.chain(["detections"], (f"detections-{number}" for number in itertools.count(2)))
    return next(path for path in map(Path, names) if is_free(path))
