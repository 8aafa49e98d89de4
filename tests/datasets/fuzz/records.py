"""Writing TFRecord files in tests, by hand: no code of the reader's."""

from __future__ import annotations

import struct
from collections.abc import Mapping, Sequence

import google_crc32c

Value = Sequence[bytes] | Sequence[float]


def varint(value: int) -> bytes:
    """Protobuf's number."""
    value &= 2**64 - 1
    out = bytearray()
    while value > 127:
        out.append(value & 127 | 128)
        value >>= 7
    return bytes([*out, value])


def field(number: int, body: bytes) -> bytes:
    """A field with a length."""
    return varint(number << 3 | 2) + varint(len(body)) + body


def feature(values: Value, packed: bool = True) -> bytes:
    """A tf.train.Feature: of bytes, floats or whole numbers."""
    if not values or isinstance(values[0], bytes):
        return field(1, b"".join(field(1, value) for value in values))  # type: ignore[arg-type]
    if isinstance(values[0], float):
        body = struct.pack(f"<{len(values)}f", *values)
        each = b"".join(b"\x0d" + struct.pack("<f", value) for value in values)
        return field(2, field(1, body) if packed else each)
    numbers = [varint(int(value)) for value in values]  # type: ignore[arg-type]
    return field(3, field(1, b"".join(numbers)) if packed else b"".join(b"\x08" + number for number in numbers))


def example(features: Mapping[str, Value], packed: bool = True) -> bytes:
    """A tf.train.Example."""
    return field(
        1, b"".join(field(1, field(1, k.encode()) + field(2, feature(v, packed))) for k, v in features.items())
    )


def masked(data: bytes) -> bytes:
    """The checksum as TFRecord has it."""
    crc = google_crc32c.value(data)
    return struct.pack("<I", ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF)


def record_file(records: Sequence[bytes]) -> bytes:
    """A TFRecord file."""
    heads = [struct.pack("<Q", len(record)) for record in records]
    return b"".join(h + masked(h) + record + masked(record) for h, record in zip(heads, records, strict=True))


def labelled(image: bytes, name: str, width: int, height: int, boxes: Sequence[tuple[float, ...]]) -> dict[str, Value]:
    """The keys of the Object Detection API for an image and its boxes, in pixels; no classes."""
    sides = {
        f"image/object/bbox/{side}": [box[i] / (width, height)[i % 2] for box in boxes]
        for i, side in enumerate(("xmin", "ymin", "xmax", "ymax"))
    }
    return {
        "image/height": [height], "image/width": [width], "image/filename": [name.encode()],
        "image/source_id": [name.encode()], "image/encoded": [image], "image/format": [b"png"], **sides,
    }  # fmt: skip
