"""The layout of a YOLO folder: the yaml that describes it, of several the one that is meant, or its folders alone."""

from __future__ import annotations

import contextlib
from itertools import chain, islice

from singleshot.datasets.findings import CollectErrors
from singleshot.datasets.readers.yolo_layout import (
    Layout,
    Lists,
    described_lists,
    images_of,
    label_of,
    names_in_files,
    plain_splits,
    read_names,
)
from singleshot.datasets.readers.yolo_pairs import MAX_NAMES_BYTES, unread_pairs
from singleshot.datasets.readers.yolo_places import Place, described_splits, keep_empty, move, take_folders
from singleshot.datasets.readers.yolo_rows import class_word
from singleshot.datasets.readers.yolo_yaml import MAX_CLASSES, YAMLS, Description, describes, load_description
from singleshot.datasets.tree import Tree
from singleshot.errors import DataError, printable
from singleshot.text import decode_text

_FEW = 100


def find_layout(tree: Tree, file: str) -> Layout:
    """The layout of a folder, or of the one that the named yaml lies in. Raises DataError where there is none."""
    yaml = file or find_yaml(tree)
    described = load_description(tree, yaml) if yaml else Description("", {}, None, 0, None)
    home = yaml.rpartition("/")[0]
    splits, broken = described_splits(tree, home, described)
    moved = move(tree, home, described, splits, broken) if broken else ()
    if broken and not home:
        moved += take_folders(described, splits, broken, plain_splits(tree))
    keep_empty(tree, home, described, splits, broken)
    darknet = Lists({}) if described.splits else described_lists(tree)
    if not described.splits:
        splits = plain_splits(tree, darknet)
    if not splits and not broken:
        raise DataError(
            f"{printable(tree.path(yaml) if yaml else tree.root)}: no images of a YOLO data set; want train and val "
            "in data.yaml, or the folders images/ and labels/"
        )
    names, declared_in = described.names, yaml
    if names is None:
        names, declared_in = names_in_files(tree, splits)
    if names is None and darknet.names:
        names, declared_in = read_names(tree, darknet.names) or None, darknet.names
    notes = [("yaml-amended", message) for message in described.amended]
    notes += [("path-moved", message) for message in moved]
    if darknet.repeats:
        message = (
            f"Darknet's description gives {printable(darknet.splits['train'], 80)} for another split than train too"
        )
        notes.append(("split-left-out", f"{message}: that is none; train --val-split 10% holds images back"))
    if not file and (others := [name for name in _described(tree) if name != yaml]) and yaml not in YAMLS:
        shown = ", ".join(printable(name, 60) for name in others[:8])
        notes.append(("yaml-chosen", f"of the yaml files with names the one that fits the folder; not read: {shown}"))
    notes += [("labels-unread", message) for message in unread_pairs(tree, splits)]
    if len(places := [place.name for place in splits.get("", ())]) > 1:
        shown = ", ".join(printable(place, 60) for place in places[:8])
        notes.append(("folders-joined", f"the images of {shown} are read together; to read one of them, name it"))
    return Layout(splits, broken, names, declared_in, yaml, described.keypoints, described.first, tuple(notes))


def find_yaml(tree: Tree) -> str:
    """The yaml that describes the folder: data.yaml, or the only one with `names`, or of several the one whose folders
    are there, or whose number of names is that of the labels; "" when there is none.

    Raises DataError when several of other names could be meant.
    """
    usual = next((name for name in YAMLS if name in tree.files() and describes(tree, name)), "")
    if usual:
        return usual
    found = _described(tree)
    if len(found) > 1:
        meant = _meant(tree, found)
        if len(meant) == 1:
            return meant[0]
        shown = ", ".join(printable(name, 60) for name in found[:8])
        raise DataError(f"{printable(tree.root)}: several yaml files with names ({shown}); name the one that you mean")
    return found[0] if found else ""


def _described(tree: Tree) -> list[str]:
    there = [name for name in tree.files("", (".yaml", ".yml")) if not name.startswith(".")]
    return [name for name in islice(there, _FEW) if describes(tree, name)]


def _meant(tree: Tree, found: list[str]) -> list[str]:
    """Those of several yaml files that may be meant: whose folders are there, if any, and that have names for just the
    labels' numbers."""
    described: dict[str, Description] = {}
    for name in found:
        with contextlib.suppress(DataError):  # one that cannot be read is not meant
            described[name] = load_description(tree, name)
    there = {name: splits for name, one in described.items() if (splits := described_splits(tree, "", one)[0])}
    if len(there) == 1:
        return list(there)
    places = list(chain.from_iterable((next(iter(there.values())) if there else plain_splits(tree)).values()))
    count = _highest_number(tree, places) + 1
    return [name for name in there or described if len(described[name].names or ()) == count]


def _highest_number(tree: Tree, places: list[Place]) -> int:
    """The highest number of a class in the first labels of each place; -1 where there are none."""
    highest = -1
    for place in places:
        labels = (label_of(tree, image) for image in images_of(tree, "", [place], CollectErrors(0)))
        for name in islice(filter(None, labels), _FEW):
            with contextlib.suppress(DataError, ValueError):  # reading says what is wrong
                text = decode_text(tree.read(name, MAX_NAMES_BYTES, "label"), name, paths=True)
                numbers = (float(class_word(line)) for line in text.split("\n") if line.strip())
                highest = max([highest, *(int(number) for number in numbers if 0 <= number < MAX_CLASSES)])
    return highest
