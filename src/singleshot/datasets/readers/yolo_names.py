"""Names of YOLO's classes that lie elsewhere in the folder that the user gave: Darknet's cfg/obj.names, a config/ or
data/ next to the labelled images, a data.yaml whose images are not those."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from itertools import chain, islice
from typing import NamedTuple

from singleshot.datasets.findings import RaiseErrors
from singleshot.datasets.readers.yolo_classes import numbers_in, other_images
from singleshot.datasets.readers.yolo_darknet import read_entries
from singleshot.datasets.readers.yolo_layout import Layout, find_listed, read_names
from singleshot.datasets.readers.yolo_pairs import NAME_FILES
from singleshot.datasets.readers.yolo_yaml import load_description
from singleshot.datasets.tree import Tree, join
from singleshot.errors import DataError, printable

_LEVELS, _FOLDERS, _FILES = 2, 200, 100
_LIST = re.compile(r"(?:\w+[_-])?(?:class(?:es)?|labels?|names|class[_-]?names|obj[_-]names)\.txt|[^.].*\.names")
_SHOWN = 4


class _List(NamedTuple):
    """names, their file in the tree; is_own: a description of this very set names it."""

    names: tuple[str, ...]
    file: str
    is_own: bool = False


def with_names(tree: Tree, layout: Layout, listed: Mapping[str, Sequence[str]], problems: RaiseErrors) -> Layout:
    """The layout with names of its classes where exactly one list in the folder that the user gave fits the numbers of
    its labels, which is reported, as are several that fit; listed: images of its splits, as far as they are known.

    A list fits that has as many names as there are numbers, or which a Darknet description (.data) names whose images
    are these, or of which at least half of the names are used.
    """
    top = tree.given
    found = list(_lists(top, tree, layout))
    if not found:
        return layout
    images = chain(*listed.values(), other_images(tree, layout, listed))
    numbers = {number for image in images for number in numbers_in(tree, image)}
    fitting = _fitting(found, numbers)
    different = dict.fromkeys(one.names for one in fitting)
    if len(different) == 1:
        where = printable(top.path(fitting[0].file))
        message = f"the names of the {len(fitting[0].names)} classes are those of {where}, the only list near that fits"
        problems.add("names-elsewhere", tree.root, message)
        up = tree.path("x").count("/") - top.path("x").count("/")
        return layout._replace(class_names=fitting[0].names, declared_in="../" * up + fitting[0].file)
    if different:
        shown = ", ".join(printable(one.file, 80) for one in fitting[:_SHOWN]) + ", ..." * (len(fitting) > _SHOWN)
        message = f"several lists of names fit the classes ({shown}); put the right one next to the labels"
        problems.add("names-elsewhere", tree.root, message)
    return layout


def _fitting(found: list[_List], numbers: set[int]) -> list[_List]:
    """The lists that fit best, [] where none does."""
    if not numbers:
        return []
    last = max(numbers)
    # Numbers from 1 to n may be n names; which they are is decided later.
    counts = (last, last + 1) if 0 not in numbers else (last + 1,)
    for group in (
        [one for one in found if one.is_own and len(one.names) >= counts[0]],
        [one for one in found if len(one.names) in counts],
        [one for one in found if last < len(one.names) <= 2 * len(numbers)],
    ):
        if group:
            return group
    return []


def _lists(top: Tree, tree: Tree, layout: Layout) -> Iterator[_List]:
    """All lists of names in the folder that was given and two levels below."""
    places = {tree.path(place.name) for places in layout.splits.values() for place in places if place.listed}
    for file in islice(_files(top), _FILES):
        folder, _, name = file.rpartition("/")
        try:
            if name.endswith(".data"):
                yield from _described(top, folder, file, places)
            elif name.endswith((".yaml", ".yml")):
                names = load_description(top, file).names
                # Numbers in place of names: the yaml says how many, no more.
                if names and not all(re.fullmatch(r"(?:class )?\d+", one) for one in names):
                    yield _List(names, file)
            else:
                yield from _checked(top, file)
        except DataError:  # whatever it is, it is no list of names
            continue


def _described(top: Tree, folder: str, file: str, places: set[str]) -> Iterator[_List]:
    """The list that a Darknet description names, where one of its lists of images is one of these places."""
    entries, named = read_entries(top, file)
    names = find_listed(top, folder, named)
    lists = (find_listed(top, folder, value) for value in entries.values())
    if names and any(one is not None and top.path(one) in places for one in lists):
        yield from (one._replace(is_own=True) for one in _checked(top, names))


def _checked(top: Tree, file: str) -> Iterator[_List]:
    names = read_names(top, file)
    if names and all(re.search(r"[^\W\d_]", name) and "/" not in name for name in names):
        yield _List(names, file)


def _files(top: Tree) -> Iterator[str]:
    """Files that may be such, of the nearest folders first."""
    level, left = [""], _FOLDERS
    for _ in range(_LEVELS + 1):
        below: list[str] = []
        for folder in level[:left]:
            names = top.files(folder)
            yield from (join(folder, name) for name in names if _may_name(name))
            below += [join(folder, name) for name in top.open_folders(folder)]
        left -= len(level)
        level = below


def _may_name(name: str) -> bool:
    small = name.lower()
    return small in NAME_FILES or small.endswith((".data", ".yaml", ".yml")) or bool(_LIST.fullmatch(small))
