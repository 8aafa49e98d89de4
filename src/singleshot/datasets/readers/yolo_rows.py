"""What the rows of a set's YOLO-like label files are: YOLO's own, or rows with commas or in pixels, which others write
in files of the same names. Their four numbers may be corners, a corner and a size, or a centre and a size; these
rows are read where the images of the whole set leave no doubt, and refused in one line elsewhere."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple

from singleshot.datasets.findings import RaiseErrors
from singleshot.datasets.raw import EDGE_PX
from singleshot.datasets.readers.common import parse_number, spread
from singleshot.datasets.readers.row_meaning import CENTRE_SIZE, find_meaning
from singleshot.datasets.readers.yolo_layout import label_of
from singleshot.datasets.tree import Tree
from singleshot.errors import DataError, printable
from singleshot.images.decode import image_size
from singleshot.storage import is_remote
from singleshot.text import decode_text

MAX_LABEL_BYTES = 64 * 2**20
# Parts of the image end at 1; a tool may write a little more. From here on they are pixels.
PIXELS = 2.0
_IN_PIXELS, _IN_PARTS = "pixels", "parts"
_EDGE_PARTS = 0.005
_FEW, _FEW_REMOTE = 20, 3
_MOST_CLASS = 999  # without names; what is above is no number of a class in such rows
_ODD = 0.01  # share of rows that may be no such rows: they are reported one by one


class RowKind(NamedTuple):
    """commas: between the numbers; meaning: one of `MEANINGS`; relative: whether they are parts of the image."""

    commas: bool = False
    meaning: str = CENTRE_SIZE
    relative: bool = True

    def words(self, row: str, most: int) -> list[str]:
        """The words of a row, the last one being the rest where there are more."""
        return (row.replace(",", " ") if self.commas else row).split(None, most)


YOLO_ROWS = RowKind()


def class_word(row: str) -> str:
    """The first word of a row, which is the class; "" of a row of nothing but a comma."""
    return next(iter(row.replace(",", " ", 1).split(None, 1)), "")


def find_rows(
    tree: Tree, few: Sequence[str], images: Iterable[str], names: int | None, problems: RaiseErrors
) -> RowKind:
    """The kind of a set's rows. few: images of which some are looked at first, images: all of them; names: how many
    classes have a name, None where none has. What is read otherwise than YOLO's rows gives a note; rows in pixels whose
    meaning the images do not tell are reported. Raises DataError for such rows with commas."""
    most = _FEW_REMOTE if is_remote(tree.root) else _FEW
    heads = [rows[0] for image in spread(few, most) if (rows := _rows_of(tree, image))]
    commas = bool(heads) and all(row.count(",") == 4 for row in heads)
    units = {_unit(_numbers(row, commas)) for row in heads}
    if not commas and units != {_IN_PIXELS}:
        return YOLO_ROWS
    kind = RowKind(commas, relative=units == {_IN_PARTS})
    shown = "rows of class and four numbers" + (" with commas" if commas else " in pixels")
    meaning = None
    if len(units) == 1 and (kind.relative or not is_remote(tree.root)):
        meaning = _find(tree, images, kind, _MOST_CLASS if names is None else names)
    if meaning is not None:
        message = f"{shown} are read as class {meaning}: so, and not otherwise, the boxes lie in their images"
        problems.add("rows-decided", tree.root, message)
        return kind._replace(meaning=meaning)
    message = (
        f"{shown}, as {printable(heads[0].strip(), 60)!r}: the images do not tell whether they are left top right "
        "bottom, or a corner or the centre and a size; convert them to a CSV of file,xmin,ymin,xmax,ymax,class"
    )
    if commas:
        raise DataError(f"{printable(tree.root)}: {message}")
    problems.add("annotation-malformed", tree.root, message)
    return YOLO_ROWS


def _find(tree: Tree, images: Iterable[str], kind: RowKind, most_class: int) -> str | None:
    """What the numbers of all rows mean; None where that is not certain, or too many rows are of another kind."""
    found: list[tuple[list[float], tuple[float, float]]] = []
    odd = 0
    unit = _IN_PARTS if kind.relative else _IN_PIXELS
    for image in images:
        rows = _rows_of(tree, image)
        try:
            size = (1.0, 1.0) if kind.relative or not rows else image_size(tree.path(image))
        except DataError:  # which reading says
            continue
        for row in rows:
            numbers = _numbers(row, kind.commas)
            if numbers is None or numbers[0] > most_class or _unit(numbers) != unit:
                odd += 1
            else:
                found.append((numbers[1:], size))
    if odd > _ODD * len(found):
        return None
    return find_meaning(found, _EDGE_PARTS if kind.relative else EDGE_PX)


def _rows_of(tree: Tree, image: str) -> list[str]:
    """The rows of an image's label file that are not empty, as far as it can be read."""
    try:
        label = label_of(tree, image)
        text = "" if label is None else decode_text(tree.read(label, MAX_LABEL_BYTES, "label"), label, paths=True)
    except DataError:
        return []
    return [row for row in text.split("\n") if row.strip()]


def _numbers(row: str, commas: bool) -> list[float] | None:
    """The class and four numbers of a row; None for any other."""
    words = RowKind(commas).words(row, 6)
    numbers = [number for number in map(parse_number, words) if number is not None]
    if len(words) != 5 or len(numbers) < 5 or numbers[0] < 0 or numbers[0] % 1:
        return None
    return numbers


def _unit(numbers: list[float] | None) -> str:
    """_IN_PARTS or _IN_PIXELS, of a row's numbers; "" for what is no class and four numbers."""
    if numbers is None:
        return ""
    return _IN_PIXELS if max(map(abs, numbers[1:])) >= PIXELS else _IN_PARTS
