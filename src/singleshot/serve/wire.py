"""How the service and a worker process speak: a header in JSON, then blobs of bytes. Nothing is pickled."""

from __future__ import annotations

import json
import struct
from asyncio import StreamReader
from collections.abc import Sequence
from typing import Any, BinaryIO, NamedTuple

_LENGTH = struct.Struct(">I")
MAX_HEADER = 1 << 24
PIPELINED = 2  # batches that a worker has at once: one is decoded while the network runs the other


class ImageRefusedError(Exception):
    """An image that is not detected in. status: HTTP's; code: a word for programs."""

    def __init__(self, status: int, code: str, message: str) -> None:
        super().__init__(message)
        self.status, self.code = status, code

    def to_dict(self) -> dict[str, Any]:
        """Plain values for a message."""
        return {"status": self.status, "code": self.code, "message": str(self)}


class Message(NamedTuple):
    """header: plain values; blobs: bytes that go with it."""

    header: dict[str, Any]
    blobs: list[bytes]


def packed(header: dict[str, Any], blobs: Sequence[bytes] = ()) -> list[bytes]:
    """A message as pieces to write."""
    text = json.dumps({**header, "sizes": [len(blob) for blob in blobs]}).encode()
    return [_LENGTH.pack(len(text)), text, *blobs]


def read_message(file: BinaryIO) -> Message | None:
    """The next message of a file, None at its end."""
    start = file.read(_LENGTH.size)
    if len(start) < _LENGTH.size:
        return None
    text = file.read(*_LENGTH.unpack(start))
    header = json.loads(text)
    return Message(header, [file.read(size) for size in header["sizes"]])


async def receive_message(reader: StreamReader) -> Message:
    """The next message of a worker. Raises asyncio.IncompleteReadError where it ended, ValueError for anything else."""
    (length,) = _LENGTH.unpack(await reader.readexactly(_LENGTH.size))
    if length > MAX_HEADER:
        raise ValueError("not a message of a worker")
    header = json.loads(await reader.readexactly(length))
    return Message(header, [await reader.readexactly(size) for size in header["sizes"]])
