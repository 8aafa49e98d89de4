"""The orientation that a camera wrote into an image file, by the same rules as OpenCV applies it on decoding.

By hand, and not by Pillow: `upright` needs the place of the tag, the runtime half has no Pillow, and where files are
damaged Pillow's answer is another one than OpenCV's more often than this one is.
"""

from __future__ import annotations

import struct
import zlib

from singleshot.images.headers import ending_of, jpeg_segments, png_chunks, riff_chunks, tiff_entries, tiff_order

_TAG = 0x0112
_LONG = 4


def orientation(data: bytes) -> int:
    """1 to 8 as EXIF has it; 1, upright, where nothing is said or the file is no JPEG, PNG, WebP or TIFF.

    From 5 on, width and height change places.
    """
    where = locate(data)
    return 1 if where is None else int(struct.unpack_from(where[1] + "H", data, where[0])[0])


def locate(data: bytes) -> tuple[int, str] | None:
    """Where the two bytes of the orientation stand, and their order ("<" or ">"); None where there are none."""
    start = _exif_block(data)
    order = None if start is None else tiff_order(data, start)
    if start is None or order is None:
        return None
    try:
        for tag, kind, place in tiff_entries(data, start):
            if tag == _TAG:
                # A TIFF may have it as a long, whose lower half stands last in big-endian order.
                where = place + (2 if start == 0 and kind == _LONG and order == ">" else 0)
                return (where, order) if 1 <= struct.unpack_from(order + "H", data, where)[0] <= 8 else None
    except struct.error:
        return None
    return None


def may_follow(data: bytes) -> bool:
    """Whether what says the orientation may stand after the pixels, beyond these first bytes of a file."""
    is_flagged = data[8:16] == b"WEBPVP8X" and any(b & 8 for b in data[20:21])
    return (is_flagged or ending_of(data) == "png") and _exif_block(data) is None


def upright(data: bytes) -> bytes:
    """The same file saying that its pixels lie as they should be shown; nothing else changes."""
    where = locate(data)
    if where is None:
        return data
    at, order = where
    turned = data[:at] + struct.pack(order + "H", 1) + data[at + 2 :]
    if ending_of(data) != "png":
        return turned
    # A PNG chunk ends in a checksum of its name and body.
    name = data.rfind(b"eXIf", 0, at)
    end = name + 4 + struct.unpack_from(">I", data, name - 4)[0]
    return turned[:end] + struct.pack(">I", zlib.crc32(turned[name:end])) + turned[end + 4 :]


def _exif_block(data: bytes) -> int | None:
    """Where the TIFF header of the EXIF data starts: at 0 in a TIFF, whose own directory says the same."""
    ending = ending_of(data)
    try:
        if ending == "jpg":
            found = (
                at + 6 for marker, at in jpeg_segments(data) if marker == 0xE1 and data.startswith(b"Exif\0\0", at)
            )
            return next(found, None)
        # JPEG's "Exif\0\0" before it, which some write, makes the decoder see nothing.
        if ending in ("png", "webp"):
            chunks = png_chunks(data) if ending == "png" else riff_chunks(data)
            return next((start for name, start, _ in chunks if name in (b"eXIf", b"EXIF")), None)
    except struct.error:
        return None
    return 0 if ending == "tif" else None
