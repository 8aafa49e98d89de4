"""Annotated pictures and videos."""

from __future__ import annotations

import contextlib
from pathlib import Path, PurePath

import cv2
import numpy as np

from singleshot.errors import ConfigError, printable
from singleshot.files import abandon, atomic_write
from singleshot.images.drawn_mark import mark_picture
from singleshot.runtime.detections import Detections
from singleshot.runtime.drawing import USUAL, DrawOptions, draw_detections
from singleshot.runtime.names import Begun, OutputNames, safe_stem
from singleshot.runtime.sources import Frame

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

    PNG stays PNG, every other image becomes JPEG; videos become MP4 at the source's rate. Names come from
    the images' and never leave the folder. A video appears when its last frame is in, or on `close`.
    """

    def __init__(self, folder: Path, options: DrawOptions = USUAL, begun: Begun = lambda _: None) -> None:
        self._names, self._options = OutputNames(folder, begun), options
        self._stack = contextlib.ExitStack()
        self._video: cv2.VideoWriter | None = None
        self._source: str | None = None
        self._size = (0, 0)

    def add(self, frame: Frame, detections: Detections) -> None:
        """Draw on the frame's image and write it. Raises ConfigError when that cannot be written."""
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
        if drawn.shape[1::-1] != self._size:  # a stream may change its resolution, a file may not
            drawn = cv2.resize(drawn, self._size, interpolation=cv2.INTER_AREA)
        self._video.write(drawn)

    def _start(self, frame: Frame, bgr: np.ndarray) -> None:
        path = self._names.free(frame.source, ".mp4")
        temporary = self._stack.enter_context(atomic_write(path))
        self._size = (bgr.shape[1], bgr.shape[0])
        # MPEG-4 Part 2: the one MP4 encoder that every OpenCV wheel carries.
        codec = cv2.VideoWriter.fourcc(*"mp4v")
        self._video = cv2.VideoWriter(str(temporary), codec, frame.fps or _DEFAULT_FPS, self._size)
        if not self._video.isOpened():
            self._video = None
            abandon(self._stack)
            raise ConfigError(f"{printable(path)}: no MP4 encoder in this OpenCV; use --no-draw")
        self._source = frame.source

    def close(self) -> None:
        """Finish the video that is being written, if any."""
        if self._video is not None:
            self._video.release()
            self._video = None
        self._source = None
        self._stack.close()
