"""Objects in images, folders, videos, cameras and streams: results written and pictures drawn as they are found."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, TextIO

from singleshot.api.class_names import read_groups
from singleshot.api.detect_results import Results
from singleshot.api.options import Options, check_range, check_results_folder
from singleshot.api.tile_option import chosen_tiling
from singleshot.class_selection import Classes
from singleshot.errors import ConfigError, DataError, printable
from singleshot.extras import require
from singleshot.hub import pinned_model
from singleshot.remote_file import is_remote

if TYPE_CHECKING:
    from singleshot.runtime.background_worker import BackgroundWorker
    from singleshot.runtime.detector import Detector, Found
    from singleshot.runtime.journal import Finished
    from singleshot.runtime.result_files import CocoIds
    from singleshot.runtime.sources import Frame


@dataclass(frozen=True)
class DetectOptions(Options):
    """What is detected, and where results go.

    model: a checkpoint or an exported file, or the address of one on the hub; sources: images, folders, patterns,
    videos, cameras, addresses; out: new or empty folder for results (None: none are written); form: json, coco,
    coco-labels, voc, yolo or csv; like: a COCO file whose ids of classes and images form coco takes; classes: what to
    find, as in `load`; draw: write annotated pictures and videos too; line_width, labels, scores: how, see
    runtime.drawing.DrawOptions; crop: write each object as a picture of its own; score_min: None for the model's own;
    rule: of a checkpoint, see `load`; batch: images per run of the network, None for what suits engine and source;
    tile: pixels of a side, "640" or with the overlap "640:0.25", to look at tiles too, "none" for none (None: at those
    that the model was trained on); tiles_only: not at the whole image, False for at it too (None: as the model was
    trained, at it too with other tiles); limit: stop after so many images or frames; track: number the objects of
    videos, see `Detections.track_ids`; resume: go on with the stopped run in `out`, by the same options; device,
    engine, threads, precision: as in `load`.
    Raises ConfigError for a value that is out of range.
    """

    model: str
    sources: tuple[str, ...]
    out: str | None = None
    form: str = "json"
    like: str | None = None
    classes: Classes | None = None
    draw: bool = True
    line_width: int | None = None
    labels: bool = True
    scores: bool = True
    crop: bool = False
    score_min: float | None = None
    rule: str | None = None
    batch: int | None = None
    tile: str | None = None
    tiles_only: bool | None = None
    device: str | None = "auto"
    engine: str | None = None
    threads: int | None = None
    precision: str | None = None
    limit: int | None = None
    track: bool = False
    resume: bool = False

    def __post_init__(self) -> None:
        if self.score_min is not None and not 0 <= self.score_min <= 1:
            raise ConfigError(f"--score-min {self.score_min}: want a number from 0 to 1")
        if self.like is not None and self.form != "coco":
            raise ConfigError(
                f"--like {printable(self.like)}: goes with --format coco; with {self.form} there are no ids"
            )
        if self.limit is not None and self.limit < 1:
            raise ConfigError(f"--limit {self.limit}: want at least 1")
        check_range("--batch", self.batch, 1, 4096)
        check_range("--line-width", self.line_width, 1, 100)
        for name in ("line_width", "labels", "scores"):
            given = getattr(self, name) != getattr(DetectOptions, name)
            if given and not (self.draw and self.out is not None):
                option = f"--{'no-' * (name != 'line_width')}{name.replace('_', '-')}"
                raise ConfigError(
                    f"{option}: no pictures are drawn; leave it out, or leave out --no-draw and give --out"
                )
        if self.crop and self.out is None:
            raise ConfigError("--crop: where to? Give --out")
        if self.track and self.form in ("voc", "yolo"):
            raise ConfigError(
                f"--track: goes with --format json, coco, coco-labels or csv; {self.form} has no place for tracks"
            )
        if self.resume and self.out is None:
            raise ConfigError("--resume: which run? Give its --out")


class Counts(NamedTuple):
    """images: with a result; objects: in them; skipped: inputs that could not be read."""

    images: int = 0
    objects: int = 0
    skipped: int = 0


class Detected(NamedTuple):
    """How a run ended. interrupted: by Ctrl-C; results: the file or folder that was written, pictures: the folder of
    annotated ones; None where there is none. resumed: how many of the images an earlier run had finished; codecs: of
    the videos among the pictures."""

    counts: Counts
    seconds: float
    interrupted: bool
    results: Path | None
    pictures: Path | None
    resumed: int = 0
    codecs: tuple[str, ...] = ()


@dataclass(frozen=True)
class Listener:
    """Who hears of a run while it goes on, from a thread of its own.

    on_image: after each image that has a result; on_skip: for each input that could not be read, not for one that ends
    the run as its error.
    """

    on_image: Callable[[Found, Counts], None] = lambda found, counts: None
    on_skip: Callable[[DataError], None] = lambda error: None


def run_detection(options: DetectOptions, stream: TextIO | None = None, listener: Listener | None = None) -> Detected:
    """Detect in all sources.

    Args:
        options: What, and where results go.
        stream: Takes JSON as it is made, such as standard output.
        listener: Who hears of it.

    Raises:
        DataError: None of the inputs could be read.
        ConfigError: An option is wrong, or results cannot be written; those of finished images are kept.
        BrokenPipeError: The reader of `stream` went away; what was finished is kept.
        CheckpointError, MissingExtraError: As `load`.
    """
    from singleshot.api.load import load
    from singleshot.runtime.journal import UNFINISHED
    from singleshot.runtime.result_files import FORMATS
    from singleshot.runtime.sources import first_still, open_sources

    chosen_tiling(None, options.tile)  # a wrong one is said before anything else
    if options.form not in FORMATS:
        raise ConfigError(f"--format {printable(options.form)}: goes with --cluster; want {', '.join(FORMATS)}")
    if stream is not None and options.out is None and options.form not in ("json", "coco"):
        raise ConfigError(f"--format {options.form}: on standard output want json or coco; or give --out FOLDER")
    if options.out is not None and is_remote(options.out):
        raise ConfigError(f"--out {printable(options.out)}: an address goes with --cluster; give a folder")
    if options.out is not None and not options.resume:
        check_results_folder("--out", options.out, UNFINISHED)
    classes = None if options.classes is None else read_groups(options.classes)
    keep = (options.draw or options.crop) and options.out is not None
    open_sources(list(options.sources))  # a wrong one is said before the model is loaded; nothing is read yet
    if options.track:
        require("track", "--track", "norfair")
        still = first_still(options.sources)
        if still is not None:
            raise ConfigError(f"--track: {printable(still)}: no video; objects are tracked in videos and live sources")
    options = replace(options, model=pinned_model(options.model))
    head = _journal_head(options, classes)
    finished = _finished(options, head) if options.resume else None
    detector = load(
        options.model,
        device=options.device,
        engine=options.engine,
        threads=options.threads,
        precision=options.precision,
        batch=options.batch,
        rule=options.rule,
        classes=classes,
    )
    tiling = chosen_tiling(detector, options.tile, options.tiles_only, options.model)
    ids = _coco_ids(options, detector) if options.form == "coco" else None
    frames = _frames(options, detector.input_spec.sixteen_bit, finished)
    found = detector.stream(
        frames, options.batch, options.score_min, tile=tiling or False, keep_images=keep, track=options.track
    )
    results = Results(options, tuple(detector.class_names), stream, ids, head)
    return write_results(found, results, listener, finished)


def _journal_head(options: DetectOptions, classes: Classes | None) -> dict[str, Any]:
    """What a run that is resumed must have been started with."""
    from singleshot.runtime.journal import digest

    if options.out is None:
        return {}
    values = {k: v for k, v in options.to_dict().items() if k not in ("out", "resume")}
    files = {path: digest(path) for path in (options.model, options.like) if path is not None}
    return {"options": {**values, "classes": classes}, "files": files}


def _finished(options: DetectOptions, head: dict[str, Any]) -> Finished:
    from singleshot.runtime.journal import Finished
    from singleshot.runtime.sources import is_lasting

    for source in options.sources:
        if not is_lasting(source):
            raise ConfigError(f"--resume: {printable(source)} cannot be read once more from where it was stopped")
    return Finished(Path(str(options.out)), head)


def _frames(options: DetectOptions, sixteen_bit: str, finished: Finished | None) -> Iterator[Frame]:
    from singleshot.runtime.sources import open_sources

    sources = list(options.sources)
    if finished is None:
        return _first(open_sources(sources, decode=False, sixteen_bit=sixteen_bit), options.limit)
    left = open_sources(sources, decode=False, sixteen_bit=sixteen_bit, is_done=finished.takes)
    limit = None if options.limit is None else options.limit - finished.inputs
    return _first(finished.check_all_taken(left), limit)


def _coco_ids(options: DetectOptions, detector: Detector) -> CocoIds:
    from singleshot.api.coco_ids import ids_like, ids_of_sources

    if options.like is not None:
        return ids_like(options.like, detector.class_names)
    return ids_of_sources(options.sources, detector.class_names, detector.category_ids)


def write_results(
    found: Iterator[Found], results: Results, listener: Listener | None = None, finished: Finished | None = None
) -> Detected:
    """Write what a detector finds, by a thread of its own while the network goes on; see `run_detection`.

    finished: what an earlier run had written of it, before what is found now.
    """
    started = time.perf_counter()
    with results:
        run = _Run(results, listener or Listener())
        if finished is not None:
            run.replay(finished)
        resumed = run.counts.images
        interrupted = run.work(found)
    seconds = time.perf_counter() - started
    done = Detected(run.counts, seconds, interrupted, results.results_at, results.pictures_at, resumed, results.codecs)
    if done.counts.images or interrupted or results.broken is not None:
        run.report_skip()
        if results.broken is not None:
            raise results.broken
        return done
    if done.counts.skipped == 1 and run.unreported is not None:
        raise run.unreported
    run.report_skip()
    if done.counts.skipped:
        raise DataError(f"none of the {done.counts.skipped} inputs could be read, see above")
    raise DataError("the sources gave no image at all")


class _Run:
    """What was counted, and who hears of it."""

    def __init__(self, results: Results, listener: Listener) -> None:
        self.results, self.listener = results, listener
        self.counts = Counts()
        self.unreported: DataError | None = None

    def replay(self, finished: Finished) -> None:
        """Write the results of an earlier run's images again."""
        for one in finished.results(self.results.class_names):
            images, objects, skipped = self.counts
            if one is None:
                self.counts = Counts(images, objects, skipped + 1)
            else:
                self.results.replay(one)
                self.counts = Counts(images + 1, objects + len(one), skipped)

    def work(self, stream: Iterator[Found]) -> bool:
        """Work through the stream; returns whether Ctrl-C ended it. What is finished is kept however it ends."""
        from singleshot.runtime.background_worker import BackgroundWorker

        interrupted = False
        writing: BackgroundWorker[Found] = BackgroundWorker(self._add, weigh=_bytes_of)
        try:
            interrupted = _feed(writing, stream)
        except BrokenPipeError as error:
            self.results.broken = error
        except BaseException:
            writing.stop()
            self.results.keep()
            raise
        finally:
            writing.stop()
        self.results.close(complete=not interrupted)
        return interrupted

    def _add(self, found: Found) -> None:
        self.report_skip()
        images, objects, skipped = self.counts
        if found.detections is None:
            self.counts = Counts(images, objects, skipped + 1)
            self.results.skip(found.frame)
            self.unreported = found.frame.error or DataError(f"{printable(found.frame.name)}: no image")
            return
        ids = self.results.ids
        if ids is not None and ids.image_of(found.detections.image) is None:
            self.counts = Counts(images, objects, skipped + 1)
            self.results.skip(found.frame)
            self.unreported = DataError(
                f"{printable(found.detections.image)}: no image, or several, of that name in --like "
                f"{printable(self.results.options.like)}; left out"
            )
            return
        self.results.add(found)
        self.counts = Counts(images + 1, objects + len(found.detections), skipped)
        self.listener.on_image(found, self.counts)

    def report_skip(self) -> None:
        """Report the last skipped input. It waits for the next frame: alone, it is the error of the whole run."""
        error, self.unreported = self.unreported, None
        if error is not None:
            self.listener.on_skip(error)


def _feed(writing: BackgroundWorker[Found], stream: Iterator[Found]) -> bool:
    try:
        try:
            for found in stream:
                writing.put(found)
                del found  # or its image would be held while the next one is made
        finally:
            close = getattr(stream, "close", None)
            if close is not None:
                close()
        writing.finish()
    except KeyboardInterrupt:
        writing.finish()  # what was found is kept
        return True
    except Exception:
        writing.finish()
        raise
    return False


def _bytes_of(found: Found) -> int:
    """Of what waits to be written: the pixels that will be drawn on."""
    return 0 if found.frame.image is None else found.frame.image.nbytes


def _first(frames: Iterator[Frame], limit: int | None) -> Iterator[Frame]:
    """At most `limit` of the frames, whose source is closed with this."""
    if limit == 0:
        return
    try:
        for number, frame in enumerate(frames, start=1):
            yield frame
            if number == limit:
                return
    finally:
        close = getattr(frames, "close", None)
        if close is not None:
            close()
