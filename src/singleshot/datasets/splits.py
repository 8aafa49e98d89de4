"""Finding the split that was asked for, and making splits where a data set has none."""

from __future__ import annotations

import functools
import hashlib
import re
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from pathlib import PurePosixPath
from string import ascii_lowercase

from singleshot.errors import DataError, printable

# What splits are for, and all names of each, the likelier first: the only ones that stand for each other; nothing else
# is guessed.
ROLES = {
    "train": ("train", "training"),
    "val": ("val", "valid", "validation", "validate", "eval", "evaluation", "dev"),
    "test": ("test", "testing"),
}
# Of a split that is asked for, the names that it may have instead.
SPLIT_ALIASES = {
    name: tuple(other for other in names if other != name)
    for names in ROLES.values()
    for name in names
    if name in ("train", "val", "valid", "validation", "validate", "test")
}
KNOWN_SPLITS = (
    *("train", "val", "valid", "validation", "test", "trainval", "dev", "minival", "unlabeled"),
    *("training", "testing", "validate"),
)
# Those that stay no names of splits: data sets that have them mean the shorter one.
_LONGER = ("training", "testing", "validate")
# Words in names of label files that say no split, and those that say all of it.
_LABEL_WORDS = {"annotations", "annotation", "labels", "label", "instances", "boxes", "bboxes", "data", "dataset"}
_LABEL_WORDS |= {"all", "full", "whole", "complete", "total", "combined"}
# Words in names of folders that say what lies in them.
_KINDS = dict.fromkeys(("images", "image", "imgs", "img", "jpegimages", "photos", "pictures", "jpg", "png"), "images")
_KINDS |= dict.fromkeys(("annotations", "annotation", "annots", "annot", "annos", "anno"), "labels")
_KINDS |= dict.fromkeys(("labels", "label", "xmls", "xml", "jsons", "json"), "labels")
# A split's name and a number that is no year.
_NUMBERED = re.compile(r"([A-Za-z]{2,20})[ _-]?\d{1,2}")
# Names of years alone, and those with a number that says a version, a size or the like.
_YEAR = re.compile(r"\D*(?:19|20)\d\d\D*")
_VERSION = re.compile(
    r"(?:^|[^a-z])(?:v|ver|version|rev|release|exp|experiment|run|trial|attempt|copy|old|new|backup|bak|size|scale|res|"
    r"yolov?|epochs?|models?)[ ._-]*#|#[ ._-]*(?:px|x#|classe?s?\b)"
)
_LETTERED = re.compile(r"(?:[ ._-][A-Za-z]|[a-z0-9][A-Z])$")
_FOLDS, _WHOLE = ("fold", "folds", "kfold", "split", "splits", "cv", "k"), 100
# Parts held back for val and for test where splits are made.
HELD_BACK = 0.1

# Roboflow: "name_jpg.rf.<hash>" for each augmented copy of "name.jpg".
_ROBOFLOW = re.compile(r"(_(jpe?g|png|bmp|webp|tiff?))?\.rf\.[0-9a-zA-Z]{8,}$", re.IGNORECASE)
# One mark of a copy at the end. Marks are taken off one by one: a repeat within a repeat takes for ever on some names.
_COPY = re.compile(
    r"(?:[ _.-]{1,4}(?:copy|aug(?:mented)?|[hv]?flip(?:ped)?|mirror(?:ed)?|rot(?:ated?)?|crop(?:ped)?|tile|patch|frame|"
    r"blur(?:red)?|noisy?|bright(?:er)?|dark(?:er)?)[ _.-]{0,4}\d{0,12}(?:[_x-]\d{1,12})?| ?\(\d{1,12}\))$",
    re.IGNORECASE,
)
_MARKS, _MARK_CHARS, _NAME_CHARS = 8, 64, 256
_SEPARATORS = "_-. ("


def split_of(name: str) -> str:
    """The split that a folder or file is called after: "train" for "Train2017", of other names the name itself."""
    plain = re.sub(r"(?<=[^\d])(19|20)\d\d$", "", name)
    return plain.lower() if plain.lower() in KNOWN_SPLITS else plain


