"""The parts of an image file that stand before its pixels: which format it is, its segments, chunks and directories,
and the size that it declares. Nothing here is decoded, and every walk is bounded.

By hand, and not by Pillow: `orientation.upright` needs the place of the orientation, the runtime half has no Pillow,
and where files are damaged Pillow's answer is another one than OpenCV's more often than this one is.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator

from singleshot.images.iso_media import iso_ending, primary_image
from singleshot.images.jpeg_xl import CODESTREAM, CONTAINER, image_header

# First bytes -> the format's usual ending.
_MAGIC = {
    b"\xff\xd8\xff": "jpg",
    b"\x89PNG": "png",
    b"GIF8": "gif",
    b"RIFF": "webp",
    b"BM": "bmp",
    b"II*\0": "tif",
    b"MM\0*": "tif",
    b"II+\0": "tif",
    b"MM\0+": "tif",
    CODESTREAM: "jxl",
    CONTAINER: "jxl",
}
# More segments and chunks than any file has that a program wrote; ends the walk through a hostile one.
_MOST = 1_000_000
_MOST_SEGMENTS = 100_000
_MOST_ENTRIES = 4096
# JPEG markers, ITU T.81 table B.1: frames C0..CF without DHT (C4), JPG (C8) and DAC (CC); those without a length.
JPEG_FRAMES = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
_JPEG_BARE = frozenset({0x00, 0x01, *range(0xD0, 0xD9)})
_TIFF_FORMS = {3: "H", 4: "I", 16: "Q"}
WIDTH, HEIGHT = 256, 257  # tags of a TIFF


def ending_of(data: bytes) -> str:
    """The usual ending of the format that a file starts as, "jpg" or "png"; "" for what is not read here."""
    for magic, ending in _MAGIC.items():  # asked for many times of each image
        if data.startswith(magic):
            return "" if ending == "webp" and data[8:12] != b"WEBP" else ending
    return iso_ending(data)


def jpeg_segments(data: bytes) -> Iterator[tuple[int, int]]:
    """Marker and place of the body (behind its length) of each segment of a JPEG before its pixels.

    Raises struct.error where the data ends within a length.
    """
    at, length = 2, len(data)
    for _ in range(_MOST_SEGMENTS):  # each image's are walked through several times: no more calls than it takes
        if at >= length or data[at] != 0xFF:
            at = data.find(b"\xff", at)  # decoders skip stray bytes between segments
            if at < 0:
                return
        if at + 1 >= length:
            return
        marker = data[at + 1]
        if marker == 0xFF:
            at += 1
        elif marker in _JPEG_BARE:
            at += 2
        elif marker in (0xD9, 0xDA):
            return  # the pixels, or the end
        else:
            yield marker, at + 4
            if at + 4 > length:
                raise struct.error("the data ends within a length")
            at += 2 + (data[at + 2] << 8) + data[at + 3]


def png_chunks(data: bytes) -> Iterator[tuple[bytes, int, int]]:
    """Name, start of the body, and length as declared, of every chunk up to the last or the end of the data."""
    at = 8
    for _ in range(_MOST):
        if at + 8 > len(data):
            return
        length, name = struct.unpack_from(">I4s", data, at)
        yield name, at + 8, length
        if name == b"IEND":
            return
        at += 12 + length


def riff_chunks(data: bytes) -> Iterator[tuple[bytes, int, int]]:
    """The same of a WebP."""
    at = 12
    for _ in range(_MOST_SEGMENTS):
        if at + 8 > len(data):
            return
        name, length = struct.unpack_from("<4sI", data, at)
        yield name, at + 8, length
        at += 8 + length + length % 2


def tiff_order(data: bytes, start: int = 0) -> str | None:
    """The order of bytes of the TIFF header at `start`, as struct has it; None where there is none."""
    return {b"II": "<", b"MM": ">"}.get(data[start : start + 2])


def tiff_entries(data: bytes, start: int = 0) -> Iterator[tuple[int, int, int]]:
    """Tag, type and place of the value of each entry of the first directory. Raises struct.error where data ends."""
    order = tiff_order(data, start) or "<"
    # BigTIFF widens offsets and counts to 8 bytes, each entry from 12 to 20.
    big = start == 0 and data[2:4] in (b"+\0", b"\0+")
    offset, count, width, before = ("Q", "Q", 20, 12) if big else ("I", "H", 12, 8)
    at = start + struct.unpack_from(order + offset, data, start + (8 if big else 4))[0]
    if at > len(data):
        return
    first = at + struct.calcsize(order + count)
    for k in range(min(struct.unpack_from(order + count, data, at)[0], _MOST_ENTRIES)):
        entry = first + width * k
        yield *struct.unpack_from(order + "HH", data, entry), entry + before


def tiff_numbers(data: bytes, wanted: tuple[int, ...]) -> dict[int, int]:
    """Tag -> whole number, -1 where it is of another type, of the wanted tags of a TIFF.

    Of a tag that is there twice libtiff takes the first, and so does this. Raises struct.error where the data ends.
    """
    found: dict[int, int] = {}
    for tag, kind, place in tiff_entries(data):
        if tag in wanted and tag not in found:
            form = _TIFF_FORMS.get(kind)
            order = tiff_order(data) or "<"
            found[tag] = -1 if form is None else struct.unpack_from(order + form, data, place)[0]
    return found


def header_size(data: bytes) -> tuple[int, int] | None:
    """(width, height) that the header declares, before any rotation; None for other formats or no header."""
    size = _SIZES.get(ending_of(data))
    try:
        return None if size is None else size(data)
    except (struct.error, IndexError):
        return None


def _jpeg_size(data: bytes) -> tuple[int, int] | None:
    for marker, start in jpeg_segments(data):
        if marker in JPEG_FRAMES:
            height, width = struct.unpack_from(">HH", data, start + 1)
            return width, height
    return None


def _png_size(data: bytes) -> tuple[int, int] | None:
    return struct.unpack_from(">II", data, 16) if data[4:8] == b"\r\n\x1a\n" else None


def _gif_size(data: bytes) -> tuple[int, int] | None:
    return struct.unpack_from("<HH", data, 6) if data[4:6] in (b"7a", b"9a") else None


def _webp_size(data: bytes) -> tuple[int, int] | None:
    kind = data[12:16] if data[8:12] == b"WEBP" else b""
    if kind == b"VP8X":
        return 1 + int.from_bytes(data[24:27], "little"), 1 + int.from_bytes(data[27:30], "little")
    if kind == b"VP8L":
        bits = struct.unpack_from("<I", data, 21)[0]
        return 1 + (bits & 0x3FFF), 1 + (bits >> 14 & 0x3FFF)
    if kind == b"VP8 ":
        width, height = struct.unpack_from("<HH", data, 26)
        return width & 0x3FFF, height & 0x3FFF
    return None


def _bmp_size(data: bytes) -> tuple[int, int]:
    if struct.unpack_from("<I", data, 14)[0] == 12:  # OS/2 core header
        return struct.unpack_from("<HH", data, 18)
    width, height = struct.unpack_from("<ii", data, 18)
    return abs(width), abs(height)  # a negative height means rows from the top


def _tiff_size(data: bytes) -> tuple[int, int] | None:
    found = tiff_numbers(data, (WIDTH, HEIGHT))
    width, height = found.get(WIDTH, -1), found.get(HEIGHT, -1)
    return (width, height) if min(width, height) >= 0 else None


def _iso_size(data: bytes) -> tuple[int, int] | None:
    image = primary_image(data)
    return None if image is None else (image.width, image.height)


def _jxl_size(data: bytes) -> tuple[int, int] | None:
    header = image_header(data)
    return None if header is None else (header.width, header.height)


_SIZES = {
    "jpg": _jpeg_size,
    "png": _png_size,
    "gif": _gif_size,
    "webp": _webp_size,
    "bmp": _bmp_size,
    "tif": _tiff_size,
    "avif": _iso_size,
    "heic": _iso_size,
    "jxl": _jxl_size,
}
