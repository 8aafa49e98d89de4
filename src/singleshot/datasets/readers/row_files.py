"""Forms with a text file for each image, in it a row for each object in pixels: where these files and their images lie,
their splits, and reading them. What a row is says the form, a `RowForm`.

Images lie next to the text files, in a folder next to theirs (label_2/ and image_2/, labels/ and images/, with the same
sub-folders), or in the folder above (OIDv4's Apple/ and Apple/Label/).
"""

from __future__ import annotations

import logging
import re
from collections import Counter
from collections.abc import Callable, Container, Iterator
from dataclasses import dataclass
from itertools import islice
from typing import NamedTuple, cast

from singleshot.datasets.findings import CollectErrors, RaiseErrors
from singleshot.datasets.raw import Box, RawImage, RawObject, RawSet
from singleshot.datasets.readers.common import MADE_SPLITS, ONLY_CLASS, divide, images_by_stem, spread
from singleshot.datasets.readers.shapes import report_passed
from singleshot.datasets.splits import KNOWN_SPLITS, resolve_split, split_of
from singleshot.datasets.tree import Tree, join
from singleshot.errors import DataError, printable
from singleshot.text import decode_text

logger = logging.getLogger(__name__)

# Copies for 3D detectors have such lists: names of images, a line each.
_LISTS = "ImageSets"
_LISTED = ("train", "val", "trainval", "test")
_LABELS = re.compile(r"labels?|annotations?|ground[_ -]?truths?", re.IGNORECASE)
_IMAGE_FOLDERS = ("image_2", "images", "image", "imgs", "img", "images-optional", "data", "jpegimages")
_PEEK_BYTES, _MAX_BYTES, _FEW, _FOLDERS = 1 << 12, 2**24, 20, 100


class Pair(NamedTuple):
    """A folder of label files, and that of their images."""

    labels: str
    images: str


Places = dict[str, list[Pair]]


class Rows:
    """The objects of one label file. passed: counts rows that are no objects, by what they are; ignored: regions in
    which nobody labelled the objects; add(message, line) reports a row that cannot be used."""

    def __init__(self, text: str, path: str, passed: Counter[str], problems: RaiseErrors) -> None:
        self.lines = [(number, line.split()) for number, line in enumerate(text.split("\n"), 1) if line.strip()]
        self.passed = passed
        self.ignored: list[Box] = []
        self._path, self._problems = path, problems

    def add(self, message: str, line: int, number: int) -> None:
        """Report the row of object `number`, counted from 0."""
        self._problems.add("annotation-malformed", self._path, message, f"object {number}", line, number)


def _always(tree: Tree, places: Places) -> bool:
    return True


