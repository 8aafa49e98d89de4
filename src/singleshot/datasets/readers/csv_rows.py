"""One CSV file of boxes, read row by row: what its rows say of each image."""

from __future__ import annotations

import contextlib
import csv
import gc
import io
import math
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from operator import itemgetter
from typing import IO, NamedTuple

from singleshot.datasets.findings import CollectErrors, RaiseErrors
from singleshot.datasets.packed_strings import is_encodable, is_text
from singleshot.datasets.raw import RawObject
from singleshot.datasets.readers.common import ONLY_CLASS, parse_number, score_of
from singleshot.datasets.readers.csv_columns import MAX_LINE, SIDES, Columns, side_of
from singleshot.datasets.splits import KNOWN_SPLITS
from singleshot.datasets.tree import Tree
from singleshot.errors import DataError, printable

MAX_CSV_BYTES = 4 * 2**30

# Classes of rows without a box that say that there is nothing (VinDr's), in small letters.
_NOTHING = ("no finding", "none", "nothing", "normal", "negative", "background")
_NEGATED = re.compile(r"(?:not?|non)\b", re.IGNORECASE)  # "Not Garbage", where the class is Garbage
_PAIR = re.compile(r"""['"](\w+)['"]\s*:\s*([^\s,{}]+)""")
# OpenImages writes -1 where it was not looked at.
_FLAG = {"": False, "0": False, "1": True, "-1": False, "false": False, "true": True}


@dataclass(slots=True)
class CsvImage:
    """What the rows say of one image; line: the first of them; size_texts and split_text: size and split as written."""

    line: int
    objects: list[RawObject] = field(default_factory=list)
    size: tuple[int, int] = (0, 0)
    size_texts: tuple[str, str] = ("", "")
    split: str = ""
    split_text: str = ""


class CsvTable(NamedTuple):
    """A file's images by their names as written, its class names, and whether boxes are parts of the image."""

    images: dict[str, CsvImage]
    names: list[str]
    has_splits: bool
    relative: bool


def split_name(text: str) -> str:
    """A split as written, in small letters where it is a usual one."""
    text = text.strip()
    return text.lower() if text.lower() in KNOWN_SPLITS else text


# ---------------------------------------------------------------------------------------------- rows


@contextlib.contextmanager
def open_rows(
    tree: Tree, name: str, delimiter: str, encoding: tuple[str, str], problems: RaiseErrors
) -> Iterator[Iterator[tuple[int, list[str]]]]:
    """The rows that are not blank, each with the line on which it starts, from 1.

    Nothing but the row in hand is held. What is no CSV is reported, and the reading goes on with the next line.
    """
    with tree.open(name, MAX_CSV_BYTES, "annotation") as stream:
        text = io.TextIOWrapper(stream, *encoding, newline="")
        try:
            yield _rows(text, tree.path(name), delimiter, problems)
        finally:
            text.detach()


def _rows(text: IO[str], path: str, delimiter: str, problems: RaiseErrors) -> Iterator[tuple[int, list[str]]]:
    spoilt: list[int] = []

    def lines() -> Iterator[str]:
        while line := text.readline(MAX_LINE + 1):
            if len(line) > MAX_LINE:
                raise DataError(f"has a line of more than {MAX_LINE // 2**20} MB; want one row a line")
            if "\0" in line:
                spoilt.append(0)
            yield line

    # strict: a quote that opens and never closes would swallow the rows after it, up to csv's limit of a field.
    reader = csv.reader(lines(), delimiter=delimiter, strict=True)
    before = 0
    while True:
        message, row = "", []
        try:
            row = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            message = f"is not CSV ({printable(error, 80)}); look at its quotes"
        except (OSError, DataError) as error:
            problems.add("annotation-unreadable", path, printable(error, 160), line=reader.line_num + 1)
            return
        if spoilt:
            message = "holds a NUL byte; write the line again"
            spoilt.clear()
        start, before = before + 1, reader.line_num
        if message:
            lost = f" (lines {start} to {before} are lost)" if before > start else ""
            problems.add("annotation-malformed", path, message + lost, line=start)
        elif row and (len(row) > 1 or row[0].strip()):
            yield start, row


def scan_column(tree: Tree, name: str, columns: Columns, at: int) -> list[str]:
    """The different values of one column, in their order; [] where there is no such column."""
    if at < 0:
        return []
    ignored = CollectErrors(0)  # the reading that follows reports
    with open_rows(tree, name, columns.delimiter, columns.encoding, ignored) as rows:
        next(rows, None)
        return list(dict.fromkeys(row[at].strip() for _, row in rows if len(row) > at))


