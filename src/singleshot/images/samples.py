"""What the samples of a picture are: those that are not read, and 16 bits on their way to 8."""

from __future__ import annotations

import struct
from typing import NamedTuple

import cv2
import numpy as np

from singleshot.errors import DataError, printable
from singleshot.images.headers import JPEG_FRAMES, ending_of, jpeg_segments, tiff_entries, tiff_order

# Tags of a TIFF (its specification 6.0, section 8 and 19) and their values.
_BITS, _COMPRESSION, _COLOURS, _SAMPLES, _EXTRA, _FORMAT = 258, 259, 262, 277, 338, 339
_WANTED = (_BITS, _COMPRESSION, _COLOURS, _SAMPLES, _FORMAT)
_KINDS = {1: "uint", 2: "int", 3: "float", 4: "untyped", 5: "complex int", 6: "complex"}
_MOST_CHANNELS, _PALETTE = 4, 3
# What OpenCV's libtiff unpacks: none, CCITT's, LZW, JPEG, deflate, PackBits. Of others it makes a black picture.
_READ_COMPRESSIONS = (1, 2, 3, 4, 5, 7, 8, 32_771, 32_773, 32_946)
_COMPRESSIONS = {6: "old-style JPEG", 34_712: "JPEG 2000", 34_887: "LERC", 34_925: "LZMA", 50_000: "Zstandard",
                 50_001: "WebP", 50_002: "JPEG XL", 52_546: "JPEG XL"}  # fmt: skip
# White is zero, black is zero, RGB, palette, inks, YCbCr.
_READ_COLOURS = (0, 1, 2, 3, 5, 6)
_COLOUR_NAMES = {4: "a mask", 8: "CIE L*a*b*", 9: "ICC L*a*b*", 10: "ITU L*a*b*", 32_803: "a camera's raw mosaic",
                 32_844: "LogL", 32_845: "LogLuv", 34_892: "a camera's raw samples"}  # fmt: skip
_UNASSOCIATED = 2
# Bits of numbers that OpenCV 5.0 reads; it spreads those of the middle over 16, and reads them as such only.
_READ_BITS, _PACKED = (1, 8, 10, 12, 14, 16), (10, 12, 14)
_SHORT = 3
_AS_IT_IS = cv2.IMREAD_ANYCOLOR | cv2.IMREAD_ANYDEPTH | cv2.IMREAD_IGNORE_ORIENTATION
# Of an 8-bit picture with fewer grey values little is to be seen; 12 bits in a file of 16 leave 16 of them.
FEW_GREYS = 32
_AT_ONCE = 1 << 20  # samples


class UnreadImageError(DataError):
    """A whole picture, whose samples are of a kind that is not read."""


class Samples(NamedTuple):
    """Of a TIFF: bits of each sample, as libtiff takes them for all channels; kind as in _KINDS; channels; palette:
    they are numbers of colours; colours and compression as the format numbers them."""

    bits: int
    kind: int
    channels: int
    palette: bool
    colours: int
    compression: int


def tiff_samples(data: bytes) -> Samples | None:
    """What the first directory of a TIFF says of its samples; None for another format, or where the data ends."""
    if ending_of(data) != "tif":
        return None
    order = tiff_order(data) or "<"
    big = data[2:4] in (b"+\0", b"\0+")
    found: dict[int, int] = {}
    try:
        for tag, kind, place in tiff_entries(data):
            if tag not in _WANTED or tag in found or kind != _SHORT:
                continue
            # As many values as there are channels: of more than fit into the entry it holds the place.
            count, offset, held = ("Q", "Q", 4) if big else ("I", "I", 2)
            many = struct.unpack_from(order + count, data, place - struct.calcsize("=" + count))[0] > held
            at = struct.unpack_from(order + offset, data, place)[0] if many else place
            if at <= len(data):
                found[tag] = struct.unpack_from(order + "H", data, at)[0]
    except struct.error:
        return None
    colours = found.get(_COLOURS, 1)
    bits, kind, channels = found.get(_BITS, 1), found.get(_FORMAT, 1), found.get(_SAMPLES, 1)
    return Samples(bits, kind, channels, colours == _PALETTE, colours, found.get(_COMPRESSION, 1))


def unread_samples(data: bytes) -> str:
    """What a picture is whose samples are not read, and what to do; "" for those that are."""
    if ending_of(data) == "jpg":
        return _unread_jpeg(data)
    found = tiff_samples(data)
    if found is None:
        return ""
    bits, kind, channels, palette, colours, compression = found
    if compression not in _READ_COMPRESSIONS:
        name = _COMPRESSIONS.get(compression, "a way")
        return (
            f"a TIFF that is packed by {name} (compression {compression}), which is not read here: convert it, for "
            "example: gdal_translate -co COMPRESS=DEFLATE IN.tif OUT.tif"
        )
    if colours not in _READ_COLOURS:
        name = _COLOUR_NAMES.get(colours, "colours of another kind")
        return f"a TIFF of {name} (photometric interpretation {colours}), which is not read here: convert it to RGB"
    wrong_kind = kind not in (1, 2) or not (bits in _READ_BITS or palette)
    if not wrong_kind and channels <= _MOST_CHANNELS:
        return ""
    named = f"{_KINDS.get(kind, 'untyped')}{bits}"
    article = "an" if named.startswith(("int", "untyped")) else "a"
    bands = f" of {channels} bands" if channels > 1 else ""
    how = "-b 1 -b 2 -b 3 " * (channels > _MOST_CHANNELS) + "-ot UInt16 -scale " * wrong_kind
    return (
        f"{article} {named} TIFF{bands}; singleshot reads 8- and 16-bit pictures of 1 to 4 channels: convert it, "
        f"for example: gdal_translate {how}IN.tif OUT.tif"
    )


