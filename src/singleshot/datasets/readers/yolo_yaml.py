"""The data.yaml of a YOLO data set: its paths and class names, and nothing that YAML can do besides."""

from __future__ import annotations

import contextlib
import re
from typing import Any, NamedTuple

from singleshot.datasets.packed_strings import is_encodable, is_name
from singleshot.datasets.readers.yolo_amend import amend
from singleshot.datasets.tree import Tree
from singleshot.errors import DataError, printable
from singleshot.extras import needs

MAX_YAML_BYTES = 2**20
# Far above any data set (Objects365 has 365, LVIS 1,203); what lies beyond is no class number.
MAX_CLASSES = 100_000
_MAX_DEPTH = 32
_MAX_ENTRIES = 10_000

_SPLITS = ("train", "val", "valid", "validation", "test", "trainval", "minival")
_NOTHING = ("", "~", "null", "None", "none")
_KEY = r"""(^|[{,])[ \t]*["']?(%s)["']?[ \t]*:"""
_HAS_CLASSES = re.compile((_KEY % "names|nc").encode(), re.MULTILINE)
_HAS_NAMES = re.compile((_KEY % "names").encode(), re.MULTILINE)
_HAS_PLACES = re.compile((_KEY % "train|val|valid|test|path|nc").encode(), re.MULTILINE)

YAMLS = ("data.yaml", "data.yml")


class Description(NamedTuple):
    """path: the folder that the entries stand under; splits: name -> folders or lists, as written; names: the class
    names, None where it does not say them; keypoints: numbers that follow each box (pose data sets); first: the number
    of the first class, None where names is a list; amended: what is wrong in it, and how it is read."""

    path: str
    splits: dict[str, list[str]]
    names: tuple[str, ...] | None
    keypoints: int
    first: int | None
    amended: tuple[str, ...] = ()


def describes(tree: Tree, name: str) -> bool:
    """Whether a yaml file looks like one of these, by its keys; it may be wrong all the same.

    Raises DataError when one that is called data.yaml cannot be read.
    """
    try:
        data = tree.read(name, MAX_YAML_BYTES, "yaml")
    except DataError:
        if name in YAMLS:
            raise
        return False
    if name in YAMLS:
        return _HAS_CLASSES.search(data) is not None
    return _HAS_NAMES.search(data) is not None and _HAS_PLACES.search(data) is not None


def load_description(tree: Tree, name: str) -> Description:
    """Read one. Raises DataError with the file and, where it is known, the line."""
    where = printable(tree.path(name))
    content, amended = _load_amended(tree.read(name, MAX_YAML_BYTES, "yaml"), where)
    if not isinstance(content, dict):
        raise DataError(f"{where}: holds a {_kind(content)}; want the keys train, val and names")
    path = content.get("path", "")
    if not isinstance(path, str):
        raise DataError(f"{where}: path is a {_kind(path)}; want a folder")
    further = _further_splits(content.get("splits"), where)
    keys = dict.fromkeys([*_SPLITS, *further])
    splits = {key: _entries(content[key], f"{where}: {key}") for key in keys if key in content}
    # Written for other readers: the same place under the name that they know.
    again = {key for key in splits if key not in further and any(splits[key] == splits.get(name) for name in further)}
    splits = {key: entries for key, entries in splits.items() if key not in again}
    names, first = _names(content.get("names"), where)
    count = _whole(content.get("nc"), f"{where}: nc")
    if names is not None and count is not None and count != len(names):
        amended.append(f"nc is {count} but names has {len(names)}: the names count; correct one of them")
    if names is None and count:
        names, first = tuple(f"class {i}" for i in range(count)), 0
    return Description(
        "" if path.strip() in _NOTHING else path,
        {key: entries for key, entries in splits.items() if entries},
        names,
        _keypoints(content.get("kpt_shape"), where),
        first,
        tuple(amended),
    )


def _load_amended(data: bytes, where: str) -> tuple[Any, list[str]]:
    """What a yaml holds, and what had to be put right for that. Raises DataError for what is wrong beyond that."""
    try:
        content = load_yaml(data, where)
        if isinstance(content, dict) and not isinstance(content.get("names"), str):
            return content, []
        message = "names is a text" if isinstance(content, dict) else f"holds a {_kind(content)}"
    except DataError as error:
        content, message = error, str(error).removeprefix(f"{where}: ").removesuffix("; correct it")
    amended = amend(data)
    if amended is not None:
        with contextlib.suppress(DataError):  # then what was written is what is wrong
            better = load_yaml(amended[0], where)
            if isinstance(better, dict) and not isinstance(better.get("names"), str):
                return better, [f"{message}; read {amended[1]}; correct it"]
    if isinstance(content, DataError):
        raise content
    return content, []