def read_table(
    tree: Tree,
    name: str,
    columns: Columns,
    descriptions: dict[str, str],
    declared: Iterable[str],
    problems: RaiseErrors,
) -> CsvTable:
    """Read one file; descriptions: class as written -> its name; declared: the only classes there are, if any."""
    table = _Table(tree.path(name), columns, descriptions, frozenset(declared), problems)
    table.has_splits = any(scan_column(tree, name, columns, columns.split))
    with open_rows(tree, name, columns.delimiter, columns.encoding, problems) as rows:
        if columns.header:
            next(rows, None)
        for number, (line, row) in enumerate(rows):
            table.take(row, number, line)
    for label, count in table.nothing.items():
        if label in table.classes and label.lower() not in _NOTHING:
            message = f"{count} row{'s' * (count > 1)} of {printable(label, 40)!r} without a box, which other rows have"
            problems.add("annotation-malformed", tree.path(name), f"{message}; add the boxes, or remove the rows")
            continue
        message = (
            f"{count} row{'s' * (count > 1)} of {printable(label, 40)!r} without a box: read as images without objects"
        )
        problems.add("columns-assumed", tree.path(name), message)
    classes = list(dict.fromkeys(found for found in table.classes.values() if found))
    return CsvTable(table.images, classes, table.has_splits, columns.bare and table.mostly_parts())


@contextlib.contextmanager
def without_gc() -> Iterator[None]:
    """Millions of records are made and none thrown away: looking through them again and again takes a third of all."""
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()


