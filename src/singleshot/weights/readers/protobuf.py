"""Protocol Buffers of other projects: their messages by name, and how they are parsed within bounds.

protos/*.proto name the few fields that we use; everything else in a file is skipped. They are compiled to
protos/protos.binpb (`make protos`), a descriptor set: unlike generated Python modules, which protobuf's next but one
major version may refuse, every version reads it.
"""

from __future__ import annotations

import re
from functools import cache
from pathlib import Path
from typing import Any

from singleshot.errors import CheckpointError, MissingExtraError, printable

MAX_ENTRIES = 2_000_000  # fields, and values that take more memory than they take in the file
MAX_BINARY = 2**31 - 1  # the format's own limit
MAX_TEXT = 2 * 2**20  # a few seconds' work; the longest network known has a third of it
DESCRIPTORS = Path(__file__).with_name("protos") / "protos.binpb"

_VARINT, _BYTES = 0, 2  # wire types
_FIXED = {1: 8, 5: 4}  # wire type -> width


@cache
def message_class(name: str) -> Any:
    """The class of a message, such as "caffe.NetParameter". Raises MissingExtraError without the package protobuf."""
    try:
        from google.protobuf import message_factory
    except ImportError as error:
        raise MissingExtraError("this file needs the package protobuf: pip install 'singleshot[train]'") from error
    return message_factory.GetMessageClass(_pool().FindMessageTypeByName(name))


@cache
def _pool() -> Any:
    """All messages of protos.binpb, apart from those that other packages have loaded."""
    from google.protobuf import descriptor_pb2, descriptor_pool

    pool = descriptor_pool.DescriptorPool()
    for file in descriptor_pb2.FileDescriptorSet.FromString(DESCRIPTORS.read_bytes()).file:
        pool.Add(file)
    return pool


def parse_binary(name: str, data: bytes, where: str) -> Any:
    """A message from its binary form.

    Args:
        name: of the message, as for `message_class`.
        data: its bytes.
        where: what messages call the file.

    Raises:
        CheckpointError: no such message, or larger than is read: more than 2 GB, or than `MAX_ENTRIES` fields, since a
            field of two bytes becomes an object of hundreds.
    """
    from google.protobuf.message import DecodeError

    message = message_class(name)
    if len(data) > MAX_BINARY:
        raise CheckpointError(f"{where}: protobuf of {len(data)} bytes: want at most 2 GB")
    _Scan(data, where).message(0, len(data), message.DESCRIPTOR)
    try:
        return message.FromString(data)
    except (DecodeError, RecursionError, UnicodeDecodeError) as error:
        raise CheckpointError(f"{where}: not the protobuf it should be ({printable(error, 80)})") from error


def parse_text(name: str, text: str | bytes, where: str) -> Any:
    """The same from the text form; fields that are not in the .proto file are skipped. Raises CheckpointError."""
    message = message_class(name)
    from google.protobuf import text_format

    if len(text) > MAX_TEXT:
        raise CheckpointError(f"{where}: text of {len(text)} bytes: want at most {MAX_TEXT // 2**20} MB")
    try:
        text = text if isinstance(text, str) else text.decode("utf-8-sig")
        return text_format.Parse(text, message(), allow_unknown_field=True)
    except UnicodeDecodeError as error:
        raise CheckpointError(f"{where}: is not text ({printable(error, 80)})") from error
    except RecursionError as error:
        raise CheckpointError(f"{where}: cannot be read as protobuf text (brackets nested too deep)") from error
    except (text_format.ParseError, ValueError, TypeError, OverflowError) as error:
        raise CheckpointError(f"{where}: cannot be read as protobuf text ({printable(error, 120)})") from error


class _Scan:
    """A walk over the binary form that allocates nothing: refuses what is cut off, and counts.

    None of our messages holds itself, so that the walk is as deep as protos/*.proto are.
    """

    def __init__(self, data: bytes, where: str) -> None:
        self.data, self.where, self.entries = data, where, 0

    def message(self, at: int, end: int, descriptor: Any) -> None:
        """data[at:end], read as that message."""
        fields = descriptor.fields_by_number
        while at < end:
            start = at
            tag, at = self.varint(start, end)
            self.count(1)
            if tag & 7 in _FIXED:
                at = self.run(start, at, end, _FIXED[tag & 7])
            elif tag & 7 == _VARINT:
                _, at = self.varint(at, end)
            elif tag & 7 == _BYTES:
                length, at = self.varint(at, end)
                if at + length > end:
                    raise self.broken(at)
                if (field := fields.get(tag >> 3)) is not None:
                    self.content(field, at, at + length)
                at += length
            else:
                raise self.broken(start)

    def content(self, field: Any, start: int, end: int) -> None:
        """What a field with a length holds."""
        if field.message_type is not None:
            self.message(start, end, field.message_type)
        elif field.type == field.TYPE_STRING:
            try:
                str(memoryview(self.data)[start:end], "utf-8")
            except UnicodeDecodeError as error:
                raise CheckpointError(f"{self.where}: {field.full_name} is not text") from error
        elif field.type not in (field.TYPE_BYTES, field.TYPE_FLOAT, field.TYPE_DOUBLE):
            self.count(end - start)  # packed whole numbers: of one byte here, of eight in memory

    def run(self, start: int, at: int, end: int, width: int) -> int:
        """Past a number of fixed width and all that follow it with the same tag, as old writers put down arrays."""
        tag = re.escape(self.data[start:at])
        found = re.compile(b"(?:%b.{%d})++" % (tag, width), re.DOTALL).match(self.data, start, end)
        if found is None:
            raise self.broken(start)
        return found.end()

    def varint(self, at: int, end: int) -> tuple[int, int]:
        """The number there and the place after it."""
        value = 0
        for shift, byte in enumerate(self.data[at : min(at + 10, end)]):
            value |= (byte & 127) << 7 * shift
            if byte < 128:
                return value, at + shift + 1
        raise self.broken(at)

    def count(self, more: int) -> None:
        """Note so many fields or values more."""
        self.entries += more
        if self.entries > MAX_ENTRIES:
            raise CheckpointError(f"{self.where}: protobuf of more than {MAX_ENTRIES} fields: more than is read")

    def broken(self, at: int) -> CheckpointError:
        """What to raise for what stands there."""
        return CheckpointError(
            f"{self.where}: not the protobuf it should be, or cut off (byte {at} of {len(self.data)})"
        )
