"""`singleshot detect`: objects in images, folders, videos, cameras and streams."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack
from enum import StrEnum
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from singleshot.cli.common import DeviceOption, hush_stdout, is_free
from singleshot.errors import ConfigError, DataError, printable

if TYPE_CHECKING:
    from rich.status import Status

    from singleshot.runtime.detector import Found
    from singleshot.runtime.pictures import PictureWriter
    from singleshot.runtime.writers import Writer

EXIT_SKIPPED = 3
EXIT_INTERRUPTED = 130  # 128 + SIGINT, as a shell counts
EXIT_PIPE = 141  # 128 + SIGPIPE
_FEW = 20  # images that get a line each
_PLAIN_EVERY = 100  # images between two lines of progress when there is no terminal
_RESULT_SUFFIXES = {".json", ".csv", ".xml", ".txt", ".jpg", ".jpeg", ".png", ".mp4"}


class Format(StrEnum):
    """Forms of results."""

    json = "json"
    coco = "coco"
    voc = "voc"
    yolo = "yolo"
    csv = "csv"


def detect(
    model: Annotated[str, typer.Argument(help="A checkpoint, such as runs/train-1/best.safetensors.")],
    sources: Annotated[
        list[str],
        typer.Argument(
            metavar="SOURCE...",
            help="Image, folder, 'glob pattern', video, camera number, stream address, or - for standard "
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
    score_min: Annotated[
        float | None, typer.Option(help="Lowest score to report, 0 to 1. Default: the model's own.")
    ] = None,
    batch: Annotated[int, typer.Option(help="Images per run of the network.")] = 8,
    draw: Annotated[
        bool | None,
        typer.Option("--draw/--no-draw", help="Write annotated pictures and videos too. Default: draw."),
    ] = None,
    device: DeviceOption = "auto",
    limit: Annotated[int | None, typer.Option(help="Stop after this many images or frames.")] = None,
    as_json: Annotated[
        bool,
        typer.Option("--json", help="JSON to standard output, nothing else there; files only with --out or --draw."),
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
    _check(score_min, batch, limit, out)
    keep_files = not as_json or out is not None or bool(draw)
    code = run_detection(
        model,
        sources,
        folder=_results_folder(out) if keep_files else None,
        form=form.value,
        score_min=score_min,
        batch=batch,
        draw=keep_files and draw is not False,
        device=device,
        limit=limit,
        to_stdout=as_json,
        quiet=quiet,
    )
    raise typer.Exit(code)


def run_detection(
    model: str,
    sources: list[str],
    folder: Path | None,
    form: str = "json",
    score_min: float | None = None,
    batch: int = 8,
    draw: bool = True,
    device: str = "auto",
    limit: int | None = None,
    to_stdout: bool = False,
    quiet: bool = False,
) -> int:
    """Detect in all sources, write results and pictures into `folder` (None: nowhere); returns the exit code."""
    # OpenCV reads it when its first video opens: FFmpeg's own complaints would repeat ours, many times over.
    os.environ.setdefault("OPENCV_FFMPEG_LOGLEVEL", "-8")
    from singleshot import load
    from singleshot.runtime.sources import open_sources

    frames = islice(open_sources(sources), limit)
    detector = load(model, device=device)
    run = _Run(
        model=model,
        class_names=tuple(detector.class_names),
        folder=folder,
        form=form,
        draw=draw,
        to_stdout=to_stdout,
        quiet=quiet,
    )
    return run.all(detector.stream(frames, batch_size=batch, score_min=score_min))


def _check(score_min: float | None, batch: int, limit: int | None, out: Path | None) -> None:
    if score_min is not None and not 0 <= score_min <= 1:
        raise ConfigError(f"--score-min {score_min}: want a number from 0 to 1")
    if batch < 1:
        raise ConfigError(f"--batch {batch}: want at least 1")
    if limit is not None and limit < 1:
        raise ConfigError(f"--limit {limit}: want at least 1")
    if out is not None and out.suffix.lower() in _RESULT_SUFFIXES and not out.is_dir():
        raise ConfigError(f"--out {printable(out)}: want a folder; the results file goes into it")


def _results_folder(out: Path | None) -> Path:
    """A folder that holds nothing yet: what the user names must be so, the default counts up until it is."""
    if out is None:
        base, number = Path("detections"), 1
        out = base
        while not is_free(out):
            number += 1
            out = base.with_name(f"{base.name}-{number}")
    elif not is_free(out):
        what = "is not empty" if out.is_dir() else "is a file"
        raise ConfigError(f"--out {printable(out)}: {what}; give a new or empty folder")
    return out


class _Run:
    """One run of the command: where results go, what was counted and what is said about it."""

    def __init__(
        self,
        *,
        model: str,
        class_names: tuple[str, ...],
        folder: Path | None,
        form: str,
        draw: bool,
        to_stdout: bool,
        quiet: bool,
    ) -> None:
        self.model = model
        self.class_names = class_names
        self.folder = folder
        self.form = form
        self.draw = draw
        self.to_stdout = to_stdout
        self.quiet = quiet
        self.done = self.objects = self.skipped = 0
        self._unsaid: DataError | None = None
        self.results_at: Path | None = None
        self._writers: list[Writer] = []
        self._pictures: PictureWriter | None = None
        self._status: Status | None = None

    def all(self, stream: Iterator[Found]) -> int:
        """Work through the stream; returns the exit code."""
        started = time.perf_counter()
        code = 0
        with ExitStack() as stack:
            try:
                for found in stream:
                    self._one(found, stack)
            except KeyboardInterrupt:
                code = EXIT_INTERRUPTED
            except BrokenPipeError:
                hush_stdout()
                code = EXIT_PIPE
            finally:
                close = getattr(stream, "close", None)
                if close is not None:
                    close()
            code = self._finish(code)
        if code in (EXIT_INTERRUPTED, EXIT_PIPE) or self.done:
            self._say_end(time.perf_counter() - started, code)
            return code or (EXIT_SKIPPED if self.skipped else 0)
        if self.skipped == 1 and self._unsaid is not None:
            raise self._unsaid
        self._warn()
        if self.skipped:
            raise DataError(f"none of the {self.skipped} inputs could be read, see above")
        raise DataError("the sources gave no image at all")

    def _one(self, found: Found, stack: ExitStack) -> None:
        if found.detections is None:
            self._skip(found.frame.error or DataError(f"{printable(found.frame.name)}: no image"))
            return
        self._warn()
        if not self._writers:
            self._open(stack)
        for writer in self._writers:
            writer.add(found.detections)
        if self._pictures is not None:
            self._pictures.add(found.frame, found.detections)
        self.done += 1
        self.objects += len(found.detections)
        self._say_progress(found)

    def _open(self, stack: ExitStack) -> None:
        """Open the results with the first image: a run without any leaves nothing behind.

        Left by an exception of ours, the stack discards what is unfinished.
        """
        from singleshot.runtime.pictures import PictureWriter
        from singleshot.runtime.writers import JsonWriter, open_writer

        if self.to_stdout:
            self._writers.append(stack.enter_context(JsonWriter(sys.stdout, self.model, self.class_names)))
        if self.folder is not None:
            writer, self.results_at = open_writer(self.form, self.folder, self.model, self.class_names)
            self._writers.append(stack.enter_context(writer))
            if self.draw:
                self._pictures = PictureWriter(self.folder / "pictures")
                stack.callback(self._pictures.close)

    def _finish(self, code: int) -> int:
        """Close everything; a reader that left before the last words changes the exit code only."""
        for writer in reversed(self._writers):
            try:
                writer.close(complete=code == 0)
            except BrokenPipeError:
                hush_stdout()
                code = EXIT_PIPE
        if self._pictures is not None:
            self._pictures.close()
        if self._status is not None:
            self._status.stop()
        return code

    def _skip(self, error: DataError) -> None:
        self._warn()
        self.skipped += 1
        self._unsaid = error

    def _warn(self) -> None:
        """Name the last skipped input. It waits for the next frame: alone, it is the command's own message."""
        if self._unsaid is not None:
            text = f"skipped: {printable(self._unsaid, limit=500)}"
            if self._status is not None:  # above the moving line, and not broken at the terminal's width
                self._status.console.print(text, markup=False, highlight=False, soft_wrap=True)
            else:
                print(text, file=sys.stderr, flush=True)
            self._unsaid = None

    def _say(self, text: str) -> None:
        if not self.quiet:
            print(text, file=sys.stderr if self.to_stdout else sys.stdout, flush=True)

    def _say_progress(self, found: Found) -> None:
        assert found.detections is not None
        if self.quiet:
            return
        if self.done <= _FEW:
            name = printable(found.frame.name)
            self._say(f"{name}: {printable(found.detections.summary(), limit=400)}")
        elif sys.stderr.isatty():
            if self._status is None:
                from rich.console import Console
                from rich.status import Status

                self._status = Status("", console=Console(stderr=True))
                self._status.start()
            self._status.update(f"{self.done} images, {self.objects} objects, {self.skipped} skipped")
        elif self.done % _PLAIN_EVERY == 0:
            self._say(f"{self.done} images, {self.objects} objects, {self.skipped} skipped")

    def _say_end(self, seconds: float, code: int) -> None:
        self._warn()
        if code == EXIT_PIPE:
            return
        rate = self.done / max(seconds, 1e-9)
        text = f"{'stopped after ' if code else ''}{self.done} images, {self.objects} objects, {rate:.1f} images/s"
        if self.skipped:
            text += f", {self.skipped} skipped"
        self._say(text)
        if self.results_at is not None:
            self._say(f"results: {printable(self.results_at)}")
        if self._pictures is not None and self.folder is not None:
            self._say(f"pictures: {printable(self.folder / 'pictures')}")
