"""Protocol Buffers of other projects, read without their .proto files: message classes made from small tables.

A table names the few fields that we use; everything else in a file is skipped. What a file can make us allocate is
bounded before it is parsed: a message of two bytes becomes an object of hundreds.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from singleshot.errors import CheckpointError, MissingExtraError, printable

MAX_ENTRIES = 2_000_000  # fields, and values that take more memory than they take in the file
MAX_DEPTH = 64  # of messages in messages
MAX_BINARY = 2**31 - 1  # the format's own limit
MAX_TEXT = 2 * 2**20  # a few seconds' work; the longest network known has a third of it

# (name, number, type, "optional" | "repeated" | "packed"), and a default where it is not zero. type: a scalar of the
# format ("int32", "float", "string", ...), or the name of a message or an enumeration of the same table.
Field = tuple[str, int, str, str] | tuple[str, int, str, str, Any]
# A message is a list of fields, an enumeration a dict of name -> number.
Table = Mapping[str, Sequence[Field] | Mapping[str, int]]

_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5


def messages(package: str, table: Table) -> dict[str, Any]:
    """Name -> message class (proto2), for all messages of the table; enumerations are told by their values' numbers.

    Raises MissingExtraError without the package protobuf. The classes know each other and nothing else.
    """
    try:
        from google.protobuf import descriptor_pb2, descriptor_pool, message_factory
    except ImportError as error:
        raise MissingExtraError("this file needs the package protobuf: pip install 'singleshot[train]'") from error
    file = descriptor_pb2.FileDescriptorProto(name=f"{package}.proto", package=package, syntax="proto2")
    for name, fields in table.items():
        if isinstance(fields, Mapping):
            # An enumeration's values live in the scope around it, where two may not share a name: one scope each.
            enum = file.message_type.add(name=f"{name}Scope").enum_type.add(name=name)
            for word, number in fields.items():
                enum.value.add(name=word, number=number)
            continue
        message = file.message_type.add(name=name)
        for field in fields:
            _add_field(message, field, package, table)
    pool = descriptor_pool.DescriptorPool()
    pool.AddSerializedFile(file.SerializeToString())
    return {
        name: message_factory.GetMessageClass(pool.FindMessageTypeByName(f"{package}.{name}"))
        for name, fields in table.items()
        if not isinstance(fields, Mapping)
    }


def _add_field(message: Any, field: Field, package: str, table: Table) -> None:
    """One row of the table into the message's descriptor."""
    name, number, kind, label = field[:4]
    row = message.field.add(name=name, number=number)
    row.label = row.LABEL_OPTIONAL if label == "optional" else row.LABEL_REPEATED
    if label == "packed":
        row.options.packed = True
    if kind in table:
        enum = isinstance(table[kind], Mapping)
        row.type = row.TYPE_ENUM if enum else row.TYPE_MESSAGE
        row.type_name = f".{package}.{kind}Scope.{kind}" if enum else f".{package}.{kind}"
    else:
        row.type = row.Type.Value(f"TYPE_{kind.upper()}")
    if len(field) == 5:
        row.default_value = str(field[4]).lower() if isinstance(field[4], bool) else str(field[4])


def parse_binary(message: Any, data: bytes | memoryview, where: str) -> Any:
    """An object of that message class. Raises CheckpointError for what is no such message, or too large a one."""
    from google.protobuf.message import DecodeError

    if len(data) > MAX_BINARY:
        raise CheckpointError(f"{where}: protobuf of {len(data)} bytes: want at most 2 GB")
    _Scan(memoryview(data), where).message(0, len(data), message.DESCRIPTOR, 0)
    try:
        return message.FromString(bytes(data))
    except (DecodeError, RecursionError, UnicodeDecodeError) as error:
        raise CheckpointError(f"{where}: not the protobuf it should be ({printable(error, 80)})") from error


# A string, a comment, or a bracket: what decides how deep a text is.
_TEXT_TOKEN = re.compile(r'"(?:[^"\\\n]|\\.)*"?|\'(?:[^\'\\\n]|\\.)*\'?|#[^\n]*|[{}<>\[\]]')


