"""What `detect --format json` wrote, as labels: results.json with classes, images and the boxes found in them."""

from __future__ import annotations

import functools
import re
from typing import Any

from singleshot.datasets.findings import RaiseErrors
from singleshot.datasets.packed_strings import is_encodable
from singleshot.datasets.raw import RawObject
from singleshot.datasets.readers.common import json_number, line_of_item, whole_side
from singleshot.datasets.readers.label_files import LabelForm, ListedImage, ParsedFile, UnreadableFileError, load_json
from singleshot.errors import printable

_START = re.compile(rb'^\s*\{"model": .*"classes": \[.*"images": \[', re.DOTALL)


def is_one(head: bytes) -> bool:
    """Whether a file starts as those of `detect` do."""
    return _START.match(head) is not None


def parse(data: bytes, path: str, problems: RaiseErrors) -> ParsedFile:
    """Every detection is an object with its score. Raises UnreadableFileError."""
    content = load_json(data, path)
    listed = content.get("images") if isinstance(content, dict) else None
    classes = content.get("classes") if isinstance(content, dict) else None
    if not isinstance(listed, list) or not isinstance(classes, list) or not all(isinstance(c, str) for c in classes):
        raise UnreadableFileError(
            f"{printable(path)}: has no lists classes and images; want what `detect --format json` writes"
        )
    images = [_image(item, path, number, tuple(classes), problems) for number, item in enumerate(listed)]
    return ParsedFile([image for image in images if image is not None], tuple(classes))


FORM = LabelForm("results", "results of detect", (".json",), is_one, parse)


def line_of(data: bytes, number: int) -> int | None:
    """The line on which image `number` stands."""
    return line_of_item(data.decode("utf-8", "replace"), "images", number)


def _image(item: Any, path: str, number: int, classes: tuple[str, ...], problems: RaiseErrors) -> ListedImage | None:
    here = f"image {number}"
    broken = functools.partial(problems.add, "annotation-malformed", path, number=number)
    name = item.get("image") if isinstance(item, dict) else None
    if not isinstance(name, str) or not name or not is_encodable(name):
        broken(message="names no image; want its path", item=here)
        return None
    width, height = (whole_side(json_number(item.get(key, 0))) or 0 for key in ("width", "height"))
    size = (width, height) if width and height else (0, 0)
    objects = []
    rows = item.get("detections")
    for k, row in enumerate(rows if isinstance(rows, list) else []):
        box = row.get("box") if isinstance(row, dict) else None
        label = row.get("name") if isinstance(row, dict) else None
        place = f"{here}, detection {k}"
        if not isinstance(box, list) or len(box) != 4 or label not in classes:
            broken(message="wants box (four numbers) and name (one of classes)", item=place)
            continue
        x0, y0, x1, y1 = (json_number(value) for value in box)
        score = json_number(row.get("score"))
        objects.append(RawObject(str(label), (x0, y0, x1, y1), number=number, tag=place, score=score))
    return ListedImage((name,), f"{here} ({printable(name)})", objects, *size)
