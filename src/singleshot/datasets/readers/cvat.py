"""CVAT for images 1.1: one XML with every image's boxes, polygons, ellipses and masks.

Source: docs.cvat.ai, "CVAT XML annotation format". Coordinates are continuous pixels; what is no box is taken by what
surrounds it, after its rotation (degrees about the centre).
"""

from __future__ import annotations

import functools
import logging
import math
import re
from collections import Counter
from typing import Any
from xml.parsers import expat

from singleshot.datasets.findings import RaiseErrors
from singleshot.datasets.packed_strings import is_encodable, is_name
from singleshot.datasets.raw import Box, RawObject
from singleshot.datasets.readers.common import parse_number, surround, whole_side
from singleshot.datasets.readers.label_files import LabelForm, ListedImage, ParsedFile, UnreadableFileError
from singleshot.datasets.readers.shapes import read_flags, report_passed, surround_ellipse, surround_rotated_box
from singleshot.errors import printable
from singleshot.text import utf8_head

logger = logging.getLogger(__name__)

_ROOT = re.compile(rb"<annotations[\s>/]")
_BEFORE_ROOT = re.compile(rb"\s*(?:<\?.{0,999}?\?>\s*|<!--.{0,9999}?-->\s*){0,99}", re.DOTALL)
_SIDES = ("xtl", "ytl", "xbr", "ybr")
_POINTS = {"polygon": 3, "polyline": 2, "cuboid": 2}
_SHAPES = ("box", "polygon", "polyline", "ellipse", "mask", "cuboid")
_WITHOUT_AREA = ("points", "skeleton")
# Kinds of labels that objects with a box cannot have.
_OTHER_LABELS = ("tag", "points", "skeleton")
_MAX_DEPTH, _MAX_TEXT = 64, 10_000


def is_one(head: bytes) -> bool:
    """Whether a file starts as CVAT's do."""
    head = utf8_head(head)
    start = _BEFORE_ROOT.match(head)
    return bool(_ROOT.match(head, start.end() if start else 0))


def parse(data: bytes, path: str, problems: RaiseErrors) -> ParsedFile:
    """The contents of an annotations.xml; `path` is for messages. Raises UnreadableFileError."""
    return _Parsing(path, problems).run(data)


FORM = LabelForm("cvat", "CVAT", (".xml",), is_one, parse, has_subsets=True)


