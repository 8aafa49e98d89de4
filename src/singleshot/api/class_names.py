"""Class names as a user gives them: a,b,c or a file with one name, or one group of them, in each line."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

from singleshot.class_selection import Classes, ClassSelection, class_texts
from singleshot.errors import ConfigError, printable
from singleshot.storage import read_limited
from singleshot.text import decode_text

_MAX_BYTES = 1 << 20


def read_groups(given: Classes) -> tuple[str, ...] | dict[str, list[str]]:
    """What --classes says, for `class_selection.select_classes`: the lines of each file (UTF-8, or UTF-16 by its mark),
    and every other text as it is.

    Raises ConfigError where there is none, DataError for a file that is no such text.
    """
    if isinstance(given, Mapping):
        return ClassSelection.from_dict(given).to_dict()
    return tuple(line for text in class_texts(given) for line in _lines_of(text) or _none(text))


def read_classes(*texts: str, new_names: list[str] | None = None) -> tuple[str, ...]:
    """Class names of "a,b,c", or of a file with one in each line (UTF-8, or UTF-16 by its mark), each once.

    new_names: a list that takes c of "a,b=c", in a file too; without it such a text is a name as any other. Raises
    ConfigError where there is none, DataError for a file that is no such text.
    """
    names: list[str] = []
    for text in texts:
        is_file = _is_file(text)
        for line in _lines_of(text) if is_file else [text]:
            old, equals, new = line.rpartition("=") if new_names is not None else ("", "", line)
            if equals and new_names is not None:
                names += old.split(",")
                new_names.append(new.strip())
            else:
                names += [line] if is_file else line.split(",")
        if not is_file and "," not in text and ("/" in text or text.endswith(".txt")):
            raise ConfigError(
                f"--classes {printable(text)}: no such file (want a,b,c or a file with one name in each line)"
            )
    found = tuple(dict.fromkeys(name.strip() for name in names if name.strip()))
    return found or tuple(_none(",".join(texts)))


def _is_file(text: str) -> bool:
    return os.path.isfile(text)  # noqa: PTH113 (Path.is_file raises for a text too long for a name)


def _lines_of(text: str) -> list[str]:
    """The lines of a file that are not empty; any other text is one line."""
    lines = [text]
    if _is_file(text):
        lines = decode_text(read_limited(Path(text), _MAX_BYTES, "class list"), text).splitlines()
    return [line.strip() for line in lines if line.strip()]


def _none(text: str) -> list[str]:
    raise ConfigError(f"--classes {printable(text)!r}: names no class (want a,b,c or a file with one in each line)")
