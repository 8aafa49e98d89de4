"""Which annotation files a COCO folder has, by the layouts that tools write, and which split each of them is."""

from __future__ import annotations

import json
import re
from typing import NamedTuple

from singleshot.datasets.readers import coco_results, results
from singleshot.datasets.readers.common import images_by_stem
from singleshot.datasets.splits import KNOWN_SPLITS, are_parts, name_train, resolve_split, split_of, word_split
from singleshot.datasets.tree import Tree, join
from singleshot.errors import DataError, printable
from singleshot.text import utf8_head

# Files of the COCO download that hold no boxes of objects: what their names start with -> what they hold.
OTHER_TASKS = {"captions_": "captions", "stuff_": "areas", "panoptic_": "areas", "image_info": "images without labels"}
_OTHERS = tuple(OTHER_TASKS)
# Boxes too, of persons alone; read where nothing else is.
_KEYPOINTS = "person_keypoints_"
_EXPORTED = "_annotations.coco.json"  # Roboflow's name, one in each split's folder
_LABEL_FOLDERS = ("annotations", "annotation", "labels")
_PEEK_BYTES, _FEW = 1 << 16, 50
_LIST_KEY = re.compile(rb'"(images|annotations|categories)"\s*:\s*\[')


class CocoFile(NamedTuple):
    """One annotation file; tag names it ("train2017"); split is "train"; is_rest: train is what of it the other files
    do not have."""

    name: str
    tag: str
    split: str
    is_rest: bool = False


def coco_files(tree: Tree) -> list[CocoFile]:
    """The annotation files of a COCO folder, by the layouts that are known; [] when there is none."""
    found = []
    for place in _label_places(tree):
        pictures = images_by_stem(tree, place)
        # A JSON beside an image of its name is that image's own label (LabelMe's); others there may have lost theirs.
        own = {name for name in tree.files(place, (".json",)) if name[:-5] in pictures}
        for name in tree.files(place, (".json",)):
            if name.endswith(".json") and not name.startswith((*_OTHERS, _KEYPOINTS)) and name not in (_EXPORTED, *own):
                file = coco_file(join(place, name))
                usual = file.split in KNOWN_SPLITS or name.startswith("instances_")
                if (not own or usual) and _is_coco(tree, file.name, usual):
                    found.append(file)
    for folder in ("", *tree.folders()):
        if _EXPORTED in tree.names(folder):
            found.append(CocoFile(join(folder, _EXPORTED), folder or "all", split_of(folder) or "all"))
    found = _by_words(found)
    at = name_train([(file.split, file.name) for file in found])
    if at is not None:
        found[at] = found[at]._replace(split="train", is_rest=True)
    return found or _files_of_splits(tree) or _keypoints(tree) or _result_lists(tree)


def _by_words(files: list[CocoFile]) -> list[CocoFile]:
    """With the split that is a word of a file's name, "train" of "train_boxes.json", where one of several is it."""
    if len(files) == 1:  # "test-project.json" is all there is
        return files
    # What follows "instances_" is a split as it stands: our own writer's "instances_a_test.json".
    names = [file.name.rpartition("/")[2] for file in files]
    odd = [
        file.split not in KNOWN_SPLITS and not name.startswith("instances_")
        for file, name in zip(files, names, strict=True)
    ]
    words = [word_split(file.tag) if is_odd else "" for file, is_odd in zip(files, odd, strict=True)]
    taken = [*words, *(file.split for file in files)]
    return [
        file._replace(split=word) if word and taken.count(word) == 1 else file
        for file, word in zip(files, words, strict=True)
    ]


def _label_places(tree: Tree) -> list[str]:
    """The folder itself and those of labels in it."""
    return ["", *_label_folders(tree, "")]


def _json_files(tree: Tree, most: int | None = None) -> list[str]:
    """The JSON files there, so many of each folder at most."""
    return [join(place, name) for place in _label_places(tree) for name in tree.files(place, (".json",))[:most]]


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
            names = [name for name in tree.files(place, (".json",)) if not name.startswith(_OTHERS)]
            pictures = images_by_stem(tree, place) if names else {}
            mine = [n for n in names[:_FEW] if n[:-5] not in pictures and _is_coco(tree, join(place, n), usual=False)]
            for name in mine:
                tag = folder if len(mine) == 1 else f"{folder}/{name[:-5]}"
                found.append(CocoFile(join(place, name), tag, split_of(folder)))
    return found


def _keypoints(tree: Tree) -> list[CocoFile]:
    mine = [name for name in _json_files(tree) if name.rpartition("/")[2].startswith(_KEYPOINTS)]
    return [coco_file(name) for name in mine[:_FEW] if _is_coco(tree, name, usual=False)]


def _result_lists(tree: Tree) -> list[CocoFile]:
    """Lists of detections, which count as labels only where nothing else lies there."""
    return [coco_file(name) for name in _json_files(tree, _FEW) if coco_results.is_one(_head(tree, name) or b"")]


def coco_file(name: str) -> CocoFile:
    """A file with what its name says."""
    tag = name.rpartition("/")[2][:-5].removeprefix("instances_").removeprefix(_KEYPOINTS)
    return CocoFile(name, tag, split_of(tag))


def _is_coco(tree: Tree, name: str, usual: bool) -> bool:
    """Whether a JSON file is COCO by its keys; one of a usual name that is no whole JSON is a broken COCO file."""
    start = _head(tree, name)
    if start is None:
        return usual
    text = utf8_head(start).lstrip()
    if results.is_one(text) or coco_results.is_one(text) or b'"@context"' in text:  # JSON-LD: IIIF has annotations too
        return False
    if has_lists(text) and not text.startswith(b"[") and b'"schema_ref"' not in text:  # Darwin's
        # Of a longer file the other lists may come later; Label Studio's notes.json has categories alone.
        lists = set(_LIST_KEY.findall(text))
        return usual or len(start) == _PEEK_BYTES or (b"images" in lists and len(lists) > 1)
    if not usual or re.search(rb'"(shapes|regions|_via_\w+)"\s*:', text):
        return False
    if len(start) == _PEEK_BYTES:  # the lists may come later
        return text.startswith(b"{")
    try:
        json.loads(start)
    except (ValueError, RecursionError):
        return True
    return False


def has_lists(head: bytes) -> bool:
    """Whether the first bytes of a file have one of COCO's lists."""
    return _LIST_KEY.search(head) is not None


def _head(tree: Tree, name: str) -> bytes | None:
    try:
        return tree.read(name, _PEEK_BYTES, "annotation", most=_PEEK_BYTES)
    except DataError:
        return None


def is_undivided(files: list[CocoFile], named: str, wanted: str | None = None) -> bool:
    """Whether the files of a folder say no split by their names: CVAT's instances_default.json or annotations.json
    alone, and parts of one set of which none is wanted."""
    is_one = len(files) == 1 or (are_parts([file.name for file in files]) and wanted not in [f.tag for f in files])
    return not named and is_one and not any(file.split in KNOWN_SPLITS for file in files)


def choose_files(tree: Tree, files: list[CocoFile], split: str) -> list[CocoFile]:
    """The file of a split, named with its year or without, and others that are called the same; DataError when there is
    none, or several by other names."""
    exact = [file for file in files if file.tag == split]
    if not exact:
        name = resolve_split(split, {file.split for file in files}, tree.root)
        exact = [file for file in files if file.split == name]
    if len({file.tag for file in exact}) > 1:
        there = ", ".join(printable(file.name) for file in exact[:8])
        raise DataError(f"{printable(tree.root)}: several files for split {printable(split)!r} ({there}); name one")
    return exact
