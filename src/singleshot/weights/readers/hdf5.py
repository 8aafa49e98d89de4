"""Keras' .h5 files, weights alone (`save_weights`) or a whole model (`save`), read from HDF5's bytes.

HDF5's own library crashes on some damaged files, follows links into other files and loads plug-ins. What Keras writes
needs little of it ("HDF5 File Format Specification", version 0 of the superblock and what goes with it): groups, plain
arrays of numbers and one text. The rest is refused, nothing is visited twice, and no more is read than the file holds.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import numpy as np

from singleshot.errors import CheckpointError, printable
from singleshot.weights.foreign_state import ForeignState
from singleshot.weights.readers.reading import reading

MAGIC = b"\x89HDF\r\n\x1a\n"
MAX_DEPTH = 16
MAX_LINKS = 20_000
MAX_MESSAGES = 10_000  # in one object's header
MAX_CONFIG = 16 * 2**20  # bytes of a network's description; SSD512's has 60,000
MAX_BYTES = 4 * 2**30

# Messages of an object's header, by number (specification, IV.A.2).
_DATASPACE, _LINK_INFO, _DATATYPE, _LINK, _EXTERNAL, _LAYOUT = 0x1, 0x2, 0x3, 0x6, 0x7, 0x8
_FILTERS, _ATTRIBUTE, _CONTINUED, _SYMBOLS = 0xB, 0xC, 0x10, 0x11
_SHARED = 2  # flag of a message that lies elsewhere
_MODELS = ("Model", "Functional")  # what versions of Keras call a network of layers
_NEWER = "written in a newer form of HDF5 than Keras writes; load it in Keras and save the weights again"
# Exponent and mantissa (place and bits each) and bias of IEEE 754's numbers, by their bytes.
_FLOATS = {2: (10, 5, 0, 10, 15), 4: (23, 8, 0, 23, 127), 8: (52, 11, 0, 52, 1023)}


class _RefusedError(ValueError):
    """Damaged, hostile, or nothing that Keras writes; the text is for the message."""


def read_hdf5(path: Path, where: str) -> ForeignState:
    """Names as in the file without "model_weights/"; `structure` is the model_config of a whole model, or of the .json
    of that name next to weights alone.

    Raises CheckpointError: damaged, or with links, packing or types that Keras does not write.
    """
    try:
        with reading(where), path.open("rb") as file:
            reader = _Reader(file)
            root, structure = reader.root, None
            links = reader.links(root)
            if "model_weights" in links:
                structure = reader.text(root, "model_config")
                root = reader.visit(links["model_weights"])
                links = reader.links(root)
            reader.collect(links, "", 0)
            described = _description_beside(path) if structure is None else json.loads(structure)
            found = ForeignState(reader.arrays, where, "keras", described)
            found.groups = tuple(links)  # Keras makes one for each layer
            return found
    except _RefusedError as error:
        raise CheckpointError(f"{where}: {error}") from error
    except (ValueError, RecursionError) as error:  # of the JSON, which is all that is left
        raise CheckpointError(f"{where}: its model_config is not JSON ({printable(error, 80)})") from error


def _description_beside(path: Path) -> Any:
    """What `model.to_json()` wrote next to the weights, under their name; None without one."""
    file = path.with_suffix(".json")
    if not file.is_file() or file.stat().st_size > MAX_CONFIG:
        return None
    try:
        found = json.loads(file.read_bytes())
    except (ValueError, RecursionError):
        return None  # another program's
    return found if isinstance(found, dict) and found.get("class_name") in _MODELS else None


class _Message(NamedTuple):
    """Of an object's header. shared: its content lies in another object."""

    kind: int
    data: bytes
    shared: bool


Header = list[_Message]