def usual_split(name: str) -> str:
    """The usual split that a text or folder means, under its shortest name: "train" for " Training"; "" for others."""
    split = name.strip().lower()
    if split not in KNOWN_SPLITS:
        return ""
    return role(split) if split in _LONGER else split


def role(split: str) -> str:
    """train, val or test, by any of their names and in any letter case; other names as they are."""
    return next((kind for kind, names in ROLES.items() if split.lower() in names), split)


def word_split(name: str) -> str:
    """The only usual split among the words of a name: "train" for "labels-train.json"; "" for none and for several."""
    words = dict.fromkeys(filter(None, map(usual_split, re.findall(r"[A-Za-z]+", name))))
    return next(iter(words)) if len(words) == 1 else ""


def with_numbered(
    found: Mapping[str, str], folders: Iterable[str], has_labels: Callable[[str], bool]
) -> dict[str, str]:
    """Folder -> split: those found, and those called after another split with a number, "train1" next to "val",
    where only one of that split has labels; of several nothing says what they are."""
    there, numbered = set(found.values()), dict[str, list[str]]()
    for name in folders if there else ():
        match = _NUMBERED.fullmatch(name)
        split = usual_split(match[1]) if match else ""
        if split and find_split(split, there) is None and has_labels(name):
            numbered.setdefault(split, []).append(name)
    return dict(found) | {names[0]: split for split, names in numbered.items() if len(names) == 1}


@functools.lru_cache(4096)
def folder_split(name: str) -> tuple[str, str]:
    """The usual split that a folder's name says, next to no word but those of what lies in it, which is "images" or
    "labels": ("valid", "labels") for "valid annot", ("train", "images") for "TrainImages2" and "trainimg", ("test", "")
    for "test", ("", "labels") for "json"; ("", "") for all others."""
    words = [word.lower() for word in re.findall(r"[A-Z]?[a-z]+|[A-Z]+", name)]
    words = [part for word in words for part in _apart(word)]
    splits = [word for word in words if word in KNOWN_SPLITS]
    kinds = {_KINDS.get(word, "other") for word in words if word not in KNOWN_SPLITS}
    if len(splits) > 1 or "other" in kinds or len(kinds) > 1:
        return "", ""
    return usual_split(splits[0]) if splits else "", next(iter(kinds), "")


def _apart(word: str) -> list[str]:
    """ "trainimg" as "train" and "img"."""
    for split in KNOWN_SPLITS:
        for kind in _KINDS:
            if word in (split + kind, kind + split):
                return [split, kind]
    return [word]


def shared_pattern(names: Sequence[str]) -> str:
    """ "melon#" of "melon1" and "melon2": what names share that differ in numbers alone, or in a last letter from a on
    that stands apart ("road_A" and "road_B", of no split); "" for others, and for versions, sizes and years (VOC2007
    and VOC2012)."""
    if all(_YEAR.fullmatch(name) for name in names):
        return ""
    plain = [name.lower() for name in names]
    letters = "".join(sorted(name[-1:] for name in plain))
    if len(plain) > 1 and ascii_lowercase.startswith(letters) and all(map(_LETTERED.search, names)):
        plain = [f"{name[:-1]}#" for name in plain]
        if any(word in KNOWN_SPLITS for name in plain for word in re.findall(r"[a-z]+", name)):
            return ""
    patterns = {re.sub(r"\d+", "#", name) for name in plain}
    pattern = next(iter(patterns)) if len(patterns) == 1 else ""
    return pattern if "#" in pattern and _VERSION.search(pattern) is None else ""


