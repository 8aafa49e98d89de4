"""How a picture is turned, wherever its file says so, and the same file without a turn.

By the rules of Pillow's ImageOps.exif_transpose: EXIF's tag, of a PNG else that in its raw profile, else XMP's
tiff:Orientation. AVIF and HEIC count by their own boxes alone, JPEG XL by its header.
"""

from __future__ import annotations

import contextlib
import re
import struct
import zlib
from typing import NamedTuple

import cv2
import numpy as np

from singleshot.images.headers import ending_of, jpeg_segments, png_chunks, riff_chunks, tiff_entries, tiff_order
from singleshot.images.iso_media import primary_image
from singleshot.images.jpeg_xl import image_header

_TAG, _XMP_TAG = 0x0112, 700  # of TIFF and EXIF; of a TIFF
_LONG = 4  # a type of values
_EXIF_CHUNKS = (b"eXIf", b"EXIF")  # in a PNG, in a WebP
_EXIF_PREFIX = b"Exif\0\0"
_XMP_PREFIX = b"http://ns.adobe.com/xap/1.0/\0"
_XMP = re.compile(rb'tiff:Orientation(?:="|>)([0-9])')
_RAW_PROFILE, _XMP_KEY = b"Raw profile type exif\0", b"XML:com.adobe.xmp\0"
_MOST_TEXT = 1 << 20  # bytes that are inflated of a text


class Turn(NamedTuple):
    """value: 1 to 8 as EXIF has it; edits: place and bytes that make it 1, None where that needs more than an edit."""

    value: int
    edits: tuple[tuple[int, bytes], ...] | None


UPRIGHT = Turn(1, ())


def orientation(data: bytes) -> int:
    """1 to 8 as EXIF has it; 1, upright, for a file that says nothing. From 5 on, width and height change places."""
    return turn_of(data).value


def turn_of(data: bytes) -> Turn:
    """How a file says that its pixels are turned."""
    ending = ending_of(data)
    try:
        if ending in ("avif", "heic"):
            image = primary_image(data)
            if image is None:
                return UPRIGHT
            return Turn(image.orientation, tuple((at, bytes(length)) for at, length in image.turns))
        if ending == "jxl":
            return _turn_of_jpeg_xl(data)
    except (struct.error, IndexError):
        return UPRIGHT
    for read in (_in_jpeg,) if ending == "jpg" else (_by_exif, _by_raw_profile, _by_xmp):
        found = read(data, ending)
        if found is not None:
            return found if 1 <= found.value <= 8 else UPRIGHT
    return UPRIGHT


def has_own_tag(data: bytes) -> bool:
    """Whether a TIFF's own directory has the tag, by which its decoder turns it."""
    return ending_of(data) == "tif" and _by_exif(data, "tif") is not None


def turned(image: np.ndarray, value: int) -> np.ndarray:
    """Pixels as they should be shown, of an image that is stored with that orientation."""
    if value in (5, 6, 7, 8):
        image = cv2.transpose(image)
    flip = {2: 1, 3: -1, 4: 0, 6: 1, 7: -1, 8: 0}.get(value)
    return image if flip is None else cv2.flip(image, flip)


def may_follow(data: bytes) -> bool:
    """Whether what says the orientation may stand after the pixels, beyond these first bytes of a file."""
    ending = ending_of(data)
    if ending == "tif":
        place = _xmp_place(data, ending)
        return _by_exif(data, ending) is None and place is not None and place[1] > len(data)
    is_flagged = data[8:16] == b"WEBPVP8X" and any(b & 0b1100 for b in data[20:21])  # EXIF, XMP
    return (is_flagged or ending == "png") and _by_exif(data, ending) is None


def upright(data: bytes) -> bytes:
    """The same file saying that its pixels lie as they should be shown; nothing else changes."""
    found = turn_of(data)
    if found.value == 1:
        return data
    if found.edits is None:  # packed, in a PNG: EXIF's own chunk goes before it
        block = b"II*\0\x08\0\0\0\x01\0" + struct.pack("<HHIHH", _TAG, 3, 1, 1, 0) + bytes(4)
        chunk = b"eXIf" + block
        return data[:33] + struct.pack(">I", len(block)) + chunk + struct.pack(">I", zlib.crc32(chunk)) + data[33:]
    for at, value in found.edits:
        data = data[:at] + value + data[at + len(value) :]
        if ending_of(data) == "png":
            data = _with_checksum(data, at)
    return data


def _with_checksum(data: bytes, at: int) -> bytes:
    """A PNG's chunk ends in a checksum of its name and body, unless the file is damaged."""
    for _, start, length in png_chunks(data):
        end = start + length
        if start <= at < end <= len(data) - 4:
            return data[:end] + struct.pack(">I", zlib.crc32(data[start - 4 : end])) + data[end + 4 :]
    return data


# ---------------------------------------------------------------------------------------------- where it is said


def _in_jpeg(data: bytes, ending: str) -> Turn | None:
    """By the first EXIF and the first XMP in it, found in one walk."""
    exif, xmp = -1, -1
    with contextlib.suppress(struct.error):  # it breaks off: what was found before counts
        for marker, at in jpeg_segments(data):
            if marker != 0xE1:
                continue
            if exif < 0 and data.startswith(_EXIF_PREFIX, at):
                exif = at
            elif xmp < 0 and data.startswith(_XMP_PREFIX, at):
                xmp = at
    found = _in_directory(data, _behind_prefix(data, exif)) if exif >= 0 else None
    if found is None and xmp >= 0:
        length = struct.unpack_from(">H", data, xmp - 2)[0]
        found = _in_xmp(data[xmp : xmp - 2 + length], xmp)
    return found


