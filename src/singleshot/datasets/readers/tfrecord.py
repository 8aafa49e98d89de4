"""TFRecord files with the keys of TensorFlow's Object Detection API (dataset_tools/), without TensorFlow.

A file is a row of records, each its length, the length's checksum, a tf.train.Example and its checksum
(tensorflow/core/lib/io/record_writer.h). Images stay in it: their paths are FILE#OFFSET+LENGTH, as those of shards.
"""

from __future__ import annotations

import contextlib
import math
import re
import struct
from collections.abc import Iterator, Sequence
from typing import IO, NamedTuple

from singleshot.datasets.findings import RaiseErrors
from singleshot.datasets.packed_strings import is_encodable
from singleshot.datasets.raw import Box, RawObject
from singleshot.datasets.readers.common import whole_side
from singleshot.datasets.readers.label_files import LabelFile, LabelForm, ListedImage, ParsedFile, UnreadableFileError
from singleshot.datasets.readers.label_map import LabelMap, find_label_map
from singleshot.datasets.tree import Tree
from singleshot.errors import DataError, printable
from singleshot.images.decode import MAX_FILE_BYTES
from singleshot.images.suffixes import is_image
from singleshot.storage import masked_crc32c

_NAME = re.compile(r"(\.(tfrecords?|tfrec|records?)(-\d{5}-of-\d{5})?|-\d{5}-of-\d{5})$", re.IGNORECASE)
_MAX_BYTES, _MAX_RECORD = 2**44, MAX_FILE_BYTES + 2**24
_MAX_VALUES = 100_000  # of a feature: objects of an image
_HEAD, _TAIL = 12, 4
# Wire types of protobuf, and fields of tf.train.Feature (tensorflow/core/example/feature.proto).
_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5
_TEXTS, _FLOATS, _INTS = 1, 2, 3
_BOX = tuple(f"image/object/bbox/{side}" for side in ("xmin", "ymin", "xmax", "ymax"))
_IMAGE, _TEXT, _LABEL = "image/encoded", "image/object/class/text", "image/object/class/label"


class _BrokenError(ValueError):
    """What is wrong with a record, without its place."""


class _Feature(NamedTuple):
    """One of _TEXTS, _FLOATS and _INTS, and where its values lie in the record."""

    kind: int
    start: int
    end: int


class _Example(NamedTuple):
    """A record; at: where its bytes are in the file."""

    data: bytes
    features: dict[str, _Feature]
    at: int


def is_one(head: bytes) -> bool:
    """Whether a file starts with the length of a record, and that is an Example of the very length."""
    if len(head) < _HEAD + 2 or head[_HEAD] != 0x0A:
        return False
    length = int.from_bytes(head[:8], "little")
    try:
        inner, at = _varint(head, _HEAD + 1, len(head))
    except _BrokenError:
        return False
    return length <= _MAX_RECORD and at + inner == _HEAD + length


class RecordForm(LabelForm):
    """The form: its files are read record by record, and are known by ends of names such as -00000-of-00010 too."""

    def named(self, tree: Tree, folder: str) -> list[str]:
        """As LabelForm's."""
        return [name for name in tree.files(folder) if _NAME.search(name)]

    def parse_file(self, tree: Tree, file: LabelFile, problems: RaiseErrors) -> ParsedFile:
        """As LabelForm's."""
        with contextlib.ExitStack() as stack:
            try:
                label_map = find_label_map(tree, file.name)
                stream = stack.enter_context(tree.open(file.name, _MAX_BYTES, "annotation"))
            except DataError as error:
                raise UnreadableFileError(str(error)) from error
            reader = _Reader(tree.path(file.name), label_map, problems)
            images = [image for image in map(reader.image, reader.examples(stream)) if image is not None]
        return ParsedFile(images, tuple(dict.fromkeys(label_map.names.values())))


