"""VGG Image Annotator (VIA): its project, its JSON and its CSV of regions, and the project of VIA 3.

Source: robots.ox.ac.uk/~vgg/software/via. Coordinates are pixels. The class is the only attribute that regions have, or
the one of several that is called class, label, name, type, category or object.
"""

from __future__ import annotations

import csv
import functools
import io
import json
import logging
import math
import re
from typing import Any, NamedTuple

from singleshot.datasets.findings import RaiseErrors
from singleshot.datasets.packed_strings import is_encodable, is_name
from singleshot.datasets.raw import Box, RawObject
from singleshot.datasets.readers import via3
from singleshot.datasets.readers.common import ONLY_CLASS, surround
from singleshot.datasets.readers.label_files import LabelForm, ListedImage, ParsedFile, UnreadableFileError, load_json
from singleshot.datasets.readers.shapes import FLAG_NAMES, read_flags, report_passed, show, surround_ellipse, to_number
from singleshot.errors import DataError, printable
from singleshot.text import decode_text, utf8_head

logger = logging.getLogger(__name__)

_CLASS_KEYS = ("class", "label", "name", "type", "category", "object")
_MOST_KEYS = 16  # attributes of which it is looked whether they agree
_COLUMNS = ("filename", "region_shape_attributes", "region_attributes")
_NEEDED = {
    "rect": ("x", "y", "width", "height"), "circle": ("cx", "cy", "r"), "ellipse": ("cx", "cy", "rx", "ry"),
    "polygon": (), "polyline": (),
}  # fmt: skip
_FEWEST = {"polygon": 3, "polyline": 2}
_LABELME = re.compile(rb'"shapes"\s*:\s*\[')  # a list; VIA may have an attribute of that name
_VIA_3 = (b'"__VIA_PROJECT_ID__"', b'"vid_list"')


class _Region(NamedTuple):
    """One region as it is written; number: over the whole file; place: in its image; line: in a CSV."""

    shape: Any
    attributes: Any
    number: int
    place: int
    line: int | None = None


class _Entry(NamedTuple):
    """One image as it is written."""

    name: str
    item: str
    regions: list[_Region]
    line: int | None = None


def is_one(head: bytes) -> bool:
    """Whether a file starts as VIA's do."""
    head = utf8_head(head).lstrip()
    if head.startswith(b"{"):
        own = b'"_via_' in head or any(mark in head for mark in _VIA_3)
        return own or (b'"regions"' in head and b'"filename"' in head and not _LABELME.search(head))
    first = head.partition(b"\n")[0]
    return all(name.encode() in first for name in _COLUMNS)


def parse(data: bytes, path: str, problems: RaiseErrors) -> ParsedFile:
    """The contents of a project, JSON or CSV; `path` is for messages. Raises UnreadableFileError."""
    is_json = utf8_head(data[:4096]).lstrip().startswith((b"{", b"["))
    entries = _json_entries(data, path, problems) if is_json else _csv_entries(data, path, problems)
    keys = _class_keys([region for entry in entries for region in entry.regions], path)
    images, points = [], 0
    for entry in entries:
        shown = printable(entry.name, 80)
        regions = [region for region in entry.regions if not _is_point(region)]
        points += len(entry.regions) - len(regions)
        objects = [_object(region, shown, keys, path, problems) for region in regions]
        images.append(ListedImage((entry.name,), entry.item, [obj for obj in objects if obj], line=entry.line))
    report_passed(problems, path, {"point": points} if points else {})
    return ParsedFile(images, is_unnamed=not keys)


def line_of(data: bytes, number: int) -> int | None:
    """The line of a JSON on which region `number` stands; a CSV's are known when it is read, VIA 3's are not."""
    at = -1
    for _ in range(number + 1):
        at = data.find(b'"shape_attributes"', at + 1)
        if at < 0:
            return None
    return data.count(b"\n", 0, at) + 1


FORM = LabelForm("via", "VIA", (".json", ".csv"), is_one, parse)


# ---------------------------------------------------------------------------------------------- JSON


