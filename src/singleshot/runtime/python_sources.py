"""What Python code hands over to a detector, alone or in lists: arrays, pictures of Pillow, bytes, open files, paths
and whatever else `open_sources` takes."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from singleshot.errors import DataError, printable
from singleshot.images.decode import MAX_FILE_BYTES
from singleshot.runtime.sources import Frame, open_sources, unreadable

Bytes = bytes | bytearray | memoryview
# An image: an array, a path, the bytes of an image file, a file that is open for reading, or a picture of Pillow (which
# is not imported here, and so has no type of its own).
Image = np.ndarray | str | Path | Bytes | Any
_WANTED = "a path, a uint8 RGB array [height, width, 3], the bytes of an image file, an open file, a Pillow image"


def as_rgb(image: np.ndarray, name: str, bgr: bool = False) -> np.ndarray:
    """uint8 RGB [H, W, 3] of an array that is that, with alpha or not, or grey ([H, W], one channel, two with alpha);
    bgr: its colours are in OpenCV's order. Raises DataError otherwise."""
    if image.dtype != np.uint8:
        hint = "; multiply by 255 and round first" if image.dtype.kind == "f" else ""
        hint = (
            "; give the path of its file, which becomes 8 bits as the model wants it"
            if image.dtype == np.uint16
            else hint
        )
        raise DataError(f"{printable(name)}: values of type {image.dtype} (want uint8, 0 to 255){hint}")
    if image.ndim == 2:
        image = image[:, :, None]
    if image.ndim != 3 or image.shape[2] not in (1, 2, 3, 4) or 0 in image.shape:
        raise DataError(f"{printable(name)}: array of shape {list(image.shape)} (want RGB [height, width, 3])")
    if image.shape[2] <= 2:
        return np.repeat(image[:, :, :1], 3, axis=2)
    return np.ascontiguousarray(image[:, :, 2::-1] if bgr else image[:, :, :3])


def frame_of(source: Image, index: int, sixteen_bit: str = "scale", bgr: bool = False) -> Frame:
    """The frame of one image, whose file is still to be read or decoded. Raises DataError for anything else."""
    name = f"image {index}"
    if isinstance(source, np.ndarray):
        return Frame(name, as_rgb(source, name, bgr), index)
    if isinstance(source, (str, Path)):
        if Path(source).is_dir():
            raise DataError(f"{printable(source)}: a folder; use detector.stream for it")
        return Frame(str(source), None, index, source=str(source), path=str(source))
    if isinstance(source, Bytes):
        return Frame(name, None, index, data=bytes(source))
    if _is_pillow(source):
        return Frame(name, _of_pillow(source, name, sixteen_bit), index)
    if hasattr(source, "read"):
        name = str(getattr(source, "name", name))
        data = source.read(MAX_FILE_BYTES + 1)
        if not isinstance(data, bytes):
            raise DataError(f"{printable(name)}: a file of text; open it with mode 'rb'")
        return Frame(name, None, index, data=data)
    raise DataError(f"source of type {type(source).__name__}: want {_WANTED}, or a list of them")


def pixels_of(source: Image) -> np.ndarray:
    """uint8 RGB [H, W, 3] of one image, that of a file upright. Raises DataError."""
    frame = frame_of(source, 0)
    if frame.image is not None:
        return frame.image
    from singleshot.images.decode import decode_image, read_image

    return decode_image(frame.data, frame.name) if frame.data is not None else read_image(str(frame.path))


class SourceFrames:
    """Frames of one source or of an iterable of them, of any kind, in order; frames are passed on as they are.

    A path, pattern, address or camera's number alone is opened at once, which raises DataError; in a list, what cannot
    be opened or read comes as a frame with `error`, and the next one follows. What the iterable raises is raised.
    `close` closes what is open, and the iterable.
    """

    def __init__(self, sources: Image | int | Iterable[Any], sixteen_bit: str = "scale", bgr: bool = False) -> None:
        self._sixteen_bit, self._bgr = sixteen_bit, bgr
        self._given, self._count = sources, 0
        self._opened: Iterator[Frame] | None = None
        if isinstance(sources, (str, Path, int)):
            self._opened, sources = self._open(sources), ()
        elif isinstance(sources, (np.ndarray, Bytes, Frame)) or hasattr(sources, "read") or _is_pillow(sources):
            sources = (sources,)
        elif not isinstance(sources, Iterable):
            frame_of(sources, 0)  # which says what it is
        self._rest = iter(sources)

    def __iter__(self) -> SourceFrames:
        return self

    def __next__(self) -> Frame:
        while True:
            if self._opened is not None:
                frame = next(self._opened, None)
                if frame is not None:
                    return self._numbered(frame)
                self._opened = None
            source = next(self._rest)
            if isinstance(source, Frame):
                return source
            try:
                if not isinstance(source, (str, Path, int)):
                    return self._numbered(frame_of(source, self._count, self._sixteen_bit, self._bgr))
                self._opened = self._open(source)
            except Exception as error:
                return self._numbered(_failed(error, source, self._count))

    def close(self) -> None:
        """Let go of videos and cameras."""
        for one in (self._opened, self._given):
            close = getattr(one, "close", None)
            if isinstance(one, Iterator) and close is not None:
                close()

    def _open(self, source: str | Path | int) -> Iterator[Frame]:
        return open_sources([str(source)], decode=False, sixteen_bit=self._sixteen_bit)

    def _numbered(self, frame: Frame) -> Frame:
        self._count += 1
        return replace(frame, index=self._count - 1)


def _failed(error: Exception, source: object, index: int) -> Frame:
    name = str(source) if isinstance(source, (str, Path, int)) else f"image {index}"
    if not isinstance(error, DataError):
        error = DataError(f"{printable(name)}: {unreadable(error)}")
    return Frame(name, None, index, error=error)


def _is_pillow(source: object) -> bool:
    """Whether it is a picture of Pillow, which need not be installed."""
    return all(hasattr(source, name) for name in ("getbands", "convert", "tobytes"))


def _of_pillow(source: Any, name: str, sixteen_bit: str) -> np.ndarray:
    """Its pixels as they lie: what its EXIF data says of turning is left to `ImageOps.exif_transpose`."""
    from singleshot.images.samples import stretched

    if source.mode in ("I", "F"):
        raise DataError(f"{printable(name)}: a Pillow image of mode {source.mode} (want 8 or 16 bits)")
    if not source.mode.startswith("I;16"):
        return as_rgb(np.asarray(source.convert("RGB")), name)
    samples = np.asarray(source).astype(np.uint16)
    return as_rgb(stretched(samples) if sixteen_bit == "stretch" else (samples >> 8).astype(np.uint8), name)