def _no_parse(data: bytes, path: str, problems: RaiseErrors) -> ParsedFile:
    raise AssertionError("records are read by parse_file")


FORM = RecordForm(
    "tfrecord", "TFRecord", (".tfrecord", ".tfrecords", ".tfrec", ".record", ".records"), is_one, _no_parse
)


class _Reader:
    """Reads one file, and reports what is wrong in it."""

    def __init__(self, path: str, label_map: LabelMap, problems: RaiseErrors) -> None:
        self._path, self._map, self._problems = path, label_map, problems
        self._number = -1
        self._stems: set[str] = set()

    def examples(self, file: IO[bytes]) -> Iterator[_Example]:
        """The records; one that is damaged is left out, and after damage to a length nothing more comes."""
        at = 0
        while head := file.read(_HEAD):
            self._number += 1
            length = int.from_bytes(head[:8], "little")
            if len(head) < _HEAD or masked_crc32c(head[:8]) != int.from_bytes(head[8:], "little"):
                self._end("its length is damaged")
                return
            if length > _MAX_RECORD:
                self._end(f"it has {length} bytes (at most {_MAX_RECORD} are read)")
                return
            data, tail = file.read(length), file.read(_TAIL)
            if len(data) + len(tail) < length + _TAIL:
                self._end("the file ends in it")
                return
            if masked_crc32c(data) != int.from_bytes(tail, "little"):
                self._broken("is damaged (its checksum does not fit); write it again")
            else:
                try:
                    yield _Example(data, _features(data), at + _HEAD)
                except _BrokenError as error:
                    self._broken(f"is no tf.train.Example ({error}); write it again")
            at += _HEAD + length + _TAIL

    def image(self, example: _Example) -> ListedImage | None:
        """The image of a record with its objects, or None. Raises UnreadableFileError where names are lacking."""
        try:
            place = _only(_texts(example, _IMAGE), _IMAGE)
            if place is None:
                self._refuse_others(example)
                self._broken(f"has no {_IMAGE}; write the image file's bytes into it", kind="image-missing")
                return None
            name = self._name(example)
            width, height = (_size(example, f"image/{side}") for side in ("width", "height"))
            objects = self._objects(example)
        except _BrokenError as error:
            self._broken(f"{error}; correct it")
            return None
        start, end = place
        item = f"record {self._number} ({printable(name, 80)})"
        path = f"{self._path}#{example.at + start}+{end - start}"
        return ListedImage((name,), item, objects, width, height, embedded=path, relative=True)

    def _name(self, example: _Example) -> str:
        """image/filename, no two the same, with an ending."""
        place = _only(_texts(example, "image/filename"), "image/filename")
        name = _decode(example.data, place) if place is not None else ""
        name = name.replace("\\", "/").rpartition("/")[2]
        stem, _, ending = name.rpartition(".") if is_image(name) else (name, "", "jpg")
        stem = stem or f"record-{self._number}"
        if stem in self._stems:
            stem = f"{stem}-{self._number}"
        self._stems.add(stem)
        return f"{stem}.{ending}"

    def _objects(self, example: _Example) -> list[RawObject]:
        boxes = self._boxes(example)
        count = len(boxes)
        names = self._class_names(example, count)
        difficult = _flags(example, "image/object/difficult", count)
        groups = [_flags(example, f"image/object/{key}", count) for key in ("is_crowd", "group_of")]
        areas = _numbers(example, "image/object/area")
        objects = []
        for k, (name, box) in enumerate(zip(names, boxes, strict=True)):
            if not name:
                continue
            area = areas[k] if len(areas) == count and 0 <= areas[k] < math.inf else math.nan
            crowd = any(flags[k] for flags in groups)
            objects.append(RawObject(name, box, difficult[k], crowd, area, k, tag=f"record {self._number}, object {k}"))
        return objects

    def _boxes(self, example: _Example) -> list[Box]:
        columns = [_numbers(example, key) for key in _BOX]
        if len({len(column) for column in columns}) > 1:
            counts = ", ".join(str(len(column)) for column in columns)
            raise _BrokenError(f"has {counts} numbers xmin, ymin, xmax, ymax (want as many of each)")
        return [(x0, y0, x1, y1) for x0, y0, x1, y1 in zip(*columns, strict=True)]

    def _class_names(self, example: _Example, count: int) -> list[str]:
        """By class/text, else by class/label and the label map; "" for one that is reported."""
        texts = [_decode(example.data, place).strip() for place in _texts(example, _TEXT)]
        labels = _numbers(example, _LABEL)
        if len(texts) not in (0, count) or (len(labels) != count and len(texts) != count):
            raise _BrokenError(f"has {count} boxes, {len(texts)} of {_TEXT} and {len(labels)} of {_LABEL}")
        names = [self._map.shown(text) for text in texts] or [""] * count
        for k in range(count):
            if not names[k] and len(labels) == count:
                names[k] = self._by_number(labels[k], k)
            elif not names[k]:
                self._broken(f"object {k} has no name in {_TEXT}; write it")
        return names

    def _by_number(self, label: float, k: int) -> str:
        if not self._map.names:
            raise UnreadableFileError(
                f"{printable(self._path)}: record {self._number}: its objects have numbers and no names; put the label "
                "map (NAME_label_map.pbtxt) beside the file"
            )
        name = self._map.names.get(int(label)) if label % 1 == 0 else None
        if name is None:
            few = ", ".join(f"{number} {printable(name, 30)}" for number, name in list(self._map.names.items())[:8])
            self._broken(
                f"object {k}: class {label:.7g} is not in {printable(self._map.file)} ({few})", "class-unknown"
            )
        return name or ""

    def _refuse_others(self, example: _Example) -> None:
        """Raise UnreadableFileError for records of another kind: none of their keys is the API's."""
        if example.features and not any(key.startswith(("image/object/", "image/")) for key in example.features):
            there = ", ".join(printable(key, 40) for key in list(example.features)[:6])
            raise UnreadableFileError(
                f"{printable(self._path)}: its records hold {there}; want the keys of TensorFlow's Object Detection "
                f"API ({_IMAGE}, {_BOX[0]}, {_TEXT}, ...)"
            )

    def _broken(self, message: str, kind: str = "annotation-malformed") -> None:
        self._problems.add(kind, self._path, message, f"record {self._number}", number=self._number)

    def _end(self, message: str) -> None:
        said = f"record {self._number}: {message}; nothing after it is read; fetch the file again, or write it anew"
        self._problems.add("annotation-unreadable", self._path, said)


