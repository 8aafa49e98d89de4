"""The orientation that a camera wrote into an image file, by the same rules as OpenCV applies it on decoding."""

from __future__ import annotations

import struct

_TAG = 0x0112
_SEGMENTS = 1000


def orientation(data: bytes) -> int:
    """1 to 8 as EXIF has it; 1, upright, where nothing is said or the file is no JPEG, PNG or WebP.

    From 5 on, width and height change places. TIFF's own tag is left alone by the decoder.
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
    try:
        at = start + struct.unpack_from(order + "I", data, start + 4)[0]
        for k in range(min(struct.unpack_from(order + "H", data, at)[0], 4096)):
            entry = at + 2 + 12 * k
            if struct.unpack_from(order + "H", data, entry)[0] == _TAG:
                where = entry + 8
                return (where, order) if 1 <= struct.unpack_from(order + "H", data, where)[0] <= 8 else None
    except struct.error:
        return None
    return None


def upright(data: bytes) -> bytes:
    """The same file saying that its pixels lie as they should be shown; nothing else changes."""
    where = locate(data)
    if where is None:
        return data
    at, order = where
    return data[:at] + struct.pack(order + "H", 1) + data[at + 2 :]


def _value(data: bytes, where: tuple[int, str]) -> int:
    return int(struct.unpack_from(where[1] + "H", data, where[0])[0])


def _exif_block(data: bytes) -> int | None:
    """Where the TIFF header of the EXIF data starts."""
    try:
        if data[:3] == b"\xff\xd8\xff":
            return _in_jpeg(data)
        if data[:8] == b"\x89PNG\r\n\x1a\n":
            return _in_chunks(data, 8, ">", b"eXIf")
        if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
            return _in_chunks(data, 12, "<", b"EXIF")
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
            start = at + 8
            return start + 6 if data[start : start + 6] == b"Exif\0\0" else start
        at += 12 + length if png else 8 + length + length % 2
    return None
