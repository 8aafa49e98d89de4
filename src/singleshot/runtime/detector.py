"""From an image to Detections, around any engine."""

from __future__ import annotations

import queue
import threading
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Protocol, overload

import numpy as np

from singleshot.errors import ConfigError, DataError, printable
from singleshot.inputs import InputSpec, Placement, boxes_from_square, to_square
from singleshot.records import ImageDetections
from singleshot.runtime.detections import Detections
from singleshot.runtime.sources import LIVE_KINDS, Frame

# Evaluation keeps everything above .01 (Caffe's ssd_pascal.py), since average precision wants the tail; a
# reader wants few false boxes. A model file brings its own value; this one is for engines that have none.
SCORE_MIN = 0.35

_ERRORS_PER_BATCH = 32  # frames without an image that may wait for a batch to fill


class Engine(Protocol):
    """Runs the network.

    images: uint8 RGB [B, S, S, 3], any B >= 1 (the last batch is smaller). Returns B records with boxes
    normalised to the square, best first.
    """

    def __call__(self, images: np.ndarray) -> list[ImageDetections]: ...


class Found(NamedTuple):
    """A frame and what was found in it; None when the frame has no image but an error."""

    frame: Frame
    detections: Detections | None


class _Ready(NamedTuple):
    """A frame with its square, made by the reading thread; `failure` ends the stream instead."""

    frame: Frame | None
    square: np.ndarray | None = None
    place: Placement | None = None
    failure: BaseException | None = None


Source = np.ndarray | str | Path


