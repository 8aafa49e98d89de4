"""Images that lie in a data set's image folders although no label mentions them, or no split lists them."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from pathlib import PurePosixPath
from urllib.parse import unquote

from singleshot.datasets.findings import Finding, RaiseErrors
from singleshot.datasets.raw import RawSet
from singleshot.datasets.sources import Source
from singleshot.datasets.splits import KNOWN_SPLITS, split_of
from singleshot.datasets.tree import Tree, join
from singleshot.errors import DataError, printable
from singleshot.images.suffixes import is_image

# What is said of folders of splits by the readers.
_OF_FOLDERS = ("split-left-out", "split-unusable", "labels-unread")
_MOST = 1000  # label files without an image that are looked at, in one folder


def check_strays(source: Source, raw: RawSet, known: Sequence[Finding], problems: RaiseErrors) -> None:
    """known: what the readers found; an image that they speak of is not reported a second time."""
    tree = source.tree
    if not raw.images or (
        source.format.in_one_file and any(finding.kind == "annotation-unreadable" for finding in known)
    ):
        return
    used = {image.path for image in raw.images}
    spoken: set[str] | None = None
    # An image that has a label file is labelled, whether or not it is listed.
    labels = tree.files(*source.format.label_folder) if source.format.label_folder else []
    labelled = {name.rpartition(".")[0] for name in labels}
    own = source.format.own_labels

    def has_label(name: str) -> bool:
        stem = name.rpartition("/")[2].rpartition(".")[0]
        return stem in labelled or (own is not None and own.of(tree, name) is not None)

    places = _folders(tree, used)
    for place in [] if source.file else _other_splits(tree, places, known):
        names = [join(place, name) for name in _files(tree, place) if is_image(name)]
        left = [name for name in names if tree.path(name) not in used and not has_label(name)]
        if left:
            count = f"{len(left)} images" if len(left) > 1 else "1 image"
            first = printable(min(left).rpartition("/")[2], 80)
            fault = f"holds {count} of which no label is read ({first}); label them, or remove them"
            problems.add("folder-unlabelled", tree.path(place), fault)
    for place in places:
        if own is not None:
            _check_orphans(tree, own.without_image(tree, place, _MOST), problems)
        for name in _files(tree, place):
            path = tree.path(join(place, name))
            if not is_image(name) or path in used:
                continue
            spoken = _names_in(known) if spoken is None else spoken
            stem = name.rpartition(".")[0]
            if name in spoken or stem in spoken:
                continue
            if has_label(join(place, name)):
                fault = "has a label file, but no split lists it; add it to one, or remove it"
                problems.add("image-unused", path, fault)
            else:
                fault = "no label mentions it; label it, say that it shows nothing, or remove it"
                problems.add("image-unlabelled", path, fault)


def _other_splits(tree: Tree, places: list[str], known: Sequence[Finding]) -> list[str]:
    """The folders that those of the images would be in other splits, test/images for train/images, without those below
    which some are and those of which the readers say something."""
    said = [finding.message for finding in known if finding.kind in _OF_FOLDERS]
    words = set(re.findall(r"\w+", " ".join(said)))
    found: dict[str, None] = {}
    for place in places:
        parts = place.split("/")
        for k, part in enumerate(parts):
            others = tree.open_folders("/".join(parts[:k])) if split_of(part) in KNOWN_SPLITS else ()
            for name in others:
                if split_of(name) in KNOWN_SPLITS and name != part and name not in words:
                    found["/".join([*parts[:k], name, *parts[k + 1 :]])] = None
    above = {"/".join(parts[:n]) for parts in (place.split("/") for place in places) for n in range(1, len(parts) + 1)}
    return [place for place in found if place not in above]


def _check_orphans(tree: Tree, labels: list[str], problems: RaiseErrors) -> None:
    if labels:
        shown = ", ".join(printable(name.rpartition("/")[2], 80) for name in labels[:3]) + ", ..." * (len(labels) > 3)
        count = f"{len(labels)} label files have" if len(labels) > 1 else "1 label file has"
        fault = f"{count} no image ({shown}); add the images, or remove the files"
        problems.add("label-without-image", tree.path(labels[0].rpartition("/")[0]), fault)


def _files(tree: Tree, place: str) -> list[str]:
    try:
        return tree.files(place)
    except DataError:  # a folder that went away meanwhile
        return []


def _folders(tree: Tree, paths: Iterable[str]) -> list[str]:
    """The folders of these files, relative to the tree."""
    root = tree.path("").replace("\\", "/").rstrip("/")
    found = set()
    for path in paths:
        parent = str(path).replace("\\", "/").rpartition("/")[0]
        if parent == root or (parent + "/").startswith(root + "/"):
            found.add(parent[len(root) + 1 :])
        elif root in ("", "."):
            found.add(parent)
    web = root.startswith(("http:", "https:"))
    return sorted(unquote(place) if web else place for place in found)


def _names_in(findings: Iterable[Finding]) -> set[str]:
    """Every word of these findings that may be an image's name or stem."""
    names: set[str] = set()
    for finding in findings:
        names.add(PurePosixPath(finding.file.replace("\\", "/")).stem)
        for text in (finding.item, finding.message):
            for word in re.findall(r"[^\s/\\'\"(),;:]+", text):
                names |= {word, word.rpartition(".")[0] or word}
            names |= set(re.findall(r"'([^']+)'", text))
    return {printable(name) for name in names}
