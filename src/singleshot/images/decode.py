"""Bytes of an image file -> pixels, with limits that hold before anything is decoded.

Only formats whose header is read here are decoded, so that the pixel limit holds for every one of them.
OpenCV's behaviour is kept where formats differ: an EXIF rotation is applied, alpha is dropped, grey becomes
three equal channels, 16 bits become 8, and of an animation the first frame is taken.
"""

from __future__ import annotations

import contextlib
import struct
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np

from singleshot.errors import DataError, printable
from singleshot.images.decode_limits import is_whole_png, overload, tiff_numbers
from singleshot.images.exif import may_follow, orientation
from singleshot.storage import read_limited

MAX_FILE_BYTES = 256 * 2**20
MAX_PIXELS = 100_000_000
FORMATS = "JPEG, PNG, WebP, BMP, TIFF or GIF"

# JPEG start-of-frame markers: C0..CF without DHT (C4), JPG (C8) and DAC (CC), ITU T.81 table B.1.
_JPEG_FRAMES = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
_JPEG_BARE = frozenset({0x01, *range(0xD0, 0xD8)})  # markers without a length: TEM, RST0..7

_RGB = cv2.IMREAD_COLOR_RGB
# OpenCV names the reduced reading for BGR only; its flags are the sums.
_READ = {1: _RGB, **{r: _RGB | (8 * r) for r in (2, 4, 8)}}
_HEADER_BYTES = 1 << 18  # previews inside a camera's EXIF are smaller
_JPEG_SEGMENTS = 100_000  # more than any camera writes; ends the walk through a hostile file


def read_image(path: str | Path) -> np.ndarray:
    """Decode one file to uint8 RGB [H, W, 3].

    Raises DataError when there is no such file, when it is a folder, empty, larger than 256 MB or 100 million
    pixels, not an image in one of FORMATS, or cut short.
    """
    return decode_image(read_limited(path, MAX_FILE_BYTES, "image"), printable(path))


def decode_image(data: bytes, name: str, reduce: int = 1) -> np.ndarray:
    """Decode the bytes of one image file to uint8 RGB [H, W, 3]; `name` is what messages call it.

    With reduce 2, 4 or 8 to that fraction of the sides, rounded up, which a JPEG decoder does for less than the whole.
    Raises DataError as `read_image` does.
    """
    check_image(data, name)
    return _decode(data, name, reduce)


def _decode(data: bytes, name: str, reduce: int) -> np.ndarray:
    image, cause = None, None
    if not ends_early(data):
        try:
            with _quiet_opencv():
                image = cv2.imdecode(np.frombuffer(data, np.uint8), _READ[reduce])
        except cv2.error as error:
            cause = error
    if image is None:
        raise DataError(
            f"{printable(name)}: damaged or cut short, does not decode; fetch it again or remove it from the data set"
        ) from cause
    return image


def check_image(data: bytes, name: str) -> tuple[int, int]:
    """(width, height) by the header, before any rotation, of bytes that may be decoded; else DataError."""
    if not data:
        raise DataError(f"{printable(name)}: empty file (want an image); fetch it again or remove it from the data set")
    if len(data) > MAX_FILE_BYTES:
        raise DataError(
            f"{printable(name)}: larger than {MAX_FILE_BYTES // 2**20} MB (the most that is read of one image file)"
        )
    size = header_size(data)
    if size is None:
        raise DataError(f"{printable(name)}: not an image that is read here (want {FORMATS}); convert or remove it")
    width, height = size
    if width * height > MAX_PIXELS:
        raise DataError(
            f"{printable(name)}: {width} x {height} pixels (at most {MAX_PIXELS // 10**6} million are read); "
            "cut or shrink it"
        )
    said = overload(data, width, height)
    if said:
        raise DataError(
            f"{printable(name)}: {said}; decoding it could take minutes or all memory: save it anew, or remove it"
        )
    return size


class Encoded(NamedTuple):
    """An image file read but not decoded: width and height as it will be, upright."""

    data: bytes
    width: int
    height: int
    name: str

    @property
    def reductions(self) -> tuple[int, ...]:
        """What `decode` can divide the sides by, at less cost than the whole: JPEG's blocks allow it."""
        return (1, 2, 4, 8) if self.data[:2] == b"\xff\xd8" else (1,)

    def decode(self, reduce: int = 1) -> np.ndarray:
        """uint8 RGB; DataError as `decode_image`."""
        return _decode(self.data, self.name, reduce)


