"""`singleshot detect`: objects in images, folders, videos, cameras and streams."""

from __future__ import annotations

import itertools
import os
import shlex
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
    NoTileOption,
    PrecisionOption,
    RuleOption,
    ThreadsOption,
    TileOption,
    TilesOnlyOption,
    count_of,
    hush_stdout,
    one_tile,
    stop_on_signals,
)
from singleshot.errors import ConfigError, DataError, printable
from singleshot.files import is_free
from singleshot.text_table import format_rate

if TYPE_CHECKING:
    from rich.progress import Progress

    from singleshot.api.detect import Counts, Detected, DetectOptions
    from singleshot.cluster.job import PartCounts
    from singleshot.runtime.detector import Found
    from singleshot.runtime.sources import Frame

EXIT_PIPE = 141  # 128 + SIGPIPE
_FEW = 20  # images that get a line each
_PLAIN_EVERY = 100  # images between two lines of progress when there is no terminal


class Format(StrEnum):
    """Forms of results."""

    json = "json"
    coco = "coco"
    coco_labels = "coco-labels"
    voc = "voc"
    yolo = "yolo"
    csv = "csv"
    jsonl = "jsonl"
    parquet = "parquet"


def detect(
    model: Annotated[str, typer.Argument(help="A checkpoint or an exported file, such as best.safetensors.")],
    sources: Annotated[
        list[str],
        typer.Argument(
            metavar="SOURCE",
            help="Image, folder, 'glob pattern', .txt list of paths, video, camera number, address, or - for standard "
            "input (an image, or a list of paths).",
        ),
    ],
    out: Annotated[
        str | None,
        typer.Option(
            help="Folder for the results (with --cluster an address too); must be new or empty. Default: detections,"
            " then detections-2, ..."
        ),
    ] = None,
    form: Annotated[
        Format | None,
        typer.Option(
            "--format",
            help="json (default): one object per image; coco: COCO results; coco-labels: COCO's labels,"
            " for annotation programs; voc: XML per image; yolo: text per image;"
            " csv; with --cluster jsonl (default) or parquet.",
        ),
    ] = None,
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
    tile: TileOption = None,
    no_tile: NoTileOption = False,
    tiles_only: TilesOnlyOption = None,
    draw: Annotated[
        bool | None,
        typer.Option(
            "--draw/--no-draw", help="Write annotated pictures and videos too. Default: draw, but not with --json."
        ),
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
    track: Annotated[
        bool,
        typer.Option(
            "--track", help="Number the objects of videos, which keep their numbers from frame to frame (extra: track)."
        ),
    ] = False,
    limit: Annotated[int | None, typer.Option(help="Stop after this many images or frames.")] = None,
    resume: Annotated[
        bool,
        typer.Option("--resume", help="Go on with the run in --out that was stopped; the other options as they were."),
    ] = False,
    cluster: Annotated[
        str | None,
        typer.Option(
            metavar="local|auto|ADDRESS",
            help="Images in bulk on a Ray cluster: this machine, the one it is part of, or host:port. SOURCE may be a"
            " table of addresses too (.parquet, .csv, .jsonl). The same command goes on with what was stopped.",
        ),
    ] = None,
    actors: Annotated[
        int | None,
        typer.Option(help="With --cluster: processes that hold the model. Default: one per --threads cores."),
    ] = None,
    block: Annotated[
        int | None, typer.Option(help="With --cluster: images of a part of the results. Default: 500.")
    ] = None,
    column: Annotated[
        str | None, typer.Option(help="With --cluster: the column of addresses. Default: address, url, path, ...")
    ] = None,
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

    Exit code 130: stopped with Ctrl-C, SIGTERM or SIGHUP; what was finished is kept, and --resume goes on.
    """
    from singleshot.api.detect import DetectOptions

    # OpenCV reads it when its first video opens: FFmpeg's own complaints would repeat ours, many times over.
    os.environ.setdefault("OPENCV_FFMPEG_LOGLEVEL", "-8")
    values = {
        **locals(),
        "batch": _batch_size(batch),
        "tile": one_tile(tile, no_tile),
        "draw": draw is not False,
        "classes": classes or None,
    }
    values["form"] = form or ("json" if cluster is None else "jsonl")
    if cluster is not None:
        values["draw"] = draw is True
        raise typer.Exit(run_bulk(DetectOptions.of(values), cluster, actors, block, column, quiet, as_json))
    for name in ("actors", "block", "column"):
        if values[name] is not None:
            raise ConfigError(f"--{name}: goes with --cluster; leave it out, or give --cluster local")
    if as_json and crop and out is None and draw is None:
        values["draw"] = False  # crops were asked for, and nothing else
    if out is None and (not as_json or draw or crop):
        values["out"] = _default_folder(resume)
    console = RunPrinter(to_stderr=as_json, quiet=quiet)
    raise typer.Exit(run(DetectOptions.of(values), console, sys.stdout if as_json else None))


def run(options: DetectOptions, printer: RunPrinter, stream: TextIO | None = None) -> int:
    """Detect, and print how it goes; returns the exit code."""
    from singleshot.api.detect import Listener, run_detection

    try:
        with printer, stop_on_signals():
            done = run_detection(options, stream, Listener(printer.image, printer.skip))
    except BrokenPipeError:
        hush_stdout()
        return EXIT_PIPE
    printer.end(done)
    if done.interrupted:
        return STOPPED
    return SKIPPED if done.counts.skipped else 0


def run_bulk(
    options: DetectOptions,
    address: str,
    actors: int | None,
    block: int | None,
    column: str | None,
    quiet: bool,
    as_json: bool,
) -> int:
    """Detect on a cluster, and print how it goes; returns the exit code."""
    from singleshot.cluster.run import BLOCK, ClusterOptions, run_on_cluster

    if as_json:
        raise ConfigError("--json: results of --cluster go into files; leave it out")

    def show(counts: PartCounts, done: int, parts: int) -> None:
        if not quiet:
            print(f"{done}/{parts} parts, {_counted(counts.images, counts.objects)}", file=sys.stderr, flush=True)

    try:
        with stop_on_signals():
            done = run_on_cluster(options, ClusterOptions(address, actors, block or BLOCK, column), show)
    except KeyboardInterrupt:
        print("stopped; finished parts are kept, the same command goes on", file=sys.stderr)
        return STOPPED
    if not quiet:
        images, objects, failures = done.counts
        again = f", {count_of(done.repeated, 'address', 'addresses')} given twice" if done.repeated else ""
        before = f", {done.resumed} of the parts from before" if done.resumed else ""
        parts = count_of(done.parts, "part")
        print(f"{_counted(images, objects)}, {failures} not read{again}, {parts}{before}")
        print(f"results: {printable(done.place)}")
    return SKIPPED if done.counts.failures else 0


class RunPrinter:
    """Prints how a run of `detect` goes: first a line for each image, then, and for videos at once, a bar on a terminal
    and elsewhere now and then a line for all."""

    def __init__(self, to_stderr: bool = False, quiet: bool = False) -> None:
        self.to_stderr, self.quiet = to_stderr, quiet
        self._bar: Progress | None = None

    def __enter__(self) -> RunPrinter:
        return self

    def __exit__(self, *error: object) -> None:
        if self._bar is not None:
            self._bar.stop()

    def _print(self, text: str) -> None:
        if not self.quiet:
            print(text, file=sys.stderr if self.to_stderr else sys.stdout, flush=True)

    def skip(self, error: DataError) -> None:
        """Name an input that could not be read."""
        text = f"skipped: {printable(error, limit=500)}"
        if self._bar is not None:  # above the moving line, and not broken at the terminal's width
            self._bar.console.print(text, markup=False, highlight=False, soft_wrap=True)
        else:
            print(text, file=sys.stderr, flush=True)

    def image(self, found: Found, counts: Counts) -> None:
        """Print what was found in an image, or where the run is."""
        frame, detections = found
        assert detections is not None
        if self.quiet:
            return
        line = f"{_counted(counts.images, counts.objects)}, {counts.skipped} skipped"
        has_bar = sys.stderr.isatty() and not self.to_stderr
        if counts.images <= _FEW and not (has_bar and frame.frame is not None):
            self._print(f"{printable(frame.name)}: {printable(detections.summary(), limit=400)}")
        elif has_bar:
            self._move_bar(frame, line)
        elif counts.images % _PLAIN_EVERY == 0:
            self._print(line)

    def _move_bar(self, frame: Frame, line: str) -> None:
        if self._bar is None:
            from rich.console import Console
            from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

            columns = TextColumn("{task.description}", markup=False), BarColumn(), TimeRemainingColumn()
            self._bar = Progress(*columns, console=Console(stderr=True), transient=True)
            self._bar.add_task("", total=None)
            self._bar.start()
        task = self._bar.task_ids[0]
        if frame.frame is None:
            self._bar.update(task, description=line, total=None)
            return
        if frame.frame == 0:
            self._bar.reset(task, total=frame.total)
        number = f"{frame.frame + 1}" if frame.total is None else f"{frame.frame + 1}/{frame.total}"
        description = f"{printable(frame.source, 40)} {number}, {line}"
        self._bar.update(task, description=description, completed=frame.frame + 1, total=frame.total)

    def end(self, done: Detected) -> None:
        """Sum up, and name what was written."""
        images, objects, skipped = done.counts
        rate = format_rate((images - done.resumed) / max(done.seconds, 1e-9))
        text = f"{'stopped after ' if done.interrupted else ''}{_counted(images, objects)}, {rate} images/s"
        text += f", {done.resumed} of the images from before" if done.resumed else ""
        self._print(f"{text}, {skipped} skipped" if skipped else text)
        codecs = f" (videos: {'; '.join(done.codecs)})" if done.codecs else ""
        for what, where, how in (("results", done.results, ""), ("pictures", done.pictures, codecs)):
            if where is not None:
                self._print(f"{what}: {printable(where)}{how}")
        if done.interrupted and done.results is not None:
            self._print(f"go on:  the same command with --resume --out {shlex.quote(str(done.results.parent))}")


def _counted(images: int, objects: int) -> str:
    return f"{count_of(images, 'image')}, {count_of(objects, 'object')}"


def _batch_size(text: str) -> int | None:
    """A number, or None for auto."""
    if text.strip().lower() == "auto":
        return None
    if not (text.isascii() and text.isdigit() and 1 <= int(text[:9]) <= 4096):
        raise ConfigError(f"--batch {printable(text, 40)}: want 1 to 4096, or auto")
    return int(text)


def _default_folder(resume: bool) -> Path:
    """detections, or the first of detections-2, ... that holds nothing yet; to resume, the last that does."""
    names = itertools.chain(["detections"], (f"detections-{number}" for number in itertools.count(2)))
    if not resume:
        return next(path for path in map(Path, names) if is_free(path))
    used = list(itertools.takewhile(lambda path: not is_free(path), map(Path, names)))
    return used[-1] if used else Path("detections")
