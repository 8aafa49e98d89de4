"""Where VOC annotations and their images lie: the devkit's folders, and those that labelling tools make instead."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from itertools import islice
from typing import NamedTuple

from singleshot.datasets.readers.common import images_by_stem
from singleshot.datasets.splits import KNOWN_SPLITS, folder_split, split_of, with_numbered
from singleshot.datasets.tree import Tree, join
from singleshot.errors import DataError

LABELS, IMAGES, LISTS = "Annotations", "JPEGImages", "ImageSets/Main"
# Folders of images, in the order in which they are looked into, in any letter case.
_IMAGE_FOLDERS = ("jpegimages", "images", "image", "imgs", "img", "data", "photos", "pictures")
_LABEL_FOLDERS = ("annotations", "annotation", "annots", "annot", "annos", "anno", "labels", "label", "xml", "xmls")
_OTHER_LABELS = (".json", ".txt", ".csv")
_DEEP = 6  # folders below the root that are looked into
_FOLDERS = 1000  # in all, to find out whether it is a VOC set
_PEEK_BYTES = 4096
_PEEK_FILES = 5
# After the declaration and comments, if there are any; CVAT's own XML starts with <annotations>.
_MANY_MORE = 2
_FEW_MISSING = 20  # one image of so many may be missing from all folders
_START = re.compile(rb"<annotation[\s>]")


class Layout(NamedTuple):
    """xmls: the name of each annotation without its ending, and folders where they tell it from others -> file in the
    tree; splits: split -> those names, {} where no folders are splits; base: the folder of annotations, "" for many;
    copies: files left out that the folders of splits have again."""

    xmls: Mapping[str, str]
    splits: Mapping[str, list[str]]
    base: str
    copies: tuple[str, ...] = ()


def sniff(tree: Tree) -> bool:
    """Whether the folder holds a VOC set."""
    return bool(_has_labels(tree) or _label_folder(tree) or _has_own(tree) or _split_folders(tree))


def _has_own(tree: Tree) -> bool:
    """Whether annotations lie in the folder itself: more than one or two without an image, which somebody left there
    above sets in other folders."""
    stems = [name[:-4] for name in tree.files("", (".xml",))]
    if not stems or not _has_annotations(tree, ""):
        return False
    places = ImagePlaces(tree)
    return len(stems) > _MANY_MORE or any(places.of_stem("", stem)[1] for stem in stems) or not tree.folders()


def is_deep(tree: Tree) -> bool:
    """Whether there are annotations in any folder below: xml-files/*.xml, archive/train_zip/train/*.xml."""
    return any(_has_annotations(tree, folder) for folder in islice(_folders(tree, ""), _FOLDERS))


def find_layout(tree: Tree) -> Layout:
    """The annotations of a VOC folder by their names, and the splits that its folders are."""
    base = LABELS if LABELS in tree.names() else _label_folder(tree)
    if base:
        files = {name[len(base) + 1 : -4]: name for name in _xml_files(tree, base)}
        for folder in (name for name in tree.open_folders() if name.lower() in _IMAGE_FOLDERS and name != base):
            beside = list(_annotated(tree, folder))
            if len(beside) > _MANY_MORE * len(files):  # a few labels do not stand in for many
                base, files = folder, {name[len(folder) + 1 : -4]: name for name in beside}
        parts = {} if tree.files(LISTS) else _label_folders_of_splits(tree, base)
        if parts and not _splits_of(files):
            return _joined(base, files, parts)
        return Layout(files, _splits_of(files) or _splits_of_images(tree, files), base)
    splits: dict[str, list[str]] = {}
    xmls: dict[str, str] = {}
    folders = _split_folders(tree)
    if folders:
        for name, split in folders.items():
            mine = {file[:-4]: file for file in _annotated(tree, name)}
            splits.setdefault(split, []).extend(mine)
            xmls.update(mine)
        return Layout(xmls, splits, "")
    files = {name[:-4]: name for name in _annotated(tree, "")}
    inside = {stem: name for stem, name in files.items() if _split_in(stem)}
    lasts = {stem.rpartition("/")[2] for stem in inside}
    copies = tuple(name for stem, name in files.items() if stem not in inside and stem.rpartition("/")[2] in lasts)
    if len(inside) + len(copies) == len(files):  # labelled in one folder, then copied into those of the splits
        return Layout(inside, _splits_of(inside), "", copies)
    return Layout(files, _splits_of(files), "")


def _label_folders_of_splits(tree: Tree, base: str) -> dict[str, dict[str, str]]:
    """Split -> its annotations, in folders beside that of all others: "valid annot" beside "annotations"."""
    found: dict[str, dict[str, str]] = {}
    for name in tree.open_folders():
        split, kind = folder_split(name)
        if name != base and split and kind == "labels":
            found.setdefault(split, {}).update((file[:-4], file) for file in _annotated(tree, name))
    return {split: files for split, files in found.items() if files}


def _joined(base: str, files: dict[str, str], parts: dict[str, dict[str, str]]) -> Layout:
    """The splits that are folders of their own, and train of the annotations that are in none of them; where train is
    such a folder too, those are no part of the set."""
    inside = {stem.rpartition("/")[2] for mine in parts.values() for stem in mine}
    rest = {} if "train" in parts else {stem: name for stem, name in files.items() if stem not in inside}
    splits = {"train": rest, **parts} if rest else parts
    copies = tuple(name for stem, name in files.items() if stem not in rest)
    xmls = {stem: name for mine in splits.values() for stem, name in mine.items()}
    return Layout(xmls, {split: list(mine) for split, mine in splits.items()}, base, copies)


def _splits_of(stems: Iterable[str]) -> dict[str, list[str]]:
    """The splits that folders of the names are, of each the first; {} where none of them is one."""
    found: dict[str, list[str]] = {}
    for stem in stems:
        split = _split_in(stem)
        if not split:
            return {}
        found.setdefault(split, []).append(stem)
    return found


def _split_in(stem: str) -> str:
    """The first folder of a name that is a split; "" without one."""
    return next((split for split in map(_split_called, stem.split("/")[:-1]) if split), "")


def _split_called(folder: str) -> str:
    """The split that a folder is called after, with words of what lies in it or without; "" for none."""
    split = split_of(folder)
    return split if split in KNOWN_SPLITS else folder_split(folder)[0]


def _splits_of_images(tree: Tree, stems: Iterable[str]) -> dict[str, list[str]]:
    """The splits that the folders of the images are, images/train/ and images/val/, where each image is in one of them,
    but for a few that are nowhere, and no list says others; else {}."""
    stems = [] if tree.files(LISTS) else list(stems)
    for top in (*(name for name in tree.folders() if name.lower() in _IMAGE_FOLDERS), ""):
        named = {name: _split_called(name) for name in tree.open_folders(top) if folder_split(name)[1] != "labels"}
        folders = {split: join(top, name) for name, split in named.items() if split}
        there = {split: images_by_stem(tree, folder) for split, folder in folders.items()} if stems else {}
        split_of_stem = {stem: [s for s in there if stem.rpartition("/")[2] in there[s]] for stem in stems}
        missing = [stem for stem, splits in split_of_stem.items() if not splits]
        if "train" in there and 0 < len(missing) * _FEW_MISSING <= len(split_of_stem):
            beside = images_by_stem(tree, top)
            # Of which split they are is not known; that they are missing is said once.
            split_of_stem.update((stem, ["train"]) for stem in missing if stem.rpartition("/")[2] not in beside)
        if "train" in there and all(len(splits) == 1 for splits in split_of_stem.values()):
            found = {s: [stem for stem, splits in split_of_stem.items() if splits == [s]] for s in there}
            return {s: mine for s, mine in found.items() if mine} if sum(map(bool, found.values())) > 1 else {}
    return {}


def _folders(tree: Tree, folder: str) -> Iterator[str]:
    """The folder and those below it, a few levels deep."""
    return tree.with_below(folder, _DEEP - folder.count("/") + (not folder))


def _xml_files(tree: Tree, folder: str) -> Iterator[str]:
    """The .xml files in those folders; DataError as `Tree.names`."""
    return (join(here, name) for here in _folders(tree, folder) for name in reversed(tree.files(here, (".xml",))))


def _annotated(tree: Tree, folder: str) -> Iterator[str]:
    """The .xml files of those of the folders whose files are VOC annotations."""
    annotated = (here for here in _folders(tree, folder) if _has_annotations(tree, here))
    return (join(here, name) for here in annotated for name in tree.files(here, (".xml",)))


def _has_annotations(tree: Tree, folder: str) -> bool:
    """Whether one of the first .xml files in the folder starts as VOC's do."""
    for name in tree.files(folder, (".xml",))[:_PEEK_FILES]:
        try:
            start = tree.read(join(folder, name), _PEEK_BYTES, "annotation", most=_PEEK_BYTES)
        except DataError:  # whatever it is, it tells no form
            continue
        if is_annotation(start):
            return True
    return False


def _has_labels(tree: Tree) -> bool:
    """Whether there is a folder Annotations/, and it is not one of other labels alone, as COCO's and YOLO's may be."""
    if LABELS not in tree.names():
        return False
    others_alone = tree.files(LABELS, _OTHER_LABELS) and not tree.folders(LABELS)
    return not others_alone or bool(tree.files(LABELS, (".xml",)))


def is_annotation(head: bytes) -> bool:
    """Whether a file starts as VOC's annotations do, in UTF-16 too."""
    return _START.search(head.replace(b"\0", b"")) is not None


def _label_folder(tree: Tree) -> str:
    """The folder of annotations at the root, by its name in any letter case and by what lies in it; "" for none."""
    for name in sorted(tree.open_folders(), key=lambda name: name != LABELS):
        if name.lower() in _LABEL_FOLDERS and next(_annotated(tree, name), None) is not None:
            return name
    return ""


def _split_folders(tree: Tree) -> dict[str, str]:
    """Folders that are splits by their names and hold annotations, each with its split."""

    def has_labels(name: str) -> bool:
        return next(_annotated(tree, name), None) is not None

    folders = tree.open_folders()
    named = {name: split_of(name) for name in folders if split_of(name) in KNOWN_SPLITS and has_labels(name)}
    return with_numbered(named, folders, has_labels)


def bare_number(stem: str) -> str:
    """A name that is a number without the zeros before it; others as they are."""
    return stem.lstrip("0") or "0" if stem.isdecimal() and stem.isascii() else stem


class ImagePlaces:
    """Where the images of annotations are looked for, by the annotations' folders."""

    def __init__(self, tree: Tree) -> None:
        self._tree = tree
        self._folders: dict[str, list[str]] = {}

    def of(self, folder: str) -> list[str]:
        """Folders for annotations in `folder`: its own; of each folder above it the image folders, there with the same
        sub-folders or without; the root."""
        if folder not in self._folders:
            parts = folder.split("/") if folder else []
            found = [folder]
            for level in range(len(parts), -1, -1):
                above = "/".join(parts[:level])
                found += self._of_split(above, folder)
                for name in self._image_folders(above):
                    found += ["/".join([name, *parts[level + 1 :]]), name]
            self._folders[folder] = list(dict.fromkeys([*found, ""]))
        return self._folders[folder]

    def _of_split(self, folder: str, labels: str) -> list[str]:
        """Folders of the split that those labels are of: "valid img" for "valid annot"."""
        split = _split_in(f"{labels}/")
        names = self._tree.folders(folder) if split else []
        return [join(folder, name) for name in names if _split_called(name) == split and join(folder, name) != labels]

    def _image_folders(self, folder: str) -> list[str]:
        names = [name for name in self._tree.folders(folder) if name.lower() in _IMAGE_FOLDERS]
        return [join(folder, name) for name in sorted(names, key=lambda name: _IMAGE_FOLDERS.index(name.lower()))]

    def of_stem(self, folder: str, stem: str) -> tuple[str, list[str]]:
        """The first of those folders that has images of that name, and their names in it."""
        for place in self.of(folder):
            if same := images_by_stem(self._tree, place).get(stem):
                return place, same
        return "", []

    def of_number(self, folder: str, stem: str) -> tuple[str, list[str]]:
        """The same for a name that is a number, which may have other zeros before it: 1284 for 01284."""
        for place in self.of(folder) if stem.isdecimal() else ():
            images = images_by_stem(self._tree, place).items()
            same = [names for own, names in images if bare_number(own) == bare_number(stem)]
            if len(same) == 1:
                return place, same[0]
        return "", []