def read_encoded(path: str) -> Encoded:
    """Read a file as far as its header. Raises DataError as `read_image`, but for damage beyond the header."""
    data = read_limited(path, MAX_FILE_BYTES, "image")
    width, height = check_image(data, path)
    if orientation(data) >= 5:
        width, height = height, width
    return Encoded(data, width, height, path)


def image_size(path: str | Path) -> tuple[int, int]:
    """(width, height) as `read_image` gives them, by the header and without decoding. Raises DataError."""
    data = read_limited(path, MAX_FILE_BYTES, "image", most=_HEADER_BYTES)
    if len(data) == _HEADER_BYTES and (header_size(data) is None or may_follow(data)):
        data = read_limited(path, MAX_FILE_BYTES, "image")  # a long preface, or a directory at the end
    width, height = check_image(data, str(path))
    return (height, width) if orientation(data) >= 5 else (width, height)


def header_size(data: bytes) -> tuple[int, int] | None:
    """(width, height) that the header declares, before any rotation; None for other formats or no header."""
    try:
        if data[:8] == b"\x89PNG\r\n\x1a\n":
            return struct.unpack(">II", data[16:24])
        if data[:3] == b"\xff\xd8\xff":
            return _jpeg_size(data)
        if data[:6] in (b"GIF87a", b"GIF89a"):
            return struct.unpack("<HH", data[6:10])
        if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
            return _webp_size(data)
        if data[:2] == b"BM":
            return _bmp_size(data)
        if data[:4] in (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+"):
            return _tiff_size(data)
    except (struct.error, IndexError):
        return None
    return None


def _jpeg_size(data: bytes) -> tuple[int, int] | None:
    at = 2
    for _ in range(_JPEG_SEGMENTS):
        at = data.find(b"\xff", at)  # decoders skip stray bytes between segments
        if at < 0:
            return None
        marker = data[at + 1]
        if marker == 0xFF:
            at += 1
        elif marker in _JPEG_BARE or marker == 0x00:
            at += 2
        elif marker in _JPEG_FRAMES:
            height, width = struct.unpack(">HH", data[at + 5 : at + 9])
            return width, height
        elif marker in (0xD9, 0xDA):
            return None  # pixels or the end came before any frame header
        else:
            at += 2 + struct.unpack(">H", data[at + 2 : at + 4])[0]
    return None


def _webp_size(data: bytes) -> tuple[int, int] | None:
    kind = data[12:16]
    if kind == b"VP8X":
        return 1 + int.from_bytes(data[24:27], "little"), 1 + int.from_bytes(data[27:30], "little")
    if kind == b"VP8L":
        bits = struct.unpack("<I", data[21:25])[0]
        return 1 + (bits & 0x3FFF), 1 + (bits >> 14 & 0x3FFF)
    if kind == b"VP8 ":
        width, height = struct.unpack("<HH", data[26:30])
        return width & 0x3FFF, height & 0x3FFF
    return None


def _bmp_size(data: bytes) -> tuple[int, int]:
    if struct.unpack("<I", data[14:18])[0] == 12:  # OS/2 core header
        return struct.unpack("<HH", data[18:22])
    width, height = struct.unpack("<ii", data[18:26])
    return abs(width), abs(height)  # a negative height means rows from the top


def _tiff_size(data: bytes) -> tuple[int, int] | None:
    told = tiff_numbers(data)
    width, height = told.get(256, -1), told.get(257, -1)  # ImageWidth, ImageLength
    return (width, height) if min(width, height) >= 0 else None


def ends_early(data: bytes) -> bool:
    """Whether the format's end mark is missing: some decoders fill the rest with grey and say nothing."""
    if data[:2] == b"\xff\xd8":
        return data.rfind(b"\xff\xd9") < 0
    return data[:4] == b"\x89PNG" and not is_whole_png(data)


_quiet_lock = threading.Lock()
_quiet_depth = 0
_quiet_before = 0


@contextlib.contextmanager
def _quiet_opencv() -> Iterator[None]:
    """Silence OpenCV's own log, since the DataError says it; the level comes back when the last thread leaves."""
    global _quiet_depth, _quiet_before
    log = cv2.utils.logging
    with _quiet_lock:
        if _quiet_depth == 0:
            _quiet_before = log.getLogLevel()
            log.setLogLevel(log.LOG_LEVEL_SILENT)
        _quiet_depth += 1
    try:
        yield
    finally:
        with _quiet_lock:
            _quiet_depth -= 1
            if _quiet_depth == 0:
                log.setLogLevel(_quiet_before)
