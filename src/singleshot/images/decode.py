"""Bytes of an image file -> pixels, with limits that hold before anything is decoded.

Only formats whose header is read here are decoded, so that the pixel limit holds for every one of them.
OpenCV's behaviour is kept where formats differ: alpha is dropped, grey becomes three equal channels, 16 bits become 8
(their upper half, or stretched), and of an animation the first frame is taken. Pictures are turned upright as
`orientation` reads it.
"""

from __future__ import annotations

import contextlib
import zlib
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np

from singleshot.errors import DataError, printable
from singleshot.images.decode_limits import is_whole_png, overload
from singleshot.images.extra_decoders import decode_extra, is_extra, missing_decoder
from singleshot.images.headers import ending_of, header_size
from singleshot.images.orientation import has_own_tag, may_follow, orientation, turned
from singleshot.images.quiet import quiet_opencv
from singleshot.images.samples import (
    UnreadImageError,
    decode_deep,
    deep_bits,
    needs_16_bits,
    unread_samples,
    without_premultiplying,
)
from singleshot.storage import read_limited

MAX_FILE_BYTES = 256 * 2**20
MAX_PIXELS = 100_000_000
FORMATS = "JPEG, PNG, WebP, BMP, TIFF, GIF, AVIF, HEIC or JPEG XL"

_RGB = cv2.IMREAD_COLOR_RGB | cv2.IMREAD_IGNORE_ORIENTATION
# OpenCV names the reduced reading for BGR only; its flags are the sums.
_READ = {1: _RGB, **{r: _RGB | (8 * r) for r in (2, 4, 8)}}
# Scales of the sides that a JPEG's blocks allow, at less cost than the whole.
_GREY = {
    8: cv2.IMREAD_REDUCED_GRAYSCALE_8,
    4: cv2.IMREAD_REDUCED_GRAYSCALE_4,
    2: cv2.IMREAD_REDUCED_GRAYSCALE_2,
    1: cv2.IMREAD_GRAYSCALE,
}
_DAMAGED = "damaged or cut short, does not decode; fetch it again or remove it from the data set"
_HEADER_BYTES = 1 << 18  # previews inside a camera's EXIF are smaller


class TooLargeError(DataError):
    """An image of more pixels than are decoded at once."""


def read_image(path: str | Path, sixteen_bit: str = "scale") -> np.ndarray:
    """Decode one file to uint8 RGB [H, W, 3]. sixteen_bit: how 16 bits become 8, one of inputs.SIXTEEN_BIT.

    Raises DataError when there is no such file, when it is a folder, empty, larger than 256 MB or 100 million
    pixels, not an image in one of FORMATS, or cut short; UnreadImageError, which is one, for samples that are not read.
    """
    return decode_image(read_limited(path, MAX_FILE_BYTES, "image"), printable(path), sixteen_bit=sixteen_bit)


def decode_image(data: bytes, name: str, reduce: int = 1, sixteen_bit: str = "scale") -> np.ndarray:
    """Decode the bytes of one image file to uint8 RGB [H, W, 3]; `name` is what messages call it.

    With reduce 2, 4 or 8 to that fraction of the sides, rounded up, which a JPEG decoder does for less than the whole.
    Raises DataError as `read_image` does.
    """
    check_image(data, name)
    return _decode(data, name, reduce, sixteen_bit)


def _decode(data: bytes, name: str, reduce: int, sixteen_bit: str) -> np.ndarray:
    image, cause = None, None
    ending = ending_of(data)
    if is_extra(ending):
        image = _shrunk(decode_extra(data, ending), reduce)
    elif not ends_early(data):
        try:
            with quiet_opencv():
                if needs_16_bits(data, sixteen_bit):
                    image = _shrunk(decode_deep(data, name, sixteen_bit), reduce)
                elif ending == "avif":
                    image = _shrunk(_read_avif(data), reduce)
                else:
                    image = cv2.imdecode(np.frombuffer(without_premultiplying(data), np.uint8), _READ[reduce])
        except cv2.error as error:
            cause = error
    if image is None:
        raise DataError(f"{printable(name)}: {_DAMAGED}") from cause
    if ending == "bmp" and data[28:30] == b"\x10\0":  # 16 bits: OpenCV leaves the lowest bits of each channel 0
        image |= image >> 5
    return image if is_extra(ending) or has_own_tag(data) else turned(image, orientation(data))


def _read_avif(data: bytes) -> np.ndarray | None:
    """As BGR: OpenCV 5.0 leaves it so where RGB is asked for and there is an alpha channel."""
    image = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR | cv2.IMREAD_IGNORE_ORIENTATION)
    return None if image is None else cv2.cvtColor(image, cv2.COLOR_BGR2RGB, dst=image)


