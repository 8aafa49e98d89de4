"""What shards say: shards.json, which lists the tars of each split, and the JSON that holds an image's labels."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from singleshot.datasets.packed_strings import is_encodable
from singleshot.datasets.raw import Box
from singleshot.datasets.tree import Tree
from singleshot.errors import DataError, printable
from singleshot.storage import is_remote

INDEX = "shards.json"
VERSION = 1
MAX_SIDE = 1_000_000
AGAIN = "write the shards again"

_MAX_INDEX_BYTES = 64 * 2**20
_MAX_SAMPLES = 10**9
MAX_SHARD_BYTES = 2**44
_SHA256 = re.compile(r"[0-9a-f]{64}")
_PATTERN = re.compile(r"\{(?:(\d{1,9})\.\.(\d{1,9})|([^{}]{1,2000}))\}")
_MAX_NAMED = 1_000_000
_SHARD_NAME = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9._-]{0,200}\.tar")


class WrongError(ValueError):
    """what is wrong with a label, without its place."""


class Shard(NamedTuple):
    """One tar as shards.json describes it; size in bytes; sha256 in hex, "" where that is not said."""

    name: str
    samples: int
    objects: int
    size: int
    sha256: str = ""


class Index(NamedTuple):
    """shards.json. declared: the classes are a list of their own rather than those that objects have."""

    class_names: tuple[str, ...]
    declared: bool
    splits: dict[str, tuple[Shard, ...]]


def read_index(tree: Tree, file: str = "") -> Index:
    """Read and check shards.json; with a pattern `file` only the shards that it names are in the index.

    Raises DataError, one line, for anything that shards.json does not say as it should, and shards that it does not
    list.
    """
    where = printable(tree.path(INDEX))
    try:
        content = json.loads(tree.read(INDEX, _MAX_INDEX_BYTES, "index"))
    except (ValueError, RecursionError) as error:
        raise DataError(f"{where}: is not JSON that can be read ({printable(error, 80)}); {AGAIN}") from error
    try:
        index = _index(content)
    except WrongError as error:
        raise DataError(f"{where}: {error}; {AGAIN}") from None
    return index if file in ("", INDEX) else _only(index, file, where)


def is_pattern(name: str) -> bool:
    """Whether a file name stands for several shards: train-{000000..000031}.tar."""
    return name.endswith(".tar") and _PATTERN.search(name) is not None


def _only(index: Index, pattern: str, where: str) -> Index:
    """The index of the shards that a pattern names, without the splits that have none of them."""
    named = set(_expand(pattern))
    splits = {split: tuple(one for one in shards if one.name in named) for split, shards in index.splits.items()}
    missing = sorted(named - {one.name for shards in splits.values() for one in shards})
    if missing:
        raise DataError(
            f"{where}: lists no {printable(missing[0])}, which {printable(pattern)} names ({len(missing)} such); "
            "name those that are there"
        )
    return index._replace(splits={split: shards for split, shards in splits.items() if shards})


def _expand(pattern: str) -> list[str]:
    """Every name that {FIRST..LAST} and {ONE,OTHER} stand for, as a shell writes them out. Raises DataError."""
    found = [pattern]
    while (place := _PATTERN.search(found[0])) is not None:
        if place[3] is not None:
            parts = place[3].split(",")
        else:
            first, last = int(place[1]), int(place[2])
            if last - first >= _MAX_NAMED:
                raise DataError(f"{printable(pattern)}: names more than {_MAX_NAMED} shards")
            parts = [f"{number:0{len(place[1])}d}" for number in range(first, last + 1)]
        if not parts or len(parts) * len(found) > _MAX_NAMED:
            raise DataError(f"{printable(pattern)}: names {'no' if not parts else 'too many'} shards")
        whole = place[0]
        found = [name.replace(whole, part, 1) for name in found for part in parts]
    return found


def _index(content: Any) -> Index:
    _want(isinstance(content, dict), f"holds a {type(content).__name__}; want an object in braces")
    version = content.get("version")
    _want(_whole(version) and version == VERSION, f"version {_show(version)}; want {VERSION}")
    names, splits = content.get("class_names"), content.get("splits")
    _want(isinstance(names, list) and all(map(is_text, names)), f"class_names {_show(names)}; want a list of names")
    _want(len(set(names)) == len(names), f"class_names {_show(names)}; want each name once")
    _want(isinstance(splits, dict) and all(map(is_text, splits)), f"splits {_show(splits)}; want an object of lists")
    found = {}
    for split, items in splits.items():
        _want(isinstance(items, list), f"split {_show(split)}: {_show(items)}; want a list of shards")
        found[split] = tuple(_shard(item, f"split {_show(split)}: shard {i}") for i, item in enumerate(items))
        listed = [shard.name for shard in found[split]]
        _want(len(set(listed)) == len(listed), f"split {_show(split)} names a shard twice")
    return Index(tuple(names), content.get("declared") is True, found)


def _shard(item: Any, here: str) -> Shard:
    _want(isinstance(item, dict), f"{here}: {_show(item)}; want an object in braces")
    name = item.get("name")
    _want(
        isinstance(name, str) and _SHARD_NAME.fullmatch(name) is not None,
        f"{here}: name {_show(name)} leaves the folder or is none of a shard (want NAME.tar)",
    )
    counts: list[Any] = [item.get(key) for key in ("samples", "objects", "bytes")]
    for key, value, low, most in zip(
        ("samples", "objects", "bytes"), counts, (1, 0, 1), (_MAX_SAMPLES, 10**12, MAX_SHARD_BYTES), strict=True
    ):
        _want(_whole(value) and low <= value <= most, f"{here} ({name}): {key} {_show(value)}; want {low} or more")
    sha256: Any = item.get("sha256", "")
    good = isinstance(sha256, str) and (sha256 == "" or _SHA256.fullmatch(sha256) is not None)
    _want(good, f"{here} ({name}): sha256 {_show(sha256)}; want 64 hex digits")
    samples, objects, size = counts
    return Shard(name, samples, objects, size, sha256)


def find_shard(tree: Tree, shard: Shard, file: str = "") -> str:
    """The path or address of a shard. Raises DataError when it is not there, or a link that leaves the folder.

    Of remote shards that a `file` names nothing is looked up: their storage need not list what it has.
    """
    if file and is_remote(tree.root):  # a name of a shard has no folder in it
        return tree.path(shard.name)
    found = tree.find("", shard.name)
    if found is None:
        raise DataError(f"{printable(tree.path(shard.name))}: is not there, but {INDEX} names it; fetch it again")
    return tree.path(found)


class Label(NamedTuple):
    """The labels of an image of width x height pixels; the lists have one entry per object. boxes: continuous pixels
    x0 y0 x1 y1; file: its name in the data set that was packed."""

    file: str
    ident: str
    width: int
    height: int
    boxes: list[Box]
    classes: list[int]
    difficult: list[bool]
    crowd: list[bool]
    area: list[float]


def parse_label(data: bytes, class_names: Sequence[str]) -> Label:
    """Read the JSON of a sample. Raises DataError, which does not say where, for anything that is not as it should."""
    try:
        return _label(json.loads(data), class_names)
    except WrongError as error:
        raise DataError(f"{error}; {AGAIN}") from None
    except (ValueError, RecursionError) as error:
        raise DataError(f"is not JSON that can be read ({printable(error, 80)}); {AGAIN}") from error


def _label(content: Any, class_names: Sequence[str]) -> Label:
    _want(isinstance(content, dict), f"holds a {type(content).__name__}; want an object in braces")
    for key in ("file", "id"):
        _want(is_text(content.get(key)), f"{key} {_show(content.get(key))}; want a text")
    for key in ("width", "height"):
        side = content.get(key)
        _want(_whole(side) and 0 < side <= MAX_SIDE, f"{key} {_show(side)}; want the image's {key} in pixels")
    boxes = _column(content, "boxes", None, lambda v: isinstance(v, list) and len(v) == 4 and all(map(_number, v)))
    count = len(boxes)
    classes = _column(content, "classes", count, lambda v: _whole(v) and 0 <= v < len(class_names))
    names = _column(content, "names", count, lambda v: isinstance(v, str))
    for i, (label, name) in enumerate(zip(classes, names, strict=True)):
        if name != (known := class_names[label]):
            raise WrongError(f"object {i}: class {label} is {_show(known)} in {INDEX}, but {_show(name)} here")
    difficult, crowd = (_column(content, key, count, lambda v: v in (0, 1)) for key in ("difficult", "crowd"))
    areas = _column(content, "area", count, lambda v: _number(v) and 0 <= v < math.inf)
    return Label(
        content["file"],
        content["id"],
        content["width"],
        content["height"],
        [(float(x0), float(y0), float(x1), float(y1)) for x0, y0, x1, y1 in boxes],
        classes,
        [bool(v) for v in difficult],
        [bool(v) for v in crowd],
        [float(v) for v in areas],
    )


def _column(content: dict[str, Any], key: str, count: int | None, good: Callable[[Any], bool]) -> list[Any]:
    values = content.get(key)
    _want(isinstance(values, list), f"{key} {_show(values)}; want a list")
    assert isinstance(values, list)
    _want(count is None or len(values) == count, f"{len(values)} {key} for {count} boxes; want one for each")
    for i, value in enumerate(values):
        if not good(value):
            raise WrongError(f"object {i}: {key} {_show(value)} cannot be used")
    return values


def _want(holds: bool, message: str) -> None:
    if not holds:
        raise WrongError(message)


def _whole(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _number(value: object) -> bool:
    """Whether it is a number that a float holds; NaN is none."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return False
    return abs(value) < 1e300 or value in (math.inf, -math.inf)


def is_text(value: object) -> bool:
    """Whether it is a name or text that a StringTable holds."""
    return isinstance(value, str) and value != "" and is_encodable(value)


def _show(value: object) -> str:
    return printable(repr(value)[:1000], 60)
