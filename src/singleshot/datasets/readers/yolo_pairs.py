"""Folders of images whose YOLO labels lie in another folder that is not called as usual, found by the names in both."""

from __future__ import annotations

import re
from typing import cast

from singleshot.datasets.readers.common import images_by_stem, spread
from singleshot.datasets.readers.row_meaning import COMMA_ROW
from singleshot.datasets.readers.yolo_places import Place
from singleshot.datasets.splits import folder_split, word_split
from singleshot.datasets.tree import Tree, join
from singleshot.errors import DataError, printable
from singleshot.storage import is_remote

MAX_NAMES_BYTES = 2**20
NAME_FILES = ("classes.txt", "obj.names", "labels.txt", "predefined_classes.txt", "_darknet.labels")
_FEW = 100
# Words in names of folders with pictures of the labels.
_OF_LABELS = re.compile(
    r"(?:^|[^a-z])(?:masks?|gt|ground_?truth|results?|outputs?|annotat\w*|predict\w*|vis\w*|overlays?)", re.IGNORECASE
)
_SHOWN = 4
_MORE = 60  # folders below those
_FOLDERS = 20  # next to each other, in which pairs are looked for


def splits_of_pairs(tree: Tree, besides: str = "") -> dict[str, list[Place]]:
    """The folders of images of all pairs: splits where each is called after another one, {"": ...} where not, {} where
    there are no pairs. besides: the folder of images of train; the others are splits by their names, or not taken."""
    folders = [name for name in _pairs(tree) if name != besides]
    splits = [word_split(name.replace("_", " ")) for name in folders]
    has_train = bool(besides) != ("train" in splits)
    if has_train and "" not in splits and len(set(splits)) == len(splits) >= 2 - bool(besides):
        return {split: [Place(name, deep=False)] for split, name in zip(splits, folders, strict=True)}
    return {"": [Place(name, deep=False) for name in folders]} if folders and not besides else {}


def unread_pairs(tree: Tree, splits: dict[str, list[Place]]) -> list[str]:
    """What to say of folders of images with labels that are in none of the splits; [] where these are lists."""
    places = [place for several in splits.values() for place in several]
    if any(place.listed for place in places):
        return []
    said = []
    for images, labels in _pairs(tree).items():
        if not any(place.name in ("", images) or images.startswith(f"{place.name}/") for place in places):
            said.append(
                f"the images of {printable(images, 80)} have labels in {printable(labels, 80)}, which are not read"
            )
        elif alike := [name for name, other in _alike(tree).items() if other == images]:
            shown = ", ".join(printable(name, 80) for name in alike[:_SHOWN])
            message = f"the labels in {printable(labels, 80)} are taken for those of {printable(images, 80)}"
            said.append(f"{message}; not read, with the same names: {shown}")
    return said


def pair_of(tree: Tree, folder: str) -> str | None:
    """The folder of labels that a folder of images is a pair with."""
    return _pairs(tree).get(folder) if folder and folder.count("/") < 2 else None


def paired_label(tree: Tree, folder: str, name: str) -> str | None:
    """The label file of that name for an image in `folder`, in the folder that it is a pair with; None for none."""
    labels = pair_of(tree, folder)
    return tree.find(labels, name) if labels is not None and name in tree.names(labels) else None


def starts_with_numbers(tree: Tree, name: str) -> bool:
    """Whether the first line of a text file is five numbers or more, or five with commas."""
    try:
        head = tree.read(name, MAX_NAMES_BYTES, "label")[:4096]
        words = head.decode("utf-8-sig", "replace").lstrip().splitlines()
        if COMMA_ROW.match(head.lstrip()):
            return True
        return len([float(word) for word in words[0].split()]) >= 5 if words else False
    except (ValueError, DataError):
        return False


def _pairs(tree: Tree) -> dict[str, str]:
    """Folder of images -> the one folder next to it whose text files are labels of most of them."""
    return _found(tree)[0]


def _alike(tree: Tree) -> dict[str, str]:
    """Folder of images that such labels would fit too -> the one that they are taken for."""
    return _found(tree)[1]


def _found(tree: Tree) -> tuple[dict[str, str], dict[str, str]]:
    """Both, looked for once."""
    key = "pairs of images and YOLO labels"
    if key not in tree.memo:
        tree.memo[key] = _find_pairs(tree)
    return cast("tuple[dict[str, str], dict[str, str]]", tree.memo[key])


def _find_pairs(tree: Tree) -> tuple[dict[str, str], dict[str, str]]:
    folders = tree.open_folders()
    if len(folders) > _FOLDERS or is_remote(tree.root):
        return {}, {}
    below = [join(top, name) for top in folders for name in tree.open_folders(top)]
    folders += below if len(below) <= _MORE else []
    images = {name: set(images_by_stem(tree, name)) for name in folders}
    texts = {name: {text[:-4] for text in tree.files(name, (".txt",)) if text not in NAME_FILES} for name in folders}
    found: dict[str, str] = {}
    alike: dict[str, str] = {}
    # What is called as images comes first, what shows the labels last.
    likely = {name: (_OF_LABELS.search(name) is not None, folder_split(name)[1] != "images") for name in folders}
    for name in sorted(folders, key=lambda name: (likely[name], name)):
        if not images[name] or texts[name]:
            continue
        # Folders next to each other, or of one name: train/ and labels/train/.
        near = [one for one in folders if "/" not in one + name or _last(one) == _last(name)]
        fits = [one for one in near if not images[one] and 2 * len(texts[one] & images[name]) > len(images[name])]
        same = [one for one in fits if folder_split(one)[0] == folder_split(name)[0]]
        fits = same if len(same) == 1 else fits
        if len(fits) == 1 and _has_rows(tree, fits[0]):
            labelled = images[name] & texts[fits[0]]
            first = next((one for one, labels in found.items() if labels == fits[0] and images[one] & labelled), None)
            if first is None:
                found[name] = fits[0]
            else:
                alike[name] = first
    return {name: found[name] for name in sorted(found)}, alike


def _last(folder: str) -> str:
    return folder.rpartition("/")[2].lower()


def _has_rows(tree: Tree, folder: str) -> bool:
    return any(starts_with_numbers(tree, join(folder, name)) for name in spread(tree.files(folder, (".txt",)), _FEW))
