"""Sets that were found in a folder, held against each other: which of them are copies of others."""

from __future__ import annotations

import contextlib
import logging
import operator
import re
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from itertools import islice, permutations
from typing import NamedTuple, TypeVar, cast

import numpy as np

from singleshot.datasets.findings import CollectErrors
from singleshot.datasets.formats import Format
from singleshot.datasets.raw import Box, RawImage, RawObject, say_same
from singleshot.datasets.tree import EnoughError, Tree
from singleshot.errors import DataError
from singleshot.images.decode import MAX_FILE_BYTES, image_size, read_image
from singleshot.storage import is_remote

T = TypeVar("T")
# What is read of a set to compare it.
FILES, BYTES = 1500, 16 * 2**20
_UNNAMED = re.compile(r"class \d+")  # what a number without a name is called
_HASH = re.compile(r"_[0-9a-f]{8}$")  # labelme2yolo's, after the name of each image that it writes again
_REWRITTEN = 8  # mean difference of 255 that another JPEG of an image makes, and no other image
_DIVIDED = 0.95  # share of a set's labelled images that a copy has whose splits it takes
_COMPARED, _IMAGES_COMPARED = 8, 3  # sets below that are held against each other, and images of each


class Found(NamedTuple):
    """One set: its form in FORMATS, its folder below the tree ("" for the tree itself), how many images have an object
    (None where that was not counted); parts: the split and folder of each, of a set whose splits are sets of their
    own; divided_as: form and folder of a copy that has the splits; folders: those of a set in several, else none."""

    form: str
    folder: str
    labelled: int | None
    parts: tuple[tuple[str, str], ...] = ()
    divided_as: tuple[str, str] | None = None
    folders: tuple[str, ...] = ()


