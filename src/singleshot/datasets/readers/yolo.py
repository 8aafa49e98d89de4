"""YOLO folders: one .txt for each image, one object on each line: class, centre x and y, width, height.

The four numbers are parts of the image, 0 to 1, so that an image must be measured before its boxes are pixels. A line
may hold a polygon instead (class and at least three points); its bounding box is taken. `yolo_layout` says where
images, labels and class names are.
"""

from __future__ import annotations

import csv
import io
import logging
import math
from collections import Counter
from collections.abc import Callable, Iterable
from itertools import islice
from typing import NamedTuple

from singleshot.datasets.findings import CollectErrors, RaiseErrors
from singleshot.datasets.raw import Box, Hull, Notation, RawImage, RawObject, RawSet, show_item
from singleshot.datasets.readers.common import MADE_SPLITS, divide, surround
from singleshot.datasets.readers.row_meaning import corners_of
from singleshot.datasets.readers.yolo_classes import Classes, decide_first
from singleshot.datasets.readers.yolo_find import find_layout, find_yaml
from singleshot.datasets.readers.yolo_layout import (
    Layout,
    ident_of,
    images_of,
    is_labelled,
    label_of,
    plain_splits,
)
from singleshot.datasets.readers.yolo_names import with_names
from singleshot.datasets.readers.yolo_places import Place
from singleshot.datasets.readers.yolo_rows import MAX_LABEL_BYTES, PIXELS, YOLO_ROWS
from singleshot.datasets.splits import resolve_split, usual_split
from singleshot.datasets.tree import Tree
from singleshot.errors import DataError, printable
from singleshot.text import decode_text

logger = logging.getLogger(__name__)

MAX_FLAGS_BYTES = 256 * 2**20
# The images with most objects that anyone labels have some thousands.
MAX_OBJECTS = 100_000
_TWO_POINTS, _SPECK = 5, 0.005  # numbers of such a row; how far they lie apart, in parts of the image
MAX_VALUES = 100_001  # of one row: a polygon of 50,000 points
# Exporters write this key whether there is such a folder or not.
_ABSENT = "test"

# What YOLO's rows have no place for; written beside the labels where such objects are converted.
FLAGS_FILE = "singleshot-flags.csv"
FLAGS_HEADER = ["label", "object", "difficult", "crowd"]

Flags = dict[str, dict[int, tuple[bool, bool, int]]]


def sniff(tree: Tree) -> bool:
    """Whether it is a folder with data.yaml, with images and their labels, or with their lists."""
    return bool(find_yaml(tree) or plain_splits(tree))


def splits(tree: Tree, file: str = "") -> tuple[str, ...]:
    """Names of the splits of a YOLO folder, or of the one whose yaml is `file`; labels are not read.

    What data.yaml names and is not there is among them, but for test.
    """
    layout = find_layout(tree, file)
    if "" in layout.splits:
        return MADE_SPLITS
    useless = _useless(tree, layout)
    return (
        *(name for name in layout.splits if name not in useless),
        *(name for name in layout.broken if name != _ABSENT),
    )


def read(tree: Tree, file: str, wanted: str | None, problems: RaiseErrors) -> RawSet:
    """Read a YOLO folder, or the one whose yaml is `file`: the split `wanted`, or all of them.

    Without declared names the classes are "class 0" up to the highest number in any split.
    """
    layout = find_layout(tree, file)
    for kind, message in layout.notes:
        problems.add(kind, tree.path(layout.yaml), message)
    members, made = _members(tree, layout, wanted, problems)
    classes = _classes_of(tree, layout, members, problems)
    flags = _read_flags(tree, problems)
    highest = -1
    images: list[RawImage] = []
    position: dict[str, int] = {}
    idents = {split: _idents(names, layout) for split, names in members.items()}
    for split, names in members.items():
        for name in names:
            if name in position:
                continue
            image, top = _read_image(tree, name, idents[split][name], classes, flags, problems)
            highest = max(highest, top)
            position[name] = len(images)
            images.append(image)
    class_names = classes.names
    if class_names is None:
        if wanted is not None:
            highest = max(highest, _highest_elsewhere(tree, layout, set(position), classes))
        class_names = tuple(f"class {i}" for i in range(highest + 1))
        logger.info("%s: no names of classes, they are called after their numbers", printable(tree.root))
    positions = {split: [position[name] for name in names] for split, names in members.items()}
    source = tree.path(layout.yaml) if file else tree.root
    notation = Notation(show_item, _show_box)
    return RawSet("yolo", source, class_names, images, positions, made, classes.names is not None, notation)