@dataclass(frozen=True)
class RowForm:
    """A form of such files.

    form, about: its names in `FORMATS` and for people; is_label(first bytes): whether a text file is of it;
    parse(rows): its objects; is_certain(tree, places): whether what the numbers mean is certain, asked once of all.
    """

    form: str
    about: str
    is_label: Callable[[bytes], bool]
    parse: Callable[[Rows], Iterator[RawObject]]
    is_certain: Callable[[Tree, Places], bool] = _always

    def sniff(self, tree: Tree) -> bool:
        """Whether such files lie here, or in folders of splits, with images of their names."""
        return bool(self.places(tree))

    def splits(self, tree: Tree, file: str = "") -> tuple[str, ...]:
        """Names of the splits: by lists, or of the folders; those that would be made where there are none."""
        places = self.places(tree)
        return tuple(_lists(tree, places)) or tuple(split for split in places if split) or MADE_SPLITS

    def read(self, tree: Tree, file: str, wanted: str | None, problems: RaiseErrors) -> RawSet:
        """Read the split `wanted`, or all of them. Class names are the sorted ones over all splits, so that train and
        val agree. Raises DataError for a split that is not there."""
        places = self.places(tree)
        lists = _lists(tree, places)
        folders = [] if lists else [split for split in places if split]
        named = bool(lists or folders)
        chosen = resolve_split(wanted, lists or folders, tree.root) if wanted is not None and named else None
        images: list[RawImage] = []
        splits_of: dict[str, list[int]] = {}
        names: set[str] = set()
        passed = Counter[str]()
        for split, pairs in places.items():
            found = [image for pair in pairs for image in self._read_pair(tree, pair, passed, problems)]
            names |= {obj.name for image in found for obj in image.objects}
            if lists or chosen in (None, split):
                splits_of[split] = list(range(len(images), len(images) + len(found)))
                images += found
        report_passed(problems, tree.root, passed)
        if regions := sum(len(image.ignored) for image in images):
            message = f"{regions} regions without labels: detections in them count as neither right nor wrong"
            problems.add("regions-ignored", tree.root, message)
        if names == {ONLY_CLASS}:
            logger.warning("%s: names no class, all its objects are of the class %r", printable(tree.root), ONLY_CLASS)
        if lists:
            splits_of = _listed(tree, lists, images, problems if wanted is None else None)
            splits_of = {name: positions for name, positions in splits_of.items() if chosen in (None, name)}
        elif not folders:
            splits_of = divide(tree, [image.path for image in images], wanted)
        if wanted is not None and not any(splits_of.values()):
            message = f"split {printable(wanted)!r} has no labelled images; label some more"
            raise DataError(f"{printable(tree.root)}: {message}")
        return RawSet(self.form, tree.root, tuple(sorted(names)), images, splits_of, not named)

    def places(self, tree: Tree) -> Places:
        """Split -> its folders; under "" where folders are no splits; {} where there is no such set."""
        key = f"folders of {self.about}"
        if key not in tree.memo:
            found = self._find_places(tree)
            tree.memo[key] = found if found and self.is_certain(tree, found) else {}
        return cast("Places", tree.memo[key])

    def _find_places(self, tree: Tree) -> Places:
        found: Places = {}
        for name in islice(tree.open_folders(), _FOLDERS):
            split = split_of(name)
            if split in KNOWN_SPLITS and (pairs := self._pairs_in(tree, name)):
                found.setdefault(split, []).extend(pairs)
        if found:
            return found
        if pairs := self._pairs_in(tree, ""):
            return {"": pairs}
        for top in filter(_LABELS.match, tree.open_folders()):  # labels/train with images/train
            for name in islice(tree.open_folders(top), _FOLDERS):
                pair = self._pair(tree, join(top, name), "", name)
                split = split_of(name)
                if pair is not None:
                    found.setdefault(split if split in KNOWN_SPLITS else "", []).append(pair)
        return {"": [pair for pairs in found.values() for pair in pairs]} if "" in found else found

    def _pairs_in(self, tree: Tree, folder: str) -> list[Pair]:
        """The pair that a folder holds, which may be itself; else those of the folders in it that have their labels in
        them."""
        if self._has_labels(tree, folder, images_by_stem(tree, folder)):
            return [Pair(folder, folder)]
        for name in filter(_LABELS.match, tree.open_folders(folder)):
            pair = self._pair(tree, join(folder, name), folder)
            if pair is not None:
                return [pair]
        return [
            Pair(join(join(folder, name), "Label"), join(folder, name))
            for name in islice(tree.open_folders(folder), _FOLDERS)
            if tree.names(join(folder, name)).get("Label")
            and self._has_labels(tree, join(join(folder, name), "Label"), images_by_stem(tree, join(folder, name)))
        ]

    def _pair(self, tree: Tree, labels: str, folder: str, below: str = "") -> Pair | None:
        """A folder of labels with that of their images: in `folder` label_2 and image_2, labels and images, or of a
        usual name, with the sub-folder `below`; the first that has an image of one of the labels, `folder` last."""
        if not self._has_labels(tree, labels):
            return None
        there = tree.open_folders(folder)
        own = labels[: len(labels) - len(below) - 1] if below else labels
        called = re.sub("label|annotation", "image", own.rpartition("/")[2].lower(), count=1)
        usual = [name for name in there if name.lower() == called]
        usual += sorted(
            (name for name in there if name.lower() in _IMAGE_FOLDERS and name not in usual),
            key=lambda name: _IMAGE_FOLDERS.index(name.lower()),
        )
        stems = {name[:-4] for name in tree.files(labels, (".txt",))}
        places = [join(join(folder, name), below) if below else join(folder, name) for name in usual]
        for place in [*places, *([] if below else [folder])]:
            if stems & images_by_stem(tree, place).keys():
                return Pair(labels, place)
        return None

    def _has_labels(self, tree: Tree, folder: str, stems: Container[str] | None = None) -> bool:
        """Whether at least half of a few of the text files with an object are of the form, of those with one of the
        names if any are given."""
        texts = [name for name in tree.files(folder, (".txt",)) if stems is None or name[:-4] in stems]
        few = (tree.read(join(folder, name), _MAX_BYTES, "label", most=_PEEK_BYTES) for name in spread(texts, _FEW))
        heads = [head for head in few if head.strip() not in (b"", b"0")]
        good = sum(map(self.is_label, heads))
        return 0 < len(heads) <= 2 * good

    def _read_pair(self, tree: Tree, pair: Pair, passed: Counter[str], problems: RaiseErrors) -> Iterator[RawImage]:
        images = images_by_stem(tree, pair.images)
        for name in tree.files(pair.labels, (".txt",)):
            path, stem = tree.path(join(pair.labels, name)), name[:-4]
            if pair.labels == pair.images and stem not in images:  # a list or notes among the images
                continue
            try:
                text = decode_text(tree.read(join(pair.labels, name), _MAX_BYTES, "label"), path)
            except DataError as error:
                problems.add_unreadable(path, error)
                continue
            if stem not in images:
                where = printable(tree.path(pair.images))
                problems.add("image-missing", path, f"no image called {printable(stem, 80)} is in {where}; add it")
                continue
            found = tree.find(pair.images, min(images[stem])) or ""
            rows = Rows(text, path, passed, problems)
            objects = list(self.parse(rows))
            yield RawImage(tree.path(found), stem, 0, 0, objects, path, ignored=tuple(rows.ignored))


