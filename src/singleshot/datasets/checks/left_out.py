"""What `data check --fix` could not put right stands in a file of the copy, so that the copy does not pass as sound."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from singleshot.datasets.findings import RaiseErrors
from singleshot.datasets.sources import Source
from singleshot.errors import DataError, printable
from singleshot.files import atomic_write

FILE = "singleshot-fix.json"
_KEY = "left_out"
_MAX_BYTES, _MOST, _LONGEST = 1 << 20, 100, 1000


def write_left_out(folder: Path, messages: Sequence[str]) -> None:
    """Write them into a repaired copy, the first hundred; nothing where there are none."""
    if messages:
        with atomic_write(folder / FILE) as temporary:
            temporary.write_text(json.dumps({_KEY: list(messages[:_MOST])}, indent=1) + "\n", encoding="ascii")


def read_left_out(source: Source) -> list[str]:
    """What a repaired copy lacks; nothing of other data sets."""
    if source.tree.find("", FILE) is None:
        return []
    try:
        content = json.loads(source.tree.read(FILE, _MAX_BYTES, "list of what a repair left out"))
        return [printable(text, _LONGEST) for text in content[_KEY] if isinstance(text, str)][:_MOST]
    except (DataError, ValueError, TypeError, KeyError, RecursionError):
        return [f"{FILE} cannot be read: it is not known what the repair left out"]


def check_left_out(source: Source, problems: RaiseErrors) -> None:
    """Say again what a repaired copy lacks, until somebody has looked and removed the file."""
    for message in read_left_out(source):
        problems.add("labels-left-out", source.tree.path(FILE), f"{message}; see to it, then remove this file")
