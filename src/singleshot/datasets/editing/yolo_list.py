"""The list of a YOLO set's class names, to which one is added: a text of one a line, or a yaml."""

from __future__ import annotations

import json
import re
from typing import Any

from singleshot.datasets.editing.edits import Splice, splice
from singleshot.datasets.readers.yolo_yaml import load_yaml
from singleshot.errors import DataError, printable
from singleshot.extras import needs

_YAML = (".yaml", ".yml")


def with_name(data: bytes, name: str, path: str, names: tuple[str, ...]) -> bytes:
    """The list with one more name at its end, and with it the count `nc` where there is one; all else stays.

    Args:
        data: What the file holds.
        name: Of one line.
        path: Of the file.
        names: Those that it has.

    Raises:
        DataError: It has other names meanwhile, or is written in a way that is not changed in place.
    """
    where = printable(path)
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise DataError(f"{where}: is not UTF-8, and not changed in place; add {printable(name)!r} there") from error
    is_yaml = path.lower().endswith(_YAML)
    if (_yaml_names(data, where) if is_yaml else _lines(text)) != names:
        raise DataError(f"{where}: has other class names than it had; start again")
    new = (_in_yaml(text, name, where) if is_yaml else _in_lines(text, name)).encode()
    if (_yaml_names(new, where) if is_yaml else _lines(new.decode())) != (*names, name):
        raise DataError(f"{where}: is written in a way that is not changed in place; add {printable(name)!r} there")
    return new


def _lines(text: str) -> tuple[str, ...]:
    return tuple(line.strip() for line in text.removeprefix("\ufeff").rstrip().split("\n"))


def _in_lines(text: str, name: str) -> str:
    end = len(text.rstrip())
    return text[:end] + ("\r\n" if "\r\n" in text else "\n") + name + (text[end:] or "\n")


def _yaml_names(data: bytes, where: str) -> tuple[str, ...]:
    content = load_yaml(data, where)
    names = content.get("names") if isinstance(content, dict) else None
    values = names.values() if isinstance(names, dict) else names if isinstance(names, list) else ()
    return tuple(value.strip() if isinstance(value, str) else "" for value in values)


def _in_yaml(text: str, name: str, where: str) -> str:
    """By where the list and its last entry stand; `load_yaml` has refused what has aliases or is deep."""
    with needs("train", f"{where}: reading yaml"):
        import yaml
    members = {key.value: value for key, value in yaml.compose(text, Loader=yaml.BaseLoader).value}
    names, count = members["names"], members.get("nc")
    is_list = isinstance(names, yaml.SequenceNode)
    entries = names.value if is_list else [pair[1] for pair in names.value]
    entry = json.dumps(name, ensure_ascii=False)  # quoted: "no" and "1" are texts then, to every reader
    if not is_list:
        entry = f"{_next_key(names, where)}: {entry}"
    splices = []
    if count is not None and count.value.strip().isdigit():
        splices.append(Splice(count.start_mark.index, count.end_mark.index, str(int(count.value) + 1)))
    last = entries[-1].end_mark.index
    if names.flow_style:
        splices.append(Splice(last, last, f", {entry}"))
    else:
        line_end = text.find("\n", last)
        line_end = len(text) if line_end < 0 else line_end
        new_line = "\r\n" if "\r\n" in text else "\n"
        at = line_end - 1 if text[last:line_end].endswith("\r") else line_end
        indent = " " * names.start_mark.column
        splices.append(Splice(at, at, f"{new_line}{indent}{'- ' * is_list}{entry}"))
    return splice(text, splices)


def _next_key(names: Any, where: str) -> int:
    keys = [key.value.strip() for key, _ in names.value]
    if not all(re.fullmatch(r"\d{1,9}", key) for key in keys):
        raise DataError(f"{where}: names has keys that are no numbers; add the class there")
    return int(keys[-1]) + 1
