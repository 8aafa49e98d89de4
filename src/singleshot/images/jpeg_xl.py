"""JPEG XL: size, orientation and channels by the first bits of a file (ISO/IEC 18181-1, annex D)."""

from __future__ import annotations

import struct
from typing import NamedTuple

CODESTREAM, CONTAINER = b"\xff\x0a", b"\0\0\0\x0cJXL \r\n\x87\n"
_RATIOS = {1: (1, 1), 2: (12, 10), 3: (4, 3), 4: (3, 2), 5: (16, 9), 6: (5, 4), 7: (2, 1)}
_MOST_BOXES = 1000
_HEADER_BYTES = 64


class ImageHeader(NamedTuple):
    """Width and height before any turn; orientation as EXIF has it, and the place of its first bit in the file, None
    where it is not said; extra: channels next to those of colour."""

    width: int
    height: int
    orientation: int
    bit: int | None
    extra: int


class _Bits:
    """Numbers from the lowest bit of each byte on. Raises IndexError where the data ends."""

    def __init__(self, data: bytes, at: int) -> None:
        self._number = int.from_bytes(data[at : at + _HEADER_BYTES], "little")
        self.place, self._end = 0, 8 * min(_HEADER_BYTES, max(0, len(data) - at))

    def take(self, count: int) -> int:
        if self.place + count > self._end:
            raise IndexError("the header ends early")
        value = self._number >> self.place & ((1 << count) - 1)
        self.place += count
        return value

    def choose(self, *ways: tuple[int, int]) -> int:
        """Two bits choose one of four ways: how many bits follow, and what is added to them."""
        bits, offset = ways[self.take(2)]
        return offset + self.take(bits)


def image_header(data: bytes) -> ImageHeader | None:
    """What the header says; None where there is none. Raises IndexError or struct.error where the data ends."""
    start = _codestream(data)
    if start is None:
        return None
    bits = _Bits(data, start + 2)
    width, height = _size(bits)
    if bits.take(1):  # all as usual
        return ImageHeader(width, height, 1, None, 0)
    orientation, place = 1, None
    if bits.take(1):
        place = 8 * (start + 2) + bits.place
        orientation = 1 + bits.take(3)
        if bits.take(1):
            _size(bits)  # of how it is shown
        if bits.take(1):
            _preview(bits)
        if bits.take(1):
            _animation(bits)
    _depth(bits)
    bits.take(1)  # 16 bits suffice
    return ImageHeader(width, height, orientation, place, bits.choose((0, 0), (0, 1), (4, 2), (12, 1)))


def _codestream(data: bytes) -> int | None:
    if data.startswith(CODESTREAM):
        return 0
    at = 0
    for _ in range(_MOST_BOXES):
        size, kind = struct.unpack_from(">I4s", data, at)
        head = 8
        if size == 1:
            size, head = struct.unpack_from(">Q", data, at + 8)[0], 16
        if kind in (b"jxlc", b"jxlp"):
            start = at + head + 4 * (kind == b"jxlp")
            return start if data[start : start + 2] == CODESTREAM else None
        if size < head:
            return None
        at += size
    return None


def _size(bits: _Bits) -> tuple[int, int]:
    ways = (9, 1), (13, 1), (18, 1), (30, 1)
    eighths = bits.take(1)
    height = 8 * (1 + bits.take(5)) if eighths else bits.choose(*ways)
    ratio = _RATIOS.get(bits.take(3))
    if ratio is not None:
        return height * ratio[0] // ratio[1], height
    return 8 * (1 + bits.take(5)) if eighths else bits.choose(*ways), height


def _preview(bits: _Bits) -> None:
    eighths = bits.take(1)
    ways = ((0, 16), (0, 32), (5, 1), (9, 33)) if eighths else ((6, 1), (8, 65), (10, 321), (12, 1345))
    bits.choose(*ways)
    if bits.take(3) == 0:
        bits.choose(*ways)


def _animation(bits: _Bits) -> None:
    bits.choose((0, 100), (0, 1000), (10, 1), (30, 1))
    bits.choose((0, 1), (0, 1001), (8, 1), (10, 1))
    bits.choose((0, 0), (3, 0), (16, 0), (32, 0))
    bits.take(1)


def _depth(bits: _Bits) -> None:
    if bits.take(1):  # floats
        bits.choose((0, 32), (0, 16), (0, 24), (6, 1))
        bits.take(4)
    else:
        bits.choose((0, 8), (0, 10), (0, 12), (6, 1))
