"""Text files for each image with rows of a class and a box in pixels: those of mAP and OIDv4, and BBox-Label-Tool's.

mAP (github.com/Cartucho/mAP, README) and OIDv4_ToolKit (github.com/EscVM/OIDv4_ToolKit, README): "class left top right
bottom", the class of one or more words, mAP's with "difficult" at the end where an object is. Others write "class left
top width height" or "class x y width height" the same way, so that these rows are read where the images tell: corners
where all boxes have them in order, nearly all lie in their images, and some would not if their last two numbers were a
width and a height; sizes by `row_meaning`, which asks for more.

BBox-Label-Tool (github.com/puzzledqs/BBox-Label-Tool, main.py): how many objects there are, then "left top right
bottom" each, in later versions with the class behind.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Iterator
from itertools import islice

from singleshot.datasets.packed_strings import is_name
from singleshot.datasets.raw import EDGE_PX, Box, RawObject
from singleshot.datasets.readers.common import ONLY_CLASS, images_by_stem, parse_number, spread
from singleshot.datasets.readers.row_files import Pair, Places, RowForm, Rows, objects_of
from singleshot.datasets.readers.row_meaning import CENTRE_SIZE, CORNER_SIZE, CORNERS, corners_of, find_meaning
from singleshot.datasets.tree import Tree, join
from singleshot.errors import DataError, printable
from singleshot.images.decode import image_size
from singleshot.storage import is_remote

_NUMBER = rb"-?\d{1,9}(?:\.\d{1,12})?"
_NAME = rb"[A-Za-z][^\s,;]{0,99}"
_NAMED = re.compile(
    rb"\A\s{0,9}(%b(?: [A-Za-z]\S{0,99}){0,5})((?: %b){4})(?: difficult)?\s*(?:\n|\Z)" % (_NAME, _NUMBER)
)
_COUNTED = re.compile(rb"\A\d{1,4}\s{0,9}\n%b(?: %b){3}(?: %b)?\s" % (_NUMBER, _NUMBER, _NAME))
_LINES, _FILES, _BOXES = 50, 300, 10_000
# Shares of boxes: most lie in their images, and some show what their numbers mean.
_INSIDE, _TELLING = 0.95, 0.05


def is_named(head: bytes, corners: bool = True) -> bool:
    """Whether the first lines are classes and four numbers, of which the last two are beyond the first in each line,
    or, with `corners` False, not in all."""
    *lines, last = head.split(b"\n")
    rows = [_NAMED.match(line) for line in (*lines, *([] if lines else [last]))[:_LINES] if line.strip()]
    found = [[float(number) for number in row[2].split()] for row in rows if row is not None]
    if not found or len(found) < len(rows):
        return False
    return all(x0 < x1 and y0 < y1 for x0, y0, x1, y1 in found) is corners


def is_counted(head: bytes) -> bool:
    """Whether a text file is a number of objects and as many rows of four numbers."""
    if _COUNTED.match(head + b"\n") is None:
        return False
    count, *rows = [line for line in head.split(b"\n") if line.strip()]
    return len(rows) == int(count) or (len(head) >= 4096 and len(rows) <= int(count))


def is_named_rows(head: bytes) -> bool:
    """Whether the first lines are classes and four numbers of any meaning."""
    return is_named(head) or is_named(head, corners=False)


def parse_named(rows: Rows, meaning: str = CORNERS) -> Iterator[RawObject]:
    """The objects of rows of a class and four numbers of that meaning."""
    for number, (line, words) in enumerate(rows.lines):
        difficult = len(words) > 5 and words[-1] == "difficult"
        own = words[:-1] if difficult else words
        box, name = _box(own[-4:]), " ".join(own[:-4])
        if box is None or not is_name(name):
            rows.add(f"{printable(' '.join(words), 80)!r}: want class {meaning}", line, number)
        else:
            box = corners_of(box, meaning)
            yield RawObject(name, box, difficult=difficult, number=number, line=line)


def parse_counted(rows: Rows) -> Iterator[RawObject]:
    """The objects of a count and "left top right bottom" each, with a class or all of the same."""
    if not rows.lines:
        return
    first, counted = rows.lines[0]
    if counted != [str(len(rows.lines) - 1)]:
        shown = printable(" ".join(counted), 40)
        rows.add(f"starts with {shown!r} and has {len(rows.lines) - 1} rows; want how many there are", first, 0)
    for number, (line, words) in enumerate(rows.lines[1:]):
        box, name = _box(words[:4]), " ".join(words[4:]) or ONLY_CLASS
        if box is None or not is_name(name):
            rows.add(f"{printable(' '.join(words), 80)!r}: want left top right bottom, and a class", line, number)
        else:
            yield RawObject(name, box, number=number, line=line)


def _box(words: list[str]) -> Box | None:
    numbers = [parse_number(word) for word in words]
    if len(numbers) != 4 or None in numbers:
        return None
    x0, y0, x1, y1 = (number or 0.0 for number in numbers)
    return x0, y0, x1, y1


def are_corners(tree: Tree, places: Places) -> bool:
    """Whether the sizes of the images tell that the last two numbers of the rows are a corner."""
    if is_remote(tree.root):
        return False
    inside = no_sizes = no_centres = boxes = 0
    pairs = (pair for several in places.values() for pair in several)
    for (x0, y0, x1, y1), (width, height) in islice(_boxes(tree, pairs), _FILES):
        if not (x0 < x1 and y0 < y1):
            return False
        right, bottom = width + EDGE_PX, height + EDGE_PX
        boxes += 1
        inside += x1 <= right and y1 <= bottom
        no_sizes += x0 + x1 > right or y0 + y1 > bottom
        no_centres += min(x0 - x1 / 2, y0 - y1 / 2) < -EDGE_PX or x0 + x1 / 2 > right or y0 + y1 / 2 > bottom
    telling = min(no_sizes, no_centres)
    return inside >= _INSIDE * boxes and telling > 0 and telling >= _TELLING * boxes


def are_sizes(tree: Tree, places: Places, meaning: str) -> bool:
    """Whether the sizes of the images tell that the numbers of the rows have that meaning, with a size at the end."""
    if is_remote(tree.root):
        return False
    key = "meaning of rows of a class and four numbers"
    if key not in tree.memo:
        pairs = (pair for several in places.values() for pair in several)
        tree.memo[key] = find_meaning(islice(_boxes(tree, pairs), _BOXES), EDGE_PX)
    return tree.memo[key] == meaning


def is_one_class(tree: Tree, places: Places) -> bool:
    """Whether there is one folder of labels for each split: folders of BBox-Label-Tool may be classes."""
    return all(len(pairs) == 1 for pairs in places.values())


def _boxes(tree: Tree, pairs: Iterator[Pair]) -> Iterator[tuple[Box, tuple[int, int]]]:
    """Boxes of some label files of each folder, with the sizes of their images."""
    for pair in pairs:
        images = images_by_stem(tree, pair.images)
        own = [name for name in tree.files(pair.labels, (".txt",)) if name[:-4] in images]
        for name in spread(own, _FILES):
            try:
                objects = objects_of(NAMED, tree, pair, name)
                size = image_size(tree.path(join(pair.images, min(images[name[:-4]])))) if objects else (0, 0)
            except DataError:  # which reading it says
                continue
            yield from ((obj.box, size) for obj in objects)


NAMED = RowForm("named-rows", "class and corners TXT", is_named, parse_named, are_corners)
CORNER_SIZED, CENTRE_SIZED = (
    RowForm(
        form,
        about,
        is_named_rows,
        functools.partial(parse_named, meaning=meaning),
        functools.partial(are_sizes, meaning=meaning),
    )
    for form, about, meaning in (
        ("corner-size-rows", "class, corner and size TXT", CORNER_SIZE),
        ("centre-size-rows", "class, centre and size TXT", CENTRE_SIZE),
    )
)
COUNTED = RowForm("counted-rows", "BBox-Label-Tool", is_counted, parse_counted, is_one_class)