class _Table:
    """What was read of a file so far."""

    def __init__(
        self, path: str, columns: Columns, descriptions: dict[str, str], declared: frozenset[str], problems: RaiseErrors
    ) -> None:
        self.images: dict[str, CsvImage] = {}
        self.classes: dict[str, str] = {}  # as written -> its name, "" where it cannot be used
        self.has_splits = False
        self.nothing: Counter[str] = Counter()  # rows without a box that say so
        self._path, self._columns, self._problems = path, columns, problems
        self._sides: Callable[[list[str]], tuple[str, ...]]
        self._sides = itemgetter(columns.xmin, columns.ymin, columns.xmax, columns.ymax)
        if columns.bbox >= 0:
            self._sides = lambda row: _corners(row[columns.bbox])
        elif columns.sized:
            pick = self._sides
            self._sides = lambda row: _corners(",".join(pick(row)))
        self._sizes = itemgetter(columns.width, columns.height) if columns.width >= 0 else None
        self._has_flags = max(columns.difficult, columns.crowd) >= 0
        self._descriptions, self._declared = descriptions, declared

    def take(self, row: list[str], number: int, line: int) -> None:
        """One row: the image it names, and the object if it has one."""
        columns = self._columns
        if len(row) != columns.width_of_row and (len(row) < columns.width_of_row or any(row[columns.width_of_row :])):
            self._report(f"has {len(row)} columns; want {columns.width_of_row}", "", line, number)
            return
        key = row[columns.image]
        image = self.images.get(key)
        if image is None:
            if not key.strip() or not is_encodable(key):
                self._report(f"image {printable(repr(key), 80)}; want the name of a file", "", line, number)
                return
            image = self.images[key] = CsvImage(line)
        if self._sizes is not None and (sizes := self._sizes(row)) != image.size_texts:
            self._take_size(image, sizes[0], sizes[1], key, line)
        if self.has_splits and (row[columns.split] != image.split_text or not image.split):
            self._take_split(image, row[columns.split], key, line)
        if columns.bbox >= 0 and (several := _boxes(row[columns.bbox])) is not None:
            for texts in several:
                self._take_object(image, row, texts, number, line)
        else:
            self._take_object(image, row, self._sides(row), number, line)

    def _take_object(self, image: CsvImage, row: list[str], texts: tuple[str, ...], number: int, line: int) -> None:
        columns = self._columns
        label = row[columns.name] if columns.name >= 0 else ""
        try:
            x0, y0, x1, y1 = map(float, texts)
            if "_" in "".join(texts):  # Python's own way to write 1_000
                raise ValueError
        except ValueError:
            if not any(text.strip(" ,") for text in texts) and self._says_nothing(label.strip()):
                self.nothing[label.strip()] += 1
            elif label.strip() or any(text.strip(" ,") for text in texts):
                self._refuse_box(texts, label, line, number)
            return
        label = label if columns.name >= 0 else columns.only or ONLY_CLASS
        name = self.classes.get(label)
        if name is None:
            name = self.classes[label] = self._name(label)
        if not name:
            self._refuse_name(label, line, number)
            return
        difficult = crowd = False
        if self._has_flags:
            flags = self._flags(row, line, number, name)
            if flags is None:
                return
            difficult, crowd = flags
        score = math.nan if columns.score < 0 else score_of(row[columns.score])
        image.objects.append(RawObject(name, (x0, y0, x1, y1), difficult, crowd, math.nan, number, line, score=score))

    def _says_nothing(self, label: str) -> bool:
        """Whether the class of a row without a box says that there is nothing."""
        return label.lower() in _NOTHING or bool(_NEGATED.match(label) and label not in self.classes)

    def mostly_parts(self) -> bool:
        """Whether the boxes lie within 0..1, most of them: a mistake in one must not turn all into pixels."""
        boxes = [max(obj.box) <= 2 for image in self.images.values() for obj in image.objects]
        return 2 * sum(boxes) >= len(boxes)

    def _report(self, message: str, item: str, line: int, number: int, kind: str = "annotation-malformed") -> None:
        self._problems.add(kind, self._path, message, item, line=line, number=number)

    def _refuse_box(self, texts: tuple[str, ...], label: str, line: int, number: int) -> None:
        side, text = next((s, t) for s, t in zip(SIDES, texts, strict=True) if parse_number(t) is None)
        item = f"object {number} ({printable(label.strip(), 80)})"
        self._report(f"{side} {printable(text, 40)!r} is not a number; want pixels", item, line, number)

    def _refuse_name(self, label: str, line: int, number: int) -> None:
        item, name = f"object {number}", label.strip()
        if not name:
            self._report("has no class; say what it is", item, line, number)
        elif not is_text(name):
            self._report(f"class {printable(name, 80)!r} is not UTF-8; save the file as UTF-8", item, line, number)
        else:
            there = ", ".join(printable(known, 40) for known in sorted(self._declared)[:8])
            message = f"class {printable(name, 80)!r} is not in the list of classes ({there})"
            self._report(message, item, line, number, "class-unknown")

    def _name(self, label: str) -> str:
        name = self._descriptions.get(label.strip(), label.strip())
        return name if is_text(name) and (not self._declared or name in self._declared) else ""

    def _flags(self, row: list[str], line: int, number: int, name: str) -> tuple[bool, bool] | None:
        found = []
        for key, at in (("difficult", self._columns.difficult), ("crowd", self._columns.crowd)):
            flag = _FLAG.get(row[at].strip().lower()) if at >= 0 else False
            if flag is None:
                item = f"object {number} ({printable(name, 80)})"
                self._report(f"{key} {printable(row[at], 40)!r}; want 0 or 1", item, line, number)
                return None
            found.append(flag)
        return found[0], found[1]

    def _take_size(self, image: CsvImage, width: str, height: str, key: str, line: int) -> None:
        size, message = (side_of(width), side_of(height)), ""
        if size[0] is None or size[1] is None:
            name, text = ("width", width) if size[0] is None else ("height", height)
            message = f"{name} {printable(text, 40)!r}; want the image's {name} in whole pixels"
        elif size[0] and size[1]:
            if size == image.size or not image.size[0]:
                image.size, image.size_texts = (size[0], size[1]), (width, height)
                return
            message = (
                f"is {size[0]} x {size[1]} pixels here, {image.size[0]} x {image.size[1]} in a row above; want one"
            )
        if message:
            item = f"image {printable(key, 120)}"
            self._problems.add("annotation-malformed", self._path, message, item, line=line)

    def _take_split(self, image: CsvImage, text: str, key: str, line: int) -> None:
        split, message = split_name(text), ""
        if not split or not is_text(split):
            message = f"split {printable(text, 40)!r}; want its name"
        elif image.split and split != image.split:
            message = f"is in split {printable(split)!r} here, in {printable(image.split)!r} in a row above; want one"
        if message:
            self._problems.add("split-unusable", self._path, message, f"image {printable(key, 120)}", line=line)
        else:
            image.split, image.split_text = split, text


def _boxes(text: str) -> list[tuple[str, ...]] | None:
    """The corners of each box of "[{'xmin': 1, 'ymin': 2, 'xmax': 3, 'ymax': 4}, ...]", all boxes of an image in one
    cell, none of "[]"; None where it is no such list, or says more of a box, as its class, which would be lost."""
    if "{" not in text:  # most cells, of which there may be millions
        return [] if re.fullmatch(r"\s*\[\s*\]\s*", text) else None
    boxes = [dict(_PAIR.findall(part)) for part in re.findall(r"\{([^{}]*)\}", text)]
    if not boxes or not all(box.keys() == {*SIDES} for box in boxes):
        return None
    return [tuple(box[side] for side in SIDES) for box in boxes]


def _corners(text: str) -> tuple[str, ...]:
    """xmin, ymin, xmax, ymax of "[x, y, width, height]"; the text itself for each where it is none."""
    numbers = [parse_number(part) for part in text.strip().strip("[]()").split(",")]
    if len(numbers) != 4 or None in numbers:
        return (text.strip(),) * 4
    x, y, width, height = (number or 0.0 for number in numbers)
    return (repr(x), repr(y), repr(x + width), repr(y + height))