def _json_entries(data: bytes, path: str, problems: RaiseErrors) -> list[_Entry]:
    content = load_json(data, path)
    if isinstance(content, dict) and via3.is_project(content):
        content = via3.to_via2(content, path)
    if isinstance(content, dict):
        content = content.get("_via_img_metadata", content)
    if isinstance(content, dict):
        content = list(content.values())
    if not isinstance(content, list):
        raise UnreadableFileError(
            f"{printable(path)}: _via_img_metadata is {show(content)}; want VIA's images in braces"
        )
    entries: list[_Entry] = []
    count = 0
    for i, item in enumerate(content):
        name = item.get("filename") if isinstance(item, dict) else None
        here = f"image {i} ({printable(name)})" if isinstance(name, str) and name.strip() else f"image {i}"
        broken = functools.partial(problems.add, "annotation-malformed", path, item=here)
        if not isinstance(item, dict):
            broken(message=f"is {show(item)}; want an image in braces")
            continue
        regions = item.get("regions")
        regions = list(regions.values()) if isinstance(regions, dict) else [] if regions is None else regions
        if not isinstance(regions, list):
            broken(message=f"regions is {show(regions)}; want a list")
            continue
        first, count = count, count + len(regions)
        if not is_name(name):
            broken(message=f"filename is {show(name)}; want the name of a file")
            continue
        read = []
        for k, region in enumerate(regions):
            if isinstance(region, dict):
                read.append(_Region(region.get("shape_attributes"), region.get("region_attributes"), first + k, k))
            else:
                read.append(_Region(region, None, first + k, k))
        entries.append(_Entry(name, here, read))
    return entries


# ---------------------------------------------------------------------------------------------- CSV


def _csv_entries(data: bytes, path: str, problems: RaiseErrors) -> list[_Entry]:
    try:
        text = decode_text(data, path)
    except DataError as error:
        raise UnreadableFileError(str(error)) from error
    reader = csv.reader(io.StringIO(text, newline=""), strict=True)
    place: dict[str, int] = {}
    entries: dict[str, _Entry] = {}
    count = before = 0
    while True:
        line, number = before + 1, count
        try:
            row = next(reader)
        except StopIteration:
            return list(entries.values())
        except csv.Error as error:
            row, message = [], f"is not CSV ({printable(error, 80)}); look at its quotes"
            problems.add("annotation-malformed", path, message, line=line)
        before = reader.line_num
        if not any(row):
            continue
        if not place:
            place = _columns(row, path)
            continue
        count += 1
        if len(row) <= max(place.values()):
            message = f"has {len(row)} columns; want {max(place.values()) + 1}"
            problems.add("annotation-malformed", path, message, line=line, number=number)
            continue
        name, shape, attributes = (row[place[key]] for key in _COLUMNS)
        if not is_name(name):
            message = f"filename {printable(name, 40)!r}; want the name of a file"
            problems.add("annotation-malformed", path, message, line=line, number=number)
            continue
        entry = entries.setdefault(name, _Entry(name, f"image ({printable(name)})", [], line))
        if shape.strip() not in ("", "{}"):  # a row without a region says an image without objects
            entry.regions.append(_Region(_cell(shape), _cell(attributes), number, len(entry.regions), line))


def _columns(row: list[str], path: str) -> dict[str, int]:
    cells = [cell.strip().lstrip("#").lower() for cell in row]
    missing = [name for name in _COLUMNS if name not in cells]
    if missing:
        raise UnreadableFileError(f"{printable(path)}: has no column {', '.join(missing)}; want VIA's CSV")
    return {name: cells.index(name) for name in _COLUMNS}


def _cell(text: str) -> Any:
    """The JSON in a cell; the text itself where it is none, which is refused as such."""
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return text


# ---------------------------------------------------------------------------------------------- regions


def _is_point(region: _Region) -> bool:
    return isinstance(region.shape, dict) and region.shape.get("name") == "point"


def _class_keys(regions: list[_Region], path: str) -> list[str]:
    """The attributes that are the class: one, or several that always agree; [] where no region has any. Raises
    UnreadableFileError for several that might be it."""
    found: dict[str, None] = {}
    for region in regions:
        if isinstance(region.attributes, dict):
            found |= dict.fromkeys(region.attributes)
    plain = [key for key in found if key.strip().lower() not in FLAG_NAMES] or list(found)
    called = {key.strip().lower(): key for key in reversed(plain)}
    usual = next((called[key] for key in _CLASS_KEYS if key in called), None)
    if usual is not None:
        return [usual]
    compared = regions if 1 < len(plain) <= _MOST_KEYS else []
    values = [[_class_of(region.attributes, [key]) for key in plain] for region in compared]
    if len(plain) > 1 and not (_agree(values) and any(all(row) for row in values)):
        there = ", ".join(printable(key, 40) for key in plain[:8])
        odd = next((k for k, row in enumerate(values) if not _agree([row])), None)
        example = ""
        if odd is not None:
            pairs = [f"{printable(k, 40)} {printable(v, 40)!r}" for k, v in zip(plain, values[odd], strict=True) if v]
            example = f" (one region has {', '.join(pairs[:3])})"
        raise UnreadableFileError(
            f"{printable(path)}: regions have several attributes ({there}); call the one that is the class 'class'"
            f"{example}"
        )
    if len(plain) > 1:
        there = ", ".join(printable(key, 40) for key in plain[:8])
        logger.info("%s: the attributes %s always agree: they are the class", printable(path), there)
    return plain


