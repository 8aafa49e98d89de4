"""Files that say little of what they ask for: a few bytes that keep a decoder busy for minutes, or fill the memory.

The limit of pixels says nothing of these. The figures are those of OpenCV 5.0 with its libjpeg-turbo, libpng, libtiff
and libwebp, for an image of 100 million pixels on one core; tests/datasets/fuzz/bombs.py makes a file for each.
"""

from __future__ import annotations

import re
import struct
import zlib

from singleshot.images.headers import JPEG_FRAMES, ending_of, png_chunks, tiff_numbers
from singleshot.images.jpeg_xl import image_header

# GIF, animations and JPEGs of four inks take 11 bytes for each pixel (others 3 to 9): 1.2 GB.
MAX_HEAVY_PIXELS = 50_000_000
# Each scan of a JPEG passes over all pixels, 65 ms, even where it says nothing in 140 bytes. Encoders write some 10.
_MAX_SCANNED = 2_000_000_000
_LEAST_SCAN = 4  # bytes: a marker and a length
# Each packed text of a PNG may inflate to 8 MB from 7 kB, 30 ms; programs write a handful.
_MAX_TEXTS = 50
# What follows the pixels in a PNG's stream is inflated all the same, 2 s for each gigabyte, of which 1 MB may hold one:
# longer streams than 2 MB are inflated here first, as far as the pixels need.
_SPARE_BYTES = 1 << 16
_LONG_STREAM = 2 << 20
# A tile or strip of a TIFF is held whole, beside the image.
_USUAL_TILE, _MAX_TILE = 1 << 24, 1 << 26
_MAX_EXTRA_CHANNELS = 4  # of a JPEG XL: alpha, depth; the format allows 4096
_CHANNELS = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}  # of PNG's colour types

# The next marker after the coded data of a scan, where FF 00 is a byte and FF D0..D7 a restart.
_MARKER = re.compile(rb"\xff+[^\x00\xff\xd0-\xd7]", re.DOTALL)
_ROWS, _TILE_WIDTH, _TILE_HEIGHT = 278, 322, 323


def overload(data: bytes, width: int, height: int) -> str:
    """Why decoding takes far more time or memory than the pixels need; "" where it does not.

    data: the file, or its first part; width, height: as its header has them.
    """
    pixels = width * height
    ending = ending_of(data)
    if ending == "png":
        return _png(data, width, height)
    if ending == "jpg":
        return _jpeg(data, pixels)
    if ending == "gif" or (data[8:16] == b"WEBPVP8X" and data[20:21] and data[20] & 2):
        return _heavy(pixels, "a GIF or an animation")
    if ending in ("heic", "avif"):
        return _heavy(pixels, "a HEIC or AVIF")
    if ending == "jxl":
        return _jpeg_xl(data, pixels)
    return _tiff(data, width, height) if ending == "tif" else ""


def _heavy(pixels: int, what: str) -> str:
    most = MAX_HEAVY_PIXELS
    return f"{pixels} pixels as {what} (at most {most // 10**6} million are read)" if pixels > most else ""


# ---------------------------------------------------------------------------------------------- JPEG


def _jpeg(data: bytes, pixels: int) -> str:
    if pixels <= MAX_HEAVY_PIXELS:
        if len(data) // _LEAST_SCAN * pixels <= _MAX_SCANNED:  # counting takes a twentieth of the time of decoding
            return ""
        if data.count(b"\xff\xda") * pixels <= _MAX_SCANNED:  # those that are in previews and the like too
            return ""
    components, scans = _scans(data)
    if scans * pixels > _MAX_SCANNED:
        return f"{scans} scans of {pixels} pixels each (want some ten, as encoders write)"
    return _heavy(pixels, "a JPEG of four inks") if components > 3 else ""


def _scans(data: bytes) -> tuple[int, int]:
    """Components of the frame, and how many scans there are."""
    at, components, scans = 2, 0, 0
    while (found := _MARKER.search(data, at)) is not None:
        marker, at = found[0][-1], found.end()
        if marker == 0xD9:
            break
        if marker in (0x01, 0xD8):
            continue
        if marker in JPEG_FRAMES:
            components = data[at + 7] if at + 7 < len(data) else 0
        scans += marker == 0xDA
        at += max(2, int.from_bytes(data[at : at + 2], "big"))
    return components, scans


# ---------------------------------------------------------------------------------------------- PNG


def is_whole_png(data: bytes) -> bool:
    """Whether every chunk up to the last lies within the file: OpenCV makes room for what a length says, up to 2 GB,
    before it looks."""
    last = b""
    for last, start, length in png_chunks(data):  # noqa: B007
        if start + length + 4 > len(data):
            return False
    return last == b"IEND"


def _png(data: bytes, width: int, height: int) -> str:
    texts = packed = 0
    for name, _, length in png_chunks(data):
        texts += name in (b"zTXt", b"iTXt", b"iCCP")
        packed += length if name == b"IDAT" else 0
    if texts > _MAX_TEXTS:
        return f"{texts} packed texts in a PNG (want {_MAX_TEXTS} at most)"
    wanted = _png_bytes(data, width, height)
    if packed > 1.1 * wanted + _SPARE_BYTES:
        return f"{packed} bytes of packed pixels, which need {wanted} unpacked"
    return "a PNG that goes on long after its pixels" if packed > _LONG_STREAM and _runs_on(data, wanted) else ""


def _png_bytes(data: bytes, width: int, height: int) -> int:
    """Bytes of the pixels unpacked, with the filters of their rows (of up to 7 passes)."""
    depth, colour = (data[24], data[25]) if len(data) > 25 else (16, 6)
    bits = depth * _CHANNELS.get(colour, 4)
    return height * (width * bits // 8 + 16) + 64


def _runs_on(data: bytes, left: int) -> bool:
    """Whether the packed stream goes on after so many bytes: takes a third of the time of decoding."""
    bodies = [data[start : start + length] for name, start, length in png_chunks(data) if name == b"IDAT"]
    stream = zlib.decompressobj()
    try:
        for k, body in enumerate(bodies):
            todo = body
            while todo and left > 0 and not stream.eof:
                left -= len(stream.decompress(todo, 1 << 20))
                todo = stream.unconsumed_tail
            if left <= 0 or stream.eof:
                return len(todo) + sum(map(len, bodies[k + 1 :])) > _SPARE_BYTES
    except zlib.error:
        return False  # which the decoder will say
    return False


# ---------------------------------------------------------------------------------------------- TIFF


def _tiff(data: bytes, width: int, height: int) -> str:
    try:
        found = tiff_numbers(data, (_ROWS, _TILE_WIDTH, _TILE_HEIGHT))
    except struct.error:
        return ""
    if _TILE_WIDTH in found or _TILE_HEIGHT in found:
        tile = abs(found.get(_TILE_WIDTH, 1) * found.get(_TILE_HEIGHT, 1))
    else:
        rows = found.get(_ROWS, height)
        tile = width * (min(rows, height) if rows > 0 else height)
    if tile > max(_USUAL_TILE, min(2 * width * height, _MAX_TILE)):
        return f"a tile or strip of {tile} pixels in a TIFF (save it with smaller ones)"
    return ""


# ---------------------------------------------------------------------------------------------- JPEG XL


def _jpeg_xl(data: bytes, pixels: int) -> str:
    header = image_header(data)
    if header is not None and header.extra > _MAX_EXTRA_CHANNELS:
        return f"{header.extra} channels next to those of colour in a JPEG XL (at most {_MAX_EXTRA_CHANNELS} are read)"
    return _heavy(pixels, "a JPEG XL")
