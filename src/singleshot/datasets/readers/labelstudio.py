"""Label Studio's JSON (tasks with their annotations) and JSON-MIN (one flat record for each).

Source: labelstud.io, "Export annotations": x, y, width, height, radii and points are percent of the image; rotation is
in degrees, clockwise, a rectangle's about its top left corner, an ellipse's about its centre.
"""

from __future__ import annotations

import functools
import logging
import math
import re
from collections import Counter
from collections.abc import Callable
from typing import Any
from urllib.parse import unquote

from singleshot.datasets.findings import RaiseErrors
from singleshot.datasets.packed_strings import is_encodable
from singleshot.datasets.raw import Box, RawObject
from singleshot.datasets.readers.common import surround, whole_side
from singleshot.datasets.readers.label_files import LabelForm, ListedImage, ParsedFile, UnreadableFileError, load_json
from singleshot.datasets.readers.run_lengths import surround_brush
from singleshot.datasets.readers.shapes import (
    read_flags,
    show,
    surround_ellipse,
    surround_rotated_corner,
    to_number,
)
from singleshot.errors import printable
from singleshot.images.suffixes import is_image
from singleshot.text import utf8_head

logger = logging.getLogger(__name__)

_LIST = re.compile(rb"\s*\[\s*\{")
_TASK = re.compile(rb'"data"\s*:\s*\{')
_RESULT = re.compile(rb'"(?:annotations|completions|predictions)"\s*:\s*\[|"total_annotations"\s*:')
_MIN = re.compile(rb'"(?:rectangle|polygon|ellipse|brush|keypoint)labels"|"annotation_id"\s*:')
# What Label Studio puts before the name of a file that was uploaded.
_PREFIX = re.compile(r"[0-9a-f]{8}-(?=.)")
_IMAGE_KEYS = ("image", "img", "image_url", "picture")
_NEEDED = {"rectangle": ("x", "y", "width", "height"), "ellipse": ("x", "y", "radiusX", "radiusY"), "polygon": ()}
_WITHOUT_BOX = ("brush", "keypoint", "vector")


def is_one(head: bytes) -> bool:
    """Whether a file starts as Label Studio's do."""
    head = utf8_head(head)
    if not _LIST.match(head):
        return False
    return bool((_TASK.search(head) and _RESULT.search(head)) or _MIN.search(head))


def parse(data: bytes, path: str, problems: RaiseErrors) -> ParsedFile:
    """The contents of a JSON or JSON-MIN; `path` is for messages. Raises UnreadableFileError."""
    content = load_json(data, path)
    if not isinstance(content, list):
        raise UnreadableFileError(f"{printable(path)}: holds {show(content)}; want Label Studio's list of tasks")
    images: list[ListedImage] = []
    count = unlabelled = 0
    passed: Counter[str] = Counter()
    for i, item in enumerate(content):
        broken = functools.partial(problems.add, "annotation-malformed", path, item=f"task {i}")
        if not isinstance(item, dict):
            broken(message=f"is {show(item)}; want a task in braces")
            continue
        task = item.get("data") if isinstance(item.get("data"), dict) else item
        results = _results(item) if "data" in item else _flat_results(item)
        if results is None:
            unlabelled += 1
            continue
        if not isinstance(results, list):
            broken(message=f"result is {show(results)}; want a list")
            continue
        first, count = count, count + len(results)
        name = _image_name(task)
        if name is None:
            broken(message="names no image; want it in data.image")
            continue
        names = _names(name, item.get("file_upload"))
        here = f"task {i} ({printable(names[0])})"
        objects: list[RawObject] = []
        size = (0, 0)
        shared, shown = _shared_labels(results), printable(names[0], 80)
        for k, result in enumerate(results):
            one = _Result(result, f"{shown}: result {k}", first + k, shared, passed)
            found = one.read(functools.partial(problems.add, "annotation-malformed", path, number=first + k))
            objects += found
            size = one.size if any(one.size) else size
        images.append(ListedImage(names, here, objects, *size))
    _say(path, unlabelled, passed)
    return ParsedFile(images)


FORM = LabelForm("labelstudio", "Label Studio", (".json",), is_one, parse)


def _say(path: str, unlabelled: int, passed: Counter[str]) -> None:
    if unlabelled:
        logger.warning("%s: tasks without an annotation are left out: %d", printable(path), unlabelled)
    if passed:
        there = ", ".join(f"{n} {printable(kind, 40)}" for kind, n in passed.most_common(8))
        logger.warning("%s: results that are no objects are passed over: %s", printable(path), there)


# ---------------------------------------------------------------------------------------------- tasks


def _results(task: dict[str, Any]) -> Any:
    """The results of a task's first annotation that was not skipped, a checked one before others; None for none."""
    listed = task.get("annotations", task.get("completions"))
    if not isinstance(listed, list):
        return listed
    done = [one for one in listed if isinstance(one, dict) and not one.get("was_cancelled")]
    done.sort(key=lambda one: one.get("ground_truth") is not True)
    if not done:
        return None
    results = done[0].get("result")
    return [] if results is None else results


def _flat_results(record: dict[str, Any]) -> list[Any]:
    """JSON-MIN's: the values that are lists of shapes, each under the name of its control."""
    found: list[Any] = []
    for value in record.values():
        if isinstance(value, list):
            found += [{"value": one} for one in value if isinstance(one, dict)]
    return found


def _image_name(task: Any) -> str | None:
    """The image: under its usual key, else the only text that ends as images' names do."""
    texts = {key: value for key, value in task.items() if isinstance(value, str) and value.strip()}
    for key in _IMAGE_KEYS:
        if key in texts:
            return texts[key] if is_encodable(texts[key]) else None
    likely = [value for value in texts.values() if is_image(value) and is_encodable(value)]
    return likely[0] if len(likely) == 1 else None