def are_parts(files: Sequence[str]) -> bool:
    """Whether label files are parts of one set without splits, "part1.json" and "part2.json": of one folder and with a
    `shared_pattern`, no folds of a cross-validation, no shares of the whole ("data_80", "data_20") and not called after
    a split ("test1")."""
    if len(files) < 2 or len({name.rpartition("/")[0] for name in files}) > 1:
        return False
    stems = [name.rpartition(".")[0].rpartition("/")[2] for name in files]
    pattern = shared_pattern(stems)
    said = any(word in KNOWN_SPLITS or word in _FOLDS for word in re.findall(r"[a-z]+", pattern))
    shares = sum(int(number) for stem in stems for number in re.findall(r"\d{1,3}", stem))
    return pattern != "" and not said and shares != _WHOLE


def plain_stem(name: str) -> str:
    """The last part of a path without its ending and Roboflow's hash: "a" of "train/a_jpg.rf.0123456789.jpg"."""
    last = name.replace("\\", "/").rpartition("/")[2]
    return _ROBOFLOW.sub("", last.rpartition(".")[0] if _has_suffix(last) else last)


def name_train(files: Sequence[tuple[str, str]]) -> int | None:
    """The place of the label file to train on, of several (split that its name says, or any other text; path): where
    some say a split and none says train, the only one that says none and whose name is of words that theirs have too or
    that such files usually have: "annotations.csv" beside "annotations_test.csv". None where there is none."""
    splits = [usual_split(split) for split, _ in files]
    if not any(splits) or {"train", "trainval"} & {*splits}:
        return None
    words = [_words(name) for _, name in files]
    shared = set.intersection(*(mine for mine, split in zip(words, splits, strict=True) if split))
    fit = [at for at, split in enumerate(splits) if not split and words[at] <= shared | _LABEL_WORDS]
    return fit[0] if len(fit) == 1 else None


def left_for_train(images: Sequence[str], of_others: Collection[str]) -> list[int]:
    """Which images of the file that `name_train` found are in no file of another split; all of them where all are in
    one. The same image may have another folder there, and Roboflow's name."""
    mine, others = (list(map(plain_stem, names)) for names in (images, of_others))
    lasts = [[name.replace("\\", "/").rpartition("/")[2] for name in {*names}] for names in (images, of_others)]
    if any(len(set(names)) < len(names) for names in lasts):  # only their folders differ
        mine, others = list(images), list(of_others)
    held = set(others)
    left = [at for at, name in enumerate(mine) if name not in held]
    return left or list(range(len(mine)))


def say_held_back(count: int) -> str:
    """What is said of the images that `left_for_train` leaves out."""
    return f"{count} of its images are in files of other splits: they are no part of train"


def _words(path: str) -> set[str]:
    return set(re.findall(r"[a-z]+", path.lower().rpartition("/")[2].partition(".")[0]))


def find_split(split: str, splits: Collection[str]) -> str | None:
    """The name under which `split` is there, or None; in another letter case only where it is not there in its own."""
    names = (split, *SPLIT_ALIASES.get(split, ()))
    lower = {name.lower(): name for name in sorted(splits, reverse=True)}
    exact = next((name for name in names if name in splits), None)
    return exact or next((lower[name.lower()] for name in names if name.lower() in lower), None)


def resolve_split(split: str, splits: Collection[str], where: str) -> str:
    """As `find_split`; DataError lists the splits that are there when it is not."""
    name = find_split(split, splits)
    if name is not None:
        return name
    there = ", ".join(printable(name) for name in sorted(splits)) or "none"
    raise DataError(f"{printable(where)}: no split {printable(split)!r} (there are: {there}); name one of them")


def make_splits(names: Sequence[str], seed: int = 0) -> dict[str, list[int]]:
    """train, val, test (80/10/10) and trainval: positions in `names`, in their order.

    Names that share a stem (`group_keys`) stay together, so that no picture's copy is in two splits. Groups are
    ranked by a hash of their name and the seed: the same on every machine, whatever order they came in. Of three
    groups or more no split is empty.
    """
    groups = _ranked_groups(names, seed)
    part = max(1, round(len(names) * HELD_BACK)) if len(groups) >= 3 else 0
    taken: dict[str, list[str]] = {"train": [], "val": [], "test": []}
    left = {"val": part, "test": part}
    for key in groups:
        name = next((s for s, room in left.items() if len(groups[key]) <= room), "train")
        taken[name].append(key)
        if name in left:
            left[name] -= len(groups[key])
    for name in ("val", "test"):
        if part and not taken[name]:  # all groups are larger than what should be held back
            least = min(taken["train"], key=lambda key: len(groups[key]))
            taken["train"].remove(least)
            taken[name].append(least)
    splits = {name: sorted(i for key in keys for i in groups[key]) for name, keys in taken.items()}
    return {**splits, "trainval": sorted(splits["train"] + splits["val"])}


