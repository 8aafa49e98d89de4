"""A data.yaml that is no YAML, by the mistakes that people make who write one by hand: what they meant."""

from __future__ import annotations

import re

_PATHS = "path|train|val|valid|validation|test"
_KEY = re.compile(rf"[ \t]*((?:{_PATHS}|nc|names|download)[ \t]*:)(.*)")
_ITEM = re.compile(r"[ \t]*((?:-|\d{1,6}[ \t]*:)(?=[ \t]|\S))[ \t]*(.*)")
_WINDOWS = re.compile(r'"([^"\']*\\[^"\']*)"')


def amend(data: bytes) -> tuple[bytes, str] | None:
    """The text with its keys at the start of their lines, a blank after each colon, entries in from them by blanks and
    not by tabs, and Windows' paths without the marks that make an escape of "\\"; and what was done in words. None
    where there is nothing of that to do, or the text is no UTF-8.
    """
    try:
        lines = data.decode("utf-8-sig").splitlines()
    except UnicodeDecodeError:
        return None
    done: dict[str, None] = {}
    found = []
    for line in lines:
        new = line
        if key := _KEY.fullmatch(line):
            start, value = key.groups()
            bare = _WINDOWS.sub(r"'\1'", value) if re.match(_PATHS, start) else value
            new = start + (" " if value and not value[0].isspace() else "") + bare
            _note(done, "with its keys at the start of their lines", line[:1].isspace())
            _note(done, "with a blank after each colon", bool(value) and not value[0].isspace())
            _note(done, "with backslashes as they are", bare != value)
        elif (item := _ITEM.fullmatch(line)) and (line[:1].isspace() or "-" not in item[1]):
            new = f"  {item[1]} {item[2]}"
            _note(done, "with entries in from their keys by blanks", new.rstrip() != line.rstrip())
        elif line[:1].isspace() and "\t" in line[: -len(line.lstrip()) or None]:
            new = f"  {line.lstrip()}"
            _note(done, "with entries in from their keys by blanks", True)
        found.append(new)
    return ("\n".join(found).encode(), " and ".join(done)) if done else None


def _note(done: dict[str, None], what: str, is_done: bool) -> None:
    if is_done:
        done[what] = None
