"""HEIC and AVIF files put together box by box (ISO/IEC 14496-12, 23008-12) around one coded picture."""

from __future__ import annotations

import struct

import cv2
import numpy as np

# A picture of 64 x 64 in four flat quarters, coded by HEVC: its parameter sets and its one slice.
HEVC_CONFIG = bytes.fromhex(
    "0103700000009000000000001ef000fcfdf8f800000f03600001001840010c01ffff03700000030090000003000003001eba02406100"
    "01002b42010103700000030090000003000003001ea020810596ea4929ae6e021a0c0800000300c80000030008406200010007440"
    "1c172b02240"
)
HEVC_SLICE = bytes.fromhex(
    "000000372801af1380e533c09fffe80a8fff791cf0fc80c8aa56fb1decffd1a43ffdc47e11ffedf9da3f1e5b9ff956a2c3fff4abb7f2"
    "6730f56638"
)
SIDE = 64
# irot's quarter turns and imir's axis for each orientation of EXIF (libavif's table, avif_irot_imir_to_exif).
ISO_TURNS = {1: (0, None), 2: (0, 1), 3: (2, None), 4: (0, 0), 5: (1, 0), 6: (3, None), 7: (1, 1), 8: (1, None)}


def quarters() -> np.ndarray:
    image = np.zeros((SIDE, SIDE, 3), np.uint8)
    half = SIDE // 2
    image[:half, :half], image[:half, half:] = (220, 40, 40), (40, 220, 40)
    image[half:, :half], image[half:, half:] = (40, 40, 220), (128, 128, 128)
    return image


def box(kind: bytes, *parts: bytes) -> bytes:
    body = b"".join(parts)
    return struct.pack(">I4s", 8 + len(body), kind) + body


def full(kind: bytes, version: int, *parts: bytes) -> bytes:
    return box(kind, struct.pack(">I", version << 24), *parts)


def iso_file(
    item: bytes, config: bytes, coded: bytes, value: int = 1, sides: tuple[int, int] = (SIDE, SIDE), extra: bytes = b""
) -> bytes:
    """A file of one item that says orientation `value` by irot and imir; extra: another property."""
    angle, axis = ISO_TURNS[value]
    properties = [full(b"ispe", 0, struct.pack(">II", *sides)), config]
    properties += [extra] if extra else []
    properties += [box(b"irot", bytes([angle]))] if angle else []
    properties += [box(b"imir", bytes([axis]))] if axis is not None else []
    marks = bytes(0x80 * (number > 1) | number for number in range(1, len(properties) + 1))

    def meta(place: int) -> bytes:
        return full(
            b"meta",
            0,
            full(b"hdlr", 0, bytes(4), b"pict", bytes(13)),
            full(b"pitm", 0, struct.pack(">H", 1)),
            full(b"iloc", 0, struct.pack(">HHHHHII", 0x4400, 1, 1, 0, 1, place, len(coded))),
            full(b"iinf", 0, struct.pack(">H", 1), full(b"infe", 2, struct.pack(">HH4s", 1, 0, item), b"\0")),
            box(b"iprp", box(b"ipco", *properties), full(b"ipma", 0, struct.pack(">IHB", 1, 1, len(marks)), marks)),
        )

    brand = b"heic" if item == b"hvc1" else b"avif"
    head = box(b"ftyp", brand, bytes(4), b"mif1", brand)
    return head + meta(len(head) + len(meta(0)) + 8) + box(b"mdat", coded)


def heic(value: int = 1, **changes) -> bytes:
    return iso_file(b"hvc1", box(b"hvcC", HEVC_CONFIG), HEVC_SLICE, value, **changes)


def avif(value: int = 1, **changes) -> bytes:
    """The picture coded by OpenCV's AV1 encoder, in boxes of our own."""
    data = cv2.imencode(".avif", quarters()[..., ::-1], [cv2.IMWRITE_AVIF_QUALITY, 95])[1].tobytes()
    at = data.index(b"av1C") - 4
    config = data[at : at + struct.unpack_from(">I", data, at)[0]]
    return iso_file(b"av01", config, data[data.index(b"mdat") + 4 :], value, **changes)
