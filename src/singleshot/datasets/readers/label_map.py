"""The label maps of TensorFlow's Object Detection API in text form (protos/string_int_label_map.proto).

item { id: 1 name: 'cat' }
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import NamedTuple

from singleshot.datasets.packed_strings import is_encodable
from singleshot.datasets.tree import Tree, join
from singleshot.errors import DataError, printable
from singleshot.text import decode_text

_MAX_BYTES = 4 * 2**20
_TOKEN = re.compile(r"""\s+|#[^\n]*|"(?:[^"\\\n]|\\.)*"|'(?:[^'\\\n]|\\.)*'|[A-Za-z_]\w*|[-+]?[\w.]+|.""")
_ESCAPE = re.compile(rb"\\([0-7]{1,3}|x[0-9a-fA-F]{1,2}|.)", re.DOTALL)
_SHARD = re.compile(r"(\.\w+)?(-\d{5}-of-\d{5})?(\.\w+)?$")


class LabelMap(NamedTuple):
    """file: its name, "" for none; names: class number -> name; display: machine's names ("/m/01g317") -> people's."""

    file: str
    names: Mapping[int, str]
    display: Mapping[str, str]

    def shown(self, name: str) -> str:
        """The name for people."""
        return self.display.get(name, name)


NO_MAP = LabelMap("", {}, {})


def find_label_map(tree: Tree, record: str) -> LabelMap:
    """The label map of a record file: called like it, else the only one (or of one content) in its folder, the one
    above or annotations/; NO_MAP where there is none. Raises DataError for one that cannot be read, or several."""
    folder, _, last = record.rpartition("/")
    stem = _SHARD.sub("", last).lower()
    for place in dict.fromkeys((folder, folder.rpartition("/")[0], "annotations", "")):
        there = tree.files(place, (".pbtxt",))
        own = [name for name in there if name[:-6].lower() in (stem, f"{stem}_label_map", f"{stem}-label-map")]
        maps = [read_label_map(tree, join(place, name)) for name in own or there]
        if maps and all(one.names == maps[0].names for one in maps):
            return maps[0]
        if maps:
            names = ", ".join(printable(one.file, 60) for one in maps[:8])
            raise DataError(
                f"{printable(tree.path(record))}: several label maps ({names}); call its own {stem}_label_map.pbtxt"
            )
    return NO_MAP


def read_label_map(tree: Tree, file: str) -> LabelMap:
    """Read one. Raises DataError for what is none, and for numbers that stand twice."""
    where = printable(tree.path(file))
    text = decode_text(tree.read(file, _MAX_BYTES, "label map"), tree.path(file))
    names: dict[int, str] = {}
    display: dict[str, str] = {}
    for item in _items(text, where):
        number, name = item.get("id", ""), item.get("name", "").strip()
        said = item.get("display_name", "").strip()
        name, machine = (said, name) if said and (not name or name.startswith("/m/")) else (name, "")
        if not re.fullmatch(r"\d{1,9}", number) or not name or not is_encodable(name):
            shown = printable(", ".join(f"{key} {value}" for key, value in item.items()), 80)
            raise DataError(f"{where}: item {len(names)} ({shown}) wants an id, a whole number, and a name")
        if int(number) in names:
            raise DataError(f"{where}: id {number} stands twice; want each number once")
        names[int(number)] = name
        if machine:
            display[machine] = name
    if not names:
        raise DataError(f"{where}: is no label map (want item {{ id: 1 name: 'cat' }} for each class)")
    return LabelMap(file, dict(sorted(names.items())), display)


def _items(text: str, where: str) -> list[dict[str, str]]:
    """The values of each item by their keys, all as texts; what lies deeper is passed over."""
    items: list[dict[str, str]] = []
    depth, key, before = 0, "", ""
    for found in _TOKEN.finditer(text):
        token = found[0]
        if token.isspace() or token[0] in "#,;:":
            continue
        if token == "{":
            depth += 1
            if depth == 1:
                if before != "item":
                    raise DataError(f"{where}: is no label map ({printable(before or '{', 40)} before item)")
                items.append({})
        elif token == "}":
            depth -= 1
            if depth < 0:
                break
        elif depth == 1 and key:
            items[-1].setdefault(key, _unquoted(token))
        before, key = token, token if depth == 1 and token.isidentifier() and not key else ""
    if depth:
        raise DataError(f"{where}: is no label map (its braces do not close)")
    return items


def _unquoted(token: str) -> str:
    if token[0] not in "\"'":
        return token

    def character(found: re.Match[bytes]) -> bytes:
        code = found[1]
        if code[:1].isdigit():
            return bytes([int(code, 8) & 255])
        if code[:1] == b"x" and len(code) > 1:
            return bytes([int(code[1:], 16)])
        return {b"n": b"\n", b"t": b"\t", b"r": b"\r"}.get(code, code)

    return _ESCAPE.sub(character, token[1:-1].encode("utf-8", "surrogatepass")).decode("utf-8", "replace")