class Detector:
    """Finds objects in images with one engine.

    engine: see Engine; input_spec: how an image becomes the square; class_names: by label; score_min: the
    default threshold, 0..1; max_detections: at most that many per image, the best ones (None: all that the
    engine gives). Raises ConfigError for a threshold outside 0..1.
    """

    def __init__(
        self,
        engine: Engine,
        input_spec: InputSpec,
        class_names: Sequence[str],
        score_min: float = SCORE_MIN,
        max_detections: int | None = None,
    ) -> None:
        if max_detections is not None and max_detections < 1:
            raise ConfigError(f"max_detections {max_detections}: want at least 1")
        self.engine = engine
        self.input_spec = input_spec
        self.class_names = tuple(class_names)
        self.score_min = _threshold(score_min)
        self.max_detections = max_detections

    @overload
    def detect(self, source: Source, score_min: float | None = None, *, batch_size: int = 8) -> Detections: ...

    @overload
    def detect(
        self, source: list[Any] | tuple[Any, ...], score_min: float | None = None, *, batch_size: int = 8
    ) -> list[Detections]: ...

    def detect(
        self, source: Source | list[Any] | tuple[Any, ...], score_min: float | None = None, *, batch_size: int = 8
    ) -> Detections | list[Detections]:
        """Objects in one image, or in each of a list of images.

        source: uint8 RGB [H, W, 3] (grey [H, W] works, an alpha channel is dropped) or the path of an image
        file, or a list or tuple of those. Raises DataError for an image that cannot be used and ConfigError
        for a threshold outside 0..1. For folders and videos see `stream` and `open_sources`.
        """
        sources = source if isinstance(source, (list, tuple)) else [source]
        frames = (_load(one, index) for index, one in enumerate(sources))
        results = []
        for found in self.stream(frames, batch_size=batch_size, score_min=score_min):
            assert found.detections is not None  # _load raises instead
            results.append(found.detections)
        return results if sources is source else results[0]

    def stream(
        self,
        frames: Iterable[Frame],
        batch_size: int = 8,
        score_min: float | None = None,
    ) -> Iterator[Found]:
        """Detections of every frame, in order, with a frame's error passed on.

        A thread reads, decodes and resizes ahead while the engine works; at most four batches of frames are
        held at any time, however many there are. Live frames (camera, stream) never wait for a batch to
        fill. Closing the generator stops the thread and closes `frames`. Raises what `frames` raises.
        """
        score_min = self.score_min if score_min is None else _threshold(score_min)
        if batch_size < 1:
            raise ConfigError(f"batch size {batch_size}: want at least 1")
        return self._stream(frames, batch_size, score_min)

    def _stream(self, frames: Iterable[Frame], batch_size: int, score_min: float) -> Iterator[Found]:
        ready: queue.Queue[_Ready] = queue.Queue(maxsize=2 * batch_size)
        stop = threading.Event()
        reader = threading.Thread(
            target=_read_ahead, args=(frames, self.input_spec, ready, stop), name="singleshot-read", daemon=True
        )
        reader.start()
        waiting: list[_Ready] = []
        try:
            while True:
                item = ready.get()
                if item.frame is None:
                    yield from self._run(waiting, score_min)
                    if item.failure is not None:
                        raise item.failure
                    return
                waiting.append(item)
                full = sum(one.square is not None for one in waiting) >= batch_size
                live = item.frame.kind in LIVE_KINDS and ready.empty()
                if full or live or len(waiting) >= _ERRORS_PER_BATCH + batch_size:
                    batch, waiting = waiting, []
                    yield from self._run(batch, score_min)
        finally:
            stop.set()
            # A camera that hangs must not hang us: the thread is a daemon and ends with the process.
            reader.join(timeout=2.0)

    def _run(self, batch: list[_Ready], score_min: float) -> Iterator[Found]:
        """Run the engine on the frames that have an image; frames are let go of as they are given out."""
        squares = [item.square for item in batch if item.square is not None]
        found = self.engine(np.stack(squares)) if squares else []
        if len(found) != len(squares):
            raise RuntimeError(f"the engine gave {len(found)} results for {len(squares)} images")
        results = iter(found)
        batch.reverse()
        while batch:
            item = batch.pop()
            assert item.frame is not None
            if item.place is None or item.frame.image is None:
                yield Found(item.frame, None)
            else:
                yield Found(item.frame, self._detections(item.frame, item.place, next(results), score_min))

    def _detections(self, frame: Frame, place: Placement, raw: ImageDetections, score_min: float) -> Detections:
        assert frame.image is not None
        height, width = frame.image.shape[:2]
        boxes = boxes_from_square(np.asarray(raw.boxes).reshape(-1, 4), place, self.input_spec.size, height, width)
        scores, labels = np.asarray(raw.scores, np.float32), np.asarray(raw.labels, np.int64)
        # A box that lies wholly in a letterbox's bars has no area once it is clipped to the image.
        has_area = (boxes[:, 2] > boxes[:, 0]) & (boxes[:, 3] > boxes[:, 1])
        rows = np.flatnonzero((scores >= score_min) & has_area)[: self.max_detections]
        names = tuple(self.class_names[label] for label in labels[rows])
        return Detections(boxes[rows], scores[rows], labels[rows], names, frame.name, width, height)


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
    """The frame of an array or an image file; raises DataError."""
    if isinstance(source, np.ndarray):
        name = f"image {index}"
        return Frame(name, as_rgb(source, name), index)
    if isinstance(source, (str, Path)):
        from singleshot.data.images import read_image

        if Path(source).is_dir():
            raise DataError(f"{printable(source)}: a folder; use detector.stream(open_sources([...])) for it")
        return Frame(str(source), read_image(source), index, source=str(source))
    kind = type(source).__name__
    raise DataError(f"source of type {kind}: want a path, a uint8 RGB array [height, width, 3] or a list of them")


def _read_ahead(frames: Iterable[Frame], spec: InputSpec, ready: queue.Queue[_Ready], stop: threading.Event) -> None:
    """The reading thread: frames and their squares into the queue until the end, a failure or `stop`."""

    def put(item: _Ready) -> bool:
        while not stop.is_set():
            try:
                ready.put(item, timeout=0.1)
                return True
            except queue.Full:
                continue
        return False

    last = _Ready(None)
    try:
        for frame in frames:
            squared = () if frame.image is None else to_square(frame.image, spec)
            item = _Ready(frame, *squared)
            del frame
            if not put(item):
                break
            del item
    except BaseException as failure:
        last = _Ready(None, failure=failure)
    finally:
        close = getattr(frames, "close", None)  # a generator: release its video or camera here, now
        if close is not None:
            try:
                close()
            except Exception as failure:
                last = last if last.failure is not None else _Ready(None, failure=failure)
    put(last)
