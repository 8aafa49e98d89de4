"""The orientation that a camera wrote into an image file, by the same rules as OpenCV applies it on decoding."""

from __future__ import annotations

import struct
import zlib

_TAG = 0x0112
_LONG = 4
_SEGMENTS = 100_000  # a PNG of 256 MB has 32,768 of the usual size


def orientation(data: bytes) -> int:
    """1 to 8 as EXIF has it; 1, upright, where nothing is said or the file is no JPEG, PNG, WebP or TIFF.

    From 5 on, width and height change places.
    """
    where = locate(data)
    return 1 if where is None else _value(data, where)


def locate(data: bytes) -> tuple[int, str] | None:
    """Where the two bytes of the orientation stand, and their order ("<" or ">"); None where there are none."""
    start = _exif_block(data)
    if start is None:
        return None
    order = {b"II": "<", b"MM": ">"}.get(data[start : start + 2])
    if order is None:
        return None
    # BigTIFF widens offsets and counts to 8 bytes, each entry from 12 to 20.
    big = start == 0 and data[2:4] in (b"+\0", b"\0+")
    offset, count, width, before = ("Q", "Q", 20, 12) if big else ("I", "H", 12, 8)
    try:
        at = start + struct.unpack_from(order + offset, data, start + (8 if big else 4))[0]
        first = at + struct.calcsize(order + count)
        for k in range(min(struct.unpack_from(order + count, data, at)[0], 4096)):
            entry = first + width * k
            tag, kind = struct.unpack_from(order + "HH", data, entry)
            if tag == _TAG:
                # A TIFF may have it as a long, whose lower half stands last in big-endian order.
                where = entry + before + (2 if start == 0 and kind == _LONG and order == ">" else 0)
                return (where, order) if 1 <= struct.unpack_from(order + "H", data, where)[0] <= 8 else None
    except (struct.error, OverflowError):
        return None
    return None


def may_follow(data: bytes) -> bool:
    """Whether what says the orientation may stand after the pixels, beyond these first bytes of a file."""
    is_png = data[:8] == b"\x89PNG\r\n\x1a\n"
    is_flagged = data[:4] == b"RIFF" and data[8:16] == b"WEBPVP8X" and any(b & 8 for b in data[20:21])
    return (is_png or is_flagged) and _exif_block(data) is None


def upright(data: bytes) -> bytes:
    """The same file saying that its pixels lie as they should be shown; nothing else changes."""
    where = locate(data)
    if where is None:
        return data
    at, order = where
    turned = data[:at] + struct.pack(order + "H", 1) + data[at + 2 :]
    if data[:4] != b"\x89PNG":
        return turned
    # A PNG chunk ends in a checksum of its name and body.
    name = data.rfind(b"eXIf", 0, at)
    end = name + 4 + struct.unpack_from(">I", data, name - 4)[0]
    return turned[:end] + struct.pack(">I", zlib.crc32(turned[name:end])) + turned[end + 4 :]


def _value(data: bytes, where: tuple[int, str]) -> int:
    return int(struct.unpack_from(where[1] + "H", data, where[0])[0])


def _exif_block(data: bytes) -> int | None:
    """Where the TIFF header of the EXIF data starts: at 0 in a TIFF, whose own directory says the same."""
    try:
        if data[:3] == b"\xff\xd8\xff":
            return _in_jpeg(data)
        if data[:8] == b"\x89PNG\r\n\x1a\n":
            return _in_chunks(data, 8, ">", b"eXIf")
        if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
            return _in_chunks(data, 12, "<", b"EXIF")
        if data[:4] in (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+"):
            return 0
    except struct.error:
        return None
    return None


def _in_jpeg(data: bytes) -> int | None:
    at = 2
    for _ in range(_SEGMENTS):
        at = data.find(b"\xff", at)
        if at < 0 or at + 4 > len(data):
            return None
        marker = data[at + 1]
        if marker in (0xFF, 0x00, 0x01) or 0xD0 <= marker <= 0xD8:
            at += 1 if marker == 0xFF else 2
            continue
        if marker in (0xD9, 0xDA):
            return None
        if marker == 0xE1 and data[at + 4 : at + 10] == b"Exif\0\0":
            return at + 10
        at += 2 + struct.unpack_from(">H", data, at + 2)[0]
    return None


def _in_chunks(data: bytes, at: int, order: str, wanted: bytes) -> int | None:
    """Chunks of PNG (length, name, body, checksum) or RIFF (name, length, body, padded to even)."""
    png = order == ">"
    for _ in range(_SEGMENTS):
        name = data[at + 4 : at + 8] if png else data[at : at + 4]
        length = struct.unpack_from(order + "I", data, at if png else at + 4)[0]
        if name == wanted:
            return at + 8  # JPEG's "Exif\0\0" before it, which some write, makes the decoder see nothing
        at += 12 + length if png else 8 + length + length % 2
    return None
