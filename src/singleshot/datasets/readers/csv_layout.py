"""Which CSV files of boxes a folder has, by the layouts that are known and by their first lines, and their splits."""

from __future__ import annotations

from pathlib import PurePosixPath
from typing import NamedTuple

from singleshot.datasets.findings import CollectErrors
from singleshot.datasets.readers.csv_columns import Columns, sniff_columns
from singleshot.datasets.readers.csv_rows import open_rows, scan_column, split_name
from singleshot.datasets.splits import KNOWN_SPLITS, find_split, name_train, usual_split
from singleshot.datasets.tree import Tree, join
from singleshot.errors import DataError, printable

_EXPORTED = "_annotations.csv"  # Roboflow's name, one in each split's folder
# Where the CSV files lie, if not at the root; "labels" and "data" beside images in other folders.
_FOLDERS = ("annotations", "labels", "data", "csv")
_TEXTS = ("gt.txt",)  # GTSDB's; MOT's of that name has no images in its rows
HEAD_BYTES = 1 << 16
_MOST_FILES = 1000  # heads that are looked at in one folder
WANTED = "a header like file,xmin,ymin,xmax,ymax,class, or rows path,x1,y1,x2,y2,class without one"


class CsvFile(NamedTuple):
    """One annotation file; split: "train", or "" where its name says none; tag: what its images are called then;
    is_rest: train is what of it the other files do not have."""

    name: str
    tag: str
    split: str
    columns: Columns
    is_rest: bool = False


def csv_files(tree: Tree) -> list[CsvFile]:
    """The annotation files of a folder, by the layouts that are known and by their first lines; [] for none."""
    found = []
    for place in ("", *_FOLDERS):
        for name in (*tree.files(place, (".csv",))[:_MOST_FILES], *tree.files(place, _TEXTS)):
            file = _look(tree, join(place, name), _split_in(name), name[:-4])
            found += [file] if file else []
    for folder in tree.folders():
        if folder not in _FOLDERS and tree.names(folder).get(_EXPORTED) is False:
            file = _look(tree, join(folder, _EXPORTED), split_name(folder), folder)
            found += [file] if file else []
    there = {usual_split(file.split) for file in found}
    for folder in tree.open_folders() if found else ():  # valid/labels.csv beside train_labels.csv
        if usual_split(folder) and find_split(usual_split(folder), there) is None:
            texts = [name for name in tree.files(folder, (".csv",)) if name != _EXPORTED]
            file = _look(tree, join(folder, texts[0]), usual_split(folder), folder) if len(texts) == 1 else None
            found += [file] if file else []
    at = name_train([(file.split, file.name) for file in found])
    if at is not None and found[at].columns.split < 0:
        found[at] = found[at]._replace(split="train", is_rest=True)
    return found


def set_apart(tree: Tree, files: list[CsvFile]) -> tuple[list[CsvFile], list[CsvFile]]:
    """The files, without those that say no split and have at least half of the images of train and the others that do:
    labels.csv beside train_labels.csv and test_labels.csv; where none says one, without those whose rows are all in the
    one that stays; and those."""
    if len(files) > 1 and not any(one.split or one.columns.split >= 0 for one in files):
        rows = [_rows_of(tree, one) for one in files]
        most = rows.index(max(rows, key=len))
        others = [one for at, one in enumerate(files) if at != most]
        return ([files[most]], others) if all(mine <= rows[most] for mine in rows) else (files, [])
    if "train" not in {one.split for one in files} or all(one.split for one in files):
        return files, []
    images = [set(scan_column(tree, one.name, one.columns, one.columns.image)) for one in files]
    of_splits: set[str] = set().union(*(there for there, one in zip(images, files, strict=True) if one.split))
    whole = [
        one
        for there, one in zip(images, files, strict=True)
        if not one.split and one.columns.split < 0 and 2 * len(there & of_splits) >= len(of_splits) > 0
    ]
    return [one for one in files if one not in whole], whole


def _rows_of(tree: Tree, file: CsvFile) -> set[tuple[str, ...]]:
    """What the rows say of images, boxes and classes, as written."""
    columns = file.columns
    places = (columns.image, columns.xmin, columns.ymin, columns.xmax, columns.ymax, columns.name)
    with open_rows(tree, file.name, columns.delimiter, columns.encoding, CollectErrors(0)) as rows:
        cells = (row for at, (_, row) in enumerate(rows) if at or not columns.header)
        return {tuple(row[at].strip() for at in places if 0 <= at < len(row)) for row in cells}


def files_of(tree: Tree, file: str) -> list[CsvFile]:
    """The one that the user named, or else those of the folder. Raises DataError where the named one is none."""
    if not file:
        return csv_files(tree)
    name = file.rpartition("/")[2]
    split = split_name(PurePosixPath(tree.root).name) if name == _EXPORTED else _split_in(name)
    found = _look(tree, file, split if split in KNOWN_SPLITS else "", name[:-4], must=True)
    assert found is not None
    return [found]


def _look(tree: Tree, name: str, split: str, tag: str, must: bool = False) -> CsvFile | None:
    """The file if its first line is that of boxes; with `must` DataError where it is not, or cannot be read."""
    try:
        head = tree.read(name, HEAD_BYTES, "annotation", most=HEAD_BYTES)
    except DataError:
        if must:
            raise
        return None  # whatever it is, it tells no form; what else lies there may
    columns = sniff_columns(head)
    if columns is not None:
        return CsvFile(name, tag, split, columns)
    if must:
        raise DataError(f"{printable(tree.path(name))}:1: no CSV of boxes: want {WANTED}")
    return None


def _split_in(name: str) -> str:
    """The split that a file's name says, "train_labels.csv" or "oidv6-train-annotations-bbox.csv"; "" for none."""
    words = "".join(c if c.isalpha() else " " for c in name[:-4].lower()).split()
    message = [word for word in words if word in KNOWN_SPLITS]
    return message[0] if len(message) == 1 else ""