def _unread_jpeg(data: bytes) -> str:
    """Of a JPEG by its frame (ITU T.81, table B.1): 8 bits, and no frames on top of others, are read."""
    try:
        for marker, at in jpeg_segments(data):
            if marker in JPEG_FRAMES and len(data) > at:
                if data[at] != 8:
                    return f"a JPEG of {data[at]} bits for each sample; 8 are read: convert it to PNG or to 8 bits"
                return "a hierarchical JPEG, which is not read here: save it anew" if marker & 7 >= 5 else ""
    except struct.error:
        pass  # it breaks off, which the decoder finds
    return ""


def without_premultiplying(data: bytes) -> bytes:
    """A TIFF whose alpha is not multiplied into its colours, marked so that libtiff does not do that either."""
    if ending_of(data) != "tif":
        return data
    order = tiff_order(data) or "<"
    try:
        for tag, kind, place in tiff_entries(data):
            if tag == _EXTRA and kind == _SHORT and struct.unpack_from(order + "H", data, place)[0] == _UNASSOCIATED:
                return data[:place] + struct.pack(order + "H", 1) + data[place + 2 :]
    except struct.error:
        pass  # it breaks off, which the decoder finds
    return data


def deep_bits(data: bytes) -> int:
    """Bits of each sample of a PNG or TIFF that has more than 8; 0 for other pictures."""
    if ending_of(data) == "png":
        return 16 if data[24:25] == b"\x10" else 0
    found = tiff_samples(data)
    return found.bits if found is not None and found.bits in (*_PACKED, 16) else 0


def needs_16_bits(data: bytes, sixteen_bit: str) -> bool:
    """Whether a picture has to be read by `decode_deep`: it is to be stretched, or not read as 8 bits at all."""
    bits = deep_bits(data)
    return bits in _PACKED or (bits > 0 and sixteen_bit == "stretch")


def stretched(image: np.ndarray) -> np.ndarray:
    """uint8 of 16-bit samples [H, W] or [H, W, C]: the lowest of the picture becomes 0, the highest 255, all channels
    alike, so that colours keep their hue; a picture of one value becomes 0."""
    return _by_table(image, _stretch(image))


def _stretch(image: np.ndarray) -> np.ndarray:
    """uint8 [65536], what each sample becomes, by its bits."""
    low, high = int(image.min()), int(image.max())
    values = np.arange(low, high + 1)
    table = np.zeros(1 << 16, np.uint8)
    table[values & 0xFFFF] = np.rint((values - low) * (255 / max(high - low, 1)))
    return table


def _by_table(image: np.ndarray, table: np.ndarray) -> np.ndarray:
    """Each 16-bit sample's entry. Rows at a time: numpy makes 8 bytes of each index."""
    bits, found = image.view(np.uint16), np.empty(image.shape, np.uint8)
    rows = max(1, _AT_ONCE // max(1, bits[:1].size))
    for start in range(0, len(bits), rows):
        found[start : start + rows] = table[bits[start : start + rows]]
    return found


def decode_deep(data: bytes, name: str, sixteen_bit: str) -> np.ndarray | None:
    """uint8 RGB [H, W, 3] of a file with more than 8 bits by that rule; None where it does not decode.

    Raises cv2.error as OpenCV does, UnreadImageError for a TIFF of two channels, which OpenCV has in 8 bits only.
    """
    # As BGR: OpenCV 5.0 fills some rows of a TIFF with noise where 16 bits are read as RGB.
    image = cv2.imdecode(np.frombuffer(data, np.uint8), _AS_IT_IS)
    if image is None:
        return None
    if image.dtype.itemsize != 2:
        raise UnreadImageError(f"{printable(name)}: 16 bits with an alpha channel are not stretched; save it without")
    table = _stretch(image) if sixteen_bit == "stretch" else (np.arange(1 << 16) >> 8).astype(np.uint8)
    shown = _by_table(image, table)
    if shown.ndim == 2:
        return cv2.cvtColor(shown, cv2.COLOR_GRAY2RGB)
    return cv2.cvtColor(shown, cv2.COLOR_BGR2RGB, dst=shown)


class Greys(NamedTuple):
    """How many grey values a 16-bit picture has in 8 bits, and in its own."""

    kept: int
    own: int

    @property
    def few(self) -> bool:
        """Whether 8 bits keep next to nothing of it, and a stretch would keep more."""
        return self.kept < FEW_GREYS and self.own > 2 * self.kept


def count_greys(grey: np.ndarray) -> Greys:
    """Of 16-bit grey [H, W]."""
    there = np.zeros(1 << 16, bool)
    for row in grey.view(np.uint16):
        there[row] = True
    return Greys(int(there.reshape(256, 256).any(axis=1).sum()), int(there.sum()))