def hold_out(names: Sequence[str], share: float, seed: int = 0) -> tuple[list[int], list[int]]:
    """Positions in `names` that stay and those that are held back, about `share` of them, each in order.

    Groups and their order as in `make_splits`, so that no picture's copy is on the other side and the same names are
    held back on every machine. Of two groups or more neither side is empty.
    """
    groups = list(_ranked_groups(names, seed).values())
    room = max(1, round(len(names) * share)) if len(groups) >= 2 else 0
    held: list[list[int]] = []
    for group in groups[1:]:  # the first stays
        if len(group) <= room:
            held.append(group)
            room -= len(group)
    if not held and len(groups) >= 2:  # all others are larger than what should be held back
        held.append(min(groups, key=len))
    back = {i for group in held for i in group}
    return [i for i in range(len(names)) if i not in back], sorted(back)


def _ranked_groups(names: Sequence[str], seed: int) -> dict[str, list[int]]:
    """Positions by `group_keys`, the keys by a hash of theirs and the seed."""
    groups: dict[str, list[int]] = {}
    for i, key in enumerate(group_keys(names)):
        groups.setdefault(key, []).append(i)

    def rank(key: str) -> bytes:
        salted = f"{seed}\0{key}" if seed else key
        return hashlib.sha256(salted.encode("utf-8", "surrogateescape")).digest()

    return {key: groups[key] for key in sorted(groups, key=rank)}


def group_keys(names: Sequence[str]) -> list[str]:
    """What names have in common that show the same scene: "cat", "cat_flip", "cat (2)", "cat_jpg.rf.0a1b..." and
    "cat.png" share "cat"; "cat_7" too where "cat" itself is among the names.

    Where that would put more than half of all names into one group, each stem is its own; where stems would too, as in
    "scene 1/image.png" and "scene 2/image.png", each path below the folders that all have in common.
    """
    stems = [PurePosixPath(name).name for name in names]
    stems = [stem.rpartition(".")[0] if _has_suffix(stem) else stem for stem in stems]
    keys = [_without_marks(stem) or stem for stem in stems]
    there = set(keys)
    keys = [_root_of(key, there) for key in keys]
    if _many_groups(keys):
        return keys
    return stems if _many_groups(stems) or len({*names}) == 1 else _below_common_folders(names)


def _many_groups(keys: Sequence[str]) -> bool:
    return max(Counter(keys).values(), default=0) * 2 <= max(len(keys), 2)


def _below_common_folders(names: Sequence[str]) -> list[str]:
    parts = [PurePosixPath(name).parts for name in names]
    shortest = min(len(own) for own in parts) - 1
    common = next((at for at in range(shortest) if len({own[at] for own in parts}) > 1), shortest)
    return ["/".join(own[common:]) for own in parts]


def _has_suffix(name: str) -> bool:
    return bool(re.search(r"\.(jpe?g|png|bmp|webp|tiff?|gif|xml|json|txt)$", name, re.IGNORECASE))


def _without_marks(stem: str) -> str:
    for _ in range(_MARKS):
        tail = stem[-_MARK_CHARS:]
        mark = _ROBOFLOW.search(tail) or _COPY.search(tail)
        if mark is None:
            break
        stem = stem[: len(stem) - (len(tail) - mark.start())]
    return stem


def _root_of(key: str, there: set[str]) -> str:
    """The shortest of the names that this one continues after a separator."""
    for at in range(1, min(len(key), _NAME_CHARS)):
        if key[at] in _SEPARATORS and key[:at] in there:
            return key[:at]
    return key
