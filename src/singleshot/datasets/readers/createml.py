"""Create ML's JSON: a list of images, each with its annotations, boxes by centre and size in pixels.

Source: developer.apple.com, "Building an object detector data source". Roboflow writes one `_annotations.createml.json`
in each split's folder.
"""

from __future__ import annotations

import functools
import re
from typing import Any

from singleshot.datasets.findings import RaiseErrors
from singleshot.datasets.packed_strings import is_name
from singleshot.datasets.raw import Box, Notation, RawObject
from singleshot.datasets.readers.label_files import (
    LabelForm,
    ListedImage,
    ParsedFile,
    UnreadableFileError,
    load_json,
    show_tagged,
)
from singleshot.datasets.readers.shapes import read_flags, show, to_number
from singleshot.errors import printable
from singleshot.text import utf8_head

_IMAGE_KEYS = ("image", "imagefilename", "imageFilename", "filename")
_OBJECT_KEYS = ("annotations", "annotation")
_NUMBERS = ("x", "y", "width", "height")
_LIST = re.compile(rb"\s*\[\s*\{")
_COORDINATES = re.compile(rb'"coordinates"\s*:\s*\{')
# An image without objects comes first.
_FIRST_IMAGE = re.compile(
    rb'\s*\[\s*\{\s*"(?:image|imagefilename|imageFilename)"\s*:\s*"(?:[^"\\]|\\.){0,4000}"\s*,\s*"annotations?"\s*:\s*\['
)
_LABEL_STUDIO = re.compile(rb'"original_width"\s*:')
_OBJECT = re.compile(rb'"coordinates"\s*:')


def is_one(head: bytes) -> bool:
    """Whether a file starts as Create ML's do."""
    head = utf8_head(head)
    if not _LIST.match(head) or _LABEL_STUDIO.search(head):
        return False
    return bool(_COORDINATES.search(head) or _FIRST_IMAGE.match(head))


def parse(data: bytes, path: str, problems: RaiseErrors) -> ParsedFile:
    """The contents of a file; `path` is for messages. Raises UnreadableFileError."""
    content = load_json(data, path)
    if not isinstance(content, list):
        raise UnreadableFileError(f"{printable(path)}: holds {show(content)}; want Create ML's list of images")
    images: list[ListedImage] = []
    count = 0
    for i, item in enumerate(content):
        name = next((item[key] for key in _IMAGE_KEYS if key in item), None) if isinstance(item, dict) else None
        here = f"image {i} ({printable(name)})" if isinstance(name, str) and name.strip() else f"image {i}"
        broken = functools.partial(problems.add, "annotation-malformed", path, item=here)
        if not isinstance(item, dict):
            broken(message=f"is {show(item)}; want an image in braces")
            continue
        listed: Any = next((item[key] for key in _OBJECT_KEYS if item.get(key) is not None), [])
        if not isinstance(listed, list):
            broken(message=f"annotations is {show(listed)}; want a list")
            continue
        first, count = count, count + len(listed)
        if not is_name(name):
            broken(message=f"image is {show(name)}; want the name of a file")
            continue
        shown = printable(name, 80)
        objects = [_object(one, path, shown, first, k, problems) for k, one in enumerate(listed)]
        images.append(ListedImage((name,), here, [obj for obj in objects if obj]))
    return ParsedFile(images)


def line_of(data: bytes, number: int) -> int | None:
    """The line on which the coordinates of object `number` stand."""
    for k, match in enumerate(_OBJECT.finditer(data)):
        if k == number:
            return data.count(b"\n", 0, match.start()) + 1
    return None


def _object(item: Any, path: str, image: str, first: int, k: int, problems: RaiseErrors) -> RawObject | None:
    name = item.get("label") if isinstance(item, dict) else None
    here = f"{image}: annotation {k}"
    shown = f"{here} ({printable(name, 80)})" if isinstance(name, str) and name.strip() else here

    def broken(message: str) -> None:
        problems.add("annotation-malformed", path, message, shown, number=first + k)

    if not isinstance(item, dict):
        broken(f"is {show(item)}; want an annotation in braces")
    elif not is_name(name):
        broken(f"label is {show(name)}; say what it is")
    elif not isinstance(item.get("coordinates"), dict):
        broken(f"coordinates is {show(item.get('coordinates'))}; want x, y, width and height in braces")
    else:
        numbers = {key: to_number(item["coordinates"].get(key)) for key in _NUMBERS}
        wrong = next((key for key, value in numbers.items() if value is None), None)
        if wrong is not None:
            broken(f"{wrong} is {show(item['coordinates'].get(wrong))}; want a number of pixels")
            return None
        flags = read_flags(item)
        if isinstance(flags, str):
            broken(flags)
            return None
        x, y, width, height = (value or 0.0 for value in numbers.values())
        box = (x - width / 2, y - height / 2, x + width / 2, y + height / 2)
        return RawObject(name.strip(), box, **flags, number=first + k, tag=here)
    return None


def _show_box(box: Box) -> str:
    x0, y0, x1, y1 = box
    values = ((x0 + x1) / 2, (y0 + y1) / 2, x1 - x0, y1 - y0)
    return "box " + ", ".join(f"{key} {value:.7g}" for key, value in zip(_NUMBERS, values, strict=True))


FORM = LabelForm("createml", "Create ML", (".json",), is_one, parse, notation=Notation(show_tagged, _show_box))