# ---------------------------------------------------------------------------------------------- features


def _size(example: _Example, key: str) -> int:
    values = _numbers(example, key)
    return whole_side(values[0]) or 0 if len(values) == 1 else 0


def _flags(example: _Example, key: str, count: int) -> list[bool]:
    """A list of 0 and 1; none at all is 0 for each."""
    values = _numbers(example, key)
    if not values:
        return [False] * count
    if len(values) != count or not {*values} <= {0, 1}:
        raise _BrokenError(f"has {key} that is not 0 or 1 for each of its {count} objects")
    return [value == 1 for value in values]


def _only(places: Sequence[tuple[int, int]], key: str) -> tuple[int, int] | None:
    if len(places) > 1:
        raise _BrokenError(f"has {len(places)} of {key} (want one)")
    return places[0] if places and places[0][0] < places[0][1] else None


def _decode(data: bytes, place: tuple[int, int]) -> str:
    try:
        text = data[place[0] : place[1]].decode("utf-8")
    except UnicodeDecodeError as error:
        raise _BrokenError("has a text that is not UTF-8") from error
    if not is_encodable(text) and text:
        raise _BrokenError(f"has the text {printable(text, 60)!r}, which is no name")
    return text


def _texts(example: _Example, key: str) -> list[tuple[int, int]]:
    """Where the texts of a feature lie; [] where it is not there."""
    feature = example.features.get(key)
    if feature is None or feature.start == feature.end:
        return []
    if feature.kind != _TEXTS:
        raise _BrokenError(f"has numbers in {key} (want texts)")
    found = []
    for number, wire, start, end in _fields(example.data, feature.start, feature.end):
        if number == 1 and wire == _BYTES:
            found.append((start, end))
            _bound(len(found), key)
    return found


