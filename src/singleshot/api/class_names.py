"""Class names as a user gives them: a,b,c or a file with one name in each line."""

from __future__ import annotations

from pathlib import Path

from singleshot.errors import ConfigError, printable
from singleshot.storage import read_limited
from singleshot.text import decode_text

_MAX_BYTES = 1 << 20
_BACKGROUND = ("background", "__background__", "_background_", "bg")


def read_classes(text: str) -> tuple[str, ...]:
    """Class names of "a,b,c", or of a file with one in each line (UTF-8, or UTF-16 by its mark), each once.

    Raises ConfigError where there is none, DataError for a file that is no such text.
    """
    path = Path(text)
    is_file = "\0" not in text and len(text) < 4096 and path.is_file()
    parts = decode_text(read_limited(path, _MAX_BYTES, "class list"), text).splitlines() if is_file else text.split(",")
    names = tuple(dict.fromkeys(part.strip() for part in parts if part.strip()))
    if not names:
        raise ConfigError(f"--classes {printable(text)!r}: names no class (want a,b,c or a file with one in each line)")
    if not is_file and len(names) == 1 and ("/" in text or text.endswith(".txt")):
        raise ConfigError(
            f"--classes {printable(text)}: no such file (want a,b,c or a file with one name in each line)"
        )
    return names


def without_background(names: tuple[str, ...], count: int) -> tuple[str, ...]:
    """The names without a leading "background", where there are `count` only then."""
    if len(names) == count + 1 and names[0].lower() in _BACKGROUND:
        return names[1:]
    return names
