"""What the paths in a data.yaml mean: folders of images or lists of them, inside the data set's folder alone."""

from __future__ import annotations

import re
from itertools import islice
from typing import NamedTuple

from singleshot.datasets.readers.yolo_yaml import YAMLS, Description
from singleshot.datasets.splits import KNOWN_SPLITS, SPLIT_ALIASES, find_split, split_of
from singleshot.datasets.tree import Tree, join
from singleshot.errors import DataError, printable

MAX_PARTS = 64  # more than any path has; ends the search through a hostile one
_FEW = 100
_LIST_BYTES, _EMPTY = 256 * 2**20, "is an empty list"


class Place(NamedTuple):
    """Where images are: a folder, with those below it where `deep`, or a .txt list of them where `listed`."""

    name: str
    deep: bool = True
    listed: bool = False


def described_splits(tree: Tree, home: str, described: Description) -> tuple[dict[str, list[Place]], dict[str, str]]:
    """Split -> its places, and split -> what is wrong with them, of a yaml in the folder `home`."""
    splits: dict[str, list[Place]] = {}
    broken: dict[str, str] = {}
    for split, entries in described.splits.items():
        places = []
        for entry in entries:
            try:
                place = _resolve(tree, home, described.path, entry)
                if place.listed and not tree.read(place.name, _LIST_BYTES, "list of images", most=_FEW).strip():
                    raise DataError(f"{printable(entry, 120)!r} {_EMPTY}; list its images in it, one a line")
                places.append(place)
            except DataError as error:
                broken.setdefault(split, f"{split}: {error}")
        if split not in broken:
            splits[split] = places
    return splits, broken


def move(
    tree: Tree, home: str, described: Description, splits: dict[str, list[Place]], broken: dict[str, str]
) -> tuple[str, ...]:
    """Put what is broken into `splits` where its paths have folders too many or too few: the longest end of each that
    is there, or the whole in the only folder below that has it. Returns what to say of that."""
    # Of two splits that say different places both may not be the same.
    taken = {place.name: described.splits[split] for split, places in splits.items() for place in places}
    said = []
    are_same = len({tuple(entries) for entries in described.splits.values()}) == 1
    for split in [split for split in broken if _EMPTY not in broken[split]]:
        entries = described.splits[split]
        places = [_elsewhere_or_alias(tree, home, split_path(entry)[0], are_same) for entry in entries]
        found = [place for place in places if place is not None and taken.get(place.name, entries) == entries]
        if len(found) < len(entries):
            continue
        taken.update((place.name, entries) for place in found)
        splits[split] = found
        del broken[split]
        there = ", ".join(printable(place.name, 80) for place in found)
        said.append(
            f"{split}: {printable(entries[0], 80)!r} is not there; {there} is read in its place; correct the path"
        )
    return tuple(said)


def take_folders(
    described: Description, splits: dict[str, list[Place]], broken: dict[str, str], plain: dict[str, list[Place]]
) -> tuple[str, ...]:
    """Put what is still broken into `splits` where folders are called after the split; where no path of the yaml is
    there, all images that have labels, without splits. plain: what is found without a yaml. Returns what to say."""
    first = next((entries[0] for split, entries in described.splits.items() if split in broken), "")
    if not splits and "" in plain:
        splits.update(plain)
        broken.clear()
        there = ", ".join(printable(place.name or "the folder itself", 80) for place in plain[""])
        return (f"no path of it is there ({printable(first, 80)!r}); {there} is read, without splits; correct them",)
    taken, said = {place.name for places in splits.values() for place in places}, []
    for split in list(broken):
        places = plain.get(find_split(split, plain) or "", [])
        if not places or any(place.name in taken for place in places):
            continue
        splits[split] = places
        taken.update(place.name for place in places)
        what = _EMPTY if _EMPTY in broken.pop(split) else "is not there"
        entry, there = printable(described.splits[split][0], 80), ", ".join(printable(p.name, 80) for p in places)
        said.append(f"{split}: {entry!r} {what}; {there} is read in its place; correct the path")
    return tuple(said)


def keep_empty(
    tree: Tree, home: str, described: Description, splits: dict[str, list[Place]], broken: dict[str, str]
) -> None:
    """Put empty lists, for which nothing stands in, into `splits` where another split is there: they are left out."""
    for split in [split for split in broken if splits and _EMPTY in broken[split]]:
        splits[split] = [_resolve(tree, home, described.path, entry) for entry in described.splits[split]]
        del broken[split]


