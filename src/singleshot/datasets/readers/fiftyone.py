"""FiftyOne's FiftyOneImageDetectionDataset: data/ and labels.json, images by their names without endings."""

from __future__ import annotations

import functools
import re
from typing import Any

from singleshot.datasets.findings import RaiseErrors
from singleshot.datasets.packed_strings import is_name
from singleshot.datasets.raw import RawObject
from singleshot.datasets.readers.common import json_number
from singleshot.datasets.readers.label_files import LabelForm, ListedImage, ParsedFile, UnreadableFileError, load_json
from singleshot.errors import printable
from singleshot.images.suffixes import IMAGE_SUFFIXES

_START = re.compile(rb'^\s*\{\s*"(classes|labels)"\s*:')
_LABELS = re.compile(rb'"labels"\s*:\s*\{')


def is_one(head: bytes) -> bool:
    """Whether a file starts as FiftyOne's do."""
    return bool(_START.match(head) and _LABELS.search(head)) and b'"bounding_box"' in head


def parse(data: bytes, path: str, problems: RaiseErrors) -> ParsedFile:
    """Stems with their objects; a class is a name, or a number in the list of classes. Raises UnreadableFileError."""
    content = load_json(data, path)
    labels = content.get("labels") if isinstance(content, dict) else None
    classes = (content.get("classes") or []) if isinstance(content, dict) else None
    if not isinstance(labels, dict) or not isinstance(classes, list) or not all(map(is_name, classes)):
        raise UnreadableFileError(f"{printable(path)}: wants labels, an object of lists, and classes, a list of names")
    images = []
    for stem, items in labels.items():
        if not is_name(stem):
            problems.add("annotation-malformed", path, "names no image; want its name without the ending", repr(stem))
            continue
        objects = [
            _object(item, stem, k, classes, path, problems)
            for k, item in enumerate(items if isinstance(items, list) else [])
        ]
        names = tuple(f"{stem}{suffix}" for suffix in IMAGE_SUFFIXES)
        found = [one for one in objects if one is not None]
        images.append(ListedImage(names, printable(stem, 80), found, relative=True))
    return ParsedFile(images, tuple(dict.fromkeys(classes)))


FORM = LabelForm("fiftyone", "FiftyOne", (".json",), is_one, parse)


def _object(item: Any, stem: str, k: int, classes: list[str], path: str, problems: RaiseErrors) -> RawObject | None:
    here = f"{printable(stem, 80)}, object {k}"
    broken = functools.partial(problems.add, "annotation-malformed", path, item=here)
    label = item.get("label") if isinstance(item, dict) else None
    box = item.get("bounding_box") if isinstance(item, dict) else None
    if isinstance(label, int) and not isinstance(label, bool):
        if not 0 <= label < len(classes):
            message = f"class {printable(label, 40)} of {len(classes)} in classes, from 0; correct it"
            problems.add("class-unknown", path, message, here)
            return None
        label = classes[label]
    if not is_name(label):
        broken(message=f"label {printable(repr(label), 60)}; want a name, or a number in classes")
        return None
    if not isinstance(box, list) or len(box) != 4:
        broken(message=f"bounding_box {printable(repr(box), 60)}; want x, y, width, height in parts of the image")
        return None
    x, y, width, height = map(json_number, box)
    return RawObject(label, (x, y, x + width, y + height), number=k, tag=here)