def without_copies(tree: Tree, formats: Mapping[str, Format], sets: list[Found]) -> list[Found]:
    """The sets without those whose labels another one has too, of the same images, in the same form or another; of two
    that are the same the one that has splits stays, then the one that has the names of classes, else the first."""
    if not 1 < len(sets) <= _COMPARED or any(one.labelled is None or one.parts for one in sets):
        return sets
    labels = [labels_of(formats[one.form], tree.below(one.folder)) for one in sets]
    order = [list(formats).index(one.form) for one in sets]
    if len(sets) == 2 and (divided := _divided_by_copy(tree, sets, labels)):
        return [divided]

    def is_copy(at: int, other: int) -> bool:
        mine, theirs = labels[at], labels[other]
        if not mine.images or len(mine.images) > len(theirs.images) or mine.is_named > theirs.is_named:
            return False
        rank, best = ((one.is_divided, one.is_named, -order[i], -i) for one, i in ((mine, at), (theirs, other)))
        if len(mine.images) == len(theirs.images) and rank >= best:
            return False
        named, near = mine.is_named and theirs.is_named, sets[at].form != sets[other].form
        pairs = []
        for image in mine.images:
            rivals = (*called_so(theirs.called, image.path), *theirs.saying[() if near else _objects_of(image)])
            pairs.append((image.path, [one.path for one in rivals if same_labels(image, one, named, near)][:_COMPARED]))
            if not pairs[-1][1]:
                return False
        some = pairs[:: max(1, len(pairs) // _IMAGES_COMPARED)]
        return all(any(_same_picture(tree, path, one) for one in paths) for path, paths in some)

    return [one for at, one in enumerate(sets) if not any(is_copy(at, other) for other in range(len(sets)))]


def _divided_by_copy(tree: Tree, sets: list[Found], labels: list[SetLabels]) -> Found | None:
    """Of two sets with the same boxes of images of the same names the one that has names of classes, where the other
    has none and has the splits that the first lacks; else None."""
    for (one, mine), (other, theirs) in permutations(zip(sets, labels, strict=True)):
        if mine.is_named <= theirs.is_named or mine.is_divided or not theirs.is_divided:
            continue
        pairs = _same_by_name(mine, theirs)
        some = pairs[:: max(1, len(pairs) // _IMAGES_COMPARED)]
        if pairs and all(_same_picture(tree, image.path, own.path) for image, own in some):
            return one._replace(divided_as=(other.form, other.folder))
    return None


def divided_like(tree: Tree, formats: Mapping[str, Format], chosen: Found, others: Iterable[Found]) -> Found:
    """The set with the splits of another in the same folder or below, where it has none of its own and that one has the
    same boxes of nearly all its images, by their names; else as it is."""
    if chosen.labelled is None or is_remote(tree.root):
        return chosen
    mine = labels_of(formats[chosen.form], tree.below(chosen.folder) if chosen.folder else tree)
    if mine.is_divided or not mine.images:
        return chosen
    for other in islice((one for one in others if one.labelled and one.form != chosen.form), _COMPARED):
        theirs = labels_of(formats[other.form], tree.below(other.folder) if other.folder else tree)
        if not theirs.is_divided or len(theirs.images) < _DIVIDED * len(mine.images):
            continue
        if _same_by_name(mine, theirs):
            return chosen._replace(divided_as=(other.form, other.folder))
    return chosen


def _same_by_name(mine: SetLabels, theirs: SetLabels) -> list[tuple[RawImage, RawImage]]:
    """Each labelled image of theirs with the one of mine that is called so, where all have nearly the same labels in
    both; else none."""
    named = mine.is_named and theirs.is_named
    pairs = []
    for image in theirs.images:
        own = called_so(mine.called, image.path)
        if len(own) != 1 or not same_labels(image, own[0], named, True):
            return []
        pairs.append((image, own[0]))
    return pairs


class SetLabels(NamedTuple):
    """What a set says: its labelled images, the same by their names, and by their objects; whether its classes have
    names; whether its splits are its own."""

    images: list[RawImage]
    called: dict[str, list[RawImage]]
    saying: dict[tuple[object, ...], list[RawImage]]
    is_named: bool
    is_divided: bool


def labels_of(form: Format, tree: Tree) -> SetLabels:
    """The labels of a set of this form, up to a bound; none where it cannot be read."""
    found = SetLabels([], defaultdict(list), defaultdict(list), False, False)
    try:
        with quiet():
            raw = form.read(tree.limited(FILES, BYTES), "", None, CollectErrors(0))
    except (EnoughError, DataError):
        return found
    for image in (image for image in raw.images if image.objects):
        found.images.append(image)
        for name in _names_of(image.path):
            found.called[name].append(image)
        found.saying[_objects_of(image)].append(image)
    return found._replace(is_named=not is_unnamed(raw.class_names), is_divided=not raw.made)


def is_unnamed(class_names: Iterable[str]) -> bool:
    """Whether classes are called after their numbers."""
    return all(map(_UNNAMED.fullmatch, class_names))


def called_so(called: Mapping[str, list[T]], path: str) -> list[T]:
    """What is called as an image is, or else but for the ending, or labelme2yolo's hash; called: by `_names_of`."""
    return next((called[name] for name in _names_of(path) if called.get(name)), [])


def by_names(paths: Iterable[str]) -> dict[str, list[int]]:
    """Positions of images by what they may be called in a copy, for `called_so`."""
    called: dict[str, list[int]] = defaultdict(list)
    for at, path in enumerate(paths):
        for name in _names_of(path):
            called[name].append(at)
    return called


def _names_of(path: str) -> tuple[str, ...]:
    """What an image may be called in a copy, the likeliest first: a program may have written it again."""
    last = path.rpartition("/")[2]
    stem = last.rpartition(".")[0]
    return tuple(dict.fromkeys((last, stem, _HASH.sub("", stem))))


def name_of(image: RawImage) -> str:
    """The file's name without its folders."""
    return image.path.rpartition("/")[2]


def _objects_of(image: RawImage) -> tuple[object, ...]:
    return tuple(sorted((obj.name, tuple(map(str, obj.box))) for obj in image.objects))


def same_labels(image: RawImage, other: RawImage, named: bool, near: bool) -> bool:
    """Whether two labels of an image have the same objects, near: as rounding and counting from 1 leave them; by their
    boxes alone where one has no names."""
    size = (image.width or other.width, image.height or other.height)
    if image.relative != other.relative and 0 in size:
        try:
            size = image_size(image.path)
        except DataError:
            return False

    def plain(one: RawImage) -> list[RawObject]:
        scale = size * 2 if one.relative and image.relative != other.relative else (1, 1, 1, 1)
        return [
            RawObject(obj.name if named else "", cast("Box", tuple(map(operator.mul, obj.box, scale))))
            for obj in one.objects
        ]

    if not near:
        return sorted(plain(image)) == sorted(plain(other))
    return say_same(plain(image), plain(other), near=True)


def same_bytes(tree: Tree, path: str, other: str) -> bool:
    """Whether two files of the tree hold the same bytes; False where one cannot be read."""
    start = len(tree.path("x")) - 1
    try:
        first, second = (tree.read(one[start:], MAX_FILE_BYTES, "image") for one in (path, other))
    except DataError:  # what cannot be read is no copy
        return False
    return first == second


def _same_picture(tree: Tree, path: str, other: str) -> bool:
    """Whether two images with the same labels are one: by their bytes; or by what they show, where one is called as a
    program that wrote the other again would call it."""
    if same_bytes(tree, path, other):
        return True
    one, two = _names_of(path), _names_of(other)
    if one[0] == two[0] or not {*one[1:]} & {*two[1:]} or is_remote(tree.root):
        return False
    try:
        first, second = read_image(path), read_image(other)
    except DataError:
        return False
    if first.shape != second.shape:
        return False
    return float(np.abs(first.astype(np.int16) - second).mean()) <= _REWRITTEN


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Without what the readers log of a set that is only counted; they log it when it is read."""
    log = logging.getLogger("singleshot.datasets.readers")
    before = log.level
    log.setLevel(logging.CRITICAL + 1)
    try:
        yield
    finally:
        log.setLevel(before)