def _classes_of(tree: Tree, layout: Layout, members: dict[str, list[str]], problems: RaiseErrors) -> Classes:
    if layout.class_names is None and not tree.is_limited:
        layout = with_names(tree, layout, members, problems)
    return decide_first(tree, layout, members, problems)


def find_classes(tree: Tree, file: str = "") -> Classes:
    """What the class numbers of a folder mean, as `read` takes them."""
    layout, ignored = find_layout(tree, file), CollectErrors(0)
    return _classes_of(tree, layout, _members(tree, layout, None, ignored)[0], ignored)


def _show_box(box: Box) -> str:
    x0, y0, x1, y1 = box
    if isinstance(box, Hull):
        return f"points from x {x0:.7g}, y {y0:.7g} to x {x1:.7g}, y {y1:.7g}"
    return f"box {(x0 + x1) / 2:.7g} {(y0 + y1) / 2:.7g} {x1 - x0:.7g} {y1 - y0:.7g} (centre, width, height)"


def line_of(data: bytes, number: int) -> int | None:
    """The line on which object `number` stands."""
    rows = (at for at, line in enumerate(io.BytesIO(data), 1) if line.strip(b"\xef\xbb\xbf \t\r\n"))
    return next(islice(rows, number, None), None)


# ---------------------------------------------------------------------------------------------- members


def _members(
    tree: Tree, layout: Layout, wanted: str | None, problems: RaiseErrors
) -> tuple[dict[str, list[str]], bool]:
    """Split -> names of its images, of the wanted one alone or of all; and whether the splits were made here."""
    if "" in layout.splits:
        names = _labelled(tree, "", layout.splits[""], problems)
        made = {split: [names[i] for i in at] for split, at in divide(tree, names, wanted).items()}
        return made, True
    known, useless = [*layout.splits, *layout.broken], _useless(tree, layout)
    chosen = known if wanted is None else [resolve_split(wanted, known, tree.root)]
    members = {}
    for split in chosen:
        if split in layout.broken:
            message = layout.broken[split]
            if wanted is not None:
                raise DataError(f"{printable(tree.path(layout.yaml))}: {message}")
            if split != _ABSENT:
                problems.add("split-unusable", tree.path(layout.yaml), message)
            continue
        if split in useless and wanted is None:
            problems.add("split-left-out", tree.root, f"{useless[split]}; training does without it")
            continue
        members[split] = _labelled(tree, split, layout.splits[split], problems)
        if wanted is not None and not members[split]:
            raise DataError(f"{printable(tree.root)}: split {printable(split)!r} has no images; add some to it")
    return members, False


def _useless(tree: Tree, layout: Layout) -> dict[str, str]:
    """The splits to evaluate on of which no image is labelled, with what to say; training does without them."""
    there = [split for split, places in layout.splits.items() if any(is_labelled(tree, place) for place in places)]
    found = {}
    for split in layout.splits if there else ():
        if split not in there and usual_split(split) != "train":
            names = images_of(tree, split, layout.splits[split], CollectErrors(0))
            places = ", ".join(printable(place.name, 80) for place in layout.splits[split])
            shown = f"split {printable(split)!r}: "
            found[split] = shown + (_no_label(names) if names else f"{places} has no image that is there")
    return found


def _no_label(names: list[str]) -> str:
    return (
        f"none of its {len(names)} images has a label file ({printable(names[0], 120)} is the first); want "
        'labels/NAME.txt for images/NAME.jpg, or NAME.txt next to it; an empty one means "nothing to find"'
    )


def _labelled(tree: Tree, split: str, places: list[Place], problems: RaiseErrors) -> list[str]:
    """The images of a split; none, and a problem, when not one of them has a label file."""
    names = images_of(tree, split, places, problems)
    if not names or any(label_of(tree, name) is not None for name in names):
        return names
    shown = f"split {printable(split)!r}: " if split else ""
    problems.add("split-unusable", tree.root, shown + _no_label(names))
    return []


def _idents(names: list[str], layout: Layout) -> dict[str, str]:
    """Image -> ident, unique in the split: more of the path is taken where short ones are the same."""
    idents = {name: ident_of(name, layout.splits) for name in names}
    ways: tuple[Callable[[str], str], ...] = (lambda name: name.rpartition(".")[0], lambda name: name)
    for longer in ways:
        counts = Counter(idents.values())
        idents = {name: ident if counts[ident] == 1 else longer(name) for name, ident in idents.items()}
    return idents


