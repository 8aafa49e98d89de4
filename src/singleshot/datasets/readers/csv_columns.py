"""What the columns of a CSV file of boxes mean, by its first line."""

from __future__ import annotations

import csv
from typing import NamedTuple

from singleshot.datasets.readers.common import parse_number, whole_side
from singleshot.images.suffixes import is_image
from singleshot.text import encoding_of

MAX_LINE = 1 << 20
PLAIN = encoding_of(b"")

# What a column is called, in small letters; where a header has two of them, the first here counts. Last: LISA, GTSRB.
SIDES = ("xmin", "ymin", "xmax", "ymax")
_CALLED = {
    "image": (
        "filename",
        "file",
        "file_name",
        "image_path",
        "path",
        "image",
        "img",
        "imageid",
        "image_id",
        "image_name",
        "img_name",
        "frame",
    ),
    "xmin": ("xmin", "x1", "x_min", "upper left corner x", "roi.x1"),
    "ymin": ("ymin", "y1", "y_min", "upper left corner y", "roi.y1"),
    "xmax": ("xmax", "x2", "x_max", "lower right corner x", "roi.x2"),
    "ymax": ("ymax", "y2", "y_max", "lower right corner y", "roi.y2"),
    "bbox": ("bbox",),
    "name": (
        "class",
        "class_name",
        "label",
        "labelname",
        "label_name",
        "name",
        "category",
        "object",
        "annotation tag",
        "class_id",
        "classid",
    ),
    "width": ("image_width", "img_width", "width"),
    "height": ("image_height", "img_height", "height"),
    "difficult": ("difficult",),
    "crowd": ("crowd", "iscrowd", "isgroupof"),
    "split": ("split",),
    "score": ("score", "confidence", "conf"),
}
# What `detect --format csv` calls them: there x1 is the right side, and "label" a number.
_OWN = {"x0": "xmin", "y0": "ymin", "x1": "xmax", "y1": "ymax", "label": "", "name": "class"}
# Left upper corner, width and height in place of corners, as MakeSense has it. "x,y,width,height" is left out: in one
# set they say the corner, in another, made for Create ML, the centre.
_SIZED = {
    "xmin": ("xmin", "x_min", "x1", "bbox_x", "x"),
    "ymin": ("ymin", "y_min", "y1", "bbox_y", "y"),
    "xmax": ("w", "bbox_width", "box_width"),
    "ymax": ("h", "bbox_height", "box_height"),
}
# The same with a word before or after it in all four: "ball_x1", "x1_ball", "bbox.xmin". One that says no more than
# "box" is no class.
_AFFIXED = (("xmin", "ymin", "xmax", "ymax"), ("x1", "y1", "x2", "y2"), ("x_min", "y_min", "x_max", "y_max"))
_GENERAL = frozenset(
    "bbox box bounding bounding_box boundingbox bb bndbox rect rectangle roi region coord coords object obj "  # noqa: SIM905
    "annotation label gt ground_truth".split()
)
_APART = " _.-"


class Columns(NamedTuple):
    """Where objects stand in a row, -1 where there is no such column. bare: images are named without their endings,
    as OpenImages does; coded: so are classes, by its codes; width_of_row: columns in all; header: line 1 names them;
    encoding: and its way with errors; bbox: one column of x, y, width and height, as Kaggle's sets have; sized: xmax
    and ymax are width and height. Without a class (name -1) there is only one, `only` if the columns say it."""

    image: int = 0
    xmin: int = 1
    ymin: int = 2
    xmax: int = 3
    ymax: int = 4
    name: int = 5
    width: int = -1
    height: int = -1
    difficult: int = -1
    crowd: int = -1
    split: int = -1
    score: int = -1
    bare: bool = False
    coded: bool = False
    width_of_row: int = 6
    header: bool = False
    delimiter: str = ","
    encoding: tuple[str, str] = PLAIN
    bbox: int = -1
    sized: bool = False
    only: str = ""


def sniff_columns(head: bytes) -> Columns | None:
    """What the first line that is not blank says of the columns, and the second where no column is called as those of
    images usually are; None where it is no CSV of boxes."""
    encoding = encoding_of(head)
    lines = [line for line in head.decode(*encoding).splitlines() if line.strip()]
    line, second = [*lines[:2], "", ""][:2]
    if "\0" in line or len(line) > MAX_LINE:
        return None
    for delimiter in ",;\t":
        row = _cells(line, delimiter)
        if not row:
            continue
        found = _by_header(row, _cells(second[:MAX_LINE], delimiter), delimiter) or _without_header(row, delimiter)
        if found is not None:
            return found._replace(encoding=encoding)
    return None