def objects_of(form: RowForm, tree: Tree, pair: Pair, name: str) -> list[RawObject]:
    """The objects of one label file, as far as they can be read, for a first look. Raises DataError."""
    text = decode_text(tree.read(join(pair.labels, name), _MAX_BYTES, "label"), name)
    return list(form.parse(Rows(text, name, Counter(), CollectErrors(0))))


# ---------------------------------------------------------------------------------------------- lists


def _lists(tree: Tree, places: Places) -> dict[str, list[str]]:
    """Split -> names of images without ending, of ImageSets/train.txt and its like, where train is such a list and all
    labels lie in one folder; {} otherwise."""
    if sum(map(len, places.values())) != 1:
        return {}
    there = [name for name in _LISTED if f"{name}.txt" in tree.files(_LISTS)]
    if "train" not in there:
        return {}
    ((pair,),) = places.values()
    stems = {name[:-4] for name in tree.files(pair.labels, (".txt",))}
    found = {}
    for name in there:
        path = join(_LISTS, f"{name}.txt")
        text = decode_text(tree.read(path, _MAX_BYTES, "list of images"), tree.path(path), paths=True)
        listed = [line.strip() for line in text.split("\n") if line.strip()]
        if name == "train" or not stems.isdisjoint(listed):  # that of KITTI's testing/, without labels, is no split
            found[name] = listed
    return found


def _listed(
    tree: Tree, lists: dict[str, list[str]], images: list[RawImage], problems: RaiseErrors | None
) -> dict[str, list[int]]:
    """Split -> positions of its images; names without a label file, and images in none of the lists, are reported."""
    at = {image.ident: i for i, image in enumerate(images)}
    found = {split: [at[name] for name in dict.fromkeys(names) if name in at] for split, names in lists.items()}
    missing = [name for names in lists.values() for name in names if name not in at]
    unused = len(images) - len({i for positions in found.values() for i in positions})
    if problems is not None and missing:
        message = f"{len(missing)} names have no label file ({printable(missing[0], 80)} is the first); take them out"
        problems.add("split-unusable", tree.path(_LISTS), message)
    if problems is not None and unused:
        problems.add("image-unused", tree.path(_LISTS), f"{unused} labelled images are in none of the lists; add them")
    return found
