"""What the class numbers of YOLO's label files mean: names counted from 0, or from 1 where the data say so."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import chain, islice
from typing import NamedTuple

from singleshot.datasets.findings import CollectErrors, RaiseErrors
from singleshot.datasets.readers.yolo_layout import Layout, images_of, label_of
from singleshot.datasets.readers.yolo_rows import MAX_LABEL_BYTES, YOLO_ROWS, RowKind, class_word, find_rows
from singleshot.datasets.tree import Tree
from singleshot.errors import DataError, printable
from singleshot.text import decode_text

_FEW = 20
# Without names the numbers are all there is: the highest one makes so many classes.
MAX_UNNAMED = 10_000


class Classes(NamedTuple):
    """names: the declared ones, None where there are none; declared_in: their file; keypoints: numbers after a box;
    first: the number of the first class, None where it is not said (then 0); rows: what the numbers of a box are."""

    names: tuple[str, ...] | None
    declared_in: str
    keypoints: int
    first: int | None
    rows: RowKind = YOLO_ROWS

    def name(self, number: int) -> str | None:
        """The name of a class; None where there is no such class."""
        if self.names is None:
            return f"class {number}" if number < MAX_UNNAMED else None
        at = number - (self.first or 0)
        return self.names[at] if 0 <= at < len(self.names) else None

    def unknown(self, number: int) -> str:
        """What is wrong with a number that has no name."""
        if self.names is None:
            return f"class {number}, and no names are declared (then at most {MAX_UNNAMED}); add classes.txt"
        few = ", ".join(printable(name, 40) for name in self.names[:8]) + ", ..." * (len(self.names) > 8)
        count = f"{len(self.names)} name{'s' * (len(self.names) != 1)}"
        message = f"class {number}, but {printable(self.declared_in)} has {count}, from {self.first or 0} ({few})"
        from_1 = ""
        if number == len(self.names) and self.first is None:
            from_1 = "; if the numbers count from 1, say so in data.yaml: names: {1: ..., 2: ...}"
        return f"{message}; correct the number or add the name{from_1}"


def decide_first(tree: Tree, layout: Layout, listed: Mapping[str, Sequence[str]], problems: RaiseErrors) -> Classes:
    """The classes of a layout; listed: images of its splits, as far as they are known.

    A list of n names does not say its first number: it is 1 where the labels of all splits have each of 1 to n and
    nothing else, which is reported; otherwise 0.
    """
    names = layout.class_names
    few = list(chain(*listed.values())) or list(islice(other_images(tree, layout, listed), _FEW))
    rows = find_rows(tree, few, _each(tree, layout, listed), None if names is None else len(names), problems)
    classes = Classes(names, layout.declared_in, layout.keypoints, layout.first, rows)
    if classes.names is None or classes.first is not None:
        return classes
    count = len(classes.names)
    if _numbers(tree, _each(tree, layout, listed), count) != {*range(1, count + 1)}:
        return classes
    last = f" and {count} {printable(classes.names[-1], 40)!r}" if count > 1 else ""
    message = (
        f"class numbers count from 1: 1 is read as {printable(classes.names[0], 40)!r}{last}; say so in data.yaml "
        "(names: {1: ..., 2: ...}), or count from 0"
    )
    problems.add("classes-from-1", tree.path(layout.declared_in), message)
    return classes._replace(first=1)


def other_images(tree: Tree, layout: Layout, listed: Mapping[str, Sequence[str]]) -> Iterator[str]:
    """The images of the other splits; what is wrong there is told with those."""
    ignored = CollectErrors(0)
    for split, places in layout.splits.items():
        if split not in listed:
            yield from images_of(tree, split, places, ignored)


def _each(tree: Tree, layout: Layout, listed: Mapping[str, Sequence[str]]) -> Iterator[str]:
    """The images of all splits, each once."""
    seen: set[str] = set()
    for image in chain(*listed.values(), other_images(tree, layout, listed)):
        if image not in seen:
            seen.add(image)
            yield image


def _numbers(tree: Tree, images: Iterable[str], most: int) -> set[int]:
    """The class numbers of the images' label files, read until one is 0 or above `most`: mostly the first."""
    seen: set[int] = set()
    for image in images:
        for number in numbers_in(tree, image):
            seen.add(number)
            if not 0 < number <= most:
                return seen
    return seen


def numbers_in(tree: Tree, image: str) -> Iterable[int]:
    """The class numbers in an image's label file, as far as it can be read."""
    try:
        label = label_of(tree, image)
        text = "" if label is None else decode_text(tree.read(label, MAX_LABEL_BYTES, "label"), label, paths=True)
    except DataError:
        return
    for line in text.split("\n"):
        try:
            number = float(class_word(line)) if line.strip() else -1
        except ValueError:
            continue
        if number >= 0 and number % 1 == 0:
            yield int(number)
