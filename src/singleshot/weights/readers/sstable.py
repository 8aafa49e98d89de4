"""LevelDB's table file (doc/table_format.md), in which TensorFlow keeps its checkpoints' names: sorted key -> value.

Every block is checked by its CRC-32C before it is read, and everything that a file may ask for is bounded by its size.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from singleshot.errors import CheckpointError, printable
from singleshot.extras import needs
from singleshot.storage import masked_crc32c
from singleshot.weights.foreign_state import MAX_NAMES
from singleshot.weights.readers.reading import reading

MAGIC = (0xDB4775248B80FB57).to_bytes(8, "little")
_FOOTER = 48
_TRAILER = 5  # type of the block, checksum
_MAX_KEY = 1024
_MAX_BYTES = 4 * 2**30
# Snappy makes at most 64 bytes of 3; checkpoints' floats shrink little, fresh optimizer state to nothing.
_MAX_GROWTH, _MAX_SLACK = 8, 64 * 2**20


class _DamagedError(ValueError):
    """The bytes are not what they should be; the text is for the message."""


def is_sstable(path: Path) -> bool:
    """Whether the file ends as such tables do. Raises OSError."""
    with path.open("rb") as file:
        size = file.seek(0, 2)
        file.seek(max(0, size - len(MAGIC)))
        return size >= _FOOTER and file.read() == MAGIC


def read_sstable(path: Path, where: str) -> Iterator[tuple[bytes, bytes]]:
    """(key, value) in order, a block at a time. Raises CheckpointError: not a table, damaged, or hostile."""
    try:
        with reading(where), path.open("rb") as file:
            yield from _entries_of_file(file, where)
    except _DamagedError as error:
        raise CheckpointError(f"{where}: damaged checkpoint ({error}); fetch the file again") from error


def _entries_of_file(file: BinaryIO, where: str) -> Iterator[tuple[bytes, bytes]]:
    size = file.seek(0, 2)
    if size < _FOOTER:
        raise _DamagedError(f"{size} bytes, shorter than the end of a table")
    if size > _MAX_BYTES:
        raise CheckpointError(f"{where}: larger than {_MAX_BYTES // 2**30} GB (the most that is read)")
    file.seek(size - _FOOTER)
    footer = file.read(_FOOTER)
    if footer[-8:] != MAGIC:
        raise _DamagedError("it does not end as a table of TensorFlow's does; it may be cut off")
    _, at = _handle(footer, 0)  # of the block on blocks, which is empty in these files
    index, _ = _handle(footer, at)
    budget = size * _MAX_GROWTH + _MAX_SLACK
    end, count, last = 0, 0, None
    for _, value in _entries(_block(file, index, size, budget)):
        (offset, length), _ = _handle(value, 0)
        if offset < end:
            raise _DamagedError("blocks overlap")
        end = offset + length
        block = _block(file, (offset, length), size, budget)
        budget -= len(block)
        for key, content in _entries(block):
            if last is not None and key <= last:
                raise _DamagedError("names out of order")
            last, count = key, count + 1
            if count > MAX_NAMES:
                raise _DamagedError(f"more than {MAX_NAMES} names")
            yield key, content


def _block(file: BinaryIO, handle: tuple[int, int], size: int, budget: int) -> bytes:
    """Content of a block, checked and unpacked; budget: bytes that unpacked blocks may still have."""
    offset, length = handle
    if offset + length + _TRAILER > size - _FOOTER:
        raise _DamagedError(f"a block of {length} bytes at {offset} lies outside the file of {size}")
    file.seek(offset)
    data = file.read(length + _TRAILER)
    if len(data) != length + _TRAILER:
        raise _DamagedError("cut off in a block")
    if masked_crc32c(data[:-4]) != int.from_bytes(data[-4:], "little"):
        raise _DamagedError(f"checksum of the block at {offset} does not match")
    packing = data[length]
    if packing == 0:
        return data[:length]
    if packing == 1:
        return unpack_snappy(data[:length], budget)
    raise _DamagedError(f"block packed by method {packing}, want none or snappy")


def _entries(block: bytes) -> Iterator[tuple[bytes, bytes]]:
    """(key, value) of a block: keys are written as what differs from the one before."""
    if len(block) < 4:
        raise _DamagedError("block without an end")
    restarts = int.from_bytes(block[-4:], "little")
    end = len(block) - 4 - 4 * restarts
    if end < 0:
        raise _DamagedError("block with more restarts than bytes")
    at, key = 0, b""
    while at < end:
        shared, at = _varint(block, at)
        fresh, at = _varint(block, at)
        length, at = _varint(block, at)
        if shared > len(key) or at + fresh + length > end:
            raise _DamagedError("an entry lies outside its block")
        if shared + fresh > _MAX_KEY:
            raise _DamagedError(f"a name of {shared + fresh} bytes, at most {_MAX_KEY} are read")
        key = key[:shared] + block[at : at + fresh]
        at += fresh
        yield key, block[at : at + length]
        at += length


def _handle(data: bytes, at: int) -> tuple[tuple[int, int], int]:
    """Where a block is: (offset, size) in bytes, and where the next one stands."""
    offset, at = _varint(data, at)
    size, at = _varint(data, at)
    return (offset, size), at


def _varint(data: bytes, at: int) -> tuple[int, int]:
    value = 0
    for i, byte in enumerate(data[at : at + 10]):
        value |= (byte & 127) << 7 * i
        if byte < 128:
            return value, at + i + 1
    raise _DamagedError("a number without an end")


def unpack_snappy(data: bytes, limit: int) -> bytes:
    """The content of a block in snappy's raw format, at most `limit` bytes.

    Raises ValueError for a damaged or a larger one, MissingExtraError without cramjam.
    """
    with needs("train", "this file"):
        import cramjam
    try:
        size = cramjam.snappy.decompress_raw_len(data)
        if size > limit:
            raise _DamagedError(f"{len(data)} packed bytes that claim to be {size}")
        return bytes(cramjam.snappy.decompress_raw(data))
    except cramjam.DecompressionError as error:
        raise _DamagedError(f"a packed block cannot be unpacked: {printable(error, 80)}") from error