def parse_text(message: Any, text: str | bytes, where: str) -> Any:
    """The same from the text form; fields that the table does not have are skipped. Raises CheckpointError."""
    from google.protobuf import text_format

    if len(text) > MAX_TEXT:
        raise CheckpointError(f"{where}: text of {len(text)} bytes: want at most {MAX_TEXT // 2**20} MB")
    try:
        text = text if isinstance(text, str) else text.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise CheckpointError(f"{where}: is not text ({printable(error, 80)})") from error
    depth = 0
    for found in _TEXT_TOKEN.finditer(text):
        token = found.group()
        depth += (token in "{<[") - (token in "}>]")
        if depth > MAX_DEPTH:
            line = text.count("\n", 0, found.start()) + 1
            raise CheckpointError(f"{where}: line {line}: more than {MAX_DEPTH} brackets in each other")
    try:
        return text_format.Parse(text, message(), allow_unknown_field=True)
    except (text_format.ParseError, RecursionError, ValueError, TypeError, OverflowError) as error:
        raise CheckpointError(f"{where}: cannot be read as protobuf text ({printable(error, 120)})") from error


class _Scan:
    """A walk over the binary form that allocates nothing: refuses what is cut off or nested without end, and counts."""

    def __init__(self, data: memoryview, where: str) -> None:
        self.data, self.where, self.entries = data, where, 0

    def message(self, at: int, end: int, descriptor: Any, depth: int) -> None:
        """data[at:end], read as that message."""
        if depth > MAX_DEPTH:
            raise CheckpointError(f"{self.where}: more than {MAX_DEPTH} protobuf messages in each other")
        fields = descriptor.fields_by_number
        while at < end:
            tag, after = self.varint(at, end)
            field, wire = fields.get(tag >> 3), tag & 7
            if not tag >> 3:
                raise self.broken(at)
            if wire in (_FIXED32, _FIXED64):
                at = self.run(at, after, end, 4 if wire == _FIXED32 else 8)
                continue
            self.count(1)
            if wire == _VARINT:
                _, at = self.varint(after, end)
                continue
            if wire != _BYTES:
                raise self.broken(at)
            length, start = self.varint(after, end)
            at = start + length
            if at > end:
                raise self.broken(start)
            if field is not None:
                self.content(field, start, at, depth)

    def content(self, field: Any, start: int, end: int, depth: int) -> None:
        """What a field with a length holds."""
        if field.message_type is not None:
            self.message(start, end, field.message_type, depth + 1)
        elif field.type == field.TYPE_STRING:
            try:
                str(self.data[start:end], "utf-8")
            except UnicodeDecodeError as error:
                raise CheckpointError(f"{self.where}: {field.full_name} is not text") from error
        elif field.type not in (field.TYPE_BYTES, field.TYPE_FLOAT, field.TYPE_DOUBLE):
            self.count(end - start)  # packed whole numbers: of one byte here, of eight in memory

    def run(self, at: int, after: int, end: int, width: int) -> int:
        """Past a number of fixed width and all that follow it with the same tag, as old writers put down arrays."""
        tag, stride = bytes(self.data[at:after]), after - at + width
        if at + stride > end:
            raise self.broken(at)
        if len(tag) > 1 or at + 2 * stride > end or self.data[at + stride] != tag[0]:
            self.count(1)
            return at + stride
        first = np.frombuffer(self.data[at:end], np.uint8)[: (end - at) // stride * stride].reshape(-1, stride)[:, 0]
        different = np.flatnonzero(first != tag[0])
        return at + stride * int(different[0] if len(different) else len(first))

    def varint(self, at: int, end: int) -> tuple[int, int]:
        """The number there and the place after it."""
        value = shift = 0
        while at < end and shift < 64:
            byte = self.data[at]
            at += 1
            value |= (byte & 127) << shift
            if byte < 128:
                return value, at
            shift += 7
        raise self.broken(at)

    def count(self, more: int) -> None:
        self.entries += more
        if self.entries > MAX_ENTRIES:
            raise CheckpointError(f"{self.where}: protobuf of more than {MAX_ENTRIES} fields: more than is read")

    def broken(self, at: int) -> CheckpointError:
        return CheckpointError(
            f"{self.where}: not the protobuf it should be, or cut off (byte {at} of {len(self.data)})"
        )