class _Parsing:
    """What was read of a file so far: expat's handlers, so that a file of gigabytes is never held as a tree, and no
    entity is ever expanded: a document type ends the reading."""

    def __init__(self, path: str, problems: RaiseErrors) -> None:
        self.images: list[ListedImage] = []
        self.classes: dict[str, None] = {}
        self._path, self._problems = path, problems
        self._stack: list[str] = []
        self._text: list[str] = []
        self._room = _MAX_TEXT
        self._label: dict[str, str] = {}
        self._image: ListedImage | None = None
        self._shape: dict[str, str] = {}
        self._flags: dict[str, str] = {}
        self._count = self._line = 0
        self._passed: Counter[str] = Counter()
        self._without_area: Counter[str] = Counter()
        self._parser = expat.ParserCreate()
        self._parser.StartElementHandler = self._start
        self._parser.EndElementHandler = self._end
        self._parser.CharacterDataHandler = self._characters
        self._parser.StartDoctypeDeclHandler = self._refuse_doctype

    def run(self, data: bytes) -> ParsedFile:
        where = printable(self._path)
        try:
            self._parser.Parse(data, True)
        except expat.ExpatError as error:
            raise UnreadableFileError(f"{where}: is not XML ({error}); export it again") from error
        except (ValueError, LookupError) as error:  # of encodings
            raise UnreadableFileError(
                f"{where}: is not XML that can be read ({printable(error, 80)}); want UTF-8"
            ) from error
        if self._passed:
            there = ", ".join(f"{n} {kind}{'s' * (n > 1)}" for kind, n in self._passed.items())
            logger.warning("%s: %s of whole images passed over: they are no objects", where, there)
        report_passed(self._problems, self._path, self._without_area)
        return ParsedFile(self.images, tuple(self.classes))

    def _refuse_doctype(self, *_: Any) -> None:
        raise UnreadableFileError(
            f"{printable(self._path)}: is not plain XML (it has a document type); want CVAT's own export"
        )

    # ------------------------------------------------------------------------------------------ elements

    def _start(self, tag: str, attributes: dict[str, str]) -> None:
        where, stack = printable(self._path), self._stack
        if not stack and tag != "annotations":
            raise UnreadableFileError(f"{where}: starts with <{printable(tag, 40)}>; want CVAT's <annotations>")
        if tag == "track" and len(stack) == 1:
            raise UnreadableFileError(
                f'{where}: is "CVAT for video" (it has <track>); export it as "CVAT for images 1.1"'
            )
        if len(stack) >= _MAX_DEPTH:
            raise UnreadableFileError(f"{where}: holds elements within elements without end; want CVAT's own export")
        stack.append(tag)
        self._text, self._room = [], _MAX_TEXT
        if tag == "label" and "meta" in stack:
            self._label = {}
        elif tag == "image" and len(stack) == 2:
            self._start_image(attributes)
        elif len(stack) == 3 and stack[1] == "image":
            self._shape, self._flags, self._line = attributes, {}, self._parser.CurrentLineNumber
        elif tag == "attribute" and len(stack) == 4:
            self._flags["\0"] = attributes.get("name", "")

    def _characters(self, text: str) -> None:
        if self._room > 0 and self._stack[-1] in ("name", "type", "parent", "attribute"):
            self._text.append(text)
            self._room -= len(text)

    def _end(self, tag: str) -> None:
        stack = self._stack
        if "meta" in stack:
            if stack[-2] == "label" and tag in ("name", "type", "parent"):
                self._label[tag] = "".join(self._text).strip()
            elif tag == "label":
                self._end_label()
        elif tag == "attribute" and len(stack) == 4 and stack[1] == "image":
            self._flags[self._flags.pop("\0", "")] = "".join(self._text).strip()
        elif len(stack) == 3 and stack[1] == "image":
            self._end_shape(tag)
        elif tag == "image" and len(stack) == 2:
            self._image = None
        stack.pop()
        self._text, self._room = [], _MAX_TEXT

    def _end_label(self) -> None:
        name, own = self._label.get("name", ""), self._label
        if name and is_encodable(name) and not own.get("parent") and own.get("type") not in _OTHER_LABELS:
            self.classes[name] = None
        self._label = {}

    def _start_image(self, attributes: dict[str, str]) -> None:
        name, line = attributes.get("name", ""), self._parser.CurrentLineNumber
        item = f"image {len(self.images)} ({printable(name)})" if name.strip() else f"image {len(self.images)}"
        self._image = None
        if not is_name(name):
            self._problems.add("annotation-malformed", self._path, "has no name; export it again", item, line)
            return
        sides = []
        for key in ("width", "height"):
            text = attributes.get(key, "").strip()
            side = whole_side(parse_number(text or "0"))
            if side is None:
                message = f"{key} {printable(text, 40)!r}; want the image's {key} in whole pixels"
                self._problems.add("annotation-malformed", self._path, message, item, line)
            sides.append(side or 0)
        width, height = sides if all(sides) else (0, 0)
        subset = attributes.get("subset", "")
        subset = subset if is_encodable(subset) else ""
        self._image = ListedImage((name,), item, [], width, height, subset, line)
        self.images.append(self._image)

    # ------------------------------------------------------------------------------------------ shapes

    def _end_shape(self, tag: str) -> None:
        image, shape, flags = self._image, self._shape, self._flags
        number, self._count = self._count, self._count + 1
        if image is None:
            return
        name = shape.get("label", "").strip()
        here = f"{printable(image.names[0], 80)}: {printable(tag, 20)} {number}"
        item = f"{here} ({printable(name, 80)})" if name else here
        broken = functools.partial(
            self._problems.add, "annotation-malformed", self._path, item=item, line=self._line, number=number
        )
        if tag == "tag":
            self._passed[tag] += 1
        elif tag in _WITHOUT_AREA:
            self._without_area[tag] += 1
        elif tag not in _SHAPES:
            broken(message=f"<{printable(tag, 40)}> is no known shape; want box, polygon, polyline, ellipse or mask")
        elif not name or not is_encodable(name):
            broken(message="has no label; say what it is")
        else:
            found = _box(tag, shape)
            said = read_flags(flags)
            if isinstance(found, str) or isinstance(said, str):
                broken(message=found if isinstance(found, str) else str(said))
            else:
                image.objects.append(RawObject(name, found, **said, number=number, line=self._line, tag=here))


def _box(tag: str, shape: dict[str, str]) -> Box | str:
    """What surrounds a shape, or what is wrong with it."""
    keys: tuple[str, ...] = {
        "box": _SIDES, "ellipse": ("cx", "cy", "rx", "ry"), "mask": ("left", "top", "width", "height"),
    }.get(tag, ())  # fmt: skip
    if tag == "cuboid":
        keys = tuple(f"{axis}{corner}{k}" for corner in ("tl", "tr", "bl", "br") for k in (1, 2) for axis in "xy")
    numbers = []
    for key in keys:
        value = parse_number(shape.get(key, ""))
        if value is None:
            missing = key not in shape
            return f"has no {key}; add it" if missing else f"{key} {printable(shape[key], 40)!r} is not a number"
        numbers.append(value)
    rotation = parse_number(shape.get("rotation", "0") or "0")
    if rotation is None or not math.isfinite(rotation):
        return f"rotation {printable(shape['rotation'], 40)!r}; want degrees"
    if tag == "box":
        x0, y0, x1, y1 = numbers
        return surround_rotated_box((x0, y0, x1, y1), rotation) if rotation else (x0, y0, x1, y1)
    if tag == "ellipse":
        return surround_ellipse(numbers[0], numbers[1], numbers[2], numbers[3], rotation)
    if tag == "mask":
        left, top, width, height = numbers
        return (left, top, left + width, top + height)
    if tag == "cuboid":
        return surround(numbers[::2], numbers[1::2])
    return _surround_points(shape.get("points", ""), tag)


def _surround_points(text: str, tag: str) -> Box | str:
    xs, ys = [], []
    text = text.strip().strip(";")
    for point in text.split(";") if text else ():
        pair = [parse_number(part) for part in point.split(",")]
        if len(pair) != 2 or pair[0] is None or pair[1] is None:
            return f"point {printable(point, 40)!r}; want x,y;x,y;... in pixels"
        xs.append(pair[0])
        ys.append(pair[1])
    if len(xs) < _POINTS[tag]:
        return f"has {len(xs)} point{'s' * (len(xs) != 1)}; want at least {_POINTS[tag]}"
    return surround(xs, ys)
