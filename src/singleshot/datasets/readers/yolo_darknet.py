"""Darknet's descriptions of a data set, obj.data: where its lists of images and its names of classes are."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator

from singleshot.datasets.readers.yolo_pairs import MAX_NAMES_BYTES
from singleshot.datasets.tree import Tree, join
from singleshot.errors import DataError
from singleshot.text import decode_text

_ENTRY = re.compile(r"^\s*(train|valid|val|test|names)\s*=\s*(\S.*?)\s*$", re.MULTILINE)
_FOLDERS, _FILES = ("cfg", "config", "data"), 20
_SPLITS = {"train": "train", "valid": "val", "val": "val", "test": "test"}


def read_entries(tree: Tree, file: str) -> tuple[dict[str, str], str]:
    """Split -> its list of images, and the list of names, "" for none, as the description says them. Raises
    DataError."""
    found = dict(_ENTRY.findall(decode_text(tree.read(file, MAX_NAMES_BYTES, "description"), tree.path(file))))
    return {_SPLITS[key]: value for key, value in found.items() if key in _SPLITS}, found.get("names", "")


def all_entries(tree: Tree) -> Iterator[tuple[str, dict[str, str], str]]:
    """Of each description in the folder itself and in those that Darknet has for it (cfg/, data/): its folder, and its
    entries; what cannot be read is none."""
    places = ("", *(name for name, is_folder in tree.names().items() if is_folder and name.lower() in _FOLDERS))
    for place in places:
        for name in tree.files(place, (".data",))[:_FILES]:
            with contextlib.suppress(DataError):
                yield (place, *read_entries(tree, join(place, name)))
