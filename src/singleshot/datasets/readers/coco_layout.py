"""Which files of a folder are COCO's: by their usual names and places, and by their keys."""

from __future__ import annotations

import json
import re
from typing import NamedTuple

from singleshot.datasets.readers import results
from singleshot.datasets.splits import KNOWN_SPLITS, split_of, word_split
from singleshot.datasets.tree import Tree, join
from singleshot.errors import DataError
from singleshot.images.suffixes import is_image

# Files of the COCO download that hold no boxes of objects.
_OTHER_TASKS = ("person_keypoints_", "captions_", "stuff_", "panoptic_", "image_info_")
_LABEL_FOLDERS = ("annotations", "annotation", "labels")
_EXPORTED = "_annotations.coco.json"  # Roboflow's name, one in each split's folder
_PEEK_BYTES, _FEW = 1 << 16, 50
_LIST_KEY = re.compile(rb'"(images|annotations|categories)"\s*:\s*\[')


class CocoFile(NamedTuple):
    """One annotation file; tag names it ("train2017"); split is "train"."""

    name: str
    tag: str
    split: str


def coco_files(tree: Tree) -> list[CocoFile]:
    """The annotation files of a COCO folder, by the layouts that are known; [] when there is none."""
    found = []
    for place in ("", *_label_folders(tree, "")):
        pictures = {name.rpartition(".")[0] for name in tree.files(place) if is_image(name)}
        # A JSON beside an image of its name is that image's own label (LabelMe's); others there may have lost theirs.
        own = {name for name in tree.files(place, (".json",)) if name[:-5] in pictures}
        for name in tree.files(place, (".json",)):
            if name.endswith(".json") and not name.startswith(_OTHER_TASKS) and name != _EXPORTED and name not in own:
                file = coco_file(join(place, name))
                usual = file.split in KNOWN_SPLITS or name.startswith("instances_")
                if (not own or usual) and _is_coco(tree, file.name, usual):
                    found.append(file)
    for folder in ("", *tree.folders()):
        if _EXPORTED in tree.names(folder):
            found.append(CocoFile(join(folder, _EXPORTED), folder or "all", split_of(folder) or "all"))
    return _by_words(found) or _files_of_splits(tree)


def _by_words(files: list[CocoFile]) -> list[CocoFile]:
    """With the split that is a word of a file's name, "train" of "train_boxes.json", where one of several is it."""
    if len(files) == 1:  # "test-project.json" is all there is
        return files
    # What follows "instances_" is a split as it stands: our own writer's "instances_a_test.json".
    odd = [file.split not in KNOWN_SPLITS and "instances_" not in file.name for file in files]
    words = [word_split(file.tag) if is_odd else "" for file, is_odd in zip(files, odd, strict=True)]
    taken = [*words, *(file.split for file in files)]
    return [
        file._replace(split=word) if word and taken.count(word) == 1 else file
        for file, word in zip(files, words, strict=True)
    ]


def _label_folders(tree: Tree, folder: str) -> list[str]:
    return [join(folder, name) for name in tree.folders(folder) if name.lower() in _LABEL_FOLDERS]


def _files_of_splits(tree: Tree) -> list[CocoFile]:
    """Those in the folders of splits or in their annotations/: train/labels.json, val/annotations/instances.json; or in
    annotations/train/."""
    found = []
    inside = [(join(top, name), name) for top in _label_folders(tree, "") for name in tree.folders(top)]
    for place_of_split, folder in [*((name, name) for name in tree.folders()), *inside]:
        known = split_of(folder) in KNOWN_SPLITS
        for place in (place_of_split, *_label_folders(tree, place_of_split)) if known else ():
            names = [name for name in tree.files(place, (".json",)) if not name.startswith(_OTHER_TASKS)]
            pictures = {name.rpartition(".")[0] for name in tree.files(place) if is_image(name)} if names else set()
            mine = [n for n in names[:_FEW] if n[:-5] not in pictures and _is_coco(tree, join(place, n), usual=False)]
            for name in mine:
                tag = folder if len(mine) == 1 else f"{folder}/{name[:-5]}"
                found.append(CocoFile(join(place, name), tag, split_of(folder)))
    return found


def coco_file(name: str) -> CocoFile:
    tag = name.rpartition("/")[2][:-5].removeprefix("instances_")
    return CocoFile(name, tag, split_of(tag))


def _is_coco(tree: Tree, name: str, usual: bool) -> bool:
    """Whether a JSON file is COCO by its keys; one of a usual name that is no whole JSON is a broken COCO file."""
    try:
        start = tree.read(name, _PEEK_BYTES, "annotation", most=_PEEK_BYTES)
    except DataError:
        return usual
    text = start.removeprefix(b"\xef\xbb\xbf").lstrip()
    if results.is_one(text):
        return False
    if _LIST_KEY.search(text) and not text.startswith(b"[") and b'"schema_ref"' not in text:  # Darwin's
        return True
    if not usual or re.search(rb'"(shapes|regions|_via_\w+)"\s*:', text):
        return False
    if len(start) == _PEEK_BYTES:  # the lists may come later
        return text.startswith(b"{")
    try:
        json.loads(start)
    except (ValueError, RecursionError):
        return True
    return False
