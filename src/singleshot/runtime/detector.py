"""From an image to Detections, around any engine."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple, overload

import numpy as np

from singleshot.errors import ConfigError, DataError, printable
from singleshot.inputs import InputSpec, Placement, boxes_from_square, to_square
from singleshot.records import ImageDetections
from singleshot.runtime import tiles
from singleshot.runtime.detections import Detections
from singleshot.runtime.engines.table import Engine, suited_batch
from singleshot.runtime.prefetch import HELD_BYTES, Prefetcher, Prepared, ReadPlan, prepare
from singleshot.runtime.sources import LIVE_KINDS, Frame
from singleshot.runtime.tiles import Tiling

# Evaluation keeps everything above .01 (Caffe's ssd_pascal.py), since average precision wants the tail; a
# reader wants few false boxes. A model file brings its own value; this one is for engines that have none.
SCORE_MIN = 0.35

# Images that run alone before batches begin: most jobs are over by then, and an engine that prepares anew for
# batches has not done it for nothing.
ALONE = 16
_TILES_PER_CALL = 64  # an image with more tiles takes several calls
_ENOUGH = HELD_BYTES // 2  # bytes of images that are run as a batch, however few
_ERRORS_PER_BATCH = 32  # frames without an image that may wait for a batch to fill


class Found(NamedTuple):
    """A frame and what was found in it; None when the frame has an error and no image."""

    frame: Frame
    detections: Detections | None


Source = np.ndarray | str | Path
Tile = Tiling | int | tuple[int, float]


class Detector:
    """Finds objects in images with one engine.

    engine: see Engine; input_spec: how an image becomes the square; class_names: by label; score_min: the
    default threshold, 0..1; max_detections: at most that many per image, the best ones (None: all that the
    engine gives); batch_size: images per call of the engine where a method is not told otherwise (None: what suits
    the engine, and one at a time for live sources and the first images). Raises ConfigError for a value out of range.
    """

    def __init__(
        self,
        engine: Engine,
        input_spec: InputSpec,
        class_names: Sequence[str],
        score_min: float = SCORE_MIN,
        max_detections: int | None = None,
        batch_size: int | None = None,
    ) -> None:
        if max_detections is not None and max_detections < 1:
            raise ConfigError(f"max_detections {max_detections}: want at least 1")
        self.engine = engine
        self.input_spec = input_spec
        self.class_names = tuple(class_names)
        self.score_min = _threshold(score_min)
        self.max_detections = max_detections
        self._batch_size = _checked_batch(batch_size)

    @property
    def batch_size(self) -> int:
        """Images per call of the engine in a long job."""
        return self._batch_size or suited_batch(self.engine)

    @overload
    def detect(
        self, source: Source, score_min: float | None = None, *, batch_size: int | None = None, tile: Tile | None = None
    ) -> Detections: ...

    @overload
    def detect(
        self,
        source: list[Any] | tuple[Any, ...],
        score_min: float | None = None,
        *,
        batch_size: int | None = None,
        tile: Tile | None = None,
    ) -> list[Detections]: ...

    def detect(
        self,
        source: Source | list[Any] | tuple[Any, ...],
        score_min: float | None = None,
        *,
        batch_size: int | None = None,
        tile: Tile | None = None,
    ) -> Detections | list[Detections]:
        """Objects in one image, or in each of a list of images.

        source: uint8 RGB [H, W, 3] (grey [H, W] works, an alpha channel is dropped) or the path of an image
        file, or a list or tuple of those; tile: also look at tiles of that many pixels a side, or (side, overlap),
        see Tiling, for objects that are small in the whole image. Raises DataError for an image that cannot be used
        and ConfigError for a threshold outside 0..1. For folders and videos see `stream` and `open_sources`.
        """
        limits = self._limits(score_min, tile)
        batch_size = _checked_batch(batch_size)
        if not isinstance(source, (list, tuple)):  # no threads for one image
            (one,) = self._run([prepare(_load(source, 0), limits.plan(keep=False))], limits)
            return _of(one)
        frames = (_load(one, index) for index, one in enumerate(source))
        return [_of(found) for found in self._stream(frames, batch_size or self._batch_size, limits, keep=False)]

    def stream(
        self,
        frames: Iterable[Frame],
        batch_size: int | None = None,
        score_min: float | None = None,
        *,
        tile: Tile | None = None,
        keep_images: bool = True,
    ) -> Iterator[Found]:
        """Detections of every frame, in order, with a frame's error passed on.

        Threads read, decode and resize ahead while the engine works; what they hold is bounded, in number and in
        bytes, however many frames there are. Live frames (camera, stream) never wait for a batch to fill. Without
        `keep_images` frames come back without their pixels, images are let go of early, and JPEG files much larger
        than the network's input are decoded at a part of their size, which moves boxes by little. tile: see
        `detect`. Closing the generator stops the threads and closes `frames`. Raises what `frames` raises.
        """
        limits = self._limits(score_min, tile)
        batch_size = _checked_batch(batch_size)
        return self._stream(frames, batch_size or self._batch_size, limits, keep_images, reduce=not keep_images)

    def _limits(self, score_min: float | None, tile: Tile | None) -> _Limits:
        score_min = self.score_min if score_min is None else _threshold(score_min)
        return _Limits(self.input_spec, score_min, None if tile is None else Tiling.of(tile))

    def _stream(
        self, frames: Iterable[Frame], batch_size: int | None, limits: _Limits, keep: bool, reduce: bool = False
    ) -> Iterator[Found]:
        most = 1 if limits.tiling is not None else batch_size or suited_batch(self.engine)
        plan = limits.plan(keep, reduce)
        reader = Prefetcher(frames, lambda frame, reserve: prepare(frame, plan, reserve), ahead=2 * most + 2)
        waiting: list[Prepared] = []
        taken = 0
        try:
            while (item := reader.get()).frame is not None:
                waiting.append(item)
                taken += item.usable
                alone = batch_size is None and (item.frame.kind in LIVE_KINDS or taken <= ALONE)
                wanted = 1 if alone else most
                full = sum(one.usable for one in waiting) >= wanted or sum(one.held for one in waiting) >= _ENOUGH
                live = item.frame.kind in LIVE_KINDS and not reader.has_next
                if full or live or len(waiting) >= _ERRORS_PER_BATCH + wanted:
                    batch, waiting = waiting, []
                    del item
                    yield from self._run(batch, limits, reader.release)
            yield from self._run(waiting, limits, reader.release)
            if item.failure is not None:
                raise item.failure
        finally:
            reader.close()

    def _run(
        self, batch: list[Prepared], limits: _Limits, release: Callable[[int], None] = lambda _: None
    ) -> Iterator[Found]:
        """Run the engine on the frames that have an image; frames are let go of as they are given out."""
        squares = [item.square for item in batch if item.square is not None]
        found = self._engine(squares) if squares else []
        results = iter(found)
        del squares
        batch.reverse()
        while batch:
            item = batch.pop()
            assert item.frame is not None
            frame, detections = item.frame, None
            if item.pixels is not None:
                try:
                    detections = self._tiled(item.pixels, frame.name, limits)
                except DataError as error:
                    frame = replace(frame, image=None, error=error)
            elif item.place is not None:
                raw = next(results)
                boxes = self._to_pixels(raw, item.place, item.width, item.height)
                detections = self._detections(
                    boxes, raw.scores, raw.labels, frame.name, item.width, item.height, limits
                )
            held = item.held
            del item
            yield Found(frame, detections)
            del frame, detections
            release(held)

    def _engine(self, squares: list[np.ndarray]) -> list[ImageDetections]:
        found = self.engine(np.stack(squares))
        if len(found) != len(squares):
            raise RuntimeError(f"the engine gave {len(found)} results for {len(squares)} images")
        return found

    def _to_pixels(self, raw: ImageDetections, place: Placement, width: int, height: int) -> np.ndarray:
        boxes = np.asarray(raw.boxes).reshape(-1, 4)
        return boxes_from_square(boxes, place, self.input_spec.size, height, width)

    def _tiled(self, image: np.ndarray, name: str, limits: _Limits) -> Detections:
        """The whole image and its tiles, one result."""
        assert limits.tiling is not None
        height, width = image.shape[:2]
        windows = limits.tiling.windows(width, height, name)
        parts = []
        for first in range(0, len(windows), _TILES_PER_CALL):
            some = windows[first : first + _TILES_PER_CALL]
            cut = [to_square(image[y0:y1, x0:x1], self.input_spec) for x0, y0, x1, y1 in some]
            for number, (raw, (_, place)) in enumerate(zip(self._engine([s for s, _ in cut]), cut, strict=True)):
                x0, y0, x1, y1 = some[number]
                boxes = self._to_pixels(raw, place, x1 - x0, y1 - y0)
                one = self._detections(boxes, raw.scores, raw.labels, name, x1 - x0, y1 - y0, limits)
                shifted = one.boxes + np.array([x0, y0, x0, y0], np.float64)
                parts.append(tiles.Found(shifted, one.scores, one.labels, np.full(len(one), first + number)))
        together = tiles.Found(*(np.concatenate(values) for values in zip(*parts, strict=True)))
        best = tiles.merge(together, windows, width, height)
        boxes = best.boxes.astype(np.float32)
        return self._detections(boxes, best.scores, best.labels, name, width, height, limits)

    def _detections(
        self, boxes: np.ndarray, scores: Any, labels: Any, name: str, width: int, height: int, limits: _Limits
    ) -> Detections:
        scores, labels = np.asarray(scores, np.float32), np.asarray(labels, np.int64)
        # A box that lies wholly in a letterbox's bars has no area once it is clipped to the image.
        has_area = (boxes[:, 2] > boxes[:, 0]) & (boxes[:, 3] > boxes[:, 1])
        rows = np.flatnonzero((scores >= limits.score_min) & has_area)[: self.max_detections]
        names = tuple(self.class_names[label] for label in labels[rows])
        return Detections(boxes[rows], scores[rows], labels[rows], names, name, width, height)


class _Limits(NamedTuple):
    """What a job wants of every image."""

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


def as_rgb(image: np.ndarray, name: str) -> np.ndarray:
    """uint8 RGB [H, W, 3] of an array that is that, grey ([H, W] or one channel) or RGBA; DataError otherwise."""
    if image.dtype != np.uint8:
        hint = "; multiply by 255 and round first" if image.dtype.kind == "f" else ""
        raise DataError(f"{printable(name)}: values of type {image.dtype} (want uint8, 0 to 255){hint}")
    if image.ndim == 2:
        image = image[:, :, None]
    if image.ndim != 3 or image.shape[2] not in (1, 3, 4) or 0 in image.shape:
        raise DataError(f"{printable(name)}: array of shape {list(image.shape)} (want RGB [height, width, 3])")
    if image.shape[2] == 1:
        image = np.repeat(image, 3, axis=2)
    return np.ascontiguousarray(image[:, :, :3])


def _load(source: Any, index: int) -> Frame:
    """The frame of an array or of an image file that is still to be read; raises DataError."""
    if isinstance(source, np.ndarray):
        name = f"image {index}"
        return Frame(name, as_rgb(source, name), index)
    if isinstance(source, (str, Path)):
        if Path(source).is_dir():
            raise DataError(f"{printable(source)}: a folder; use detector.stream(open_sources([...])) for it")
        return Frame(str(source), None, index, source=str(source), path=str(source))
    kind = type(source).__name__
    raise DataError(f"source of type {kind}: want a path, a uint8 RGB array [height, width, 3] or a list of them")
