"""From an image to Detections, around any engine: the stages of an image's way, strung together."""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, NamedTuple, overload

import numpy as np

from singleshot.class_selection import Classes, ClassSelection, select_classes
from singleshot.errors import ConfigError, DataError, printable
from singleshot.inputs import InputSpec
from singleshot.model_info import ModelInfo
from singleshot.records import ImageDetections
from singleshot.runtime.batching import batches
from singleshot.runtime.class_filter import ClassFilter
from singleshot.runtime.decoding import ReadPlan
from singleshot.runtime.detections import Detections
from singleshot.runtime.engines.table import Engine, suited_batch
from singleshot.runtime.merging import merge_windows
from singleshot.runtime.pixels import select, to_pixels
from singleshot.runtime.prefetch import Prefetcher
from singleshot.runtime.preparing import Prepared, make_ready
from singleshot.runtime.python_sources import Image, SourceFrames, frame_of
from singleshot.runtime.sources import Frame
from singleshot.runtime.tiles import Tile, cut
from singleshot.runtime.tracking import ObjectTracker
from singleshot.thresholds import NO_CAP, Thresholds
from singleshot.tiling import Tiling, choose_tiling

if TYPE_CHECKING:
    from singleshot.images.large import LargeImage

log = logging.getLogger(__name__)

# Evaluation keeps everything above .01 (Caffe's ssd_pascal.py), since average precision wants the tail; a
# reader wants few false boxes. A model file brings its own value; this one is for engines that have none.
SCORE_MIN = 0.35


class Found(NamedTuple):
    """A frame and what was found in it; None when the frame has an error and no image."""

    frame: Frame
    detections: Detections | None


Sources = list[Any] | tuple[Any, ...]  # of images
TileOption = Tiling | int | tuple[int, float] | str | bool