def _cells(line: str, delimiter: str) -> list[str]:
    try:
        return next(csv.reader([line], delimiter=delimiter, strict=True))
    except (csv.Error, StopIteration):
        return []


def _by_header(row: list[str], second: list[str], delimiter: str) -> Columns | None:
    cells = [_OWN.get(cell, cell) if "x0" in row else cell for cell in (cell.strip().lower() for cell in row)]
    cells, word = _without_affix(row, cells)
    place = {key: next((cells.index(name) for name in names if name in cells), -1) for key, names in _CALLED.items()}
    sized = {key: next((cells.index(name) for name in names if name in cells), -1) for key, names in _SIZED.items()}
    is_sized = min(place["xmax"], place["ymax"]) < 0 <= min(sized.values())
    place |= sized if is_sized else {}
    if place["image"] < 0 and len(images := [at for at, cell in enumerate(second) if is_image(cell.strip())]) == 1:
        place["image"] = images[0]  # whatever it is called
        place["name"] = -1 if place["name"] == images[0] else place["name"]
    has_sides = min(place[key] for key in SIDES) >= 0
    # A column that is not known may be that of the classes, unless the boxes are of Kaggle's kind.
    only = word if place["name"] < 0 and word.lower() not in _GENERAL else ""
    has_classes = only or place["name"] >= 0 or set(cells) <= {name for names in _CALLED.values() for name in names}
    if not 0 <= place["image"] < len(cells) or not ((has_sides and has_classes) or place["bbox"] >= 0):
        return None
    if has_sides:
        place["bbox"] = -1
    if min(place["width"], place["height"]) < 0:
        place["width"] = place["height"] = -1
    return Columns(
        **place,
        sized=is_sized and has_sides,
        bare=cells[place["image"]] in ("imageid", "image_id"),
        coded=place["name"] >= 0 and cells[place["name"]] == "labelname",
        width_of_row=len(row),
        header=True,
        delimiter=delimiter,
        encoding=PLAIN,
        only=only,
    )


def _without_affix(row: list[str], cells: list[str]) -> tuple[list[str], str]:
    """The names of columns with those of a box's sides called as usual where all four have the same word before or
    after them, and that word as written; the names as they are and "" where none have, or those of several boxes."""
    found: dict[int, tuple[list[str], str]] = {}
    for sides in _AFFIXED:
        for at, cell in enumerate(cells):
            before, mark, after = cell.partition(sides[0])
            # One of the two, apart from the side.
            if not mark or bool(before) == bool(after) or (before[-1:] or after[:1]) not in _APART:
                continue
            own = [before + side + after for side in sides]
            if set(own) <= set(cells):
                plain = [SIDES[own.index(cell)] if cell in own else cell for cell in cells]
                text = row[at].strip()
                word = text[: len(before)] if before else text[len(mark) :]
                found[at] = plain, word.strip(_APART)
    return next(iter(found.values())) if len(found) == 1 else (cells, "")


def _without_header(row: list[str], delimiter: str) -> Columns | None:
    if len(row) == 8 and is_image(row[5].strip()) and all(parse_number(row[at]) is not None for at in (1, 2, 3, 4)):
        # MakeSense's: class, left upper corner, width, height, image, its width and height.
        return Columns(5, 1, 2, 3, 4, 0, 6, 7, sized=True, width_of_row=8, delimiter=delimiter)
    # With eight the last are the image's width and height (SKU-110K).
    if len(row) not in (6, 8) or not is_image(row[0].strip()) or not all(side_of(cell) for cell in row[6:]):
        return None
    if any(row[1:]):
        try:
            [float(cell) for cell in row[1:5]]
        except ValueError:
            return None
    width, height = (6, 7) if len(row) == 8 else (-1, -1)
    return Columns(width=width, height=height, width_of_row=len(row), delimiter=delimiter)


def side_of(text: str) -> int | None:
    """Whole pixels, 0 where nothing is said; None for anything else."""
    return whole_side(parse_number(text.strip() or "0"))
