"""Frames of videos, cameras and streams, upright and with the time at which each is shown."""

from __future__ import annotations

import itertools
import threading
import time
from collections.abc import Iterator

import cv2
import numpy as np

from singleshot.images.quiet import quiet_opencv

# Packets whose times say how far frames are apart.
_PACKETS = 300
_HIGHEST_RATE = 240.0  # frames per second: slow motion of phones; WebM files of browsers say 1000
_USUAL_INTERVAL = 0.04
_WAIT_SECONDS = 0.5  # between two looks whether a live source is still wanted
# A video that ends before this share of the time that its header says has broken off. Headers estimate, and sound may
# go on for longer than pictures do.
_WHOLE = 0.9


def open_capture(target: str | int, packets: bool = False) -> cv2.VideoCapture | None:
    """An opened video or None; packets: as they are in the file, not decoded. OpenCV's complaints are not printed."""
    try:
        with quiet_opencv():
            if packets:
                capture = cv2.VideoCapture(str(target), cv2.CAP_FFMPEG, [cv2.CAP_PROP_FORMAT, -1])
            else:
                capture = cv2.VideoCapture(target)
    except cv2.error:
        return None
    if not capture.isOpened():
        capture.release()
        return None
    return capture


class VideoReader:
    """The frames of an opened video as (time, uint8 RGB [H, W, 3]); time: seconds since the beginning, ever later.

    A phone's rotation is applied to the frames. rate: frames per second at which each has a place of its own, by the
    times of the first packets, None where unknown; total: how many frames there are about, None where unknown;
    broke_off: after the last frame, why these were not all.
    """

    def __init__(self, capture: cv2.VideoCapture, path: str | None) -> None:
        self._capture = capture
        capture.set(cv2.CAP_PROP_ORIENTATION_AUTO, 1)
        header = capture.get(cv2.CAP_PROP_FPS)
        count = capture.get(cv2.CAP_PROP_FRAME_COUNT)
        known = np.isfinite(count) and count > 0
        self._seconds = count / header if known and header > 0 else None
        usable = np.isfinite(header) and 0 < header <= _HIGHEST_RATE
        self.rate = (None if path is None else _packet_rate(path, header)) or (float(header) if usable else None)
        self.total: int | None = int(count) if known and usable else None
        if self.total is None and self._seconds and self.rate:
            self.total = round(self._seconds * self.rate)
        self.broke_off: str | None = None

    @property
    def is_recorded(self) -> bool:
        """Whether it has an end."""
        return self._seconds is not None

    def __iter__(self) -> Iterator[tuple[float, np.ndarray]]:
        interval = 1 / self.rate if self.rate else _USUAL_INTERVAL
        last = -interval
        for number in itertools.count():
            good, bgr = self._capture.read()
            if not good or bgr is None:
                break
            now = self._capture.get(cv2.CAP_PROP_POS_MSEC) / 1000
            if not now > last:  # a frame without a time of its own
                now = last + interval if number else 0.0
            last = now
            yield now, cv2.cvtColor(bgr, cv2.COLOR_BGR2RGB)
        if number == 0:
            self.broke_off = "no frame in it can be read: it is broken, or in a codec that this OpenCV lacks"
        elif self._seconds is not None and last + interval < _WHOLE * self._seconds:
            self.broke_off = f"broke off after frame {number - 1}, at {last:.1f} of about {self._seconds:.1f} seconds"


def _packet_rate(path: str, header: float) -> float | None:
    """Frames per second by the shortest usual distance of the first packets' times."""
    capture = open_capture(path, packets=True)
    if capture is None:
        return None
    times: list[float] = []
    try:
        while len(times) < _PACKETS and capture.grab():
            times.append(capture.get(cv2.CAP_PROP_POS_MSEC) / 1000)
    finally:
        capture.release()
    apart = np.diff(np.unique(times))  # packets come in the order of decoding
    apart = apart[apart >= 1 / (2 * _HIGHEST_RATE)]
    if not len(apart):
        return None
    shortest = np.percentile(apart, 5)
    rate = min(1 / float(apart[apart < 1.5 * shortest].mean()), _HIGHEST_RATE)
    # Times are often in whole milliseconds: a header that agrees is exact.
    return float(header) if abs(header / rate - 1) < 0.02 else rate


class LiveReader:
    """The newest frame of a camera or stream whenever one is asked for: a thread reads on and drops the others."""

    def __init__(self, capture: cv2.VideoCapture) -> None:
        self._capture = capture
        rate = capture.get(cv2.CAP_PROP_FPS)
        self.rate = float(rate) if np.isfinite(rate) and 0 < rate <= _HIGHEST_RATE else None
        self._state = threading.Condition()
        self._newest: tuple[float, np.ndarray] | None = None
        self._ended = False

    def __iter__(self) -> Iterator[tuple[float, np.ndarray]]:
        started = time.monotonic()
        thread = threading.Thread(target=self._run, name="singleshot-live", daemon=True)
        thread.start()
        try:
            while True:
                with self._state:
                    while self._newest is None and not self._ended:
                        self._state.wait(_WAIT_SECONDS)
                    newest, self._newest = self._newest, None
                if newest is None:
                    return
                yield newest[0] - started, cv2.cvtColor(newest[1], cv2.COLOR_BGR2RGB)
        finally:
            with self._state:
                self._ended = True
            thread.join(_WAIT_SECONDS)  # not for a camera that hangs

    def _run(self) -> None:
        """Read until nobody wants more; the capture is released by who reads from it."""
        while not self._ended:
            good, bgr = self._capture.read()
            with self._state:
                if not good or bgr is None:
                    self._ended = True
                else:
                    self._newest = (time.monotonic(), bgr)
                self._state.notify_all()
        self._capture.release()