def _by_exif(data: bytes, ending: str) -> Turn | None:
    start = _exif_block(data, ending)
    return None if start is None else _in_directory(data, start)


def _in_directory(data: bytes, start: int) -> Turn | None:
    """By the tag of the directory behind a TIFF header; None where there is none."""
    order = tiff_order(data, start)
    if order is None:
        return None
    try:
        for tag, kind, place in tiff_entries(data, start):
            if tag == _TAG:
                # It may be a long, whose lower half stands last in big-endian order.
                at = place + 2 * (kind == _LONG and order == ">")
                value = struct.unpack_from(order + "H", data, at)[0]
                return Turn(value, ((at, struct.pack(order + "H", 1)),))
    except struct.error:
        pass  # it breaks off: nothing is said
    return None


def _exif_block(data: bytes, ending: str) -> int | None:
    """Where the TIFF header of the EXIF data starts: at 0 in a TIFF, whose own directory says the same."""
    start = None
    try:
        if ending in ("png", "webp"):
            chunks = png_chunks(data) if ending == "png" else riff_chunks(data)
            start = next((at for name, at, _ in chunks if name in _EXIF_CHUNKS), None)
        elif ending == "tif":
            return 0
    except struct.error:
        return None
    return None if start is None else _behind_prefix(data, start)


def _behind_prefix(data: bytes, start: int) -> int:
    """Where the TIFF header starts: some write EXIF's prefix twice, or into a PNG and a WebP too."""
    while data.startswith(_EXIF_PREFIX, start):
        start += len(_EXIF_PREFIX)
    return start


def _by_raw_profile(data: bytes, ending: str) -> Turn | None:
    """ImageMagick's form, which older PNGs have: lines of hexadecimal digits in a text."""
    if ending != "png":
        return None
    for name, start, length in png_chunks(data):
        if name in (b"tEXt", b"zTXt", b"iTXt") and data.startswith(_RAW_PROFILE, start):
            text, _ = _text(data, name, start + len(_RAW_PROFILE), start + length)
            digits = b"".join(text.split(b"\n")[3:])
            try:
                block = bytes.fromhex(digits[: len(digits) // 2 * 2].decode("ascii"))
            except ValueError:
                return None
            while block.startswith(_EXIF_PREFIX):
                block = block[len(_EXIF_PREFIX) :]
            found = _in_directory(block, 0)
            return None if found is None else Turn(found.value, None)
    return None


def _by_xmp(data: bytes, ending: str) -> Turn | None:
    if ending == "png":
        for name, start, length in png_chunks(data):
            if name == b"iTXt" and data.startswith(_XMP_KEY, start):
                text, place = _text(data, name, start + len(_XMP_KEY), start + length)
                return _in_xmp(text, place)
        return None
    where = _xmp_place(data, ending)
    return None if where is None else _in_xmp(data[slice(*where)], where[0])


def _in_xmp(text: bytes, place: int | None) -> Turn | None:
    found = _XMP.search(text)
    if found is None:
        return None
    return Turn(int(found[1]), None if place is None else ((place + found.start(1), b"1"),))


def _xmp_place(data: bytes, ending: str) -> tuple[int, int] | None:
    """Where the XMP of a WebP or TIFF starts and ends."""
    try:
        if ending == "webp":
            return next(((at, at + length) for name, at, length in riff_chunks(data) if name == b"XMP "), None)
        if ending == "tif":
            order, big = tiff_order(data) or "<", data[2:4] in (b"+\0", b"\0+")
            form = "Q" if big else "I"
            width = struct.calcsize("=" + form)
            for tag, _, entry in tiff_entries(data):
                if tag == _XMP_TAG:
                    count, at = struct.unpack_from(order + 2 * form, data, entry - width)
                    return at, at + count
    except struct.error:
        return None
    return None


def _text(data: bytes, name: bytes, start: int, end: int) -> tuple[bytes, int | None]:
    """The text of a PNG's chunk behind its keyword, as far as it is read, and its place where it is not packed."""
    is_packed = name == b"zTXt"
    if name == b"iTXt":
        is_packed, start = data[start : start + 1] == b"\1", start + 2
        for _ in range(2):  # language and keyword in it
            start = data.find(b"\0", start, end) + 1
            if start == 0:
                return b"", None
    elif is_packed:
        start += 1  # the method
    body = data[start:end]
    if not is_packed:
        return body[:_MOST_TEXT], start
    try:
        return zlib.decompressobj().decompress(body, _MOST_TEXT), None
    except zlib.error:
        return b"", None


def _turn_of_jpeg_xl(data: bytes) -> Turn:
    header = image_header(data)
    if header is None or header.bit is None:
        return UPRIGHT
    at, shift = divmod(header.bit, 8)
    word = int.from_bytes(data[at : at + 2], "little") & ~(7 << shift)
    return Turn(header.orientation, ((at, word.to_bytes(2, "little")),))