class _Reader:
    """The file and what was found in it so far."""

    def __init__(self, file: BinaryIO) -> None:
        self.file = file
        self.size = self.left = file.seek(0, 2)  # left: bytes that arrays may still have
        self.arrays: dict[str, np.ndarray] = {}
        self.seen: set[int] = set()
        self.count = 0
        if self.size > MAX_BYTES:
            raise _RefusedError(f"larger than {MAX_BYTES // 2**30} GB (the most that is read)")
        head = self.at(0, 100)
        version = head[8]
        if version > 1:
            raise _RefusedError(_NEWER)
        base = 24 + 4 * version
        if head[:8] != MAGIC or head[13:15] != b"\x08\x08" or _int(head, base, 8):
            raise _damaged("its beginning")
        if (end := _int(head, base + 16, 8)) > self.size:
            raise _RefusedError(f"cut off: {self.size} of {end} bytes; fetch the file again")
        self.root = self.visit(_int(head, base + 40, 8))

    def at(self, offset: int, size: int) -> bytes:
        """So many bytes from there."""
        if offset + size > self.size:
            raise _damaged(f"{size} bytes at {offset} lie outside the {self.size} of the file")
        self.file.seek(offset)
        data = self.file.read(size)
        if len(data) != size:
            raise _damaged("it became shorter")
        return data

    def once(self, offset: int) -> int:
        """The same; nothing in a file that Keras wrote is reached twice."""
        if offset in self.seen:
            raise _damaged(f"what lies at {offset} has two places")
        self.seen.add(offset)
        return offset

    def visit(self, address: int) -> Header:
        """The messages of the object there, its header's continuations included (specification, IV.A.1.a)."""
        prefix = self.at(self.once(address), 16)
        if prefix[:4] == b"OHDR":
            raise _RefusedError(_NEWER)
        if prefix[0] != 1:
            raise _damaged(f"no object at {address}")
        blocks, messages = [(address + 16, _int(prefix, 8, 4))], Header()
        while blocks:
            data = self.at(*blocks.pop(0))
            at = 0
            while at + 8 <= len(data):
                kind, size = _int(data, at, 2), _int(data, at + 2, 2)
                messages.append(_Message(kind, _part(data, at + 8, size), bool(data[at + 4] & _SHARED)))
                if kind == _CONTINUED:
                    content = _part(messages[-1].data, 0, 16)
                    blocks.append((self.once(_int(content, 0, 8)), _int(content, 8, 8)))
                if len(messages) > MAX_MESSAGES:
                    raise _damaged(f"more than {MAX_MESSAGES} messages in a header")
                at += 8 + size
        return messages

    def links(self, header: Header) -> dict[str, int]:
        """Name -> address of what hangs in a group."""
        if any(message.kind in (_LINK_INFO, _LINK) for message in header):
            for message in header:
                if message.kind == _LINK and message.data[:2].ljust(2)[1] & 8 and message.data[2:3] != b"\0":
                    raise _RefusedError("holds a link to another place or file, which is not followed")
            raise _RefusedError(_NEWER)
        table = _only(header, _SYMBOLS)
        if table is None or len(table) < 16:
            raise _damaged("a group without its table")
        head = self.at(_int(table, 8, 8), 32)
        if head[:4] != b"HEAP":
            raise _damaged("a group without its names")
        names = self.at(_int(head, 24, 8), _int(head, 8, 8))
        found = {}
        for entry in self.entries(_int(table, 0, 8), 0):
            end = names.find(b"\0", start := _int(entry, 0, 8))
            if end <= start:
                raise _damaged("a name that lies elsewhere")
            try:
                name = names[start:end].decode()
            except UnicodeDecodeError as error:
                raise _damaged("a name that is not text") from error
            if _int(entry, 16, 4) == 2:
                raise _RefusedError(f"{printable(name, 80)} is a link to another place, which is not followed")
            found[name] = _int(entry, 8, 8)
        return found

    def entries(self, address: int, depth: int) -> Iterator[bytes]:
        """The entries of a group's table, 40 bytes each: the leaves of its tree (specification, III.A.1, III.B)."""
        node = self.at(self.once(address), 24)
        if node[:5] != b"TREE\0" or depth > MAX_DEPTH:
            raise _damaged("a group's tree")
        children = self.at(address + 24, 16 * (count := _int(node, 6, 2)))
        for i in range(count):
            child = _int(children, 16 * i + 8, 8)
            if node[5]:
                yield from self.entries(child, depth + 1)
                continue
            leaf = self.at(self.once(child), 8)
            if leaf[:4] != b"SNOD":
                raise _damaged("a group's table")
            for k in range(_int(leaf, 6, 2)):
                self.count += 1
                if self.count > MAX_LINKS:
                    raise _RefusedError(f"more than {MAX_LINKS} names")
                yield self.at(child + 8 + 40 * k, 40)

    def collect(self, links: dict[str, int], prefix: str, depth: int) -> None:
        """All arrays below these links into `arrays`."""
        if depth > MAX_DEPTH:
            raise _RefusedError(f"more than {MAX_DEPTH} groups in each other")
        for name, address in links.items():
            header = self.visit(address)
            kinds = {message.kind for message in header}
            if _LAYOUT in kinds:
                try:
                    self.arrays[prefix + name] = self.array(header)
                except _RefusedError as error:
                    raise _RefusedError(f"{printable(prefix + name, 80)}: {error}") from error
            elif kinds & {_SYMBOLS, _LINK, _LINK_INFO}:
                self.collect(self.links(header), f"{prefix}{name}/", depth + 1)
            else:
                raise _RefusedError(f"{printable(prefix + name, 80)} is neither group nor array")

    def array(self, header: Header) -> np.ndarray:
        """The values of a dataset, in the machine's byte order."""
        space, kind, layout = (_only(header, which) for which in (_DATASPACE, _DATATYPE, _LAYOUT))
        if any(message.kind == _EXTERNAL for message in header):
            raise _RefusedError("lies in another file, which is not followed")
        if any(message.kind == _FILTERS for message in header):
            raise _RefusedError("is compressed, which Keras does not do; save the weights again without")
        if space is None or kind is None or layout is None:
            raise _damaged("an array that lacks its type, shape or place")
        dtype, shape = _dtype(kind), _shape(space)
        size = math.prod(shape) * dtype.itemsize
        if size > self.left or math.prod(filter(None, shape)) > MAX_BYTES:
            raise _RefusedError(f"shape {printable(shape, 60)} is more than the file can hold")
        self.left -= size
        data = self.content(layout, size)
        return np.frombuffer(data, dtype).reshape(shape).astype(dtype.newbyteorder("="))

    def content(self, layout: bytes, size: int) -> bytes:
        """The bytes of a dataset (specification, IV.A.2.i)."""
        version, kind = _part(layout, 0, 2)
        if version == 4 and kind == 3:
            raise _RefusedError("lies in another file, which is not followed")
        if version != 3:
            raise _RefusedError(_NEWER)
        if kind == 2:
            raise _RefusedError("is stored in chunks, which Keras does not do; save the weights again without")
        if kind == 0:
            return _part(_part(layout, 4, _int(layout, 2, 2)), 0, size)
        if kind != 1 or _int(layout, 10, 8) < size:
            raise _damaged("an array of another size than its place")
        return self.at(_int(layout, 2, 8), size) if size else b""

    def text(self, header: Header, name: str) -> str | None:
        """The attribute of that name, which must be one text; None where it is not (specification, IV.A.2.m)."""
        for message in header:
            data = message.data
            if message.kind != _ATTRIBUTE or not 1 <= _int(data, 0, 1) <= 3:
                continue
            version, sizes = data[0], [_int(data, at, 2) for at in (2, 4, 6)]
            at, parts = 9 if version == 3 else 8, []
            for size in sizes:
                parts.append(_part(data, at, size))
                at += -(-size // 8) * 8 if version == 1 else size
            if parts[0].rstrip(b"\0") != name.encode():
                continue
            content = self.string(parts[1], _shape(parts[2]), data[at:])
            try:
                return content.rstrip(b"\0").decode()
            except UnicodeDecodeError as error:
                raise _RefusedError(f"its {name} is not text") from error
        return None

    def string(self, kind: bytes, shape: tuple[int, ...], data: bytes) -> bytes:
        """A text of fixed length, or one of any length that lies in a heap."""
        form, size = _int(kind, 0, 1) & 15, _int(kind, 4, 4)
        if shape == () and form == 3:
            return _part(data, 0, size)
        if shape != () or form != 9 or _int(kind, 1, 1) & 15 != 1:
            raise _RefusedError("its model_config is not one text")
        length, address, index = _int(data, 0, 4), _int(data, 4, 8), _int(data, 12, 4)
        if length > MAX_CONFIG:
            raise _RefusedError(f"its model_config of {length} bytes is no description of a network")
        head = self.at(address, 16)
        if head[:4] != b"GCOL":
            raise _damaged("a text that lies elsewhere")
        at, end = address + 16, address + _int(head, 8, 8)
        while at + 16 <= end:
            entry = self.at(at, 16)
            if _int(entry, 0, 2) == index and index:
                return self.at(at + 16, min(length, _int(entry, 8, 8)))
            at += 16 + -(-_int(entry, 8, 8) // 8) * 8
        raise _damaged("a text that lies elsewhere")


def _damaged(what: str) -> _RefusedError:
    return _RefusedError(f"an HDF5 file that cannot be read, it may be damaged: {what}")


def _part(data: bytes, at: int, size: int) -> bytes:
    if at + size > len(data):
        raise _damaged(f"{size} bytes of {len(data)}")
    return data[at : at + size]


def _int(data: bytes, at: int, size: int) -> int:
    return int.from_bytes(_part(data, at, size), "little")


def _only(header: Header, kind: int) -> bytes | None:
    """Content of the message of that kind; None without one."""
    found = [message for message in header if message.kind == kind]
    if any(message.shared for message in found):
        raise _RefusedError("has its type or shape in another place, which is not followed")
    return found[0].data if found else None


def _dtype(kind: bytes) -> np.dtype[Any]:
    """numpy's type of a datatype message; numbers only (specification, IV.A.2.d)."""
    form, bits, size = _int(kind, 0, 1) & 15, _int(kind, 1, 3), _int(kind, 4, 4)
    order = "<>"[bits & 1]
    whole = _int(kind, 8, 2) == 0 and _int(kind, 10, 2) == 8 * size if form in (0, 1) else False
    if form == 0 and whole and size in (1, 2, 4, 8):
        return np.dtype(f"{order}{'i' if bits & 8 else 'u'}{size}")
    if form == 1 and whole and not bits & 64 and _FLOATS.get(size) == (*_part(kind, 12, 4), _int(kind, 16, 4)):
        return np.dtype(f"{order}f{size}")
    raise _RefusedError("its values are of another type; want numbers of 8 to 64 bits")


def _shape(space: bytes) -> tuple[int, ...]:
    """Of a dataspace message (specification, IV.A.2.b)."""
    version, rank = _part(space, 0, 2)
    if version not in (1, 2) or rank > 32:
        raise _damaged("a shape")
    if version == 2 and _int(space, 3, 1) == 2:
        raise _RefusedError("holds nothing")
    start = 8 if version == 1 else 4
    return tuple(_int(space, start + 8 * i, 8) for i in range(rank))
