"""This project's own lists in converted data sets, for what a form has no place for: classes in their order, splits."""

from __future__ import annotations

import json
from collections.abc import Sequence

from singleshot.datasets.findings import RaiseErrors
from singleshot.datasets.packed_strings import is_name
from singleshot.datasets.raw import RawImage
from singleshot.datasets.splits import resolve_split
from singleshot.datasets.tree import Tree
from singleshot.errors import DataError, printable

# A list of names, and a list of {"split": name, "files": names of images relative to the folder}: a dict of them might
# have the keys of another form.
CLASS_LIST, SPLIT_LIST = "singleshot-classes.json", "singleshot-splits.json"
_MAX_BYTES = 256 * 2**20


def read_class_list(tree: Tree, problems: RaiseErrors) -> tuple[str, ...]:
    """The classes of CLASS_LIST; () where there is none, or after a problem."""
    found = _read(tree, CLASS_LIST, problems)
    if found is None:
        return ()
    if not isinstance(found, list) or not all(map(is_name, found)):
        message = "is not a list of names in JSON; correct it or remove it"
        problems.add("annotation-unreadable", tree.path(CLASS_LIST), message)
        return ()
    return tuple(dict.fromkeys(name.strip() for name in found))


def read_split_lists(tree: Tree, problems: RaiseErrors) -> dict[str, list[str]]:
    """Split -> names of its images, of SPLIT_LIST; {} where there is none, or after a problem."""
    found = _read(tree, SPLIT_LIST, problems)
    if found is None:
        return {}
    lists: dict[str, list[str]] = {}
    for item in found if isinstance(found, list) else [None]:
        split, files = (item.get("split"), item.get("files")) if isinstance(item, dict) else (None, None)
        if not isinstance(split, str) or not isinstance(files, list) or not all(map(is_name, (split, *files))):
            message = 'is not a list of {"split": ..., "files": [...]}; correct it or remove it'
            problems.add("split-unusable", tree.path(SPLIT_LIST), message)
            return {}
        lists[split] = list(dict.fromkeys(files))
    return lists


def listed_splits(
    tree: Tree, lists: dict[str, list[str]], images: Sequence[RawImage], wanted: str | None, problems: RaiseErrors
) -> dict[str, list[int]]:
    """The splits that the lists say, all or the wanted one: positions in the images. DataError for a split that is not
    there; an image that no label file has is a problem."""
    if wanted is not None:
        split = resolve_split(wanted, lists, tree.root)
        lists = {split: lists[split]}
    place = {image.path: i for i, image in enumerate(images)}
    for split, files in lists.items():
        for name in files:
            if tree.path(name) not in place:
                message = f"split {printable(split)!r} has {printable(name)!r}, which no label file has; take it out"
                problems.add("split-unusable", tree.path(SPLIT_LIST), message)
    unused = place.keys() - {tree.path(name) for files in lists.values() for name in files}
    if unused and wanted is None:
        message = f"{len(unused)} labelled images are in no split (as {printable(min(unused))}); add them to one"
        problems.add("image-unused", tree.path(SPLIT_LIST), message)
    at = {split: [place.get(tree.path(name), -1) for name in files] for split, files in lists.items()}
    return {split: [i for i in positions if i >= 0] for split, positions in at.items()}


def _read(tree: Tree, name: str, problems: RaiseErrors) -> object:
    """What the file holds, None where there is none; "" where it is no JSON."""
    if name not in tree.names():
        return None
    try:
        return json.loads(tree.read(name, _MAX_BYTES, "list"))
    except DataError as error:
        problems.add_unreadable(tree.path(name), error)
        return None
    except (ValueError, RecursionError):
        return ""