def _highest_elsewhere(tree: Tree, layout: Layout, seen: set[str], classes: Classes) -> int:
    """The highest class number in the images that are not `seen`; what is wrong there is told with their split."""
    ignored = CollectErrors(0)
    others = (name for split, places in layout.splits.items() for name in images_of(tree, split, places, ignored))
    return max(
        (_read_image(tree, name, "", classes, {}, ignored)[1] for name in others if name not in seen), default=-1
    )


# ---------------------------------------------------------------------------------------------- labels


def _read_image(
    tree: Tree, name: str, ident: str, classes: Classes, flags: Flags, problems: RaiseErrors
) -> tuple[RawImage, int]:
    """The image and the highest class number in it, -1 for none."""
    path = tree.path(name)
    try:
        label = label_of(tree, name)
    except DataError as error:  # a link that leads out
        problems.add("annotation-unreadable", path, f"label file {error}")
        label = None
    rows = [] if label is None else _read_rows(tree, label, classes, flags.get(label, {}), problems)
    objects = [obj for _, obj in rows]
    file = path if label is None else tree.path(label)
    return RawImage(path, ident, 0, 0, objects, file, relative=classes.rows.relative), max(
        (top for top, _ in rows), default=-1
    )


def _read_rows(
    tree: Tree, label: str, classes: Classes, flags: dict[int, tuple[bool, bool, int]], problems: RaiseErrors
) -> list[tuple[int, RawObject]]:
    """Class number and object of each row of a label file."""
    path = tree.path(label)
    try:
        text = decode_text(tree.read(label, MAX_LABEL_BYTES, "label"), path, paths=True)
    except DataError as error:
        problems.add_unreadable(path, error)
        return []
    found = []
    number = 0
    polygons: bool | None = None  # whether a row has three points and more, looked for once
    for line, row_text in enumerate(io.StringIO(text), 1):
        words = classes.rows.words(row_text, MAX_VALUES)
        if not words:
            continue
        if number == MAX_OBJECTS:
            problems.add("annotation-unreadable", path, f"more than {MAX_OBJECTS} objects; want those of one image")
            return []
        row = parse_row(words, classes)
        if not isinstance(row, Wrong) and _are_two_points(words):
            polygons = _has_polygon(text) if polygons is None else polygons
            if polygons:
                row = Wrong("annotation-malformed", "two points of a polygon, as others here are; want three or more")
        if isinstance(row, Wrong):
            problems.add(row.kind, path, row.message, f"object {number}", line=line, number=number)
        else:
            difficult, crowd, _ = flags.get(number, (False, False, 0))
            name, box, score = classes.name(row.number) or "", row.box, row.score
            obj = RawObject(name, box, difficult, crowd, number=number, line=line, score=score)
            found.append((row.number, obj))
        number += 1
    for beyond, (_, _, line) in flags.items():
        if beyond >= number:
            message = f"object {beyond} of {printable(label)}, which has {number}; correct or remove the row"
            problems.add("annotation-malformed", tree.path(FLAGS_FILE), message, line=line)
    return found


class Row(NamedTuple):
    """Class number, box, and the score that a detector wrote, NaN in a label."""

    number: int
    box: Box
    score: float


class Wrong(NamedTuple):
    """Why a row cannot be used: a kind of finding, and the message."""

    kind: str
    message: str