class Detector:
    """Finds objects in images with one engine.

    info: of the model file that it was opened from, None for an engine in memory; tiling: the tiles that it looks at
    where none are asked for, those that its model was trained on.
    It can be pickled where `reopen` opens its engine anew, or the engine can; after a fork the child opens it anew too.
    learnt: which of its training data's classes the model's are, where it learnt some under other names, or not all;
    nms_iou: IoU over which a weaker box of a class is dropped.

    Args:
        engine: See Engine.
        input_spec: How an image becomes the network's input.
        class_names: By label.
        score_min: The default threshold, 0..1.
        max_detections: At most that many per image, the best ones; None for all that the engine gives.
        batch_size: Images per call of the engine where a method does not name another; None for what suits the engine,
            and one at a time for live sources and the first images.
        classes: Find these only, in this order: names of `class_names`, "car,truck=vehicle" for some that become one,
            or {new name: [old names]}. Labels count from 0 over these.
        thresholds: What the engine detects by: `keep` is how many boxes of all classes it gives at most (a warning says
            where that may have left out some that are wanted), `nms_iou` goes for classes that become one.

    Raises:
        ConfigError: A value is out of range.
    """

    def __init__(
        self,
        engine: Engine,
        input_spec: InputSpec,
        class_names: Sequence[str],
        score_min: float = SCORE_MIN,
        max_detections: int | None = None,
        batch_size: int | None = None,
        classes: Classes | None = None,
        thresholds: Thresholds | None = None,
    ) -> None:
        if max_detections is not None and max_detections < 1:
            raise ConfigError(f"max_detections {max_detections}: want at least 1")
        self.engine = engine
        self.input_spec = input_spec
        self.class_names = tuple(class_names)
        self.score_min = _threshold(score_min)
        self.max_detections = max_detections
        self._batch_size = _checked_batch(batch_size)
        self.nms_iou = (thresholds or Thresholds()).nms_iou
        self.info: ModelInfo | None = None
        self.tiling: Tiling | None = None
        self.learnt: ClassSelection | None = None
        self.category_ids: Mapping[str, int] | None = None  # COCO's, of the data that it was trained on
        self.reopen: Callable[[], Engine] | None = None
        self._process, self._reopening = os.getpid(), threading.Lock()
        self._inherited: list[Engine] = []  # by a fork: they hang when they are let go of
        self._filter: ClassFilter | None = None
        self._most = NO_CAP  # boxes of all classes that the engine gives
        if classes is not None:
            selection = select_classes(classes, self.class_names, "the model")
            labels = selection.labels_of(self.class_names)
            self._filter = ClassFilter(labels, self.nms_iou)
            self._most = NO_CAP if thresholds is None or -1 not in labels else thresholds.keep
            self.class_names = selection.names
        self._every_class = tuple(dict.fromkeys((*class_names, *self.class_names)))

    def __repr__(self) -> str:
        names = ", ".join(self.class_names[:5]) + ", ..." * (len(self.class_names) > 5)
        text = f"{len(self.class_names)} classes ({names}), input {self.input_spec.size_text}"
        return f"<Detector: {printable(text)}, scores from {self.score_min:g}>"

    def __getstate__(self) -> dict[str, Any]:
        state = dict(self.__dict__)
        for name in ("_process", "_reopening", "_inherited"):
            del state[name]
        if self.reopen is not None:
            del state["engine"]
        return state

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._process, self._reopening, self._inherited = os.getpid(), threading.Lock(), []
        if self.reopen is not None:
            self.engine = self.reopen()

    @property
    def batch_size(self) -> int:
        """Images per call of the engine in a long job."""
        return self._batch_size or suited_batch(self.engine)

    @overload
    def detect(
        self,
        source: Sources,
        score_min: float | None = None,
        *,
        batch_size: int | None = None,
        tile: TileOption | None = None,
        bgr: bool = False,
    ) -> list[Detections]: ...

    @overload
    def detect(
        self,
        source: Image,
        score_min: float | None = None,
        *,
        batch_size: int | None = None,
        tile: TileOption | None = None,
        bgr: bool = False,
    ) -> Detections: ...

    def detect(
        self,
        source: Image | Sources,
        score_min: float | None = None,
        *,
        batch_size: int | None = None,
        tile: TileOption | None = None,
        bgr: bool = False,
    ) -> Detections | list[Detections]:
        """Objects in one image, or in each of a list of images.

        For folders and videos see `stream`.

        Args:
            source: uint8 RGB [H, W, 3] (grey [H, W] works, an alpha channel is dropped), the path of an image file, its
                bytes or the file opened for reading, a Pillow image, or a list or tuple of those.
            score_min: In place of the detector's own threshold.
            batch_size: In place of the detector's own.
            tile: Also look at tiles of that many pixels a side (the longer one: they have the shape of the model's
                input), or (side, overlap), see Tiling, for objects that are small in the whole image. None: at those
                that the model was trained on, if it was; False: at the whole image alone.
            bgr: Arrays have their colours in OpenCV's order.

        Returns:
            Detections, boxes in pixels of the image; a list of them for a list.

        Raises:
            DataError: An image cannot be used.
            ConfigError: A threshold outside 0..1, or another option that is out of range.
        """
        job = self._job(score_min, tile)
        batch_size = _checked_batch(batch_size)
        if not isinstance(source, (list, tuple)):  # no threads for one image
            plan = job.plan(keep=False)
            frame = frame_of(source, 0, self.input_spec.sixteen_bit, bgr)
            (one,) = self._run([make_ready(frame, plan)], job)
            return _of(one)
        frames = (frame_of(one, index, self.input_spec.sixteen_bit, bgr) for index, one in enumerate(source))
        return [_of(found) for found in self._stream(frames, batch_size or self._batch_size, job, keep=False)]

    def detect_each(
        self,
        images: Sequence[Image],
        score_min: float | None = None,
        *,
        tile: TileOption | None = None,
        mapper: Callable[[Callable[[Frame], Prepared], list[Frame]], Iterable[Prepared]] = map,
    ) -> list[Detections | DataError]:
        """As `detect` of a list, in one run of the engine: an image that cannot be used gives its error in its place.

        Args:
            images: As `detect` takes them.
            score_min: Likewise.
            tile: Likewise.
            mapper: What reads and decodes the images: `map`, or that of an executor.

        Raises:
            ConfigError: An option is out of range.
        """
        job = self._job(score_min, tile)
        plan = job.plan(keep=False)
        frames = [frame_of(one, index, self.input_spec.sixteen_bit) for index, one in enumerate(images)]
        ready = list(mapper(lambda frame: make_ready(frame, plan), frames))
        return [
            found.frame.error or DataError(f"{printable(found.frame.name)}: no image")
            if found.detections is None
            else found.detections
            for found in self._run(ready, job)
        ]

    def stream(
        self,
        sources: Image | int | Iterable[Any],
        batch_size: int | None = None,
        score_min: float | None = None,
        *,
        tile: TileOption | None = None,
        keep_images: bool = True,
        bgr: bool = False,
        track: bool = False,
    ) -> Iterator[Found]:
        """Detections of every image and frame, in order; what cannot be read comes with its error, and ends nothing.

        Threads read, decode and resize ahead while the engine works; what they hold is bounded, in number and in
        bytes, however many frames there are. Live frames (camera, stream) never wait for a batch to fill. Closing the
        generator stops the threads and closes `sources`.

        Args:
            sources: What the command line takes (a file, folder, pattern, list of paths, video, camera, address), an
                image as `detect` takes it, a Frame, or an iterable of any of these; what the iterable raises is raised.
            batch_size: In place of the detector's own.
            score_min: Likewise.
            tile: See `detect`.
            keep_images: Without it frames come back without their pixels, images are let go of early, and JPEG files
                much larger than the network's input are decoded at a part of their size, which moves boxes by little.
            bgr: See `detect`.
            track: Number the objects of videos and live sources, see `Detections.track_ids`: a number is one object of
                its source, and goes when it is out of sight for more than a second. Images without a file are taken
                for the frames of one video, in order.

        Raises:
            DataError: A source that is given alone does not exist, or has no images.
            ConfigError: An option is out of range; with `track`, also while it runs, for the image of a file.
            MissingExtraError: norfair, which tracks, is not installed.
        """
        tracker = ObjectTracker() if track else None
        job = self._job(score_min, tile)
        batch_size = _checked_batch(batch_size)
        frames = SourceFrames(sources, self.input_spec.sixteen_bit, bgr)
        found = self._stream(frames, batch_size or self._batch_size, job, keep_images, reduce=not keep_images)
        return found if tracker is None else tracker.follow(found)

    def _job(self, score_min: float | None, tile: TileOption | None) -> _Job:
        score_min = self.score_min if score_min is None else _threshold(score_min)
        return _Job(self.input_spec, score_min, choose_tiling(self.tiling, tile))

    def _stream(
        self, frames: Iterable[Frame], batch_size: int | None, job: _Job, keep: bool, reduce: bool = False
    ) -> Generator[Found]:
        size = 1 if job.tiling is not None else batch_size or suited_batch(self.engine)
        plan = job.plan(keep, reduce)
        reader = Prefetcher(frames, lambda frame, reserve: make_ready(frame, plan, reserve), ahead=2 * size + 2)
        try:
            for batch in batches(reader, size, start_alone=batch_size is None):
                yield from self._run(batch, job, reader.release)
        finally:
            reader.close()

    def _run(
        self, batch: list[Prepared], job: _Job, release: Callable[[int], None] = lambda _: None
    ) -> Iterator[Found]:
        """Run the engine on the frames that have an image; frames are let go of as they are given out."""
        squares = [item.square for item in batch if item.square is not None]
        results = iter(self._engine(squares, job.score_min) if squares else [])
        del squares
        batch.reverse()
        while batch:
            item = batch.pop()
            assert item.frame is not None
            frame, found = item.frame, None
            if item.place is not None:
                found = to_pixels(next(results), item.place, job.spec, item.width, item.height)
            elif item.pixels is not None:
                try:
                    found = self._in_tiles(item.pixels, frame.name, job)
                except DataError as error:
                    frame = replace(frame, image=None, error=error)
            detections = None
            if found is not None:
                found = select(found, job.score_min, self.max_detections)
                size = item.width, item.height
                detections = Detections.of(
                    found, self.class_names, frame.name, *size, time=frame.time, every_class=self._every_class
                )
            held = item.held
            del item, found
            yield Found(frame, detections)
            del frame, detections
            release(held)

    def _after_fork(self) -> None:
        """Threads and locks of an engine stay with the process that opened it."""
        with self._reopening:
            if self._process != os.getpid() and self.reopen is not None:
                self._inherited.append(self.engine)
                self.engine = self.reopen()
            self._process = os.getpid()

    def _engine(self, squares: list[np.ndarray], score_min: float) -> list[ImageDetections]:
        if self._process != os.getpid():
            self._after_fork()
        found = self.engine(np.stack(squares))
        if len(found) != len(squares):
            raise RuntimeError(f"the engine gave {len(found)} results for {len(squares)} images")
        if self._filter is None:
            return found
        if any(len(one.scores) >= self._most and one.scores[self._most - 1] >= score_min for one in found):
            log.warning(
                "the model file gives the %d best boxes of all its classes: in some images weaker ones of those asked"
                " for may be missing; a checkpoint, or a file of `export --raw`, gives them all",
                self._most,
            )
            self._most = NO_CAP  # said once
        return [self._filter(one) for one in found]

    def _in_tiles(self, image: np.ndarray | LargeImage, name: str, job: _Job) -> ImageDetections:
        """The whole image and its tiles, one result in pixels of the image. Raises DataError for too many tiles."""
        assert job.tiling is not None
        height, width = image.shape[:2]
        windows = job.tiling.windows(width, height, name, job.spec.sides)
        return merge_windows(self._found_in(cut(image, windows, job.spec), job), windows, width, height)

    def _found_in(self, cut_tiles: Iterator[list[Tile]], job: _Job) -> Iterator[ImageDetections]:
        """What each tile has, in pixels of its window."""
        for tiles in cut_tiles:
            for tile, raw in zip(tiles, self._engine([tile.square for tile in tiles], job.score_min), strict=True):
                x0, y0, x1, y1 = tile.window
                found = to_pixels(raw, tile.place, job.spec, x1 - x0, y1 - y0)
                yield select(found, job.score_min, self.max_detections)


class _Job(NamedTuple):
    """What is wanted of every image."""

    spec: InputSpec
    score_min: float
    tiling: Tiling | None

    def plan(self, keep: bool, reduce: bool = False) -> ReadPlan:
        return ReadPlan(self.spec, keep, reduce, whole=self.tiling is not None)


def _checked_batch(batch_size: int | None) -> int | None:
    if batch_size is not None and batch_size < 1:
        raise ConfigError(f"batch size {batch_size}: want at least 1")
    return batch_size


def _of(found: Found) -> Detections:
    if found.detections is None:
        raise found.frame.error or DataError(f"{printable(found.frame.name)}: no image")
    return found.detections


def _threshold(score_min: float) -> float:
    if not 0.0 <= score_min <= 1.0:
        raise ConfigError(f"score_min {score_min}: want a number from 0 to 1")
    return float(score_min)
