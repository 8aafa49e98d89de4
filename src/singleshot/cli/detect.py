"""`singleshot detect`: objects in images, folders, videos, cameras and streams."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import replace
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from singleshot.cli.common import (
    DeviceOption,
    EngineOption,
    PrecisionOption,
    RuleOption,
    ThreadsOption,
    is_free,
)
from singleshot.errors import ConfigError, printable

if TYPE_CHECKING:
    from singleshot.runtime.detector import Detector
    from singleshot.runtime.sources import Frame
    from singleshot.runtime.tiles import Tiling

_RESULT_SUFFIXES = {".json", ".csv", ".xml", ".txt", ".jpg", ".jpeg", ".png", ".mp4"}


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
    device: DeviceOption = "auto",
    engine: EngineOption = None,
    threads: ThreadsOption = None,
    precision: PrecisionOption = None,
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
    _check(score_min, limit, out)
    tiling, batch_size = _tiling(tile, tiles_only), _batch_size(batch)
    keep_files = not as_json or out is not None or bool(draw)
    code = run_detection(
        model,
        sources,
        folder=_results_folder(out) if keep_files else None,
        form=form.value,
        score_min=score_min,
        batch=batch_size,
        tile=tiling,
        draw=keep_files and draw is not False,
        device=device,
        limit=limit,
        to_stdout=as_json,
        quiet=quiet,
        rule=rule,
        engine=engine,
        threads=threads,
        precision=precision,
    )
    raise typer.Exit(code)


def run_detection(
    model: str,
    sources: list[str],
    folder: Path | None,
    form: str = "json",
    score_min: float | None = None,
    batch: int | None = None,
    draw: bool = True,
    device: str = "auto",
    limit: int | None = None,
    to_stdout: bool = False,
    quiet: bool = False,
    rule: str | None = None,
    engine: str | None = None,
    threads: int | None = None,
    precision: str | None = None,
    tile: Tiling | None = None,
) -> int:
    """Detect in all sources, write results and pictures into `folder` (None: nowhere); returns the exit code."""
    # OpenCV reads it when its first video opens: FFmpeg's own complaints would repeat ours, many times over.
    os.environ.setdefault("OPENCV_FFMPEG_LOGLEVEL", "-8")
    from singleshot import load
    from singleshot.cli.detect_run import DetectionRun
    from singleshot.runtime.sources import open_sources

    draw = draw and folder is not None
    frames = _first(open_sources(sources, decode=False), limit)
    options: dict[str, Any] = {"threads": threads, "precision": precision, "batch": batch}
    if rule is None:
        detector = load(model, device=device, engine=engine, **options)
    else:
        detector = _load_by(rule, model, device, engine, options)
    run = DetectionRun(
        model=model,
        class_names=tuple(detector.class_names),
        folder=folder,
        form=form,
        draw=draw,
        to_stdout=to_stdout,
        quiet=quiet,
    )
    return run.all(detector.stream(frames, batch, score_min, tile=tile, keep_images=draw))


def _first(frames: Iterator[Frame], limit: int | None) -> Iterator[Frame]:
    """At most `limit` of the frames, whose source is closed with this."""
    try:
        for number, frame in enumerate(frames, start=1):
            yield frame
            if number == limit:
                return
    finally:
        close = getattr(frames, "close", None)
        if close is not None:
            close()


def _batch_size(text: str) -> int | None:
    """A number, or None for auto."""
    if text.strip().lower() == "auto":
        return None
    if not (text.isascii() and text.isdigit() and 1 <= int(text[:9]) <= 4096):
        raise ConfigError(f"--batch {printable(text, 40)}: want 1 to 4096, or auto")
    return int(text)


def _tiling(text: str | None, tiles_only: bool) -> Tiling | None:
    from singleshot.runtime.tiles import Tiling

    if text is None:
        if tiles_only:
            raise ConfigError("--tiles-only: of what size? give --tile N too")
        return None
    try:
        return replace(Tiling.of(text), whole=not tiles_only)
    except ConfigError as error:
        raise ConfigError(f"--{error}") from error


def _load_by(rule: str, model: str, device: str, engine: str | None, options: dict[str, Any]) -> Detector:
    """The model with the detection rule of a codebase in place of its own."""
    if Path(model).suffix.lower() in (".onnx", ".xml"):
        raise ConfigError(f"--rule {printable(rule)}: {printable(model)} has its rule built in; give the checkpoint")
    if engine not in (None, "torch", "auto"):
        raise ConfigError(f"--engine {printable(engine, 40)}: {printable(model)} is a checkpoint, which torch runs")
    from singleshot.runtime.engines.table import EngineOptions
    from singleshot.runtime.load import open_detector

    return open_detector(model, engine, EngineOptions(device, rule=rule, **options))


def _check(score_min: float | None, limit: int | None, out: Path | None) -> None:
    if score_min is not None and not 0 <= score_min <= 1:
        raise ConfigError(f"--score-min {score_min}: want a number from 0 to 1")
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
