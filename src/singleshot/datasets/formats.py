"""Which forms of data sets are read, and telling them apart by looking."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from singleshot.datasets.findings import RAISE_ERRORS, RaiseErrors
from singleshot.datasets.raw import RawSet
from singleshot.datasets.readers import coco, csv, labelme, shards, voc, yolo
from singleshot.datasets.tree import LocalTree, Tree, describe_contents, is_remote, open_tree
from singleshot.errors import DataError, printable

WANTED = (
    "a VOC folder (Annotations/*.xml, JPEGImages/*, ImageSets/Main/*.txt), a COCO JSON file or a folder "
    "with train.json or annotations/instances_train*.json, a YOLO data.yaml or a folder with it or with images/ and "
    "labels/*.txt, a CSV file or a folder with train.csv (file,xmin,ymin,xmax,ymax,class), LabelMe's NAME.json "
    "beside each image, or a folder of shards with shards.json"
)


class Format(NamedTuple):
    """One form. about: for people; sniff(tree): the sub-folder where such data lies ("" for the tree itself), or None;
    splits(tree, file) and read(tree, file, split or None, problems), where file is "" or the one that the user named;
    line(contents of a label file, object's number): where that object stands in it."""

    about: str
    sniff: Callable[[Tree], str | None]
    splits: Callable[[Tree, str], tuple[str, ...]]
    read: Callable[[Tree, str, str | None, RaiseErrors], RawSet]
    line: Callable[[bytes, int], int | None]
    suffixes: tuple[str, ...] = ()


# The order in which they are looked for. Endings are those of files that a user may name in place of a folder.
FORMATS = {
    "shards": Format("shards", shards.sniff, shards.splits, shards.read, shards.line_of),
    "voc": Format("Pascal VOC", voc.sniff, voc.splits, voc.read, voc.line_of),
    "coco": Format("COCO", coco.sniff, coco.splits, coco.read, coco.line_of, (".json",)),
    "yolo": Format("YOLO", yolo.sniff, yolo.splits, yolo.read, yolo.line_of, (".yaml", ".yml")),
    "csv": Format("CSV", csv.sniff, csv.splits, csv.read, csv.line_of, (".csv",)),
    "labelme": Format("LabelMe", labelme.sniff, labelme.splits, labelme.read, labelme.line_of),
}


class Source(NamedTuple):
    """A data set that was found: its form, its folder, and the file that the user named ("" for a folder)."""

    form: str
    tree: Tree
    file: str

    @property
    def splits(self) -> tuple[str, ...]:
        """Names of the splits that are there or would be made."""
        return FORMATS[self.form].splits(self.tree, self.file)

    def read(self, split: str | None = None, problems: RaiseErrors = RAISE_ERRORS) -> RawSet:
        """The annotations of one split, or of all; DataError at the first problem unless they are collected."""
        return FORMATS[self.form].read(self.tree, self.file, split, problems)

    def line(self, file: str, number: int) -> int | None:
        """The line on which object `number` stands in a label file, given by its whole path; None if unknown."""
        try:
            data = Path(file).read_bytes() if not is_remote(file) else b""
        except OSError:
            return None
        return FORMATS[self.form].line(data, number)


def open_source(path: str | os.PathLike[str]) -> Source:
    """Find out what lies at a path or address. Raises DataError with what is wanted and what is there."""
    if is_remote(path):
        return _open_remote(str(path))
    place, where = Path(path), printable(path)
    try:
        is_folder, is_there = place.is_dir(), place.exists()
    except (OSError, ValueError) as error:  # a name too long, or with a NUL
        raise DataError(f"{where}: is no path ({error}); want {WANTED}") from error
    if not is_there:
        raise DataError(f"{where}: no such file or folder; want {WANTED}")
    if not is_folder:
        return _named_file(LocalTree, str(place.parent), place.name, where)
    return _look(open_tree(place), where)


def _open_remote(address: str) -> Source:
    parent, _, name = address.rstrip("/").rpartition("/")
    if any(name.lower().endswith(form.suffixes) for form in FORMATS.values() if form.suffixes):
        return _named_file(open_tree, parent, name, printable(address))
    return _look(open_tree(address), printable(address))


def _named_file(make_tree: Callable[[str], Tree], parent: str, name: str, where: str) -> Source:
    form = next((key for key, form in FORMATS.items() if form.suffixes and name.lower().endswith(form.suffixes)), None)
    if form is None:
        raise DataError(f"{where}: not a data set that is read here; want {WANTED}")
    # Images may lie beside the folder that holds the labels.
    above, _, folder = parent.replace("\\", "/").rpartition("/")
    if folder in ("annotations", "labels"):
        return Source(form, make_tree(above or "."), f"{folder}/{name}")
    return Source(form, make_tree(parent), name)


def _look(tree: Tree, where: str) -> Source:
    if not tree.names():
        raise DataError(f"{where}: empty folder; want {WANTED}")
    nested = None
    for key, form in FORMATS.items():
        below = form.sniff(tree)
        if below == "":
            return Source(key, tree, "")
        # What lies deeper counts only where nothing is found here: a COCO folder may hold VOC ones.
        if below is not None and nested is None:
            nested = Source(key, open_tree(tree.path(below)), "")
    if nested is None:
        raise DataError(f"{where}: no data set of a known form (found {describe_contents(tree)}); want {WANTED}")
    return nested
