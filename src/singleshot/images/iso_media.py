"""AVIF and HEIC: what the boxes of the ISO base media file format say of the primary image's size and turn.

ISO/IEC 14496-12 (boxes), 23008-12 (items and their properties). Nothing is decoded; every walk is bounded.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import NamedTuple

_AVIF, _HEIC = {b"avif", b"avis"}, {b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1"}
_MOST_BOXES, _MOST_ITEMS = 4096, 65_536
# (irot: quarter turns anticlockwise, imir: the axis or None) -> EXIF's orientation; the turn comes first (ISO/IEC
# 23000-22, 7.3.9). Axis 0 exchanges top and bottom, 1 left and right.
_ORIENTATIONS = {
    (0, None): 1, (1, None): 8, (2, None): 3, (3, None): 6,
    (0, 0): 4, (1, 0): 5, (2, 0): 2, (3, 0): 7,
    (0, 1): 2, (1, 1): 7, (2, 1): 4, (3, 1): 5,
}  # fmt: skip


class PrimaryImage(NamedTuple):
    """Width and height before any turn; orientation as EXIF has it; turns: where the associations of the turns stand,
    place and length, which are nothing where they are 0."""

    width: int
    height: int
    orientation: int
    turns: tuple[tuple[int, int], ...]


def iso_ending(data: bytes) -> str:
    """ "avif" or "heic" by the brands of a file; "" for any other."""
    if data[4:8] != b"ftyp":
        return ""
    end = min(len(data), int.from_bytes(data[:4], "big"), 256)
    brands = {data[8:12], *(data[at : at + 4] for at in range(16, end, 4))}
    return "avif" if brands & _AVIF else "heic" if brands & _HEIC else ""


def primary_image(data: bytes) -> PrimaryImage | None:
    """What a file says of its primary image; None where it says no size. Raises struct.error where the data ends."""
    for kind, start, end in _boxes(data, 0, len(data)):
        if kind == b"meta" and end <= len(data):
            return _primary(data, start + 4, end)
    return None


def _boxes(data: bytes, start: int, end: int) -> Iterator[tuple[bytes, int, int]]:
    """Kind, start of the body and end of each box."""
    for _ in range(_MOST_BOXES):
        if start + 8 > end:
            return
        size, kind = struct.unpack_from(">I4s", data, start)
        body = start + 8
        if size == 1:
            size, body = struct.unpack_from(">Q", data, body)[0], start + 16
        stop = start + size if size else end
        if stop < body:
            return
        yield kind, body, stop
        start = stop


def _primary(data: bytes, start: int, end: int) -> PrimaryImage | None:
    item = None
    properties: list[tuple[bytes, int, int]] = []
    linked: list[tuple[int, int, int, int]] = []
    for kind, at, stop in _boxes(data, start, end):
        if kind == b"pitm":
            item = struct.unpack_from(">I" if data[at] else ">H", data, at + 4)[0]
        if kind != b"iprp":
            continue
        for inner, body, last in _boxes(data, at, stop):
            if inner == b"ipco":
                properties = list(_boxes(data, body, last))
            elif inner == b"ipma":
                linked += list(_associations(data, body))
    size, turn, mirror, clean = None, 0, None, None
    turns: list[tuple[int, int]] = []
    for owner, index, place, length in linked:
        if owner != item or not 0 < index <= len(properties):
            continue
        kind, at, stop = properties[index - 1]
        if kind == b"ispe" and size is None:
            size = struct.unpack_from(">II", data, at + 4)
        elif kind == b"irot" and stop > at:
            turn, turns = data[at] & 3, [*turns, (place, length)]
        elif kind == b"imir" and stop > at:
            mirror, turns = data[at] & 1, [*turns, (place, length)]
        elif kind == b"clap":
            clean = struct.unpack_from(">IIII", data, at)
    if size is None:
        return None
    if clean is not None and iso_ending(data) == "heic" and clean[1] and clean[3]:  # AVIF's decoders leave it alone
        size = min(size[0], clean[0] // clean[1]), min(size[1], clean[2] // clean[3])
    return PrimaryImage(size[0], size[1], _ORIENTATIONS[turn, mirror], tuple(turns))


def _associations(data: bytes, at: int) -> Iterator[tuple[int, int, int, int]]:
    """Item, number of its property from 1, and place and length of the entry that says so."""
    version, flags, count = data[at], data[at + 3], struct.unpack_from(">I", data, at + 4)[0]
    name, width, at = (">I" if version else ">H"), 1 + (flags & 1), at + 8
    for _ in range(min(count, _MOST_ITEMS)):
        item = struct.unpack_from(name, data, at)[0]
        at += struct.calcsize(name)
        entries, at = data[at], at + 1
        for _ in range(entries):
            # The highest bit says whether a reader must know the property.
            number = data[at] & 0x7F if width == 1 else struct.unpack_from(">H", data, at)[0] & 0x7FFF
            yield item, number, at, width
            at += width