def _names(name: str, upload: Any) -> tuple[str, ...]:
    """What the file may be called: "/data/upload/1/0a1b2c3d-my%20cat.jpg" is 0a1b2c3d-my cat.jpg or my cat.jpg."""
    path = name.partition("?d=")[2] if "/local-files/" in name else name
    if "://" in path:
        path = path.partition("://")[2].partition("?")[0]
    path = path.replace("\\", "/").lstrip("/")
    if path.startswith("data/"):
        path = path.removeprefix("data/").removeprefix("upload/")
    names = [unquote(path, errors="surrogateescape"), path]
    names += [upload] if isinstance(upload, str) and upload.strip() else []
    bare = []
    for one in names:
        last = one.rpartition("/")[2]
        if _PREFIX.match(last):
            bare += [_PREFIX.sub("", last, count=1)]
    return tuple(dict.fromkeys(one for one in (*names, *bare) if is_encodable(one) and "\0" not in one)) or (name,)


def _shared_labels(results: list[Any]) -> dict[str, list[Any]]:
    """Region id -> the labels of a <Labels> control that stands beside <Rectangle>, whose shapes have none."""
    found: dict[str, list[Any]] = {}
    for result in results:
        if isinstance(result, dict) and result.get("type") == "labels" and isinstance(result.get("id"), str):
            value = result.get("value")
            labels = value.get("labels") if isinstance(value, dict) else None
            if isinstance(labels, list):
                found[result["id"]] = labels
    return found


# ---------------------------------------------------------------------------------------------- shapes


class _Result:
    """One result of an annotation."""

    def __init__(self, result: Any, here: str, number: int, shared: dict[str, list[Any]], passed: Counter[str]) -> None:
        self.size = (0, 0)
        self._result, self._here, self._number, self._shared, self._passed = result, here, number, shared, passed

    def read(self, add: Callable[..., None]) -> list[RawObject]:
        """Its objects: one for each of its labels, none after a problem or where it is no shape."""
        result, here = self._result, self._here
        value = result.get("value") if isinstance(result, dict) else None
        if not isinstance(result, dict) or not isinstance(value, dict):
            add(message=f"is {show(result if value is None else value)}; want a value in braces", item=here)
            return []
        kind, labels = self._kind(result, value)
        if kind is None or kind in ("keypoint", "vector"):
            self._passed[str(kind or result.get("type") or "others")[:40]] += 1
            return []
        names = [one.strip() for one in labels if isinstance(one, str) and one.strip() and is_encodable(one)]
        shown = f"{here} ({printable(', '.join(names), 80)})" if names else here
        broken = functools.partial(add, item=shown)
        if kind == "brush" and value.get("rle") is None:
            broken(message="a brush stroke has no box; draw a rectangle round it, or remove it")
        elif not names or len(names) < len(labels):
            broken(message="has no label; say what it is")
        else:
            box = self._box(kind, value, {**value, **result})
            flags = read_flags(result["meta"]) if isinstance(result.get("meta"), dict) else {}
            if not isinstance(box, str) and not isinstance(flags, str):
                return [RawObject(name, box, **flags, number=self._number, tag=here) for name in dict.fromkeys(names)]
            broken(message=box if isinstance(box, str) else str(flags))
        return []

    def _kind(self, result: dict[str, Any], value: dict[str, Any]) -> tuple[str | None, list[Any]]:
        """Its shape, None for what is none, and its labels."""
        for kind in (*_NEEDED, *_WITHOUT_BOX):
            labels = value.get(f"{kind}labels")
            if isinstance(labels, list):
                return kind, labels
            if result.get("type") in (kind, f"{kind}labels"):
                ident = result.get("id")
                return kind, self._shared.get(ident, []) if isinstance(ident, str) else []
        return None, []

    def _box(self, kind: str, value: dict[str, Any], holder: dict[str, Any]) -> Box | str:
        """What surrounds it in pixels, or what is wrong with it."""
        sides = []
        for key in ("original_width", "original_height"):
            side = whole_side(to_number(holder.get(key)))
            if not side:
                return f"{key} is {show(holder.get(key))}; want the image's {key[9:]} in whole pixels"
            sides.append(side)
        width, height = self.size = (sides[0], sides[1])
        if kind == "brush":
            return surround_brush(value["rle"], width, height)
        if kind == "polygon":
            return _surround_points(value.get("points"), width, height)
        numbers = []
        for key in _NEEDED[kind]:
            number = to_number(value.get(key))
            if number is None:
                return f"{key} is {show(value.get(key))}; want a number of percent"
            numbers.append(number)
        rotation = to_number(value.get("rotation", 0) or 0)
        if rotation is None or not math.isfinite(rotation):
            return f"rotation is {show(value['rotation'])}; want degrees"
        x, y, across, down = (n * side / 100 for n, side in zip(numbers, (width, height) * 2, strict=True))
        if kind == "ellipse":
            box = surround_ellipse(x, y, across, down, rotation)
        else:
            box = surround_rotated_corner((x, y, x + across, y + down), rotation)
        return box


def _surround_points(points: Any, width: int, height: int) -> Box | str:
    xs, ys = [], []
    for point in points if isinstance(points, list) else [None]:
        pair = [to_number(part) for part in point] if isinstance(point, list) else []
        if len(pair) != 2 or pair[0] is None or pair[1] is None:
            return "points are not pairs of numbers; want [[x, y], ...] in percent"
        xs.append(pair[0] * width / 100)
        ys.append(pair[1] * height / 100)
    if len(xs) < 3:
        return f"a polygon with {len(xs)} point{'s' * (len(xs) != 1)}; want at least 3"
    return surround(xs, ys)
