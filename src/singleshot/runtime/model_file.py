"""The description in an exported file, read without any library for its format."""

from __future__ import annotations

import mmap
import os
import struct
from collections.abc import Iterator
from pathlib import Path

from singleshot.errors import CheckpointError, printable
from singleshot.model_info import EXPORTED, KEY, ModelInfo

MAX_BYTES = 2**31  # the most that ONNX's own format can hold
# Field numbers of onnx.proto: ModelProto.graph and metadata_props, and StringStringEntryProto's key and value.
_GRAPH, _METADATA_PROPS, _NAME, _VALUE = 7, 14, 1, 2
_MAX_ENTRIES = 1000  # of metadata in a .tflite file


def read_onnx_info(path: str | Path) -> ModelInfo:
    """The description in an ONNX file that singleshot wrote. Raises CheckpointError."""
    text = onnx_description(path)
    if text is None:
        raise CheckpointError(
            f"{printable(path)}: an ONNX file without singleshot's description; export it with `singleshot export`"
        )
    return ModelInfo.from_json(text, printable(path), EXPORTED)


def onnx_description(path: str | Path) -> str | None:
    """The description's JSON in an ONNX file, None where it has none. Raises CheckpointError.

    Only the outermost fields of the file are looked at, through a map of it, so that weights are not read.
    """
    path, where = Path(path), printable(path)
    try:
        with path.open("rb") as file:
            size = os.fstat(file.fileno()).st_size
            if size > MAX_BYTES:
                raise CheckpointError(f"{where}: larger than 2 GB, which no ONNX file is")
            if size == 0:
                raise CheckpointError(f"{where}: an empty file; export it again")
            with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
                return _description(data)
    except FileNotFoundError as error:
        raise CheckpointError(f"{where}: no such file") from error
    except (OSError, ValueError) as error:
        if isinstance(error, OSError):
            raise CheckpointError(f"{where}: cannot be read ({printable(error.strerror)})") from error
        raise CheckpointError(f"{where}: not an ONNX file, or cut short; export it again") from error


def _description(data: mmap.mmap) -> str | None:
    """ValueError where the data is not a protobuf message with at least a graph in it."""
    found, graph = None, False
    with memoryview(data) as view:
        for number, start, end in _fields(view, 0, len(view)):
            graph |= number == _GRAPH
            if number == _METADATA_PROPS:
                entry = {n: bytes(view[a:b]) for n, a, b in _fields(view, start, end)}
                if entry.get(_NAME) == KEY.encode() and _VALUE in entry:
                    found = entry[_VALUE].decode("utf-8", "replace")
    if not graph:
        raise ValueError("no graph")
    return found


def _fields(data: memoryview, at: int, end: int) -> Iterator[tuple[int, int, int]]:
    """(number, start, end) of each field of the protobuf message in data[at:end]; ValueError when it is none."""
    while at < end:
        tag, at = _varint(data, at)
        kind = tag & 7
        length = 0
        if kind == 0:
            start = at
            _, at = _varint(data, at)
            yield tag >> 3, start, at
            continue
        if kind == 2:
            length, at = _varint(data, at)
        elif kind in (1, 5):
            length = 8 if kind == 1 else 4
        else:
            raise ValueError("not protobuf")
        if at + length > end:
            raise ValueError("cut short")
        yield tag >> 3, at, at + length
        at += length


def _varint(data: memoryview, at: int) -> tuple[int, int]:
    value = shift = 0
    while at < len(data) and shift < 64:
        byte = data[at]
        value |= (byte & 0x7F) << shift
        at, shift = at + 1, shift + 7
        if byte < 0x80:
            return value, at
    raise ValueError("cut short")


def tflite_description(path: str | Path) -> str | None:
    """The description's JSON in a .tflite file, None where it has none, or where it is no such file.

    A .tflite file is a FlatBuffer (tensorflow/lite/schema/schema.fbs): of the model, metadata is field 6 and buffers
    are field 4; of an entry, the name is field 0 and the number of its buffer field 1; of a buffer, data is field 0.
    """
    try:
        with Path(path).open("rb") as file:
            if file.read(8)[4:] != b"TFL3" or os.fstat(file.fileno()).st_size > MAX_BYTES:
                return None
            with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
                return _tflite_description(data)
    except (OSError, ValueError, struct.error):
        return None


def _tflite_description(data: mmap.mmap) -> str | None:
    def number(at: int) -> int:
        return int(struct.unpack_from("<I", data, at)[0])

    def field(table: int, index: int) -> int:
        """Where a table's field is; 0 where it has none."""
        fields = table - struct.unpack_from("<i", data, table)[0]
        size = struct.unpack_from("<H", data, fields)[0]
        away = struct.unpack_from("<H", data, fields + 4 + 2 * index)[0] if 4 + 2 * index < size else 0
        return table + away if away else 0

    def vector(table: int, index: int) -> tuple[int, int]:
        """Where a vector's first element is, and how many there are."""
        at = field(table, index)
        start = at + number(at) if at else 0
        return (start + 4, number(start)) if at else (0, 0)

    def text(table: int, index: int) -> bytes:
        start, count = vector(table, index)
        return data[start : start + count]

    model = number(0)
    entries, count = vector(model, 6)
    buffers, there = vector(model, 4)
    for at in range(entries, entries + 4 * min(count, _MAX_ENTRIES), 4):
        entry = at + number(at)
        if text(entry, 0) == KEY.encode():
            index = number(field(entry, 1))
            if index < there:
                place = buffers + 4 * index
                return text(place + number(place), 0).decode("utf-8", "replace")
    return None