def parse_row(words: list[str], classes: Classes) -> Row | Wrong:
    """What one row says, or what is wrong with it."""

    def malformed(message: str) -> Wrong:
        return Wrong("annotation-malformed", message)

    if len(words) > MAX_VALUES:
        return malformed(f"more than {MAX_VALUES} numbers; want those of one object")
    try:
        numbers = [float(word) for word in words]
    except ValueError:
        bad = printable(next(word for word in words if not _is_number(word)), 40)
        return malformed(f"{bad!r} is not a number; want a class number, then centre x and y, width, height")
    first, rest, score = numbers[0], numbers[1:], math.nan
    if not (first >= 0 and first % 1 == 0):  # NaN and infinity too
        return malformed(f"{printable(words[0], 40)} is no class number; want a whole one from 0")
    if len(rest) in (4 + classes.keypoints, 5 + classes.keypoints) and _is_box(rest[4 + classes.keypoints :]):
        score = next(iter(rest[4 + classes.keypoints :]), math.nan)
        rest = rest[:4]
    elif len(rest) < 6 or len(rest) % 2 or classes.rows != YOLO_ROWS:
        want = "want class and four (centre x and y, width, height), or class and three points or more"
        return malformed(f"{len(words)} number{'s' * (len(words) > 1)}; {want}")
    value = next((v for v in rest if math.isfinite(v) and abs(v) >= PIXELS), None)
    if value is not None and classes.rows.relative:
        want = "want parts of the image, 0 to 1 (x by its width, y by its height)"
        return malformed(f"{value:.7g} looks like pixels; {want}")
    if classes.name(int(first)) is None:
        return Wrong("class-unknown", classes.unknown(int(first)))
    box = _bounds(rest) if classes.rows == YOLO_ROWS else corners_of(rest, classes.rows.meaning)
    return Row(int(first), box, score)


def _are_two_points(words: list[str]) -> bool:
    """Whether a row may be two points of a polygon as well as a box: where they are nearly the same and not quite, as
    segmentation tools leave specks."""
    if len(words) != _TWO_POINTS:
        return False
    x0, y0, x1, y1 = map(float, words[1:])
    return 0 < max(abs(x1 - x0), abs(y1 - y0)) < _SPECK


def _has_polygon(text: str) -> bool:
    return any(len(line.split(None, _TWO_POINTS + 1)) > _TWO_POINTS + 1 for line in text.split("\n"))


def _is_box(more: list[float]) -> bool:
    """Whether a row is a box by what follows its numbers: nothing, or the score that a detector wrote."""
    return not more or 0 <= more[0] <= 1


def _is_number(word: str) -> bool:
    try:
        float(word)
    except ValueError:
        return False
    return True


def _bounds(rest: list[float]) -> Box:
    """Corners of centre, width and height, or of what surrounds three points or more."""
    if len(rest) == 4:
        x, y, width, height = rest
        return (x - width / 2, y - height / 2, x + width / 2, y + height / 2)
    return surround(rest[::2], rest[1::2])


# ---------------------------------------------------------------------------------------------- flags


def _read_flags(tree: Tree, problems: RaiseErrors) -> Flags:
    """Label file -> object -> difficult, crowd and the line that says so, from FLAGS_FILE if it is there."""
    flags: Flags = {}
    if FLAGS_FILE not in tree.files():
        return flags
    path = tree.path(FLAGS_FILE)
    try:
        text = decode_text(tree.read(FLAGS_FILE, MAX_FLAGS_BYTES, "flags"), path, paths=True)
    except DataError as error:
        problems.add_unreadable(path, error)
        return flags
    rows = csv.reader(io.StringIO(text, newline=""))
    try:
        if [word.strip() for word in next(rows, [])] != FLAGS_HEADER:
            message = f"its first line is not {','.join(FLAGS_HEADER)}; write it so, or remove the file"
            problems.add("annotation-unreadable", path, message, line=1)
            return flags
        for row in rows:
            message = _take_flags(tree, row, rows.line_num, flags) if row else ""
            if message:
                problems.add("annotation-malformed", path, message, line=rows.line_num)
    except csv.Error as error:
        problems.add("annotation-unreadable", path, f"is not CSV ({printable(error, 80)})", line=rows.line_num)
    return flags


def _take_flags(tree: Tree, row: Iterable[str], line: int, flags: Flags) -> str:
    """Put one row into `flags`; what is wrong with it, "" for nothing."""
    words = [word.strip() for word in row]
    if len(words) != len(FLAGS_HEADER):
        return f"{len(words)} values; want {','.join(FLAGS_HEADER)}"
    label, number, *marks = words
    if not (number.isascii() and number.isdigit() and len(number) <= 9):
        return f"object {printable(number, 40)!r}; want its place in the label file, from 0"
    if any(mark not in ("0", "1") for mark in marks):
        return f"difficult and crowd are {printable(', '.join(marks), 40)!r}; want 0 or 1"
    try:
        found = tree.find("", label)
    except DataError as error:
        return str(error)
    if found is None:
        return f"no label file {printable(label, 120)!r}; correct or remove the row"
    if int(number) in flags.setdefault(found, {}):
        return f"object {int(number)} of {printable(label, 120)} a second time; remove one of them"
    flags[found][int(number)] = (marks[0] == "1", marks[1] == "1", line)
    return ""