def load_yaml(data: bytes, where: str) -> Any:
    """Dicts, lists and texts of one YAML document. Raises DataError for what is not YAML, and for aliases and depth.

    All scalars stay texts: a class called "no" or "on" is no truth value, and no number or date has to be refused.
    """
    with needs("train", f"{where}: reading yaml"):
        import yaml
    loader = getattr(yaml, "CBaseLoader", yaml.BaseLoader)
    depth = 0
    try:
        # The events come one by one: what would take endless time or depth to build is refused before that.
        for event in yaml.parse(data, Loader=loader):
            line = event.start_mark.line + 1
            if isinstance(event, yaml.AliasEvent):
                raise DataError(f"{where}:{line}: uses an alias (*{printable(event.anchor, 40)}); write it out")
            depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
            if depth > _MAX_DEPTH:
                raise DataError(f"{where}:{line}: lists within lists beyond {_MAX_DEPTH} levels; want plain names")
        return yaml.load(data, Loader=loader)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        message = getattr(error, "problem", None) or getattr(error, "reason", None) or "unreadable"
        line = f" at line {mark.line + 1}" if mark is not None else ""
        raise DataError(f"{where}: is not YAML ({printable(message, 100)}{line}); correct it") from error
    except (ValueError, RecursionError) as error:
        raise DataError(f"{where}: is not YAML that can be read ({printable(error, 80)})") from error


def check_names(names: list[Any], where: str) -> tuple[str, ...]:
    """The names without blanks around them, when each is a text of its own; DataError otherwise."""
    if len(names) > MAX_CLASSES:
        raise DataError(f"{where}: {len(names)} class names; at most {MAX_CLASSES} are read")
    seen: dict[str, int] = {}
    for i, name in enumerate(names):
        if not is_name(name):
            kind = f"a {_kind(name)}" if not isinstance(name, str) else "no name" if name.strip() else "blank"
            raise DataError(f"{where}: class {i} is {kind}; want a name for each number from 0")
        if name.strip() in seen:
            message = f"class {i} is called {printable(name, 80)!r}, as class {seen[name.strip()]} is"
            raise DataError(f"{where}: {message}; want each name once")
        seen[name.strip()] = i
    return tuple(seen)


def _names(value: Any, where: str) -> tuple[tuple[str, ...] | None, int | None]:
    """The names, and the number of the first where they are numbered: 0 or 1."""
    first = None
    if value is None or (isinstance(value, str) and value.strip() in _NOTHING):
        return None, None
    if isinstance(value, dict):
        numbered = {_whole(key, f"{where}: names: the number of a class"): name for key, name in value.items()}
        if not numbered or None in numbered or len(numbered) != len(value):
            raise DataError(f"{where}: names has a number twice or none at all; want each class once, from 0")
        first = 1 if 0 not in numbered and 1 in numbered else 0
        missing = next((i for i in range(first, first + len(numbered)) if i not in numbered), None)
        if missing is not None:
            raise DataError(f"{where}: names has no class {missing}; want each number from {first} on")
        value = [numbered[i] for i in range(first, first + len(numbered))]
    if not isinstance(value, list):
        raise DataError(f"{where}: names is a {_kind(value)}; want a list, or numbers with a name each")
    return (check_names(value, where), first) if value else (None, None)


def _further_splits(value: Any, where: str) -> list[str]:
    """Keys that are splits as well: this project's own way to keep splits of any name."""
    names = [] if value is None else value
    if not isinstance(names, list) or not all(isinstance(name, str) and name.strip() for name in names):
        raise DataError(f"{where}: splits is not a list of names; want the keys that are splits, or leave it out")
    reserved = sorted({"path", "names", "nc", "splits", "kpt_shape"} & set(names))
    if reserved:
        raise DataError(
            f"{where}: splits lists {reserved[0]!r}, which means something else; give the split another name"
        )
    return names


def _entries(value: Any, where: str) -> list[str]:
    entries = value if isinstance(value, list) else [value]
    if len(entries) > _MAX_ENTRIES:
        raise DataError(f"{where} lists {len(entries)} places; at most {_MAX_ENTRIES} are read")
    for entry in entries:
        if not isinstance(entry, str) or "\0" in entry or not is_encodable(entry):
            raise DataError(f"{where} holds a {_kind(entry)}; want a folder, a list of folders, or a .txt list")
    return [entry for entry in entries if entry.strip() not in _NOTHING]


def _keypoints(value: Any, where: str) -> int:
    if value is None:
        return 0
    if isinstance(value, list) and len(value) == 2:
        points, each = (_whole(part, f"{where}: kpt_shape") for part in value)
        if points and each in (2, 3):
            return points * each
    raise DataError(f"{where}: kpt_shape is not two numbers such as [17, 3]; correct it")


def _whole(value: Any, what: str) -> int | None:
    """The number from 0 to MAX_CLASSES that a text is, None for nothing; DataError otherwise."""
    if value is None or (isinstance(value, str) and value.strip() in _NOTHING):
        return None
    text = value.strip() if isinstance(value, str) else ""
    if not re.fullmatch(r"[0-9]{1,6}", text) or int(text) > MAX_CLASSES:
        shown = printable(repr(text), 40) if isinstance(value, str) else f"a {_kind(value)}"
        raise DataError(f"{what} is {shown}; want a whole number from 0 to {MAX_CLASSES}")
    return int(text)


def _kind(value: Any) -> str:
    if isinstance(value, dict):
        return "table of keys"
    return "list" if isinstance(value, list) else "text"