def _numbers(example: _Example, key: str) -> list[float]:
    """The numbers of a feature, whole ones or not; [] where it is not there."""
    feature = example.features.get(key)
    if feature is None or feature.start == feature.end:
        return []
    if feature.kind == _TEXTS:
        raise _BrokenError(f"has texts in {key} (want numbers)")
    data, found = example.data, list[float]()
    for number, wire, start, end in _fields(data, feature.start, feature.end):
        if number != 1:
            continue
        if feature.kind == _FLOATS and wire in (_BYTES, _FIXED32):
            if (end - start) % 4:
                raise _BrokenError(f"has a number that is cut off in {key}")
            _bound(len(found) + (end - start) // 4, key)
            found += struct.unpack(f"<{(end - start) // 4}f", data[start:end])
        elif feature.kind == _INTS and wire in (_BYTES, _VARINT):
            at = start
            while at < end:
                value, at = _varint(data, at, end)
                found.append(value - 2**64 if value >> 63 else value)
                _bound(len(found), key)
    return found


def _bound(count: int, key: str) -> None:
    if count > _MAX_VALUES:
        raise _BrokenError(f"has more than {_MAX_VALUES} values in {key}")


def _features(data: bytes) -> dict[str, _Feature]:
    """The features of an Example by their names, as far as they have values. Raises _BrokenError."""
    found: dict[str, _Feature] = {}
    for number, wire, start, end in _fields(data, 0, len(data)):
        if (number, wire) != (1, _BYTES):
            continue
        for inner, wire_in, entry, entry_end in _fields(data, start, end):
            if (inner, wire_in) == (1, _BYTES):
                _take_entry(data, entry, entry_end, found)
                _bound(len(found), "features")
    return found


def _take_entry(data: bytes, start: int, end: int, found: dict[str, _Feature]) -> None:
    key, feature = "", None
    for number, wire, first, last in _fields(data, start, end):
        if (number, wire) == (1, _BYTES):
            key = data[first:last].decode("utf-8", "replace")
        elif (number, wire) == (2, _BYTES):
            for kind, how, inside, stop in _fields(data, first, last):
                if kind in (_TEXTS, _FLOATS, _INTS) and how == _BYTES:
                    feature = _Feature(kind, inside, stop)
    if feature is not None:
        found[key] = feature


def _fields(data: bytes, at: int, end: int) -> Iterator[tuple[int, int, int, int]]:
    """(number, wire type, start, end of the value) of each field of the message in data[at:end]."""
    while at < end:
        tag, start = _varint(data, at, end)
        wire = tag & 7
        if wire == _VARINT:
            at = _varint(data, start, end)[1]
        elif wire in (_FIXED64, _FIXED32):
            at = start + (8 if wire == _FIXED64 else 4)
        elif wire == _BYTES:
            length, start = _varint(data, start, end)
            at = start + length
        else:
            raise _BrokenError(f"byte {at} is no field")
        if at > end:
            raise _BrokenError(f"a field at byte {start} is cut off")
        yield tag >> 3, wire, start, at


def _varint(data: bytes, at: int, end: int) -> tuple[int, int]:
    """The number there and the place after it."""
    value = 0
    for shift, byte in enumerate(data[at : min(at + 10, end)]):
        value |= (byte & 127) << 7 * shift
        if byte < 128:
            return value, at + shift + 1
    raise _BrokenError(f"byte {at} is no number")