def _agree(values: list[list[str]]) -> bool:
    """Whether no row has two different texts."""
    return all(len(set(filter(None, row))) < 2 for row in values)


def _object(region: _Region, image: str, keys: list[str], path: str, problems: RaiseErrors) -> RawObject | None:
    here = f"{image}: region {region.place}"
    name = _class_of(region.attributes, keys) if keys else ONLY_CLASS
    shown = f"{here} ({printable(name, 80)})" if name else here

    def broken(message: str) -> None:
        problems.add("annotation-malformed", path, message, shown, line=region.line, number=region.number)

    if not isinstance(region.shape, dict):
        broken(f"shape_attributes is {show(region.shape)}; want name and coordinates in braces")
    elif not name or not is_encodable(name):
        value = region.attributes.get(keys[0]) if isinstance(region.attributes, dict) else region.attributes
        broken(f"attribute {printable(keys[0], 40)} is {show(value)}; say what it is")
    else:
        box = _box(region.shape)
        others = region.attributes if isinstance(region.attributes, dict) else {}
        flags = read_flags({attribute: value for attribute, value in others.items() if attribute not in keys})
        if not isinstance(box, str) and not isinstance(flags, str):
            return RawObject(name, box, **flags, number=region.number, line=region.line, tag=here)
        broken(box if isinstance(box, str) else str(flags))
    return None


def _class_of(attributes: Any, keys: list[str]) -> str:
    """The class that the first of the attributes says that says any: a text, or the only box that is ticked; "" for
    none."""
    for key in keys if isinstance(attributes, dict) else ():
        if name := _text_of(attributes.get(key)):
            return name
    return ""


def _text_of(value: Any) -> str:
    if isinstance(value, dict):
        ticked = [name for name, is_on in value.items() if is_on is True]
        value = ticked[0] if len(ticked) == 1 else None
    if isinstance(value, int) and not isinstance(value, bool) and abs(value) < 10**9:
        return str(value)
    return value.strip() if isinstance(value, str) else ""


def _box(shape: dict[str, Any]) -> Box | str:
    """What surrounds a shape, or what is wrong with it."""
    kind = shape.get("name")
    if not isinstance(kind, str) or kind not in _NEEDED:
        return f"its shape is {show(kind)}; want rect, polygon, polyline, circle or ellipse"
    if kind in _FEWEST:
        return _surround_points(shape, kind)
    numbers = []
    for key in _NEEDED[kind]:
        value = to_number(shape.get(key))
        if value is None:
            return f"{key} is {show(shape.get(key))}; want a number of pixels"
        numbers.append(value)
    if kind == "rect":
        x, y, width, height = numbers
        return (x, y, x + width, y + height)
    theta = to_number(shape.get("theta", 0))  # radians
    if theta is None or not math.isfinite(theta):
        return f"theta is {show(shape['theta'])}; want radians"
    x, y = numbers[:2]
    return surround_ellipse(x, y, numbers[2], numbers[-1], math.degrees(theta))


def _surround_points(shape: dict[str, Any], kind: str) -> Box | str:
    sides = []
    for key in ("all_points_x", "all_points_y"):
        listed = shape.get(key)
        values = [to_number(value) for value in listed] if isinstance(listed, list) else [None]
        known = [value for value in values if value is not None]
        if len(known) < len(values):
            return f"{key} is no list of numbers; want one for each corner"
        sides.append(known)
    xs, ys = sides
    if len(xs) != len(ys):
        return f"has {len(xs)} numbers in all_points_x, {len(ys)} in all_points_y; want as many"
    if len(xs) < _FEWEST[kind]:
        return f"a {kind} with {len(xs)} point{'s' * (len(xs) != 1)}; want at least {_FEWEST[kind]}"
    return surround(xs, ys)