def _shrunk(image: np.ndarray | None, reduce: int) -> np.ndarray | None:
    """By means, as a decoder at a part of the size would."""
    if image is None or reduce == 1:
        return image
    sides = -(-image.shape[1] // reduce), -(-image.shape[0] // reduce)
    return cv2.resize(image, sides, interpolation=cv2.INTER_AREA)


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
    missing = missing_decoder(ending_of(data))
    if missing:
        raise UnreadImageError(f"{printable(name)}: {missing}")
    width, height = size
    if not width * height:
        raise DataError(f"{printable(name)}: {width} x {height} pixels, none at all; fetch it again or remove it")
    if width * height > MAX_PIXELS:
        raise TooLargeError(
            f"{printable(name)}: {width} x {height} pixels (at most {MAX_PIXELS // 10**6} million are read); "
            "cut or shrink it, or detect in it with --tile"
        )
    message = overload(data, width, height)
    if message:
        raise DataError(
            f"{printable(name)}: {message}; decoding it could take minutes or all memory: save it anew, or remove it"
        )
    unread = unread_samples(data)
    if unread:
        raise UnreadImageError(f"{printable(name)}: {unread}")
    return size


def upright_size(data: bytes, name: str) -> tuple[int, int]:
    """(width, height) as decoding gives them, of bytes that may be decoded; else DataError as `check_image`."""
    width, height = check_image(data, name)
    return (height, width) if orientation(data) >= 5 else (width, height)


def verify_image(data: bytes, name: str) -> tuple[int, int]:
    """As `upright_size`, of bytes that do decode, as far as is found out at little cost; else DataError."""
    size = upright_size(data, name)
    image = None
    if not ends_early(data):
        with contextlib.suppress(cv2.error), quiet_opencv():
            image = decode_grey(data, size, 1)
    if image is None:
        raise DataError(f"{printable(name)}: {_DAMAGED}")
    return size


def decode_unscaled(data: bytes, flag: int, turn: int | None = None) -> np.ndarray | None:
    """Grey [H, W] or BGR [H, W, 3] by OpenCV's flag, upright, in 16 bits where a PNG or TIFF has more than 8, of bytes
    that passed `check_image`; None where they do not decode. turn: their orientation, where it is known. May raise
    cv2.error."""
    ending = ending_of(data)
    if is_extra(ending):
        image = decode_extra(data, ending)
        as_asked = cv2.COLOR_RGB2BGR if flag & cv2.IMREAD_COLOR else cv2.COLOR_RGB2GRAY
        return None if image is None else cv2.cvtColor(image, as_asked)
    flag |= cv2.IMREAD_IGNORE_ORIENTATION | cv2.IMREAD_ANYDEPTH * bool(deep_bits(data))
    image = cv2.imdecode(np.frombuffer(without_premultiplying(data), np.uint8), flag)
    if image is None or has_own_tag(data):
        return image
    return turned(image, orientation(data) if turn is None else turn)


def decode_grey(data: bytes, size: tuple[int, int], least: int, turn: int | None = None) -> np.ndarray | None:
    """As `decode_unscaled`, grey. size: as `check_image` has it. A JPEG comes in the smallest of its own scales whose
    sides have `least` pixels: all of the file is read, with the same words about damage, and less is computed."""
    fits = (scale for scale in _GREY if scale == 1 or (data[:2] == b"\xff\xd8" and min(size) >= least * scale))
    return decode_unscaled(data, _GREY[next(fits)], turn)


class Encoded(NamedTuple):
    """An image file read but not decoded: width and height as it will be, upright; sixteen_bit as in `read_image`."""

    data: bytes
    width: int
    height: int
    name: str
    sixteen_bit: str = "scale"

    @property
    def reductions(self) -> tuple[int, ...]:
        """What `decode` can divide the sides by, at less cost than the whole: JPEG's blocks allow it."""
        return (1, 2, 4, 8) if self.data[:2] == b"\xff\xd8" else (1,)

    @property
    def checksum(self) -> int:
        """CRC-32 of the file's bytes."""
        return zlib.crc32(self.data)

    def decode(self, reduce: int = 1) -> np.ndarray:
        """uint8 RGB; DataError as `decode_image`."""
        return _decode(self.data, self.name, reduce, self.sixteen_bit)


def read_encoded(path: str, sixteen_bit: str = "scale") -> Encoded:
    """Read a file as far as its header. Raises DataError as `read_image`, but for damage beyond the header."""
    data = read_limited(path, MAX_FILE_BYTES, "image")
    return Encoded(data, *upright_size(data, path), path, sixteen_bit)


def image_size(path: str | Path) -> tuple[int, int]:
    """(width, height) as `read_image` gives them, by the header and without decoding. Raises DataError."""
    data = read_limited(path, MAX_FILE_BYTES, "image", most=_HEADER_BYTES)
    if len(data) == _HEADER_BYTES and (header_size(data) is None or may_follow(data)):
        data = read_limited(path, MAX_FILE_BYTES, "image")  # a long preface, or a directory at the end
    return upright_size(data, str(path))


def ends_early(data: bytes) -> bool:
    """Whether the format's end mark is missing: some decoders fill the rest with grey and say nothing."""
    if data[:2] == b"\xff\xd8":
        return data.rfind(b"\xff\xd9") < 0
    return data[:4] == b"\x89PNG" and not is_whole_png(data)
