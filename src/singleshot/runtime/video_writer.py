"""A video file that browsers play, each frame in its time."""

from __future__ import annotations

import contextlib
import errno
import functools
import os
import shutil
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np

from singleshot.images.quiet import quiet_opencv
from singleshot.runtime.video_reader import open_capture

_LEAST_SIDE = 16  # pixels: a macroblock, which all encoders take
_LONGEST_GAP = 60.0  # seconds without a frame that are kept; clocks that jump must not fill the disk
_LEAST_FREE = 8 * 2**20  # bytes: OpenCV does not say that the disk is full
_LOOK_EVERY = 32  # frames between two looks at the disk


class Codec(NamedTuple):
    """title: to say; tag: OpenCV's four characters; suffix: of the file."""

    title: str
    tag: str
    suffix: str


# The best first. Browsers play all but the last. VP9 would be smaller, but takes 4 to 7 times as long as VP8 with the
# settings that OpenCV encodes with, and cannot be given others.
CODECS = (
    Codec("H.264 in MP4", "avc1", ".mp4"),
    Codec("VP8 in WebM", "VP80", ".webm"),
    Codec("MPEG-4 Part 2 in MP4, which browsers do not play", "mp4v", ".mp4"),
)


@functools.lru_cache(maxsize=64)
def usable_codec(width: int, height: int, rate: float) -> Codec | None:
    """The first codec that OpenCV encodes here, tried with a picture of that size; None without any."""
    size = _even_size(width, height)
    with tempfile.TemporaryDirectory(prefix="singleshot-", ignore_cleanup_errors=True) as folder:
        for codec in CODECS:
            trial = Path(folder) / f"trial{codec.suffix}"
            writer = _open_writer(trial, codec, rate, size)
            writer.write(np.zeros((size[1], size[0], 3), np.uint8))
            writer.release()
            if trial.is_file() and _count(trial) >= 1:
                return codec
    return None


class VideoFile:
    """Frames at a constant rate, each at the place of its time: one that is shown for longer is repeated, and of two
    that fall on one place the later is taken. Frames of other sizes are resized to the first.

    Raises OSError where the disk is full or the file cannot be written.
    """

    def __init__(self, path: Path, codec: Codec, rate: float, width: int, height: int) -> None:
        self._path, self._rate = path, rate
        self._size, self._padded = (width, height), _even_size(width, height)
        self._writer = _open_writer(path, codec, rate, self._padded)
        if not self._writer.isOpened():
            raise OSError(errno.EIO, f"the encoder of {codec.title} does not open")
        self._written = 0
        self._first: float | None = None
        self._shift = 0.0
        self._last: np.ndarray | None = None

    def add(self, bgr: np.ndarray, seconds: float | None) -> None:
        """A frame, and when it is shown; None: right after the one before."""
        place = self._written + (self._last is not None)
        if seconds is not None:
            self._first = seconds if self._first is None else self._first
            wanted = round((seconds - self._first - self._shift) * self._rate)
            if wanted - place > _LONGEST_GAP * self._rate:
                self._shift += (wanted - place) / self._rate
                wanted = place
            place = max(wanted, 0)
        if self._last is not None:
            for _ in range(place - self._written):
                self._write(self._last)
        self._last = self._fitted(bgr)

    def _fitted(self, bgr: np.ndarray) -> np.ndarray:
        if bgr.shape[1::-1] != self._size:
            bgr = cv2.resize(bgr, self._size, interpolation=cv2.INTER_AREA)
        right, below = self._padded[0] - self._size[0], self._padded[1] - self._size[1]
        return cv2.copyMakeBorder(bgr, 0, below, 0, right, cv2.BORDER_REPLICATE) if right or below else bgr

    def _write(self, bgr: np.ndarray) -> None:
        if self._written % _LOOK_EVERY == 0 and shutil.disk_usage(self._path.parent).free < _LEAST_FREE:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        self._writer.write(bgr)
        self._written += 1

    def close(self) -> None:
        """Finish the file, and see that it holds what was written."""
        if self._last is not None:
            self._write(self._last)
            self._last = None
        self._writer.release()
        there = _count(self._path)
        if there < 0.95 * self._written - 2:
            raise OSError(
                errno.EIO, f"{there:.0f} of {self._written} frames of a video were written; is the disk full?"
            )


def _even_size(width: int, height: int) -> tuple[int, int]:
    """What encoders take: colours are stored for two by two pixels."""
    return max(width + width % 2, _LEAST_SIDE), max(height + height % 2, _LEAST_SIDE)


def _open_writer(path: Path, codec: Codec, rate: float, size: tuple[int, int]) -> cv2.VideoWriter:
    with quiet_opencv(), _quiet_stderr():
        return cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*codec.tag), rate, size)


def _count(path: Path) -> float:
    """Frames of a finished file as its header says, 0 where it cannot be opened."""
    capture = open_capture(str(path))
    if capture is None:
        return 0
    count = capture.get(cv2.CAP_PROP_FRAME_COUNT)
    capture.release()
    return count


@contextlib.contextmanager
def _quiet_stderr() -> Iterator[None]:
    """For a moment without standard error: OpenCV prints there, whatever its level of logging, that a container has no
    four characters for its codec."""
    sys.stderr.flush()
    try:
        kept = os.dup(2)
    except OSError:  # there is none
        yield
        return
    try:
        with Path(os.devnull).open("wb") as nothing:
            os.dup2(nothing.fileno(), 2)
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
