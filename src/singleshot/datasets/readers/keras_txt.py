"""Text files of keras-yolo3: a line for each image, its path and then each box as x1,y1,x2,y2,class in whole pixels.

Source: github.com/qqwweee/keras-yolo3, README. Roboflow exports one `_annotations.txt` with `_classes.txt` in each
split's folder.
"""

from __future__ import annotations

import re

from singleshot.datasets.findings import RaiseErrors
from singleshot.datasets.packed_strings import is_encodable
from singleshot.datasets.raw import RawObject
from singleshot.datasets.readers.common import parse_number
from singleshot.datasets.readers.label_files import (
    MAX_LABEL_BYTES,
    LabelFile,
    LabelForm,
    ListedImage,
    ParsedFile,
    UnreadableFileError,
)
from singleshot.datasets.tree import Tree, join
from singleshot.errors import DataError, printable
from singleshot.images.suffixes import is_image
from singleshot.text import decode_text

_CLASS_FILES = ("_classes.txt", "classes.txt")
_MAX_CLASSES_BYTES, _MAX_CLASS, _FEW = 2**20, 10_000, 20
_BOX = re.compile(r"[^\s,]{1,40}(?:,[^\s,]{1,40}){4}")


def is_one(head: bytes) -> bool:
    """Whether the first lines are images with boxes, most of them."""
    lines = [line for line in head.decode("utf-8-sig", "replace").splitlines()[:_FEW] if line.strip()]
    rows = [_row(line) for line in lines]
    good = sum(is_image(name) for name, _ in rows)
    return any(boxes and is_image(name) for name, boxes in rows) and 2 * good >= len(rows)


def parse(data: bytes, path: str, problems: RaiseErrors, classes: tuple[str, ...] = ()) -> ParsedFile:
    """The images of a file; classes: names of the numbers, () where they are "class 0" and so on. Raises
    UnreadableFileError."""
    try:
        text = decode_text(data, path, paths=True)
    except DataError as error:
        raise UnreadableFileError(str(error)) from error
    images = []
    number = 0
    for line, row in enumerate(text.split("\n"), 1):
        name, boxes = _row(row)
        if not row.strip():
            continue
        item = f"image {printable(name, 120)}"
        if not is_image(name) or not is_encodable(name):
            problems.add("annotation-malformed", path, "want the path of an image, then x1,y1,x2,y2,class", item, line)
            continue
        objects = []
        for box in boxes:
            found = _object(box, number, line, classes)
            if isinstance(found, RawObject):
                objects.append(found)
            else:
                kind = "class-unknown" if found.startswith("class ") else "annotation-malformed"
                problems.add(kind, path, found, f"object {number}", line, number)
            number += 1
        images.append(ListedImage((name,), item, objects, line=line))
    return ParsedFile(images, classes)


def _row(line: str) -> tuple[str, list[str]]:
    """The path, which may hold spaces, and the boxes of a line."""
    words = list(re.finditer(r"\S+", line))
    first = len(words)
    while first > 1 and _BOX.fullmatch(words[first - 1][0]):
        first -= 1
    path = line[words[0].start() : words[first - 1].end()] if words else ""
    return path, [word[0] for word in words[first:]]


def _object(text: str, number: int, line: int, classes: tuple[str, ...]) -> RawObject | str:
    """The object of "x1,y1,x2,y2,class", or what is wrong with it."""
    values = [parse_number(part) for part in text.split(",")]
    if None in values:
        return f"{printable(text, 80)!r} holds what is no number; want x1,y1,x2,y2,class"
    x0, y0, x1, y1, label = (value or 0.0 for value in values)
    if not (0 <= label <= _MAX_CLASS and label % 1 == 0):
        return f"the class is {printable(text.rpartition(',')[2], 40)}; want a whole number from 0"
    if classes and label >= len(classes):
        return f"class {int(label)} of {len(classes)} names in {_CLASS_FILES[0]}, from 0; correct it, or add the name"
    name = classes[int(label)] if classes else f"class {int(label)}"
    return RawObject(name, (x0, y0, x1, y1), number=number, line=line, tag=f"object {number}")


class KerasForm(LabelForm):
    """The form: the names of its classes stand in a file beside."""

    def parse_file(self, tree: Tree, file: LabelFile, problems: RaiseErrors) -> ParsedFile:
        """As LabelForm's."""
        try:
            data = tree.read(file.name, MAX_LABEL_BYTES, "annotation")
            classes = _classes(tree, file.name.rpartition("/")[0])
        except DataError as error:
            raise UnreadableFileError(str(error)) from error
        return parse(data, tree.path(file.name), problems, classes)


FORM = KerasForm("keras-txt", "keras-yolo3 TXT", (".txt",), is_one, parse)


def _classes(tree: Tree, folder: str) -> tuple[str, ...]:
    """Names in the file beside, or in the root's; () without one. Raises DataError."""
    for place in dict.fromkeys((folder, "")):
        for name in _CLASS_FILES:
            if tree.names(place).get(name) is False:
                found = join(place, name)
                text = decode_text(tree.read(found, _MAX_CLASSES_BYTES, "class names"), tree.path(found))
                names = tuple(line.strip() for line in text.rstrip().split("\n"))
                if not all(map(is_encodable, names)) or "" in names or len(set(names)) < len(names):
                    raise DataError(f"{printable(tree.path(found))}: want each class once, one name a line")
                return names
    return ()
