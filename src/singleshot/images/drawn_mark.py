"""A mark in pictures that detection writes, drawn or cut out: they are no images to learn from."""

from __future__ import annotations

import struct
import zlib

# Folders of results that hold such pictures.
PICTURES, CROPS = "pictures", "crops"
HEAD_BYTES = 160
_TEXT = b"made by singleshot detect"
_PNG_START, _PNG_HEADER = b"\x89PNG\r\n\x1a\n", 33  # its first chunk, IHDR, ends there (PNG specification, 11.2.2)


def mark_picture(data: bytes) -> bytes:
    """A PNG or JPEG file with the mark: a text chunk, or a comment segment (ITU T.81, B.2.4.5)."""
    if data.startswith(_PNG_START):
        chunk = b"tEXtComment\0" + _TEXT
        packed = struct.pack(">I", len(chunk) - 4) + chunk + struct.pack(">I", zlib.crc32(chunk))
        return data[:_PNG_HEADER] + packed + data[_PNG_HEADER:]
    return data[:2] + b"\xff\xfe" + struct.pack(">H", len(_TEXT) + 2) + _TEXT + data[2:]


def is_marked(head: bytes) -> bool:
    """Whether a file with these first bytes has it."""
    return head[:2] in (b"\xff\xd8", _PNG_START[:2]) and _TEXT in head
