"""What `detect --format json` wrote, as labels: results.json with classes, images and the boxes found in them."""

from __future__ import annotations

import re
from typing import Any

from singleshot.datasets.findings import RaiseErrors
from singleshot.datasets.packed_strings import is_encodable
from singleshot.datasets.raw import RawImage, RawObject, RawSet
from singleshot.datasets.readers.common import MADE_SPLITS, divide, json_number, line_of_item, parse_json, whole_side
from singleshot.datasets.readers.image_finder import ImageFinder
from singleshot.datasets.tree import Tree
from singleshot.errors import DataError, printable

MAX_JSON_BYTES = 2 * 2**30
_NAME = "results.json"
_PEEK_BYTES = 1 << 16
_START = re.compile(rb'^\s*\{"model": .*"classes": \[.*"images": \[', re.DOTALL)


def sniff(tree: Tree) -> str | None:
    """ "" for a folder with such a results.json, None for others."""
    if _NAME not in tree.files():
        return None
    try:
        start = tree.read(_NAME, _PEEK_BYTES, "results", most=_PEEK_BYTES)
    except DataError:
        return None
    return "" if _START.match(start) else None


def splits(tree: Tree, file: str = "") -> tuple[str, ...]:
    """The splits that are made of the images."""
    return MADE_SPLITS


def line_of(data: bytes, number: int) -> int | None:
    """The line on which image `number` stands."""
    return line_of_item(data.decode("utf-8", "replace"), "images", number)


def read(tree: Tree, file: str, wanted: str | None, problems: RaiseErrors) -> RawSet:
    """Read results.json: every detection is an object. Its scores are not used; write fewer with --score-min."""
    name = file or _NAME
    path = tree.path(name)
    content = parse_json(tree.read(name, MAX_JSON_BYTES, "results"), printable(path))
    listed = content.get("images") if isinstance(content, dict) else None
    classes = content.get("classes") if isinstance(content, dict) else None
    if not isinstance(listed, list) or not isinstance(classes, list) or not all(isinstance(c, str) for c in classes):
        raise DataError(f"{printable(path)}: has no lists classes and images; want what `detect --format json` writes")
    finder, images = ImageFinder(tree), []
    for number, item in enumerate(listed):
        image = _image(item, path, number, finder, tuple(classes), problems)
        if image is not None:
            images.append(image._replace(path=tree.path(image.path)))
    parts = divide(tree, [image.path for image in images], wanted)
    return RawSet("results", path, tuple(classes), images, parts, made=True, declared=True)


def _image(
    item: Any, path: str, number: int, finder: ImageFinder, classes: tuple[str, ...], problems: RaiseErrors
) -> RawImage | None:
    name = item.get("image") if isinstance(item, dict) else None
    if not isinstance(name, str) or not name or not is_encodable(name):
        problems.add("annotation-malformed", path, "names no image; want its path", f"image {number}", number=number)
        return None
    try:
        found = finder.find(name, [""])
    except DataError as error:
        problems.add("image-missing", path, f"image {error}", number=number)
        return None
    if found is None:
        message = f"image {printable(name)!r} is not in the folder; put the images there"
        problems.add("image-missing", path, message, number=number)
        return None
    width, height = (whole_side(json_number(item.get(key, 0))) or 0 for key in ("width", "height"))
    size = (width, height) if width and height else (0, 0)
    objects = []
    rows = item.get("detections")
    for k, row in enumerate(rows if isinstance(rows, list) else []):
        box = row.get("box") if isinstance(row, dict) else None
        label = row.get("name") if isinstance(row, dict) else None
        if not isinstance(box, list) or len(box) != 4 or label not in classes:
            shown = f"image {number}, detection {k}"
            message = "wants box (four numbers) and name (one of classes)"
            problems.add("annotation-malformed", path, message, shown, number=number)
            continue
        x0, y0, x1, y1 = (json_number(value) for value in box)
        objects.append(RawObject(str(label), (x0, y0, x1, y1), number=number))
    return RawImage(found, name.replace("\\", "/").rpartition("/")[2].rpartition(".")[0], *size, objects, path)
