"""KITTI's label files: a text file for each image, an object a line in 15 columns, or 16 with a score.

Columns: type, truncated, occluded, alpha, the box as left, top, right, bottom in pixels that count from 0, then size,
place and turn in space, which a detector of boxes does not need. DontCare marks regions with objects that nobody
labelled: detections there are ignored. Source: the KITTI object benchmark, readme.txt of its development kit.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from singleshot.datasets.packed_strings import is_name
from singleshot.datasets.raw import RawObject, is_region
from singleshot.datasets.readers.common import parse_number, score_of
from singleshot.datasets.readers.row_files import RowForm, Rows
from singleshot.errors import printable

_COLUMNS = (15, 16)
_UNLABELLED = "DontCare"
_NUMBER = rb"[ \t]+-?\d{1,9}(?:\.\d{1,12})?(?:e-?\d{1,3})?"
_ROW = re.compile(rb"\A\s{0,9}(?!-?[\d.]+\s)[^\s,]{1,99}(?:%b){14,15}[ \t\r]{0,9}(?:\n|\Z)" % _NUMBER)


def is_label(head: bytes) -> bool:
    """Whether a text file starts as these do: a type, then 14 or 15 numbers."""
    return _ROW.match(head) is not None


def parse(rows: Rows) -> Iterator[RawObject]:
    """The objects of a file; the boxes of DontCare are ignored regions."""
    for number, (line, words) in enumerate(rows.lines):
        numbers = [parse_number(word) for word in words[1:]]
        if len(words) not in _COLUMNS or None in numbers or not is_name(words[0]):
            shown = printable(" ".join(words), 80)
            rows.add(f"{shown!r}: want a type and 14 numbers, of which 4 to 7 are the box", line, number)
            continue
        x0, y0, x1, y1 = (value or 0.0 for value in numbers[3:7])
        if words[0] != _UNLABELLED:
            score = score_of(words[15] if len(words) == 16 else None)
            yield RawObject(words[0], (x0, y0, x1, y1), number=number, line=line, score=score)
        elif is_region((x0, y0, x1, y1)):
            rows.ignored.append((x0, y0, x1, y1))
        else:
            rows.passed[f"{_UNLABELLED} without area"] += 1


FORM = RowForm("kitti", "KITTI", is_label, parse)