def _elsewhere_or_alias(tree: Tree, home: str, parts: list[str], are_same: bool) -> Place | None:
    """As `_elsewhere`, else the only folder that is called by another name of the same split: labels/valid for
    labels/val."""
    place = _elsewhere(tree, home, parts, are_same)
    if place is not None or are_same:
        return place
    found: dict[str, Place] = {}
    for k, part in enumerate(parts[:MAX_PARTS]):
        for alias in SPLIT_ALIASES.get(split_of(part), ()):
            there = _elsewhere(tree, home, [*parts[:k], alias, *parts[k + 1 :]], are_same)
            if there is not None:
                found[there.name] = there
    return next(iter(found.values())) if len(found) == 1 else None


def _elsewhere(tree: Tree, home: str, parts: list[str], are_same: bool) -> Place | None:
    """The folder or list that a path may mean which is not there as written; are_same: all splits have that path."""
    if not 0 < len(parts) <= MAX_PARTS:
        return None
    ends = [home, *(join(home, name) for name in islice(tree.open_folders(home), _FEW))]
    for i in range(len(parts)):
        tail = "/".join(parts[i:])
        usual = split_of(tail) in KNOWN_SPLITS or tail.lower().endswith(".txt")
        if "/" not in tail and not usual and not (are_same and i > 0):
            return None  # "images" alone may be of any split
        there = [found for found in (tree.find(end, tail) for end in (ends if i == 0 else ends[:1])) if found]
        if len(there) > 1 or (there and i == 0 and _has_own_yaml(tree, there[0], tail)):
            return None
        if there and tree.is_dir(there[0]):
            divided = any(split_of(name) in KNOWN_SPLITS for name in tree.folders(there[0]))
            return None if divided and "/" not in tail and not usual else Place(there[0])
        if there and there[0].lower().endswith(".txt"):
            return Place(there[0], listed=True)
    return None


def _has_own_yaml(tree: Tree, found: str, tail: str) -> bool:
    above = found[: -len(tail) - 1]
    return bool(above) and any(name in tree.names(above) for name in YAMLS)


def _resolve(tree: Tree, home: str, path: str, entry: str) -> Place:
    """The folder or list inside the tree that a yaml in the folder `home` means by `entry` under its `path`."""
    own, absolute = split_path(entry)[0], _is_absolute(entry)
    described = entry if absolute or not path else f"{path}/{entry}"
    whole, leads_out = split_path(described)
    if len(whole) > MAX_PARTS:
        raise DataError(f"{printable(described, 120)!r} has more than {MAX_PARTS} parts; want a folder in this one")
    # Of the entry itself nothing may be left out, unless it is absolute.
    shortest = min(len(own), 1) if absolute else len(own)
    tails = [whole[i:] for i in range(max(len(whole) - shortest, 0) + 1)]
    if not absolute and own[:1] == [tree.root.replace("\\", "/").rpartition("/")[2]]:
        tails.append(own[1:])  # "set/train/images" in set/data.yaml
    for tail in tails:
        found = tree.find(home, "/".join(tail)) if tail else home
        if found is None:
            continue
        if not tail or tree.is_dir(found):
            return Place(found)
        if found.lower().endswith(".txt"):
            return Place(found, listed=True)
        raise DataError(f"{printable(described, 120)!r} is a file; want a folder of images, or a .txt list of them")
    if leads_out:
        raise DataError(
            f"{printable(described, 120)!r} leads out of {printable(tree.root)} and nothing in there has its name; "
            "move images, labels and yaml into one folder, and write the path from there"
        )
    raise DataError(
        f"{printable(described, 120)!r} is not in {printable(tree.root)}; correct the path, or add the folder"
    )


def _is_absolute(text: str) -> bool:
    return re.match(r"\s*([/\\~]|[A-Za-z]:)", text) is not None


def split_path(text: str) -> tuple[list[str], bool]:
    """Parts of a path, "a/../b" being "b", and whether it is absolute or climbs out of where it starts.

    What leads out (the drive, the root, each ".." without a part before it) is no longer in the parts.
    """
    far = _is_absolute(text)
    text = text.strip().replace("\\", "/")
    parts: list[str] = []
    for part in text.split("/"):
        if part == ".." and parts:
            parts.pop()
        elif part == "..":
            far = True
        elif part not in ("", ".") and (parts or not re.fullmatch(r"[A-Za-z]:|~", part)):
            parts.append(part)
    return parts, far
