"""Annotated pictures and videos."""

from __future__ import annotations

import contextlib
from pathlib import Path, PurePath

import cv2
import numpy as np

from singleshot.errors import ConfigError, printable
from singleshot.files import atomic_write
from singleshot.images.drawn_mark import mark_picture
from singleshot.runtime.detections import Detections
from singleshot.runtime.drawing import USUAL, DrawOptions, draw_detections
from singleshot.runtime.names import Begun, OutputNames, safe_stem
from singleshot.runtime.sources import Frame
from singleshot.runtime.video_writer import VideoFile, usable_codec

_JPEG_LIMIT = 65_500  # pixels a side, libjpeg's JPEG_MAX_DIMENSION
_DEFAULT_FPS = 25.0  # where a camera or a stream does not say


def _write_picture(names: OutputNames, name: str, bgr: np.ndarray) -> None:
    """A picture under a free name: PNG stays PNG, everything else becomes JPEG. Raises ConfigError."""
    png = PurePath(name).suffix.lower() == ".png" or max(bgr.shape) > _JPEG_LIMIT
    path = names.free(name, ".png" if png else ".jpg")
    options = [] if png else [cv2.IMWRITE_JPEG_QUALITY, 92]
    good, data = cv2.imencode(path.suffix, bgr, options)
    if not good:
        raise ConfigError(f"{printable(path)}: the picture cannot be encoded; use --no-draw, without --crop")
    with atomic_write(path) as temporary:
        temporary.write_bytes(mark_picture(data.tobytes()))


class CropWriter:
    """One picture for each object, in a folder of its class: what its box holds of the image."""

    def __init__(self, folder: Path, begun: Begun = lambda _: None) -> None:
        self._folder, self._begun = folder, begun
        self._names: dict[str, OutputNames] = {}

    def add(self, frame: Frame, detections: Detections) -> None:
        """Write the objects of a frame. Raises ConfigError where that cannot be written."""
        assert frame.image is not None
        height, width = frame.image.shape[:2]
        for box, name in zip(detections.boxes, detections.names, strict=True):
            x0, y0 = (max(0, int(value)) for value in np.floor(box[:2]))
            x1, y1 = min(width, int(np.ceil(box[2]))), min(height, int(np.ceil(box[3])))
            if x0 < x1 and y0 < y1:
                names = self._names.setdefault(name, OutputNames(self._folder / safe_stem(name), self._begun))
                _write_picture(names, frame.name, cv2.cvtColor(frame.image[y0:y1, x0:x1], cv2.COLOR_RGB2BGR))


class PictureWriter:
    """Draws detections into a folder: one picture per image, one video per video, camera or stream.

    PNG stays PNG, every other image becomes JPEG; videos keep the times of their frames. Names come from the images'
    and never leave the folder. A video appears when its last frame is in, or on `close`. codecs: those of the videos.
    """

    def __init__(self, folder: Path, options: DrawOptions = USUAL, begun: Begun = lambda _: None) -> None:
        self._names, self._options = OutputNames(folder, begun), options
        self._stack = contextlib.ExitStack()
        self._video: VideoFile | None = None
        self._source: str | None = None
        self.codecs: set[str] = set()

    def add(self, frame: Frame, detections: Detections) -> None:
        """Draw on the frame's image and write it. Raises ConfigError or OSError when that cannot be written."""
        assert frame.image is not None
        drawn = cv2.cvtColor(draw_detections(frame.image, detections, self._options), cv2.COLOR_RGB2BGR)
        if frame.frame is None:
            self.close()
            _write_picture(self._names, frame.name, drawn)
            return
        if frame.source != self._source or frame.frame == 0:
            self.close()
            self._start(frame, drawn)
        assert self._video is not None
        self._video.add(drawn, frame.time)

    def _start(self, frame: Frame, bgr: np.ndarray) -> None:
        height, width = bgr.shape[:2]
        rate = frame.fps or _DEFAULT_FPS
        codec = usable_codec(width, height, rate)
        if codec is None:
            raise ConfigError(f"{printable(frame.source)}: no video encoder in this OpenCV; use --no-draw")
        temporary = self._stack.enter_context(atomic_write(self._names.free(frame.source, codec.suffix)))
        self._video = VideoFile(temporary, codec, rate, width, height)
        self._source = frame.source
        self.codecs.add(codec.title)

    def close(self) -> None:
        """Finish the video that is being written, if any. Raises OSError, and leaves none, where it is not whole."""
        video, self._video, self._source = self._video, None, None
        with self._stack:
            if video is not None:
                video.close()
