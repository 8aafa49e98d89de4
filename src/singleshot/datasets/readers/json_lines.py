"""What the readers of JSON labels share: the line on which an item starts."""

from __future__ import annotations

import json
import re

_BLANK = re.compile(r"[\s,]*")


def line_of_item(text: str, key: str, number: int) -> int | None:
    """The line, from 1, on which item `number`, from 0, of the first list called `key` starts; None where none does."""
    start = re.search(rf'"{key}"\s*:\s*\[', text)
    if start is None:
        return None
    at, decoder = start.end(), json.JSONDecoder()
    for k in range(number + 1):
        blank = _BLANK.match(text, at)
        at = blank.end() if blank else at
        if text[at : at + 1] in ("", "]"):
            return None
        if k == number:
            return text.count("\n", 0, at) + 1
        try:
            at = decoder.raw_decode(text, at)[1]
        except (ValueError, RecursionError):
            return None
    return None
