"""YOLO labels: words of single rows are replaced, whole rows removed and added."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Mapping
from typing import NamedTuple

from singleshot.datasets.editing.edits import Change, Edit, LabelObject, Rewrite, Splice, moved_outline, splice
from singleshot.datasets.editing.yolo_list import with_name
from singleshot.datasets.raw import Box, Hull, RawImage
from singleshot.datasets.readers import yolo
from singleshot.datasets.readers.yolo_classes import Classes
from singleshot.datasets.readers.yolo_layout import new_label_of
from singleshot.datasets.tree import Tree
from singleshot.datasets.writers.yolo import part_text
from singleshot.errors import DataError, printable
from singleshot.text import decode_text

_WORD = re.compile(r"\S+")


class _Row(NamedTuple):
    """A row that is not empty: its start and end in the text, its line break included, and those of its words."""

    start: int
    end: int
    words: list[tuple[int, int]]


class YoloEditor:
    """An Editor of the labels in a tree. numbers: class name -> number in the rows."""

    def __init__(self, tree: Tree, classes: Classes, numbers: Mapping[str, int]) -> None:
        self._tree, self._classes, self._numbers = tree, classes, dict(numbers)

    def objects(self, data: bytes, image: RawImage) -> list[LabelObject]:
        """See Editor."""
        text = _decode(data, image.file)
        found = []
        for number, row in enumerate(_rows(text)):
            read = yolo.parse_row([text[start:end] for start, end in row.words], self._classes)
            if isinstance(read, yolo.Row):
                found.append(LabelObject(number, self._classes.name(read.number) or "", read.box))
        return found

    def own(self, data: bytes, image: RawImage) -> bytes:
        """See Editor."""
        return data

    def apply(self, data: bytes, image: RawImage, edit: Edit) -> bytes:
        """See Editor."""
        text = _decode(data, image.file)
        rows, splices = _rows(text), list[Splice]()
        now = {obj.number: obj for obj in self.objects(data, image)}
        splices += [Splice(rows[number].start, rows[number].end, "") for number in edit.deleted]
        for number, change in edit.changed.items():
            splices += self._changed(text, rows[number], now[number], change)
        if edit.added:
            new_line = "\r\n" if "\r\n" in text else "\n"
            # A last row without a line break gets one, unless it goes.
            gone = bool(rows) and rows[-1].end == len(text) and len(rows) - 1 in edit.deleted
            start = "" if not text or text.endswith("\n") or gone else new_line
            added = "".join(self._row(name, box) + new_line for name, box in edit.added)
            splices.append(Splice(len(text), len(text), start + added))
        return splice(text, splices).encode("utf-8", "surrogateescape")

    def blank(self, image: RawImage) -> bytes:
        """See Editor."""
        return b""

    def place(self, name: str) -> str:
        """See Editor."""
        return new_label_of(self._tree, name)

    def add_class(self, name: str, rewrite: Rewrite) -> None:
        """See Editor: the name goes to the end of the set's list."""
        classes = self._classes
        if classes.names is None:
            raise DataError(
                f"{printable(self._tree.root)}: has no list of class names; add classes.txt with a name a line"
            )
        path, names = self._tree.path(classes.declared_in), classes.names
        rewrite(path, lambda data: with_name(data, name, path, names))
        self._classes = classes._replace(names=(*names, name))
        self._numbers[name] = len(names) + (classes.first or 0)

    def _number(self, name: str) -> str:
        return str(self._numbers[name])

    def _row(self, name: str, box: Box) -> str:
        return " ".join([self._number(name), *map(part_text, _centre_and_size(box))])

    def _changed(self, text: str, row: _Row, now: LabelObject, change: Change) -> list[Splice]:
        splices = [Splice(*row.words[0], self._number(change.name))] if change.name is not None else []
        if change.box is None:
            return splices
        if isinstance(now.box, Hull):
            values = [float(text[start:end]) for start, end in row.words[1:]]
            xs, ys = moved_outline((values[::2], values[1::2]), now.box, change.box)
            numbers = [value for point in zip(xs, ys, strict=True) for value in point]
        else:
            values, numbers = list(_centre_and_size(now.box)), list(_centre_and_size(change.box))
        return splices + [
            Splice(*word, part_text(new))
            for word, old, new in zip(row.words[1:], values, numbers, strict=False)
            if abs(old - new) > 1e-9
        ]


def _decode(data: bytes, path: str) -> str:
    if data.startswith((b"\xff\xfe", b"\xfe\xff")):
        raise DataError(f"{printable(path)}: is UTF-16, which is not changed in place; save it as UTF-8")
    # Its mark stays where it is: as a blank, which it is not to Python, it would be part of the first word.
    return data.decode("utf-8", "surrogateescape")


def _rows(text: str) -> list[_Row]:
    rows, at = [], 0
    for line in text.split("\n"):
        end = at + len(line)
        words = [match.span() for match in _WORD.finditer(text, at + (at == 0 and line.startswith("\ufeff")), end)]
        if words:
            rows.append(_Row(at, min(end + 1, len(text)), words))
        at = end + 1
    return rows


def _centre_and_size(box: Box) -> tuple[float, float, float, float]:
    x0, y0, x1, y1 = box
    return (x0 + x1) / 2, (y0 + y1) / 2, x1 - x0, y1 - y0


def shift_flags(data: bytes, label: str, deleted: frozenset[int]) -> bytes:
    """`yolo.FLAGS_FILE` after some rows of a label file were deleted: those rows' flags go, later ones move up."""
    text = decode_text(data, yolo.FLAGS_FILE, paths=True)
    lines = text.splitlines(keepends=True)
    kept = lines[:1]
    for line in lines[1:]:
        words = next(csv.reader(io.StringIO(line)), [])
        if len(words) != len(yolo.FLAGS_HEADER) or words[0].strip() != label or not words[1].strip().isdigit():
            kept.append(line)
            continue
        number = int(words[1])
        if number not in deleted:
            words[1] = str(number - sum(other < number for other in deleted))
            out = io.StringIO()
            csv.writer(out, lineterminator="").writerow(words)
            kept.append(out.getvalue() + line[len(line.rstrip("\r\n")) :])
    return "".join(kept).encode("utf-8", "surrogateescape")
